"""For each validity check of `apply_block`, a block that breaks it and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest

import state.execution
import state.rules
import state.transactions
import state.transition
from state.accounts import credit
from state.claims import required_claims, verify_claims
from state.errors import InvalidBlock, InvalidReason
from state.rules import RULES, Rule
from state.scope import Call
from state.transition import Applied, Proposal, apply_block, build_block
from tests.chains import certify, some_hash
from tests.signing import FakeSigner, fake_verify_all
from tests.state.kit import PARAMETERS, Chain, address, make_chain, pay
from trellis.block import Block, witness_root
from trellis.certificate import Certificate
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import DEFAULT_POLICY, AlgorithmPolicy, Role
from trellis.header import Seal
from trellis.outcome import Outcome
from trellis.transaction import Data, RevealProof, Transaction, signing_bytes
from trellis.types import Address, View
from trellis.votes import Vote, VoteKind

TABLES = (
    (state.transition, "HEADER_CHECKS"),
    (state.transition, "BODY_CHECKS"),
    (state.transactions, "WITNESS_CHECKS"),
    (state.transition, "CAP_CHECKS"),
    (state.transactions, "PLACE_CHECKS"),
    (state.execution, "VALUE_CHECKS"),
    (state.transition, "RESULT_CHECKS"),
)


def all_checks() -> list[InvalidReason]:
    """Generated from the tables: nobody chooses what is on this list."""
    return [reason for module, name in TABLES for reason, _ in getattr(module, name)]


def drop_check(monkeypatch: pytest.MonkeyPatch, reason: InvalidReason) -> None:
    """Plants the fault "this check was forgotten"."""
    for module, name in TABLES:
        table = getattr(module, name)
        monkeypatch.setattr(module, name, tuple(row for row in table if row[0] is not reason))


@dataclass
class Case:
    """A chain, and the block that somebody sends to it."""

    chain: Chain
    block: Block

    def apply(self) -> Applied | InvalidBlock:
        """As an honest host would. Claims that no honest host could verify, because they have no form, count as true:
        then only the check itself stands in the way."""
        chain = self.chain
        known = verify_claims(required_claims(chain.state, chain.genesis.hash, self.block), fake_verify_all)
        return apply_block(chain.state, self.block, chain.context(lambda key: known.get(key, True)))


Scenario = Callable[[pytest.MonkeyPatch], Case]
SCENARIOS: dict[InvalidReason, Scenario] = {}


def breaks(reason: InvalidReason) -> Callable[[Scenario], Scenario]:
    def register(scenario: Scenario) -> Scenario:
        SCENARIOS[reason] = scenario
        return scenario

    return register


def chain_of_two() -> Chain:
    """Height 2 is next: a parent certificate is due."""
    chain = make_chain()
    chain.step(chain.tx(chain.rich[0], pay(address(chain.rich[1]), 1)))
    return chain


def honest(chain: Chain) -> Block:
    return chain.build([chain.tx(chain.rich[0], pay(address(chain.rich[1]), 5))]).applied.block


def with_header(block: Block, **fields: object) -> Block:
    return replace(block, header=replace(block.header, **fields))  # type: ignore[arg-type]  # a header's fields, by name


def header_case(**fields: object) -> Case:
    chain = chain_of_two()
    return Case(chain, with_header(honest(chain), **fields))


def built_without(
    monkeypatch: pytest.MonkeyPatch,
    reason: InvalidReason,
    chain: Chain,
    transactions: list[Transaction],
    proposer: Address | None = None,
    timestamp_ms: int | None = None,
    certificate: Certificate | None = None,
    no_certificate: bool = False,
) -> Block:
    """What a proposer without this check builds: everything else about the block is right."""
    with monkeypatch.context() as patch:
        drop_check(patch, reason)
        carried = None if no_certificate else (certificate or chain.certificate)
        proposal = Proposal(
            proposer or chain.leader().address, View(0), timestamp_ms or chain.timestamp_ms + 100, carried
        )
        built = build_block(chain.state, proposal, transactions, chain.context(lambda key: True))
    assert not built.dropped, built.dropped
    return built.applied.block


@breaks(InvalidReason.WRONG_CHAIN)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(genesis_hash=some_hash("other chain"))


@breaks(InvalidReason.WRONG_HEIGHT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(height=3)


@breaks(InvalidReason.WRONG_PARENT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(parent_hash=some_hash("other parent"))


@breaks(InvalidReason.TIME_NOT_AFTER_PARENT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    block = built_without(monkeypatch, InvalidReason.TIME_NOT_AFTER_PARENT, chain, [], timestamp_ms=chain.timestamp_ms)
    return Case(chain, block)


@breaks(InvalidReason.ENGINE_SEAL)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    seal = Seal(1, 2)
    chain = chain_of_two()
    return Case(chain, replace(with_header(honest(chain), engine_seal_hash=seal.hash), seal=seal))


@breaks(InvalidReason.WRONG_PROPOSER)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    other = chain.leader(1).address
    return Case(chain, built_without(monkeypatch, InvalidReason.WRONG_PROPOSER, chain, [], proposer=other))


@breaks(InvalidReason.VALIDATORS_HASH)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(validators_hash=some_hash("set"))


@breaks(InvalidReason.PARAMS_HASH)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(params_hash=some_hash("parameters"))


@breaks(InvalidReason.NOTE_ROOT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(note_root=some_hash("notes"))


@breaks(InvalidReason.CERTIFICATE_PRESENCE)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    block = built_without(monkeypatch, InvalidReason.CERTIFICATE_PRESENCE, chain, [], no_certificate=True)
    return Case(chain, block)


@breaks(InvalidReason.CERTIFICATE_HASH)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(parent_certificate_hash=some_hash("certificate"))


def certificate_case(
    monkeypatch: pytest.MonkeyPatch, reason: InvalidReason, chain: Chain, certificate: Certificate
) -> Case:
    return Case(chain, built_without(monkeypatch, reason, chain, [], certificate=certificate))


@breaks(InvalidReason.CERTIFICATE_SUBJECT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Genuine COMMITs of another block at that height."""
    chain = chain_of_two()
    vote = Vote(VoteKind.COMMIT, chain.height, View(0), some_hash("another block"))
    certificate = certify(vote, chain.members, chain.genesis.hash)
    return certificate_case(monkeypatch, InvalidReason.CERTIFICATE_SUBJECT, chain, certificate)


