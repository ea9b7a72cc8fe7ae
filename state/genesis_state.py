"""The state before block 1, from the genesis document."""

from __future__ import annotations

from state.accounts import write_account
from state.chain import (
    HEAD_KEY,
    MMR_KEY,
    NETWORK_KEY,
    SCHEDULE_KEY,
    TOTALS_KEY,
    Head,
    Totals,
    network_of,
)
from state.overlay import Overlay
from state.proofs import STATEMENTS
from state.proofs.difficulty import DIFFICULTY_UNIT_MILLI
from state.stake import Stake, claim_identity, write_roster, write_stake
from state.validator_sets import append_set
from state.view import Changes
from trellis.genesis import Genesis
from trellis.mmr import EMPTY_MMR
from trellis.schedule import first_schedule
from trellis.types import Height


class GenesisRefused(ValueError):
    """A genesis that this software cannot run: it says which part, and what to do."""


class _Nothing:
    """The view below the first state."""

    def get(self, key: bytes) -> bytes | None:
        return None


def genesis_changes(genesis: Genesis) -> Changes:
    """Every row of the state after "block 0". The mountain range is empty: its leaf 0 comes with block 1."""
    _check(genesis)
    state = Overlay(_Nothing())
    for account in genesis.accounts:
        if account.balance:
            write_account(state, account.address, account.balance, 0)
    for member in genesis.validators.members:
        stake = Stake(member.power, 0, member.alg_id, member.public_key, member.network_id)
        write_stake(state, member.address, stake)
        claim_identity(state, member.address, stake)
    write_roster(state, genesis.validators.addresses)
    append_set(state, Height(1), genesis.validators, 0)
    balances = sum(account.balance for account in genesis.accounts)
    bonded = genesis.validators.total_power
    totals = Totals(balances + bonded, 0, 0, balances, bonded, 0, 0)
    state.put(NETWORK_KEY, network_of(genesis).encode())
    state.put(HEAD_KEY, Head(Height(0), genesis.time_ms, DIFFICULTY_UNIT_MILLI, False, 0).encode())
    state.put(MMR_KEY, EMPTY_MMR.encode())
    state.put(SCHEDULE_KEY, first_schedule(genesis.validators).encode())
    state.put(TOTALS_KEY, totals.encode())
    return state.changes()


def _check(genesis: Genesis) -> None:
    unknown = [name for name, _ in genesis.verifiers if name not in STATEMENTS]
    if unknown:
        raise GenesisRefused(
            f"this software has no verifier {unknown[0]!r} (it has {', '.join(sorted(STATEMENTS))}): "
            "run the release that this network was made for"
        )
    if len(genesis.validators) > genesis.parameters.max_validators:
        raise GenesisRefused(
            f"{len(genesis.validators)} validators, but max_validators is {genesis.parameters.max_validators}"
        )
