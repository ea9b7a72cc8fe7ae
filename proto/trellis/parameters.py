"""What a network chooses in its genesis: every tunable rule, with its default, its bounds and its canonical bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from trellis.constants import MAX_BLOCK_BYTES, MAX_BLOCK_TRANSACTIONS
from trellis.encoding import Writer
from trellis.hashing import Tag, hash_tagged
from trellis.types import U32_MAX, U64_MAX, Hash


def _parameter(default: int, low: int, high: int, meaning: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Parameters:
    """Genesis parameters. All are integers; `params_hash` in every header covers them in this order."""

    block_interval_ms: int = _parameter(100, 1, 3_600_000, "pending work waits at most this long for a proposal")
    heartbeat_ms: int = _parameter(30_000, 100, 86_400_000, "an idle network makes an empty block this often")
    clock_drift_ms: int = _parameter(2_000, 0, 600_000, "a fresh block may be this far ahead of the local clock")
    min_base_timeout_ms: int = _parameter(200, 10, 60_000, "the pacemaker's base never falls below this")
    view_timer_cap_ms: int = _parameter(4_000, 100, 600_000, "view timers stop doubling here while views are few")
    rotation_blocks: int = _parameter(32, 1, 100_000, "blocks that one validator leads in a row")
    demotion_heights: int = _parameter(16, 1, 100_000, "D: heights of a first demotion; doubled with each strike")
    epoch_blocks: int = _parameter(1_000, 1, 10_000_000, "the validator set changes at multiples of this height")
    evidence_window_blocks: int = _parameter(50_000, 1, 10_000_000, "offences older than this are not punished")
    unbonding_blocks: int = _parameter(100_000, 2, 100_000_000, "stake that leaves can be slashed this long")
    jail_blocks: int = _parameter(2_000, 1, 100_000_000, "a slashed validator may unjail after this many blocks")
    attestation_expiry_blocks: int = _parameter(50, 1, 100_000, "k: unattested statements expire after so many blocks")
    state_buckets_log2: int = _parameter(16, 4, 20, "the state tree has 2^this buckets")
    max_block_bytes: int = _parameter(4 << 20, 4_096, MAX_BLOCK_BYTES, "bodies and witnesses of one block")
    max_block_transactions: int = _parameter(4_000, 1, MAX_BLOCK_TRANSACTIONS, "transactions in one block")
    max_block_proof_cost: int = _parameter(350_000, 0, U64_MAX, "checking cost of all proofs in one block")
    slash_double_sign_permille: int = _parameter(200, 0, 1_000, "double signing and lock lies, in thousandths of stake")
    slash_wrong_verdict_permille: int = _parameter(50, 0, 1_000, "a PREPARE on an invalid proof, in thousandths")
    fee_per_body_byte: int = _parameter(1, 0, 10**9, "base units a byte of transaction body")
    fee_ml_dsa_65: int = _parameter(100, 0, 10**12, "base units for checking one ML-DSA-65 signature")
    fee_ml_dsa_87: int = _parameter(150, 0, 10**12, "the same for ML-DSA-87")
    fee_slh_dsa: int = _parameter(800, 0, 10**12, "the same for SLH-DSA-SHAKE-128s")
    fee_key_registration: int = _parameter(2_000, 0, 10**12, "charged to every transaction that carries a key")
    fee_per_kilo_cost: int = _parameter(1, 0, 10**9, "base units a 1,000 units of proof checking cost")
    min_stake: int = _parameter(1_000_000, 1, U64_MAX, "a validator bonds at least this")
    max_validators: int = _parameter(100, 1, 10_000, "the largest active set")
    emission_per_block: int = _parameter(1_000, 0, 10**15, "base units emitted a block before the first halving")
    halving_blocks: int = _parameter(10_000_000, 1, 10**12, "emission halves every so many blocks")
    emission_cap: int = _parameter(10**13, 0, U64_MAX, "base units that emission creates at the most")
    bonus_proposer_permille: int = _parameter(100, 0, 1_000, "the proposer's share of a reward, at full included power")
    proof_commit_blocks: int = _parameter(1, 1, 100_000, "blocks between a proof's commitment and its proof")
    z3_rlimit: int = _parameter(5_000_000, 1, U32_MAX, "solver resources that decide a statement of z3-attest.v1")
    unit_exponent: int = _parameter(6, 0, 18, "one coin is 10^this base units")
    pow_initial_target_log2: int = _parameter(240, 1, 255, "proof-of-work networks: the first target is 2^this")
    pow_retarget_blocks: int = _parameter(16, 2, 100_000, "proof-of-work networks: difficulty looks back this far")
    pow_confirmations: int = _parameter(6, 1, 100_000, "proof-of-work networks: a block this deep is final")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            low, high = item.metadata["low"], item.metadata["high"]
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"parameter {item.name} is {value!r}: it takes an integer from {low} to {high}")
        if self.evidence_window_blocks >= self.unbonding_blocks:
            raise ValueError(
                f"evidence_window_blocks ({self.evidence_window_blocks}) must be below unbonding_blocks "
                f"({self.unbonding_blocks}): else an offender's stake leaves before it can be slashed"
            )

    def encode(self) -> bytes:
        """u16 count, then each value as u64 in the order of the fields above."""
        writer = Writer().u16(len(fields(self)))
        for item in fields(self):
            writer.u64(getattr(self, item.name))
        return writer.done()

    def hash_with(self, verifiers: Mapping[str, bytes]) -> Hash:
        """params_hash: the parameters, and for each proof verifier the hash of its build."""
        writer = Writer().lp(self.encode()).u16(len(verifiers))
        for name in sorted(verifiers):
            writer.text(name).lp(verifiers[name])
        return hash_tagged(Tag.PARAMS, writer.done())

    def to_json(self) -> dict[str, int]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


def parameters_from_json(values: Mapping[str, object]) -> Parameters:
    """Missing parameters take their defaults; unknown ones are refused by name."""
    known = {item.name for item in fields(Parameters)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}: known are {', '.join(sorted(known))}")
    checked: dict[str, int] = {}
    for name, value in values.items():
        if type(value) is not int:
            raise ValueError(f"parameter {name} is {value!r}: it takes an integer")
        checked[name] = value
    return Parameters(**checked)


def parameter_meanings() -> dict[str, str]:
    return {item.name: item.metadata["meaning"] for item in fields(Parameters)}


DEFAULTS: Final = Parameters()