@breaks(InvalidReason.CERTIFICATE_VIEW)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """The parent was created in view 1; the certificate is of view 0."""
    chain = make_chain()
    chain.step(view=1)
    vote = Vote(VoteKind.COMMIT, chain.height, View(0), chain.tip)
    certificate = certify(vote, chain.members, chain.genesis.hash)
    return certificate_case(monkeypatch, InvalidReason.CERTIFICATE_VIEW, chain, certificate)


@breaks(InvalidReason.CERTIFICATE_SHAPE)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Two of four signed: no quorum."""
    chain = chain_of_two()
    certificate = chain.certify(chain.blocks[-1], chain.members[:2])
    return certificate_case(monkeypatch, InvalidReason.CERTIFICATE_SHAPE, chain, certificate)


@breaks(InvalidReason.CERTIFICATE_SIGNATURES)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    good = chain.certify(chain.blocks[-1])
    forged = replace(good, signatures=(bytes(len(good.signatures[0])), *good.signatures[1:]))
    return certificate_case(monkeypatch, InvalidReason.CERTIFICATE_SIGNATURES, chain, forged)


@breaks(InvalidReason.WITNESS_ROOT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(witness_root=some_hash("witnesses"))


def tx_case(monkeypatch: pytest.MonkeyPatch, reason: InvalidReason, chain: Chain, *transactions: Transaction) -> Case:
    return Case(chain, built_without(monkeypatch, reason, chain, list(transactions)))


@breaks(InvalidReason.MALFORMED_TX)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Cannot be built, not even without the check: the body has no meaning. So it is put in place of a good one."""
    chain = chain_of_two()
    block = honest(chain)
    bad = replace(block.transactions[0], body=block.transactions[0].body + b"\xff")
    return Case(chain, with_header(replace(block, transactions=(bad,)), witness_root=witness_root((bad,))))


@breaks(InvalidReason.KEY_PRESENCE)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """The chain knows the key, and it is carried all the same."""
    chain = chain_of_two()
    signer = chain.rich[0]
    plain = chain.tx(signer, Data(b"x"))
    carried = replace(plain, public_key=signer.public_key)
    return tx_case(monkeypatch, InvalidReason.KEY_PRESENCE, chain, carried)


@breaks(InvalidReason.KEY_MISMATCH)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """A thief signs for a victim whose key the chain does not know yet, and carries its own."""
    chain = chain_of_two()
    victim, thief = chain.rich[2], FakeSigner(999)
    stolen = chain.tx(victim, pay(address(thief), 1_000))
    body = stolen.parsed
    signature = thief.sign(signing_bytes(chain.genesis.hash, body.encode()), b"trellis/tx/1")
    forged = Transaction(body.encode(), thief.alg_id, thief.public_key, signature)
    return tx_case(monkeypatch, InvalidReason.KEY_MISMATCH, chain, forged)


@breaks(InvalidReason.SIGNATURE_FORM)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    plain = chain.tx(chain.rich[0], Data(b"x"))
    longer = replace(plain, signature=plain.signature + b"\0")
    return tx_case(monkeypatch, InvalidReason.SIGNATURE_FORM, chain, longer)


