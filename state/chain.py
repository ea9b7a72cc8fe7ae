"""Rows of which there is one: what the network chose, where the chain stands, who leads, how much there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from struct import Struct
from typing import Final

from state.errors import StateCorrupt
from state.overlay import Overlay
from state.view import StateView
from trellis.crypto.policy import AlgorithmPolicy, decode_policy_document
from trellis.encoding import Reader, Writer
from trellis.genesis import EngineKind, Genesis
from trellis.mmr import Mmr, decode_mmr
from trellis.parameters import Parameters
from trellis.schedule import Schedule, decode_schedule
from trellis.types import Hash, Height

NETWORK_KEY: Final = b"mnetwork"
HEAD_KEY: Final = b"mhead"
MMR_KEY: Final = b"mmmr"
SCHEDULE_KEY: Final = b"mschedule"
TOTALS_KEY: Final = b"mtotals"

MAX_NETWORK_BYTES: Final = 1 << 20


def require(view: StateView, key: bytes) -> bytes:
    """A row that every state has."""
    row = view.get(key)
    if row is None:
        raise StateCorrupt(f"the state has no row {key!r}")
    return row


@dataclass(frozen=True, slots=True)
class Network:
    """What genesis chose and no transaction changes yet."""

    engine: EngineKind
    parameters: Parameters
    policy: AlgorithmPolicy
    verifiers: Mapping[str, bytes]
    params_hash: Hash

    def encode(self) -> bytes:
        writer = Writer().text(self.engine).lp(self.parameters.encode()).lp(self.policy.encode())
        writer.u16(len(self.verifiers))
        for name in sorted(self.verifiers):
            writer.text(name).lp(self.verifiers[name])
        return writer.done()


def network_of(genesis: Genesis) -> Network:
    return Network(genesis.engine, genesis.parameters, genesis.policy, dict(genesis.verifiers), genesis.params_hash)


def read_network(view: StateView) -> Network:
    return _decode_network(require(view, NETWORK_KEY))


@lru_cache(maxsize=16)
def _decode_network(row: bytes) -> Network:
    """Remembered by its bytes: forty parameters are not parsed and checked again for every block."""
    reader = Reader(row)
    engine = EngineKind(reader.text("engine", 16))
    parameters = _decode_parameters(reader.lp("parameters", MAX_NETWORK_BYTES))
    policy = decode_policy_document(reader.lp("policy", MAX_NETWORK_BYTES))
    verifiers = {
        reader.text("verifier", MAX_NETWORK_BYTES): reader.lp("build", MAX_NETWORK_BYTES)
        for _ in range(reader.u16("verifiers"))
    }
    reader.end("network")
    return Network(engine, parameters, policy, verifiers, parameters.hash_with(verifiers))


def _decode_parameters(data: bytes) -> Parameters:
    reader = Reader(data)
    names = [item.name for item in fields(Parameters)]
    if reader.u16("count") != len(names):
        raise StateCorrupt("the parameters were written by other software")
    values = {name: reader.u64(name) for name in names}
    reader.end("parameters")
    return Parameters(**values)


_HEAD: Final = Struct(">QQQBQ")


@dataclass(frozen=True, slots=True)
class Head:
    """The block that made this state. Its hash cannot be here: the hash covers the root of this state."""

    height: Height
    timestamp_ms: int
    difficulty_milli: int
    """Of the proofs in that block; the next block's rewards are multiplied by it."""
    bears_proofs: bool
    transactions: int
    """In the whole chain so far."""

    def encode(self) -> bytes:
        return _HEAD.pack(self.height, self.timestamp_ms, self.difficulty_milli, self.bears_proofs, self.transactions)


def read_head(view: StateView) -> Head:
    height, timestamp_ms, difficulty, bears_proofs, transactions = _HEAD.unpack(require(view, HEAD_KEY))
    return Head(Height(height), timestamp_ms, difficulty, bool(bears_proofs), transactions)


def read_mmr(view: StateView) -> Mmr:
    """Over the hashes of blocks 0…h−1, in the state after block h."""
    return decode_mmr(require(view, MMR_KEY))


def read_schedule(view: StateView) -> Schedule:
    """Of the next height."""
    return decode_schedule(require(view, SCHEDULE_KEY))


_TOTALS: Final = Struct(">QQQQQQQ")


@dataclass(frozen=True, slots=True)
class Totals:
    """Where all value is. balances + bonded + unbonding + escrow = genesis supply + emitted − burned, always."""

    genesis_supply: int
    emitted: int
    burned: int
    balances: int
    bonded: int
    unbonding: int
    escrow: int

    @property
    def held(self) -> int:
        return self.balances + self.bonded + self.unbonding + self.escrow

    @property
    def owed(self) -> int:
        return self.genesis_supply + self.emitted - self.burned

    def encode(self) -> bytes:
        return _TOTALS.pack(
            self.genesis_supply, self.emitted, self.burned, self.balances, self.bonded, self.unbonding, self.escrow
        )


def read_totals(view: StateView) -> Totals:
    return Totals(*_TOTALS.unpack(require(view, TOTALS_KEY)))


def write_row(state: Overlay, key: bytes, row: bytes) -> None:
    """Only where it differs: a row that did not change costs the tree nothing."""
    if state.get(key) != row:
        state.put(key, row)
