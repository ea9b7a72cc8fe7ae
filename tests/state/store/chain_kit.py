"""Small chains in stores: blocks whose transactions are made up, over states that are real."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha3_256

from state.commitment.versions import SpeculativeState
from state.events import encode_events
from state.scope import Reward, RewardKind
from state.store.chain import BlockRecord, ChainStore, create_chain
from state.store.pruning import KEEP_ALL, Retention
from state.store.rows import AcceptedEvidence, ChainIdentity, Tip, TxResult
from state.store.store import Store
from trellis.certificate import Certificate
from trellis.header import NOTE_ROOT_EMPTY, PROOF_COMMITMENT_EMPTY, Header
from trellis.types import ZERO_HASH, Address, Hash, Height, View
from trellis.votes import VoteKind

IDENTITY = ChainIdentity(Hash(sha3_256(b"a genesis").digest()), 4)
GENESIS = {b"a" + bytes([number]): b"genesis %d" % number for number in range(20)}


def digest(name: object) -> Hash:
    return Hash(sha3_256(repr(name).encode()).digest())


def account(number: int) -> Address:
    return Address(digest(("account", number)))


def new_chain(store: Store, retention: Retention = KEEP_ALL) -> ChainStore:
    return create_chain(store, IDENTITY, GENESIS, consensus=b"metadata 0", retention=retention)


def header_for(tip: Tip, state_root: Hash, salt: object = 0, genesis_hash: Hash = IDENTITY.genesis_hash) -> Header:
    return Header(
        genesis_hash=genesis_hash,
        height=Height(tip.height + 1),
        view=View(0),
        timestamp_ms=1_000 * (tip.height + 1),
        parent_hash=tip.block_hash,
        parent_certificate_hash=ZERO_HASH,
        tx_root=digest(salt),
        witness_root=ZERO_HASH,
        state_root=state_root,
        note_root=NOTE_ROOT_EMPTY,
        proof_commitment=PROOF_COMMITMENT_EMPTY,
        validators_hash=ZERO_HASH,
        next_validators_hash=ZERO_HASH,
        params_hash=ZERO_HASH,
        engine_seal_hash=ZERO_HASH,
        proposer=account(0),
    )


def changes_at(height: int, salt: object = 0) -> dict[bytes, bytes | None]:
    """Some old keys change, one goes, one comes."""
    return {
        b"a" + bytes([height % 20]): b"changed at %d %r" % (height, repr(salt).encode()),
        b"a" + bytes([(height * 7 + 3) % 20]): None if height % 3 == 0 else b"back at %d" % height,
        b"new" + height.to_bytes(4, "big"): b"value" * (height % 5),
    }


def certificate_for(header: Header) -> bytes:
    """In shape a certificate; who signed is nobody's business here."""
    return Certificate(VoteKind.COMMIT, header.height, View(0), header.hash, b"\1", (bytes(32),)).encode()


def record_of(header: Header, transactions: int = 3, salt: object = 0) -> BlockRecord:
    """Transaction i is paid by account i and pays account i + 1."""
    results = tuple(
        TxResult(digest(("tx", header.height, index, salt)), index % 2, 10 + index) for index in range(transactions)
    )
    touched = tuple((account(index + side), index) for index in range(transactions) for side in (0, 1))
    body = header.encode() + b"body of %d" % header.height * 50
    consensus = b"metadata %d" % header.height
    events = encode_events([Reward(account(0), header.height, RewardKind.PROPOSER)])
    accused = AcceptedEvidence(
        1, 1, account(header.height % 2), header.height, 7, account(1), results[0].txid, b"proof"
    )
    evidence = (accused,) if header.height % 2 else ()
    return BlockRecord(header, body, results, touched, certificate_for(header), events, evidence, consensus)


def grow(
    chain: ChainStore, blocks: int = 1, salt: object = 0, changes: Mapping[bytes, bytes | None] | None = None
) -> list[BlockRecord]:
    records: list[BlockRecord] = []
    for _ in range(blocks):
        height = chain.tip.height + 1
        version: SpeculativeState = chain.state.extend(changes_at(height, salt) if changes is None else changes)
        record = record_of(header_for(chain.tip, version.root, salt), salt=salt)
        chain.commit(version, record)
        records.append(record)
    return records


def everything(store: Store) -> dict[tuple[bytes, bytes], bytes]:
    """Every row of a store."""
    from state.store.store import Table

    with store.snapshot() as snapshot:
        return {(table.value, key): value for table in Table for key, value in snapshot.scan(table)}
