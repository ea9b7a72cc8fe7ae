"""The real ledger for simulated engines: a genesis of stand-in keys, one more ledger that audits what hosts commit, and
clients that pay.

The auditor executes every decided block once more from nothing but the blocks before it, with every signature verified,
and follows the sum of all value. A client has one transaction on its way at a time, and offers it until it is final.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from node.simulator.checkers import SafetyViolation
from node.simulator.keys import KeyRing, SimulatedKey
from node.simulator.ledger import LedgerState, OperationKind
from state.accounts import read_account
from state.claims import known_verdicts, verify_claims
from state.conservation import ConservationValidator
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.stake import read_stake
from state.store.chain import ChainStore, create_chain
from state.store.memory import MemoryStore
from state.store.rows import ChainIdentity
from state.transition import Applied
from trellis.block import Block
from trellis.certificate import Certificate
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import DEFAULT_POLICY
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.parameters import Parameters
from trellis.transaction import (
    Bond,
    Data,
    Kind,
    Output,
    Transaction,
    TransactionBody,
    Transfer,
    Unbond,
    signing_bytes,
)
from trellis.types import Address, Height
from trellis.validators import make_validator_set

START_MS: Final = 1_700_000_000_000
UNIT: Final = 1_000_000
"""Of stake: what a scene counts in."""

CLIENTS: Final = 6
FEE: Final = 20_000
_BALANCE: Final = 10**12
_FOREVER: Final = Height(1_000_000)


def make_genesis(parameters: Parameters, ring: KeyRing, stakes: tuple[int, ...], seed: int) -> Genesis:
    small = replace(parameters, state_buckets_log2=4, max_block_transactions=32, min_stake=UNIT)
    members = [key.validator(stake * UNIT) for key, stake in zip(ring.keys, stakes, strict=False) if stake]
    return Genesis(
        chain_name=f"simulated-{seed}",
        time_ms=START_MS,
        engine=EngineKind.PBFT,
        parameters=small,
        policy=DEFAULT_POLICY,
        validators=make_validator_set(members),
        accounts=tuple(GenesisAccount(address, _BALANCE) for address in sorted(key.address for key in ring.keys)),
        verifiers=(),
    )


def new_chain(genesis: Genesis) -> tuple[MemoryStore, ChainStore]:
    store = MemoryStore()
    identity = ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2)
    return store, create_chain(store, identity, genesis_changes(genesis))


class Auditor:
    """The chain that honest hosts decided, executed once more."""

    def __init__(self, genesis: Genesis, ring: KeyRing) -> None:
        self.ledger = Ledger(genesis, new_chain(genesis)[1])
        self._ring = ring
        rows = [(key, row) for key, row in genesis_changes(genesis).items() if row is not None]
        self._value = ConservationValidator(rows)
        self.states = [self._read()]
        """After each height."""

    def follow(self, block: Block, certificate: Certificate) -> LedgerState:
        """The state after this block; or after the one that was decided first at its height."""
        height = block.header.height
        if height < len(self.states):
            return self.states[height]
        ledger = self.ledger
        verdicts = verify_claims(ledger.claims(block), self._ring.verify)
        result = ledger.execute(block, known_verdicts(verdicts))
        if not isinstance(result, Applied):
            raise SafetyViolation(f"validity: the block decided at height {height} does not execute: {result}")
        self._value.apply(result.executed.changes, ledger.state)
        if not self._value.validate():
            raise SafetyViolation(f"conservation: value was made or lost at height {height}")
        ledger.commit(block.hash, certificate)
        self.states.append(self._read())
        return self.states[height]

    def _read(self) -> LedgerState:
        ledger = self.ledger
        facts = ledger.facts_after(ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        stakes = [(key.address, read_stake(ledger.state, key.address)) for key in self._ring.keys]
        return LedgerState(
            genesis_hash=ledger.genesis.hash,
            parameters=facts.network.parameters,
            height=ledger.tip.height,
            tip_hash=ledger.tip.block_hash,
            tip_time_ms=facts.parent_timestamp_ms,
            root=ledger.tip.state_root,
            members=(),
            stakes=tuple(sorted((address, stake.bonded // UNIT) for address, stake in stakes if stake is not None)),
            done=frozenset(),
            validators=facts.validators,
            schedule=facts.schedule,
        )

    def nonce(self, address: Address) -> int:
        return read_account(self.ledger.state, address).nonce


def sign(genesis: Genesis, key: SimulatedKey, nonce: int, kind: Kind) -> Transaction:
    body = TransactionBody(key.address, nonce, _FOREVER, FEE, kind).encode()
    signature = key.sign(signing_bytes(genesis.hash, body), Context.TX.value)
    return Transaction(body, AlgId.ML_DSA_65, b"" if nonce else key.public_key, signature)


@dataclass(slots=True)
class _Pending:
    nonce: int
    transaction: Transaction


class Clients:
    """Who has transactions to make: clients, and validators that move their stake."""

    def __init__(self, genesis: Genesis, auditor: Auditor, keys: tuple[SimulatedKey, ...]) -> None:
        self._genesis = genesis
        self._auditor = auditor
        self._keys = keys
        self._pending: dict[Address, _Pending] = {}
        self._turn = 0

    def next(self, chance: random.Random) -> Transaction:
        """Of the client whose turn it is: the one it has on its way still, or a new one."""
        self._turn += 1
        key = self._keys[self._turn % len(self._keys)]
        if chance.randrange(2):
            return self._of(key, Transfer((Output(chance.choice(self._keys).address, chance.randint(1, 1_000)),)))
        return self._of(key, Data(self._turn.to_bytes(8, "big")))

    def move(self, key: SimulatedKey, kind: OperationKind, units: int) -> Transaction:
        """A validator bonds or unbonds."""
        if kind is OperationKind.UNBOND:
            return self._of(key, Unbond(units * UNIT))
        member = key.validator(1)
        return self._of(key, Bond(units * UNIT, member.alg_id, member.public_key, member.network_id))

    def _of(self, key: SimulatedKey, kind: Kind) -> Transaction:
        nonce = self._auditor.nonce(key.address)
        known = self._pending.get(key.address)
        if known is None or known.nonce != nonce:
            known = self._pending[key.address] = _Pending(nonce, sign(self._genesis, key, nonce, kind))
        return known.transaction
