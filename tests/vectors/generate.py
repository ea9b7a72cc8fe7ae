"""Writes the golden vectors of the protocol's objects; `tests/vectors/README.md` says what each file holds.

    python -m tests.vectors.generate            writes the files
    python -m tests.vectors.generate --record   signs `signed.json` anew with real keys: only when its layout changed

A diff in a file that this writes is a change of the protocol: every wallet and every node must follow it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.chains import (
    Member,
    certify,
    commit,
    fake_members,
    header_of,
    payment,
    receipt_story,
    set_of,
    signed_transaction,
    small_genesis,
    some_hash,
)
from tests.proto import independent
from tests.signing import FakeSigner, real_signer
from tests.vectors.schedules import schedule_vectors
from tests.vectors.trees import merkle_vectors, mmr_vectors, state_vectors
from trellis.address import address_of, encode_member_signatures, format_address, make_policy, parse_address
from trellis.block import Block, compact_body, transaction_leaf, witness_root
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.encoding import DecodeError
from trellis.evidence import (
    Evidence,
    InvalidProofPrepare,
    LockLie,
    accuse_of_conflict,
    encode_evidence,
    evidence_id,
)
from trellis.genesis import Genesis, GenesisAccount
from trellis.header import Header, Seal
from trellis.merkle import merkle_root, proof_commitment, prove_inclusion
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, Proposal, ViewChange, encode_message
from trellis.outcome import Outcome
from trellis.parameters import DEFAULTS, Parameters
from trellis.peerid import fingerprint, peer_id, peer_id_text
from trellis.records import AddressRecord, AttestedVerdict, SignedManifest, SnapshotManifest, VerdictBatch
from trellis.transaction import (
    Attest,
    Bond,
    CommitProof,
    Data,
    Kind,
    Output,
    PostStatement,
    RevealProof,
    RotateKey,
    SubmitEvidence,
    Transaction,
    TransactionBody,
    Transfer,
    Unbond,
    Unjail,
    signing_bytes,
    txid_of,
)
from trellis.types import U64_MAX, Address, Hash, Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind
from trellis.wire import Flags, Frame, MessageId, encode_frame

HERE: Final = Path(__file__).resolve().parent
RECORDED: Final = "signed.json"
"""Made with hedged signatures: recorded once, then only checked."""

MEMBERS: Final = fake_members([10, 20, 30, 40])
ACCOUNT: Final = FakeSigner(500)
SENDER: Final = address_of(ACCOUNT.alg_id, ACCOUNT.public_key)
MULTISIG: Final = tuple(sorted((FakeSigner(seed) for seed in (601, 602, 603)), key=lambda s: s.public_key))
ODD_PARAMETERS: Final = Parameters(
    **{
        item.name: min(item.metadata["high"], item.metadata["low"] + 1 + place)
        for place, item in enumerate(dataclasses.fields(Parameters))
        if item.name not in ("evidence_window_blocks", "unbonding_blocks", "min_stake", "max_validators")
    },
    min_stake=3,
)
"""Each value differs from its default and from its neighbours."""


def network() -> Genesis:
    funded = [GenesisAccount(SENDER, 10**12), GenesisAccount(Address(some_hash("rich")), 2**40)]
    return small_genesis(MEMBERS, "golden", funded)


def fields(value: object) -> Any:
    """The value as the vector files write it: bytes in hex, records as objects, None as null."""
    if isinstance(value, bytes):
        return bytes(value).hex()
    if isinstance(value, bool) or value is None or type(value) is str:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, tuple | list):
        return [fields(item) for item in value]
    if dataclasses.is_dataclass(value):
        named = {
            f.name: fields(getattr(value, f.name)) for f in dataclasses.fields(value) if not f.name.startswith("_")
        }
        is_union = isinstance(value, Kind | Evidence)
        return {"kind": type(value).__name__, **named} if is_union else named
    raise TypeError(f"no vector form for {type(value).__name__}")


def genesis_vectors() -> object:
    mixed = [*MEMBERS[:2], Member(FakeSigner(700, AlgId.ML_DSA_87), 30)]
    cases = {
        "four equal algorithms": network(),
        "every parameter set": small_genesis(mixed, "ß-net", (), ODD_PARAMETERS),
    }
    return [
        {
            "name": name,
            "document": genesis.to_json(),
            "fields": fields(genesis),
            "encoded": genesis.encode().hex(),
            "genesis_hash": genesis.hash.hex(),
            "policy_root": genesis.policy.root().hex(),
            "params_hash": genesis.params_hash.hex(),
            "validators_hash": genesis.validators.hash.hex(),
        }
        for name, genesis in cases.items()
    ] + [{"name": "default parameters", "parameters": DEFAULTS.to_json(), "encoded": DEFAULTS.encode().hex()}]


def address_vectors() -> object:
    good = format_address(Address(bytes(range(32))))
    policy = make_policy(2, [(s.alg_id, s.public_key) for s in MULTISIG])
    keys = [FakeSigner(1), FakeSigner(2, AlgId.ML_DSA_87), FakeSigner(3, AlgId.SLH_DSA_SHAKE_128S)]
    groups = independent.five_bits(bytes(range(32)))
    invalid = {
        "a changed character": good[:10] + ("q" if good[10] != "q" else "p") + good[11:],
        "two neighbours swapped": good[:8] + good[9] + good[8] + good[10:],
        "a character missing": good[:-1],
        "a character too many": good + "q",
        "bech32 instead of bech32m": independent.bech32("trl", groups, 1),
        "another prefix": "trx1" + good[4:],
        "another prefix with its right checksum": independent.bech32m("trx", bytes(range(32))),
        "mixed case": good[:6] + good[6:].upper(),
        "a letter never used": good[:20] + "b" + good[21:],
        "padding bits set": independent.bech32("trl", [*groups[:-1], groups[-1] | 1], 0x2BC830A3),
        "31 bytes": independent.bech32m("trl", bytes(31)),
        "33 bytes": independent.bech32m("trl", bytes(33)),
        "the Kelvin sign for K": good.upper().replace("K", "\u212a", 1),
        "a space behind": good + " ",
        "empty": "",
        "prefix alone": "trl1",
        "hex": bytes(range(32)).hex(),
    }
    return {
        "valid": [{"address": bytes(raw).hex(), "text": format_address(Address(bytes(raw)))} for raw in _patterns()],
        "upper case is valid": {"address": bytes(range(32)).hex(), "text": good.upper()},
        "of keys": [
            {
                "alg_id": int(key.alg_id),
                "public_key": key.public_key.hex(),
                "address": address_of(key.alg_id, key.public_key).hex(),
                "fingerprint": fingerprint(key.alg_id, key.public_key).hex(),
                "peer_id": peer_id_text(peer_id(key.alg_id, key.public_key)),
            }
            for key in keys
        ],
        "multi-signature": {
            "fields": fields(policy),
            "encoded": policy.encode().hex(),
            "address": policy.address.hex(),
            "signatures": [[0, "aa" * 3_309], [2, "bb" * 3_309]],
            "encoded_signatures": encode_member_signatures([(2, b"\xbb" * 3_309), (0, b"\xaa" * 3_309)]).hex(),
        },
        "invalid": [{"name": name, "text": text, "reason": _refusal(text)} for name, text in invalid.items()],
    }


def _patterns() -> list[bytes]:
    return [bytes(32), b"\xff" * 32, bytes(range(32)), some_hash("address")]


def _refusal(text: str) -> str:
    try:
        parse_address(text)
    except DecodeError as fault:
        return str(fault.reason)
    raise ValueError(f"{text!r} should not parse")


def conflicting(genesis: Genesis) -> Evidence:
    one, other = (Vote(VoteKind.PREPARE, Height(7), View(1), some_hash(name)) for name in ("block a", "block b"))
    return accuse_of_conflict(MEMBERS[0].sign(one, genesis.hash), MEMBERS[0].sign(other, genesis.hash), genesis.hash)


def every_kind(genesis: Genesis) -> dict[str, Kind]:
    statement = some_hash("statement")
    batch = VerdictBatch(genesis.hash, Height(9), ((statement, AttestedVerdict.PROVEN),)).encode()
    new = FakeSigner(501, AlgId.ML_DSA_87)
    content = b"trellis/possession/1" + genesis.hash + SENDER + bytes(8) + bytes([new.alg_id]) + new.public_key
    return {
        "transfer": Transfer((Output(Address(some_hash("to")), 1), Output(Address(some_hash("to too")), U64_MAX))),
        "data": Data(b"notarise me"),
        "bond": Bond(10**6, AlgId.ML_DSA_65, ACCOUNT.public_key, peer_id(ACCOUNT.alg_id, ACCOUNT.public_key)),
        "unbond": Unbond(300),
        "evidence": SubmitEvidence(encode_evidence(conflicting(genesis))),
        "unjail": Unjail(),
        "post_statement": PostStatement("lrat.v1", b"p cnf 1 2\n1 0\n-1 0\n", 5_000, Height(1_000)),
        "post_statement without a bounty": PostStatement("sat-model.v1", b"p cnf 1 1\n1 0\n", 0, Height(1)),
        "submit_proof, commitment": CommitProof(statement, some_hash("commitment")),
        "submit_proof, proof": RevealProof(statement, b"3 0 1 2 0\n", some_hash("salt"), 12_345),
        "attest": Attest(batch, b"\x07", tuple(m.signer.sign(batch, Context.ATTEST.value) for m in MEMBERS[:1])),
        "rotate_key": RotateKey(new.alg_id, new.public_key, new.sign(content, Context.TX.value)),
    }


def transaction_vectors() -> object:
    genesis = network()
    bodies = []
    for nonce, (name, kind) in enumerate(every_kind(genesis).items()):
        body = TransactionBody(SENDER, nonce, Height(128), 3_000, kind)
        raw = body.encode()
        bodies.append(
            {"name": name, "fields": fields(body), "encoded": raw.hex(), "txid": txid_of(genesis.hash, raw).hex()}
        )
    return {
        "genesis_hash": genesis.hash.hex(),
        "bodies": bodies,
        "transactions": [
            _transaction_vector(name, transaction, genesis.hash) for name, transaction in _transactions(genesis).items()
        ],
        "commitment": {
            "sender": SENDER.hex(),
            "fields": fields(every_kind(genesis)["submit_proof, proof"]),
            "commitment": RevealProof(some_hash("statement"), b"3 0 1 2 0\n", some_hash("salt"), 12_345)
            .commitment(SENDER)
            .hex(),
        },
    }


def _transactions(genesis: Genesis) -> dict[str, Transaction]:
    policy = make_policy(2, [(s.alg_id, s.public_key) for s in MULTISIG])
    raw = TransactionBody(policy.address, 0, Height(128), 9_000, Unbond(1)).encode()
    message = signing_bytes(genesis.hash, raw)
    members = [(index, MULTISIG[index].sign(message, Context.TX.value)) for index in (0, 2)]
    return {
        "carries its key": signed_transaction(payment(ACCOUNT), ACCOUNT, genesis.hash),
        "the chain knows the key": signed_transaction(
            payment(ACCOUNT, nonce=1), ACCOUNT, genesis.hash, carry_key=False
        ),
        "two of three": Transaction(raw, AlgId.MULTISIG, policy.encode(), encode_member_signatures(members)),
    }


def _transaction_vector(name: str, transaction: Transaction, genesis_hash: Hash) -> object:
    return {
        "name": name,
        "fields": fields(transaction),
        "encoded": transaction.encode().hex(),
        "signing_bytes": signing_bytes(genesis_hash, transaction.body).hex(),
        "txid": transaction.txid(genesis_hash).hex(),
        "witness_leaf": transaction.witness_leaf.hex(),
        "witness_id": transaction.witness_id(genesis_hash).hex(),
    }


def header_vectors() -> object:
    genesis = network()
    seal = Seal(2**240 - 1, 77)
    first = header_of(genesis, 1, MEMBERS[0].address)
    headers = {
        "the first block": first,
        "made in view 3": header_of(genesis, 2**40, MEMBERS[3].address, view=View(3), timestamp_ms=U64_MAX),
        "sealed by work": dataclasses.replace(first, engine_seal_hash=seal.hash),
    }
    return {
        "headers": [
            {"name": n, "fields": fields(item), "encoded": item.encode().hex(), "block_hash": item.hash.hex()}
            for n, item in headers.items()
        ],
        "seal": {"fields": fields(seal), "encoded": seal.encode().hex(), "hash": seal.hash.hex()},
    }


def block_vectors() -> object:
    genesis = network()
    content = tuple(_transactions(genesis).values())
    leaves = [transaction_leaf(t.txid(genesis.hash), Outcome.OK, t.parsed.fee) for t in content]
    parent = certify(Vote(VoteKind.COMMIT, Height(1), View(0), some_hash("one")), MEMBERS, genesis.hash)
    entries = [b"first proof", b"second proof", b"third proof"]
    header = header_of(
        genesis,
        2,
        MEMBERS[1].address,
        tx_root=merkle_root(leaves),
        witness_root=witness_root(content),
        parent_certificate_hash=parent.hash,
        proof_commitment=proof_commitment(entries),
    )
    block = Block(header, parent, content)
    return {
        "fields": fields(block),
        "encoded": block.encode().hex(),
        "leaves": [leaf.hex() for leaf in leaves],
        "proof_entries": [entry.hex() for entry in entries],
        "compact_body": compact_body(content, genesis.hash).hex(),
    }


def some_votes() -> dict[str, Vote]:
    block = some_hash("block")
    return {
        "PRE-PREPARE": Vote(VoteKind.PRE_PREPARE, Height(1), View(0), block),
        "PREPARE": Vote(VoteKind.PREPARE, Height(2**33), View(1), block),
        "COMMIT": Vote(VoteKind.COMMIT, Height(3), View(2**40), block),
        "VIEW-CHANGE without a lock": Vote(VoteKind.VIEW_CHANGE, Height(4), View(1)),
        "VIEW-CHANGE locked in view 0": Vote(
            VoteKind.VIEW_CHANGE, Height(5), View(1), prepared=Prepared(View(0), block)
        ),
        "VIEW-CHANGE locked in view 6": Vote(
            VoteKind.VIEW_CHANGE, Height(6), View(9), prepared=Prepared(View(6), block)
        ),
    }


def vote_vectors() -> object:
    genesis = network()
    votes = []
    for name, vote in some_votes().items():
        signed = MEMBERS[0].sign(vote, genesis.hash)
        signing = vote.signing_bytes(genesis.hash)
        votes.append(
            {"name": name, "fields": fields(signed), "signing_bytes": signing.hex(), "encoded": signed.encode().hex()}
        )
    return {"genesis_hash": genesis.hash.hex(), "votes": votes}


def certificate_vectors() -> object:
    genesis, validators = network(), set_of(MEMBERS)
    block = some_hash("block")
    cases = []
    for name, kind, signers in (
        ("prepared by three", VoteKind.PREPARE, MEMBERS[1:]),
        ("committed by all", VoteKind.COMMIT, MEMBERS),
    ):
        made = certify(Vote(kind, Height(8), View(2), block), signers, genesis.hash, validators)
        cases.append({"name": name, "fields": fields(made), "encoded": made.encode().hex(), "hash": made.hash.hex()})
    return {
        "genesis_hash": genesis.hash.hex(),
        "validator_set": {
            "fields": fields(validators),
            "encoded": validators.encode().hex(),
            "hash": validators.hash.hex(),
            "total_power": validators.total_power,
        },
        "certificates": cases,
    }


def message_vectors() -> object:
    genesis = network()
    header = header_of(genesis, 1, MEMBERS[0].address)
    by_name = some_votes()
    propose = Vote(VoteKind.PRE_PREPARE, Height(1), View(1), header.hash)
    mark = Vote(VoteKind.VIEW_CHANGE, Height(1), View(1), prepared=Prepared(View(0), header.hash))
    prepared = certify(Vote(VoteKind.PREPARE, Height(1), View(0), header.hash), MEMBERS[:1], genesis.hash)
    signed = MEMBERS[0].sign(mark, genesis.hash)
    messages: dict[str, Message] = {
        "PRE-PREPARE": Proposal(MEMBERS[0].sign(propose, genesis.hash), header, None, body=bytes(4)),
        "NEW-VIEW": Proposal(MEMBERS[0].sign(propose, genesis.hash), header, None, (signed,), prepared, bytes(4)),
        "PREPARE": Ballot(MEMBERS[0].sign(by_name["PREPARE"], genesis.hash)),
        "VIEW-CHANGE": ViewChange(signed, prepared),
        "VIEW-CHANGE without a lock": ViewChange(MEMBERS[0].sign(by_name["VIEW-CHANGE without a lock"], genesis.hash)),
        "decided": DecidedNotice(prepared),
        "height": HeightNotice(Height(12)),
    }
    return [{"name": n, "fields": fields(m), "encoded": encode_message(m).hex()} for n, m in messages.items()]


def evidence_vectors() -> object:
    genesis = network()
    member = MEMBERS[0]

    def signed(vote: Vote) -> SignedVote:
        return member.sign(vote, genesis.hash)

    kind = every_kind(genesis)["submit_proof, proof"]
    transaction = signed_transaction(TransactionBody(SENDER, 3, Height(50), 4_000, kind), ACCOUNT, genesis.hash)
    leaves = [transaction_leaf(transaction.txid(genesis.hash), Outcome.OK, 4_000), some_hash("other leaf")]
    header = header_of(genesis, 9, MEMBERS[1].address, tx_root=merkle_root(leaves))
    prepare = signed(Vote(VoteKind.PREPARE, header.height, View(0), header.hash))
    views = [
        Vote(VoteKind.VIEW_CHANGE, Height(5), View(2), prepared=p) for p in (None, Prepared(View(1), some_hash("x")))
    ]
    crossed = [Vote(k, Height(4), View(0), some_hash(k.name)) for k in (VoteKind.PREPARE, VoteKind.COMMIT)]
    committed = signed(Vote(VoteKind.COMMIT, Height(6), View(0), some_hash("x")))
    cases: dict[str, Evidence] = {
        "two PREPAREs of one view": conflicting(genesis),
        "two VIEW-CHANGEs to one view": accuse_of_conflict(signed(views[0]), signed(views[1]), genesis.hash),
        "PREPARE and COMMIT of one view for different blocks": accuse_of_conflict(
            signed(crossed[0]), signed(crossed[1]), genesis.hash
        ),
        "a lock denied": LockLie(committed, signed(Vote(VoteKind.VIEW_CHANGE, Height(6), View(1)))),
        "a PREPARE on an invalid proof": InvalidProofPrepare(
            prepare, header, prove_inclusion(leaves, [0]), transaction, 4_000
        ),
    }
    return {
        "genesis_hash": genesis.hash.hex(),
        "evidence": [
            {"name": n, "fields": fields(e), "encoded": encode_evidence(e).hex(), "id": evidence_id(e).hex()}
            for n, e in cases.items()
        ],
    }


def record_vectors() -> object:
    genesis = network()
    addresses = ("/dns4/node.example/tcp/9000", "/ip4/10.0.0.1/tcp/9000", "/ip6/::1/tcp/9001")
    record = AddressRecord(genesis.hash, ACCOUNT.alg_id, ACCOUNT.public_key, b"", 42, addresses)
    signature = ACCOUNT.sign(record.encode(), Context.ADDRESS_RECORD.value)
    manifest = SnapshotManifest(
        genesis.hash, Height(5_000), some_hash("block"), some_hash("state"), 10**6, 10**8, 16, 1 << 20, 96
    )
    made = SignedManifest(
        manifest, ACCOUNT.alg_id, ACCOUNT.public_key, ACCOUNT.sign(manifest.encode(), Context.SNAPSHOT.value)
    )
    items = sorted(some_hash(("statement", n)) for n in range(3))
    batch = VerdictBatch(
        genesis.hash,
        Height(77),
        ((items[0], AttestedVerdict.PROVEN), (items[1], AttestedVerdict.REFUTED), (items[2], AttestedVerdict.PROVEN)),
    )
    return {
        "address_record": {
            "fields": fields(record),
            "signed_bytes": record.encode().hex(),
            "signature": signature.hex(),
        },
        "snapshot_manifest": {
            "fields": fields(made),
            "signed_bytes": manifest.encode().hex(),
            "encoded": made.encode().hex(),
        },
        "verdict_batch": {"fields": fields(batch), "encoded": batch.encode().hex(), "id": batch.id.hex()},
    }


def frame_vectors() -> object:
    frames = {
        "empty payload": Frame(MessageId.PING, 0, Flags.NONE, b""),
        "critical and prior": Frame(MessageId.CONSENSUS, 2**32 - 1, Flags.CRITICAL | Flags.PRIORITY, b"\x01\x02"),
        "unknown id, to be skipped": Frame(60_000, 7, Flags.ACK, b"later"),
    }
    return [{"name": n, "fields": fields(f), "encoded": encode_frame(f).hex()} for n, f in frames.items()]


def receipt_vectors() -> object:
    stories = {
        "from genesis, one validator": receipt_story([fake_members([5])]),
        "over three changes of the set": receipt_story(
            [fake_members([1], first_seed=seed) for seed in (0, 10, 20, 30)], neighbours=4
        ),
    }
    return [
        {
            "name": name,
            "genesis_hash": story.genesis.hash.hex(),
            "genesis_validators": story.genesis.validators.encode().hex(),
            "fields": fields(story.receipt),
            "encoded": story.receipt.encode().hex(),
            "txid": story.receipt.txid.hex(),
        }
        for name, story in stories.items()
    ]


def signed_objects() -> object:
    """Real ML-DSA, from public seeds: what another implementation checks its verifier with."""
    members = [Member(real_signer(seed), 10) for seed in range(4)]
    account = real_signer(50)
    genesis = small_genesis(members, "golden-signed")
    transaction = signed_transaction(payment(account), account, genesis.hash)
    header: Header = header_of(genesis, 1, members[0].address)
    vote = members[1].sign(Vote(VoteKind.PREPARE, header.height, View(0), header.hash), genesis.hash)
    story = receipt_story([members[:1], members[1:]], payment(account), chain_name="golden-signed")
    return {
        "seeds": [real_signer(seed).secret().hex() for seed in (0, 1, 2, 3, 50)],
        "genesis": genesis.to_json(),
        "transaction": transaction.encode().hex(),
        "header": header.encode().hex(),
        "vote": vote.encode().hex(),
        "certificate": commit(header, members).encode().hex(),
        "receipt": {"genesis": story.genesis.to_json(), "file": story.receipt.encode().hex()},
    }


FILES: Final[dict[str, Callable[[], object]]] = {
    "genesis.json": genesis_vectors,
    "addresses.json": address_vectors,
    "transactions.json": transaction_vectors,
    "headers.json": header_vectors,
    "block.json": block_vectors,
    "votes.json": vote_vectors,
    "certificates.json": certificate_vectors,
    "messages.json": message_vectors,
    "evidence.json": evidence_vectors,
    "records.json": record_vectors,
    "frames.json": frame_vectors,
    "schedule.json": schedule_vectors,
    "merkle.json": merkle_vectors,
    "mmr.json": mmr_vectors,
    "state-tree.json": state_vectors,
    "receipts.json": receipt_vectors,
}


def as_text(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the golden vectors.")
    parser.add_argument("--record", action="store_true", help=f"sign {RECORDED} anew")
    chosen = parser.parse_args(arguments)
    for name, make in FILES.items():
        (HERE / name).write_text(as_text(make()))
    if chosen.record:
        (HERE / RECORDED).write_text(as_text(signed_objects()))
    print(f"wrote {len(FILES) + chosen.record} files to {HERE.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