@breaks(InvalidReason.BAD_SIGNATURE)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    plain = chain.tx(chain.rich[0], Data(b"x"))
    forged = replace(plain, signature=bytes(len(plain.signature)))
    return tx_case(monkeypatch, InvalidReason.BAD_SIGNATURE, chain, forged)


@breaks(InvalidReason.TOO_MANY_TRANSACTIONS)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = make_chain(parameters=replace(PARAMETERS, max_block_transactions=2))
    three = [chain.tx(chain.rich[0], Data(b"x"), after=place) for place in range(3)]
    return tx_case(monkeypatch, InvalidReason.TOO_MANY_TRANSACTIONS, chain, *three)


@breaks(InvalidReason.TOO_MANY_BYTES)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = make_chain(parameters=replace(PARAMETERS, max_block_bytes=8_000))
    two = [chain.tx(chain.rich[0], Data(b"x"), after=place) for place in range(2)]
    return tx_case(monkeypatch, InvalidReason.TOO_MANY_BYTES, chain, *two)


@breaks(InvalidReason.PROOF_COST)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = make_chain(parameters=replace(PARAMETERS, max_block_proof_cost=1_000))
    reveal = RevealProof(some_hash("nothing"), b"proof", bytes(32), 1_001)
    return tx_case(monkeypatch, InvalidReason.PROOF_COST, chain, chain.tx(chain.rich[0], reveal))


@breaks(InvalidReason.TX_EXPIRED)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    late = chain.tx(chain.rich[0], Data(b"x"), valid_until=chain.height)
    return tx_case(monkeypatch, InvalidReason.TX_EXPIRED, chain, late)


@breaks(InvalidReason.ALGORITHM_NOT_ALLOWED)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """ML-DSA-65 may sign for accounts below height 2 only."""
    entries = tuple(
        replace(entry, sunset=2) if (entry.role, entry.alg_id) == (Role.ACCOUNT, AlgId.ML_DSA_65) else entry
        for entry in DEFAULT_POLICY.entries
    )
    chain = make_chain()
    genesis = replace(chain.genesis, policy=AlgorithmPolicy(entries))
    chain = Chain(genesis, chain.members, chain.rich)
    chain.step(chain.tx(chain.rich[0], Data(b"still allowed")))
    return tx_case(monkeypatch, InvalidReason.ALGORITHM_NOT_ALLOWED, chain, chain.tx(chain.rich[0], Data(b"x")))


@breaks(InvalidReason.FEE_TOO_LOW)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Fees are burned up to the minimum: without the check the proposer's tip would be below zero."""
    chain = chain_of_two()
    cheap = chain.tx(chain.rich[0], Data(b"x"), fee=1)
    return tx_case(monkeypatch, InvalidReason.FEE_TOO_LOW, chain, cheap)


@breaks(InvalidReason.NONCE_TOO_LOW)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """A double spend: a transaction of the last block once more."""
    chain = make_chain()
    chain.step(chain.tx(chain.rich[0], Data(b"key")))
    again = chain.tx(chain.rich[0], pay(address(chain.rich[1]), 1))
    chain.step(again)
    return tx_case(monkeypatch, InvalidReason.NONCE_TOO_LOW, chain, again)


@breaks(InvalidReason.NONCE_GAP)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    chain = chain_of_two()
    early = chain.tx(chain.rich[0], Data(b"x"), after=1)
    return tx_case(monkeypatch, InvalidReason.NONCE_GAP, chain, early)


@breaks(InvalidReason.UNPAYABLE_FEE)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Cannot be built: a balance below zero has no row."""
    chain = chain_of_two()
    poor = chain.tx(chain.rich[0], Data(b"x"), fee=10**12)
    good = honest(chain)
    return Case(chain, with_header(replace(good, transactions=(poor,)), witness_root=witness_root((poor,))))


@breaks(InvalidReason.CONSERVATION)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    """A rule with a fault makes units out of nothing."""

    def mint(call: Call, kind: Data) -> Outcome:
        credit(call.state, call.sender, 1_000)
        return Outcome.OK

    faulty: dict[Any, Rule[Any]] = {**RULES, Data: Rule(Data, mint)}
    monkeypatch.setattr(state.execution, "RULES", MappingProxyType(faulty))
    chain = chain_of_two()
    return tx_case(monkeypatch, InvalidReason.CONSERVATION, chain, chain.tx(chain.rich[0], Data(b"x")))


@breaks(InvalidReason.TX_ROOT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(tx_root=some_hash("transactions"))


@breaks(InvalidReason.PROOF_COMMITMENT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(proof_commitment=bytes(48))


@breaks(InvalidReason.NEXT_VALIDATORS_HASH)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(next_validators_hash=some_hash("next set"))


@breaks(InvalidReason.STATE_ROOT)
def _(monkeypatch: pytest.MonkeyPatch) -> Case:
    return header_case(state_root=some_hash("state"))
