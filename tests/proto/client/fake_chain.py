"""A tiny real chain: genesis, blocks, state proofs, certificates and receipts, made from the protocol's own objects.

It executes transfers and nothing else. All signatures are real, so everything it hands out verifies.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from trellis.address import address_of
from trellis.block import certificate_hash, transaction_leaf, witness_root
from trellis.certificate import Certificate, make_certificate
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import DEFAULT_POLICY
from trellis.crypto.schemes import SigningKey, scheme
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.hashing import Tag, hash_tagged
from trellis.header import NOTE_ROOT_EMPTY, PROOF_COMMITMENT_EMPTY, SEAL_NONE, Header
from trellis.merkle import merkle_root, prove_inclusion, split
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.receipt import FinalityReceipt, Transition
from trellis.statetree import EMPTY_NODE, Entry, Node, StateProof, bucket_of, join, leaf_node
from trellis.transaction import Transaction, Transfer
from trellis.types import Address, Hash, Height, PeerId, View
from trellis.validators import Validator, ValidatorSet, make_validator_set
from trellis.votes import SignedVote, Vote, VoteKind

BUCKETS_LOG2 = 4
STAKE = 1_000_000


def make_key(name: str, alg_id: AlgId = AlgId.ML_DSA_65) -> SigningKey:
    """The same key for the same name, in every run."""
    return scheme(alg_id).from_secret(hash_tagged(Tag.KEYSTORE, name.encode()))


def make_validator(key: SigningKey, power: int = STAKE) -> Validator:
    address = address_of(key.alg_id, key.public_key)
    return Validator(address, key.alg_id, key.public_key, PeerId(b"\x12\x20" + address), power)


class State:
    """Rows with a Merkle tree that is rebuilt whenever it is asked for."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows

    def account(self, address: Address) -> tuple[int, int]:
        row = self.rows.get(b"a" + address, bytes(16))
        return int.from_bytes(row[:8], "big"), int.from_bytes(row[8:], "big")

    def put_account(self, address: Address, balance: int, nonce: int) -> None:
        self.rows[b"a" + address] = balance.to_bytes(8, "big") + nonce.to_bytes(8, "big")

    def key(self, address: Address) -> tuple[int, bytes]:
        row = self.rows.get(b"k" + address)
        return (0, b"") if row is None else (row[0], row[33:])

    def put_key(self, address: Address, alg_id: int, public_key: bytes) -> None:
        self.rows[b"k" + address] = bytes([alg_id]) + address_of(alg_id, public_key) + public_key

    def _bucket(self, index: int) -> list[bytes]:
        return sorted(key for key in self.rows if bucket_of(key, BUCKETS_LOG2) == index)

    def _subtree(self, keys: list[bytes]) -> Node:
        if not keys:
            return EMPTY_NODE
        if len(keys) == 1:
            return leaf_node(keys[0], self.rows[keys[0]])
        cut = split(len(keys))
        return join(self._subtree(keys[:cut]), self._subtree(keys[cut:]))

    def _levels(self) -> list[list[Node]]:
        levels = [[self._subtree(self._bucket(index)) for index in range(1 << BUCKETS_LOG2)]]
        while len(levels[-1]) > 1:
            row = levels[-1]
            levels.append([join(row[at], row[at + 1]) for at in range(0, len(row), 2)])
        return levels

    @property
    def root(self) -> Hash:
        return Hash(self._levels()[-1][0].hash)

    def _entry(self, keys: list[bytes], at: int) -> Entry:
        path: list[tuple[bool, Node]] = []
        start, stop = 0, len(keys)
        while stop - start > 1:
            middle = start + split(stop - start)
            if at < middle:
                path.append((False, self._subtree(keys[middle:stop])))
                stop = middle
            else:
                path.append((True, self._subtree(keys[start:middle])))
                start = middle
        return Entry(keys[at], self.rows[keys[at]], tuple(reversed(path)))

    def prove(self, key: bytes) -> StateProof:
        index = bucket_of(key, BUCKETS_LOG2)
        keys, levels = self._bucket(index), self._levels()
        siblings = tuple(levels[level][index >> level ^ 1] for level in range(BUCKETS_LOG2))
        if key in keys:
            return StateProof(self._entry(keys, keys.index(key)), None, siblings)
        below = [place for place, other in enumerate(keys) if other < key]
        above = [place for place, other in enumerate(keys) if other > key]
        left = self._entry(keys, below[-1]) if below else None
        right = self._entry(keys, above[0]) if above else None
        return StateProof(left, right, siblings)


@dataclass(frozen=True)
class Included:
    transaction: Transaction
    txid: Hash
    outcome: Outcome
    fee: int


@dataclass(frozen=True)
class Block:
    header: Header
    certificate: Certificate
    included: tuple[Included, ...]
    state: State


