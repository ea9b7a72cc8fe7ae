"""Small chains for tests: validators that can sign, certified headers, and receipts over any number of set changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha3_256

from tests.signing import FakeSigner, Signer
from trellis.address import address_of
from trellis.block import transaction_leaf
from trellis.certificate import Certificate, make_certificate
from trellis.constants import Context
from trellis.crypto.policy import DEFAULT_POLICY
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.header import NOTE_ROOT_EMPTY, PROOF_COMMITMENT_EMPTY, SEAL_NONE, Header
from trellis.merkle import EMPTY_ROOT, merkle_root, prove_inclusion
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.peerid import peer_id
from trellis.receipt import FinalityReceipt, Transition
from trellis.transaction import Output, Transaction, TransactionBody, Transfer, signing_bytes, txid_of
from trellis.types import ZERO_HASH, Address, Hash, Height, View
from trellis.validators import Validator, ValidatorSet, make_validator_set
from trellis.votes import SignedVote, Vote, VoteKind


def some_hash(name: object) -> Hash:
    """A hash that is the same on every run."""
    return Hash(sha3_256(f"test {name}".encode()).digest())


@dataclass(frozen=True)
class Member:
    """A validator that can sign."""

    signer: Signer
    power: int

    @cached_property
    def validator(self) -> Validator:
        alg, key = self.signer.alg_id, self.signer.public_key
        return Validator(address_of(alg, key), alg, key, peer_id(alg, key), self.power)

    @property
    def address(self) -> Address:
        return self.validator.address

    def sign(self, vote: Vote, genesis_hash: Hash) -> SignedVote:
        signature = self.signer.sign(vote.signing_bytes(genesis_hash), Context.VOTE.value)
        return SignedVote(vote, self.address, signature)


def fake_members(powers: Sequence[int], first_seed: int = 0) -> tuple[Member, ...]:
    return tuple(Member(FakeSigner(first_seed + place), power) for place, power in enumerate(powers))


def set_of(members: Sequence[Member]) -> ValidatorSet:
    return make_validator_set(member.validator for member in members)


def certify(
    vote: Vote, members: Sequence[Member], genesis_hash: Hash, validators: ValidatorSet | None = None
) -> Certificate:
    """The members' votes as a certificate in `validators` (default: the set of just these members)."""
    votes = [member.sign(vote, genesis_hash) for member in members]
    return make_certificate(votes, set_of(members) if validators is None else validators)


def commit(header: Header, members: Sequence[Member], view: int | None = None) -> Certificate:
    """All members' COMMIT of the header."""
    at = header.view if view is None else View(view)
    return certify(Vote(VoteKind.COMMIT, header.height, at, header.hash), members, header.genesis_hash)


def small_genesis(
    members: Sequence[Member],
    chain_name: str = "test-chain",
    accounts: Sequence[GenesisAccount] = (),
    parameters: Parameters | None = None,
) -> Genesis:
    return Genesis(
        chain_name=chain_name,
        time_ms=1_800_000_000_000,
        engine=EngineKind.PBFT,
        parameters=Parameters(min_stake=1) if parameters is None else parameters,
        policy=DEFAULT_POLICY,
        validators=set_of(members),
        accounts=tuple(sorted(accounts, key=lambda account: account.address)),
        verifiers=(("lrat.v1", b""), ("sat-model.v1", b"")),
    )


def header_of(genesis: Genesis, height: int, proposer: Address, **fields: object) -> Header:
    """A header whose roots are placeholders; name the fields that matter."""
    plain = Header(
        genesis_hash=genesis.hash,
        height=Height(height),
        view=View(0),
        timestamp_ms=genesis.time_ms + 100 * height,
        parent_hash=genesis.hash if height == 1 else some_hash(("block", height - 1)),
        parent_certificate_hash=ZERO_HASH if height == 1 else some_hash(("certificate", height - 1)),
        tx_root=EMPTY_ROOT,
        witness_root=EMPTY_ROOT,
        state_root=some_hash(("state", height)),
        note_root=NOTE_ROOT_EMPTY,
        proof_commitment=PROOF_COMMITMENT_EMPTY,
        validators_hash=genesis.validators.hash,
        next_validators_hash=genesis.validators.hash,
        params_hash=genesis.params_hash,
        engine_seal_hash=SEAL_NONE,
        proposer=proposer,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]  # the caller names fields of a header


def signed_transaction(
    body: TransactionBody, signer: Signer, genesis_hash: Hash, carry_key: bool = True
) -> Transaction:
    raw = body.encode()
    signature = signer.sign(signing_bytes(genesis_hash, raw), Context.TX.value)
    return Transaction(raw, signer.alg_id, signer.public_key if carry_key else b"", signature)


def payment(signer: Signer, amount: int = 5, nonce: int = 0, fee: int = 3_000) -> TransactionBody:
    sender = address_of(signer.alg_id, signer.public_key)
    recipient = Address(some_hash("recipient"))
    return TransactionBody(sender, nonce, Height(100), fee, Transfer((Output(recipient, amount),)))


@dataclass(frozen=True)
class ReceiptStory:
    """A receipt, and everything that went into it, so that a test can tell it differently."""

    genesis: Genesis
    sets: tuple[tuple[Member, ...], ...]
    """Who validated, epoch by epoch; the last set certified the receipt's header."""
    receipt: FinalityReceipt


def receipt_story(
    sets: Sequence[Sequence[Member]],
    body: TransactionBody | None = None,
    neighbours: int = 3,
    epoch_blocks: int = 10,
    chain_name: str = "test-chain",
) -> ReceiptStory:
    """Set i hands over to set i+1 at height (i+1)·epoch; the transaction stands in the block after the last change."""
    genesis = small_genesis(sets[0], chain_name)
    transitions: list[Transition] = []
    for place in range(len(sets) - 1):
        now, following = sets[place], set_of(sets[place + 1])
        header = header_of(
            genesis,
            (place + 1) * epoch_blocks,
            now[0].address,
            validators_hash=set_of(now).hash,
            next_validators_hash=following.hash,
        )
        transitions.append(Transition(header, commit(header, now), following))
    last = sets[-1]
    body = payment(FakeSigner(900)) if body is None else body
    raw, fee = body.encode(), body.fee
    leaves = [transaction_leaf(some_hash(("other", place)), Outcome.OK, 7) for place in range(neighbours)]
    leaves.insert(neighbours // 2, transaction_leaf(txid_of(genesis.hash, raw), Outcome.OK, fee))
    header = header_of(
        genesis,
        (len(sets) - 1) * epoch_blocks + 1,
        last[0].address,
        tx_root=merkle_root(leaves),
        validators_hash=set_of(last).hash,
        next_validators_hash=set_of(last).hash,
    )
    receipt = FinalityReceipt(
        body=raw,
        outcome=Outcome.OK,
        fee=fee,
        path=prove_inclusion(leaves, [neighbours // 2]),
        header=header,
        certificate=commit(header, last),
        transitions=tuple(transitions),
    )
    return ReceiptStory(genesis, tuple(tuple(members) for members in sets), receipt)
