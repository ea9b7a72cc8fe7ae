"""What a chain's accounts must hold, worked out a second time: plain dictionaries, from the blocks and the genesis.

It shares none of the ledger's code. It reads each block as a client gets it, says what becomes of every transaction,
moves the units itself, and keeps the sums that `GetSupply` reports. Two things it takes as given, because they have
tests of their own: that admitted signatures verify, and what checking a proof costs, which sets a block's emission.

It models what the random workload can bring about: power moves whole at an epoch's end, because nobody's stake is near
a third of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from trellis.genesis import Genesis
from trellis.outcome import Outcome
from trellis.records import decode_verdict_batch
from trellis.transaction import (
    Attest,
    Bond,
    CommitProof,
    Data,
    Kind,
    PostStatement,
    RevealProof,
    RotateKey,
    SubmitEvidence,
    Transaction,
    Transfer,
    Unbond,
    Unjail,
)
from trellis.types import Address

ATTESTED: Final = "z3-attest.v1"


@dataclass
class Stake:
    bonded: int
    identity: tuple[bytes, bytes]
    """Consensus key and network id: nobody else may use either."""
    jailed_until: int = 0


@dataclass
class Posted:
    verifier: str
    content: bytes
    poster: bytes
    escrow: int
    posted: int
    expiry: int
    open: bool = True
    expired_at: int = 0


@dataclass(frozen=True)
class Judged:
    """What the workload knows of a proof: whether it holds, and what checking it costs."""

    valid: bool
    cost: int


@dataclass(frozen=True)
class Accused:
    """What the workload knows of the evidence it made."""

    offender: bytes
    height: int


@dataclass
class Model:
    genesis: Genesis
    proofs: dict[bytes, Judged]
    """By the proof's bytes."""
    evidence: dict[bytes, Accused]
    hardness: Callable[[int, int], int]
    """The protocol's difficulty of a cost and a size, in thousandths."""
    height: int = 0
    balances: Counter[bytes] = field(default_factory=Counter)
    nonces: Counter[bytes] = field(default_factory=Counter)
    keys: set[bytes] = field(default_factory=set)
    stakes: dict[bytes, Stake] = field(default_factory=dict)
    unbondings: dict[bytes, dict[int, int]] = field(default_factory=dict)
    statements: dict[bytes, Posted] = field(default_factory=dict)
    commitments: dict[tuple[bytes, bytes], tuple[bytes, int]] = field(default_factory=dict)
    punished: set[tuple[bytes, int]] = field(default_factory=set)
    power: dict[bytes, int] = field(default_factory=dict)
    """Of the block in progress."""
    powers: dict[int, dict[bytes, int]] = field(default_factory=dict)
    """By the height of the block."""
    emitted: int = 0
    burned: int = 0
    earned: Counter[bytes] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    """How often each kind had each outcome."""
    slashed: int = 0
    _known: frozenset[bytes] = frozenset()
    _hardness_before: int = 1_000
    _cost: int = 0
    _proof_bytes: int = 0
    _expiries: dict[int, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for account in self.genesis.accounts:
            self.balances[account.address] += account.balance
        for member in self.genesis.validators.members:
            self.stakes[member.address] = Stake(member.power, (member.public_key, member.network_id))
            self.power[member.address] = member.power

    # Blocks.

    def block(
        self, proposer: bytes, certified_by: Sequence[bytes], transactions: Sequence[tuple[Transaction, int]]
    ) -> list[Outcome]:
        """The next block: who proposed it, whose COMMITs of the block before it carries, and its transactions with the
        fees that were taken. Answers with what becomes of them."""
        self.height += 1
        self.powers[self.height] = dict(self.power)
        if self.height > 1:
            self._reward(proposer, certified_by)
        self._cost = self._proof_bytes = 0
        # The parent's state says whose key is known, for the whole block.
        self._known = frozenset(self.keys)
        outcomes = [self._take(proposer, transaction, fee) for transaction, fee in transactions]
        self.keys.update(transaction.parsed.sender for transaction, _ in transactions)
        self._hardness_before = self.hardness(self._cost, self._proof_bytes)
        self._end()
        return outcomes

    def _reward(self, proposer: bytes, signers: Sequence[bytes]) -> None:
        parameters, before = self.genesis.parameters, self.powers[self.height - 1]
        base = parameters.emission_per_block >> ((self.height - 2) // parameters.halving_blocks)
        units = min(base * self._hardness_before // 1_000, parameters.emission_cap - self.emitted)
        bonus = units * parameters.bonus_proposer_permille // 1_000
        for signer in signers:
            self._pay(signer, (units - bonus) // len(before))
        self._pay(proposer, bonus * sum(before[signer] for signer in signers) // sum(before.values()))

    def _pay(self, to: bytes, units: int) -> None:
        self.balances[to] += units
        self.earned[to] += units
        self.emitted += units

    def _end(self) -> None:
        height, parameters = self.height, self.genesis.parameters
        for address, entries in self.unbondings.items():
            self.balances[address] += sum(units for release, units in entries.items() if release <= height)
            self.unbondings[address] = {release: units for release, units in entries.items() if release > height}
        for statement in self._expiries.pop(height, ()):
            posted = self.statements[statement]
            if posted.open and posted.expiry == height:
                self.balances[posted.poster] += posted.escrow
                posted.open, posted.escrow, posted.expired_at = False, 0, height
        # What merely expired is forgotten after the evidence window.
        for statement, posted in list(self.statements.items()):
            if posted.expired_at and posted.expired_at + parameters.evidence_window_blocks + 1 <= height:
                del self.statements[statement]
        if height % parameters.epoch_blocks == 0:
            self.power = {
                address: stake.bonded
                for address, stake in self.stakes.items()
                if not stake.jailed_until and stake.bonded >= parameters.min_stake
            }
            for address in [a for a, stake in self.stakes.items() if not stake.bonded]:
                if not self.unbondings.get(address):
                    del self.stakes[address]

    # Transactions.

    def _take(self, proposer: bytes, transaction: Transaction, fee: int) -> Outcome:
        body = transaction.parsed
        sender, kind = body.sender, body.kind
        assert body.nonce == self.nonces[sender], "a block has a nonce out of turn"
        assert bool(transaction.public_key) == (sender not in self._known), "a key is carried exactly when unknown"
        least = self.least_fee(transaction)
        assert fee == body.fee >= least, "a fee below the minimum"
        assert self.balances[sender] >= fee, "a fee that cannot be paid"
        self.nonces[sender] += 1
        self.balances[sender] -= fee
        self.burned += least
        self.balances[proposer] += fee - least
        outcome = self._execute(sender, kind, least)
        self.seen[f"{body.kind_name} {outcome.name}"] += 1
        return outcome

    def least_fee(self, transaction: Transaction) -> int:
        parameters = self.genesis.parameters
        fee = parameters.fee_per_body_byte * len(transaction.body) + parameters.fee_ml_dsa_65
        if transaction.public_key:
            fee += parameters.fee_key_registration
        kind = transaction.parsed.kind
        match kind:
            case RevealProof():
                fee += -(-kind.cost_limit // 1_000) * parameters.fee_per_kilo_cost
            case PostStatement():
                fee += -(-len(kind.statement) // 1_000) * parameters.fee_per_kilo_cost
            case Attest():
                fee += parameters.fee_ml_dsa_87 * len(kind.signatures)
            case SubmitEvidence():
                fee += 2 * parameters.fee_ml_dsa_87
            case RotateKey():
                fee += parameters.fee_ml_dsa_65
            case _:
                pass
        return fee

    def _spend(self, sender: bytes, units: int) -> bool:
        if self.balances[sender] < units:
            return False
        self.balances[sender] -= units
        return True

    def _execute(self, sender: bytes, kind: Kind, least: int) -> Outcome:
        match kind:
            case Transfer():
                if not self._spend(sender, sum(output.amount for output in kind.outputs)):
                    return Outcome.INSUFFICIENT_FUNDS
                for output in kind.outputs:
                    self.balances[output.recipient] += output.amount
                return Outcome.OK
            case Data() | RotateKey():
                return Outcome.OK
            case Bond():
                return self._bond(sender, kind)
            case Unbond():
                return self._unbond(sender, kind)
            case Unjail():
                return self._unjail(sender)
            case SubmitEvidence():
                return self._punish(self.evidence[kind.evidence])
            case PostStatement():
                return self._post(sender, kind)
            case CommitProof():
                return self._commit(sender, kind)
            case RevealProof():
                return self._reveal(sender, kind)
            case Attest():
                return self._attest(sender, kind, least)
            case _:
                raise AssertionError(f"the model does not know {kind}")

    def _bond(self, sender: bytes, kind: Bond) -> Outcome:
        stake = self.stakes.get(sender)
        bonded = kind.amount + (stake.bonded if stake else 0)
        if bonded < self.genesis.parameters.min_stake:
            return Outcome.BELOW_MINIMUM_STAKE
        identity = (kind.consensus_public_key, kind.network_id)
        for holder, other in self.stakes.items():
            if holder != sender and (identity[0] == other.identity[0] or identity[1] == other.identity[1]):
                return Outcome.KEY_IN_USE
        if not self._spend(sender, kind.amount):
            return Outcome.INSUFFICIENT_FUNDS
        self.stakes[sender] = Stake(bonded, identity, stake.jailed_until if stake else 0)
        return Outcome.OK

    def _unbond(self, sender: bytes, kind: Unbond) -> Outcome:
        parameters, stake = self.genesis.parameters, self.stakes.get(sender)
        if stake is None:
            return Outcome.NOT_A_VALIDATOR
        if kind.amount > stake.bonded:
            return Outcome.INSUFFICIENT_STAKE
        if 0 < stake.bonded - kind.amount < parameters.min_stake:
            return Outcome.BELOW_MINIMUM_STAKE
        epoch_end = -(-self.height // parameters.epoch_blocks) * parameters.epoch_blocks
        release = epoch_end + parameters.unbonding_blocks
        entries = self.unbondings.setdefault(sender, {})
        entries[release] = entries.get(release, 0) + kind.amount
        stake.bonded -= kind.amount
        return Outcome.OK

    def _unjail(self, sender: bytes) -> Outcome:
        stake = self.stakes.get(sender)
        if stake is None:
            return Outcome.NOT_A_VALIDATOR
        if not stake.jailed_until:
            return Outcome.NOT_JAILED
        if self.height < stake.jailed_until:
            return Outcome.STILL_JAILED
        if stake.bonded < self.genesis.parameters.min_stake:
            return Outcome.BELOW_MINIMUM_STAKE
        stake.jailed_until = 0
        return Outcome.OK

    def _punish(self, accused: Accused) -> Outcome:
        """Of validators that have nothing unbonding: the workload accuses no others."""
        if (accused.offender, accused.height) in self.punished:
            return Outcome.ALREADY_PUNISHED
        parameters, stake = self.genesis.parameters, self.stakes[accused.offender]
        assert not self.unbondings.get(accused.offender)
        units = stake.bonded * parameters.slash_double_sign_permille // 1_000
        stake.bonded -= units
        stake.jailed_until = max(stake.jailed_until, self.height + parameters.jail_blocks)
        self.burned += units
        self.slashed += units
        self.punished.add((accused.offender, accused.height))
        return Outcome.OK

    def _post(self, sender: bytes, kind: PostStatement) -> Outcome:
        known = {name for name, _ in self.genesis.verifiers}
        if kind.verifier not in known:
            return Outcome.UNKNOWN_VERIFIER
        if not self.height < kind.expiry_height:
            return Outcome.EXPIRY_OUT_OF_RANGE
        expiry = int(kind.expiry_height)
        if kind.verifier == ATTESTED:
            expiry = min(expiry, self.height + self.genesis.parameters.attestation_expiry_blocks)
        old = self.statements.get(kind.statement_id)
        if old is not None and not old.expired_at:
            return Outcome.STATEMENT_EXISTS
        if not kind.statement.startswith((b"p cnf ", b"(set-logic ")):
            return Outcome.STATEMENT_MALFORMED
        if not self._spend(sender, kind.bounty):
            return Outcome.INSUFFICIENT_FUNDS
        posted = Posted(kind.verifier, kind.statement, sender, kind.bounty, self.height, expiry)
        self.statements[kind.statement_id] = posted
        self._expiries.setdefault(expiry, []).append(kind.statement_id)
        return Outcome.OK

    def _provable(self, statement: bytes) -> Outcome | Posted:
        posted = self.statements.get(statement)
        if posted is None:
            return Outcome.STATEMENT_UNKNOWN
        return posted if posted.open and posted.verifier != ATTESTED else Outcome.STATEMENT_CLOSED

    def _commit(self, sender: bytes, kind: CommitProof) -> Outcome:
        posted = self._provable(kind.statement_id)
        if isinstance(posted, Outcome):
            return posted
        old = self.commitments.get((kind.statement_id, sender))
        if old is not None and old[0] == kind.commitment:
            return Outcome.COMMITMENT_EXISTS
        self.commitments[kind.statement_id, sender] = (kind.commitment, self.height)
        return Outcome.OK

    def _reveal(self, sender: bytes, kind: RevealProof) -> Outcome:
        posted = self._provable(kind.statement_id)
        if isinstance(posted, Outcome):
            return posted
        committed = self.commitments.get((kind.statement_id, sender))
        if committed is None or committed[0] != kind.commitment(Address(sender)):
            return Outcome.COMMITMENT_UNKNOWN
        if self.height < committed[1] + self.genesis.parameters.proof_commit_blocks:
            return Outcome.COMMITMENT_TOO_YOUNG
        judged = self.proofs[kind.proof]
        if not judged.valid:
            return Outcome.PROOF_INVALID
        self._cost += judged.cost
        self._proof_bytes += len(kind.proof)
        self.balances[sender] += posted.escrow
        posted.open, posted.escrow = False, 0
        del self.commitments[kind.statement_id, sender]
        return Outcome.OK

    def _attest(self, sender: bytes, kind: Attest, least: int) -> Outcome:
        """Of one statement, as validators make them."""
        batch = decode_verdict_batch(kind.batch)
        (statement, _verdict), *more = batch.entries
        assert not more
        posted = self.statements[statement]
        if not posted.open:
            return Outcome.STATEMENT_CLOSED
        members = sorted(self.powers[batch.height])
        signers = [a for place, a in enumerate(members) if kind.signers[place // 8] >> place % 8 & 1]
        power = self.powers[batch.height]
        assert 3 * sum(power[a] for a in signers) > 2 * sum(power.values()), "verdicts without a quorum"
        carried = min(posted.escrow, least)
        share, rest = divmod(posted.escrow - carried, len(signers))
        self.balances[sender] += carried
        self.balances[signers[0]] += rest
        for signer in signers:
            self.balances[signer] += share
        posted.open, posted.escrow = False, 0
        return Outcome.OK

    # Sums.

    @property
    def bonded(self) -> int:
        return sum(stake.bonded for stake in self.stakes.values())

    @property
    def unbonding(self) -> int:
        return sum(sum(entries.values()) for entries in self.unbondings.values())

    @property
    def escrow(self) -> int:
        return sum(posted.escrow for posted in self.statements.values())

    def bonded_of(self, address: bytes) -> int:
        stake = self.stakes.get(address)
        return 0 if stake is None else stake.bonded

    def unbonding_of(self, address: bytes) -> int:
        return sum(self.unbondings.get(address, {}).values())