class FakeChain:
    """`commit` makes blocks; nodes serve them. The condition wakes whoever waits for the next block."""

    def __init__(self, name: str = "fake", funded: dict[Address, int] | None = None, validators: int = 4) -> None:
        self.keys = {
            make_validator(key).address: key for key in (make_key(f"validator {n}") for n in range(validators))
        }
        self.validators = make_validator_set(make_validator(key) for key in self.keys.values())
        accounts = sorted((funded or {}).items())
        self.genesis = Genesis(
            chain_name=name,
            time_ms=1_700_000_000_000,
            engine=EngineKind.PBFT,
            parameters=Parameters(state_buckets_log2=BUCKETS_LOG2),
            policy=DEFAULT_POLICY,
            validators=self.validators,
            accounts=tuple(GenesisAccount(address, balance) for address, balance in accounts),
            verifiers=(),
        )
        self.state = State({})
        for address, balance in accounts:
            self.state.put_account(address, balance, 0)
        for member in self.validators.members:
            head = member.power.to_bytes(8, "big") + bytes(8) + bytes([member.alg_id])
            key = len(member.public_key).to_bytes(2, "big") + member.public_key
            self.state.rows[b"v" + member.address] = head + key + member.network_id
        self.blocks: list[Block] = []
        self.transitions: list[Transition] = []
        self.pending: dict[Hash, Transaction] = {}
        self.changed = threading.Condition()

    @property
    def height(self) -> Height:
        return Height(len(self.blocks))

    def hash_at(self, height: int) -> Hash:
        return self.blocks[height - 1].header.hash if height else self.genesis.hash

    def commit(self, *transactions: Transaction, next_validators: ValidatorSet | None = None) -> Block:
        with self.changed:
            state = State(dict(self.state.rows))
            included = tuple(self._execute(state, transaction) for transaction in transactions)
            following = next_validators or self.validators
            parent = self.blocks[-1] if self.blocks else None
            header = Header(
                genesis_hash=self.genesis.hash,
                height=Height(self.height + 1),
                view=View(0),
                timestamp_ms=self.genesis.time_ms + 100 * (self.height + 1),
                parent_hash=self.hash_at(self.height),
                parent_certificate_hash=certificate_hash(parent.certificate if parent else None),
                tx_root=merkle_root([transaction_leaf(i.txid, i.outcome, i.fee) for i in included]),
                witness_root=witness_root(list(transactions)),
                state_root=state.root,
                note_root=NOTE_ROOT_EMPTY,
                proof_commitment=PROOF_COMMITMENT_EMPTY,
                validators_hash=self.validators.hash,
                next_validators_hash=following.hash,
                params_hash=self.genesis.params_hash,
                engine_seal_hash=SEAL_NONE,
                proposer=self.validators.members[0].address,
            )
            block = Block(header, self.certify(header), included, state)
            self.blocks.append(block)
            self.state = state
            if following.hash != self.validators.hash:
                self.transitions.append(Transition(header, block.certificate, following))
                self.validators = following
            for item in included:
                self.pending.pop(item.txid, None)
            self.changed.notify_all()
            return block

    def commit_pending(self) -> Block:
        return self.commit(*self.pending.values())

    def _execute(self, state: State, transaction: Transaction) -> Included:
        body = transaction.parsed
        balance, nonce = state.account(body.sender)
        state.put_account(body.sender, balance - body.fee, nonce + 1)
        if transaction.public_key:
            state.put_key(body.sender, transaction.alg_id, transaction.public_key)
        outcome = Outcome.OK
        if isinstance(body.kind, Transfer):
            total = sum(output.amount for output in body.kind.outputs)
            if total > balance - body.fee:
                outcome = Outcome.INSUFFICIENT_FUNDS
            else:
                state.put_account(body.sender, balance - body.fee - total, nonce + 1)
                for output in body.kind.outputs:
                    held, used = state.account(output.recipient)
                    state.put_account(output.recipient, held + output.amount, used)
        return Included(transaction, transaction.txid(self.genesis.hash), outcome, body.fee)

    def certify(self, header: Header, signers: int | None = None) -> Certificate:
        """By a quorum of the set in force: signatures of all cost time and show nothing more."""
        vote = Vote(VoteKind.COMMIT, header.height, header.view, header.hash)
        message = vote.signing_bytes(self.genesis.hash)
        number = 2 * len(self.validators) // 3 + 1 if signers is None else signers
        chosen = self.validators.members[:number]
        return make_certificate(
            [
                SignedVote(vote, member.address, self.keys[member.address].sign(message, Context.VOTE.value))
                for member in chosen
            ],
            self.validators,
        )

    def add_validator(self, name: str) -> ValidatorSet:
        """The set with one more member, for a coming `commit(next_validators=…)`."""
        key = make_key(name)
        member = make_validator(key)
        self.keys[member.address] = key
        return make_validator_set([*self.validators.members, member])

    def find(self, txid: Hash) -> tuple[Block, int] | None:
        for block in self.blocks:
            for index, item in enumerate(block.included):
                if item.txid == txid:
                    return block, index
        return None

    def receipt(self, txid: Hash, checkpoint_height: int = 0) -> FinalityReceipt | None:
        found = self.find(txid)
        if found is None:
            return None
        block, index = found
        item = block.included[index]
        leaves = [transaction_leaf(i.txid, i.outcome, i.fee) for i in block.included]
        return FinalityReceipt(
            body=item.transaction.body,
            outcome=item.outcome,
            fee=item.fee,
            path=prove_inclusion(leaves, [index]),
            header=block.header,
            certificate=block.certificate,
            transitions=tuple(t for t in self.transitions if checkpoint_height < t.header.height < block.header.height),
        )

    def forged_header(self, height: int) -> Header:
        """What a lying node would like to be true."""
        return replace(self.blocks[height - 1].header, state_root=Hash(bytes(32)))
