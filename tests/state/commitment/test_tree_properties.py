"""Whatever happens to a state, its root is the one that a full rebuild gives, and its proofs hold."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from state.commitment.versions import MemoryState, SpeculativeState, StaleStateError
from tests.state.commitment.reference import full_root
from trellis.statetree import decode_state_proof

BUCKETS_LOG2 = 2
"""Few buckets, so that they fill, empty and refill."""

# One letter, so that keys are each other's prefixes and occur across the borders of neighbours.
KEYS = st.one_of(
    st.text("a", min_size=1, max_size=12).map(str.encode),
    st.binary(min_size=1, max_size=3),
    st.integers(0, 60).map(lambda number: number.to_bytes(33, "big")),
)
VALUES = st.one_of(st.binary(max_size=4), st.just(bytes(60)), st.binary(min_size=300, max_size=310))
CHANGES = st.dictionaries(KEYS, st.one_of(st.none(), VALUES), max_size=40)


def applied(entries: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    after = dict(entries)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after


class Speculation(RuleBasedStateMachine):
    """Blocks on blocks, forks, commits and drops, against plain dictionaries."""

    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.state = MemoryState(BUCKETS_LOG2)
        self.entries: dict[bytes, bytes] = {}
        self.alive: list[tuple[SpeculativeState, dict[bytes, bytes]]] = []
        self.tip: object = "genesis"
        self.parents: list[tuple[SpeculativeState, object]] = []

    def entries_of(self, version: SpeculativeState) -> dict[bytes, bytes] | None:
        return next((entries for known, entries in self.alive if known is version), None)

    @initialize(changes=CHANGES)
    def genesis(self, changes: dict[bytes, bytes | None]) -> None:
        self.state.apply(changes)
        self.entries = applied({}, changes)

    @rule(target=versions, changes=CHANGES)
    def extend_the_committed_state(self, changes: dict[bytes, bytes | None]) -> SpeculativeState:
        version = self.state.extend(changes)
        self.parents.append((version, self.tip))
        self.alive.append((version, applied(self.entries, changes)))
        return version

    @rule(target=versions, parent=versions, changes=CHANGES)
    def extend_an_uncommitted_state(self, parent: SpeculativeState, changes: dict[bytes, bytes | None]) -> object:
        entries = self.entries_of(parent)
        if entries is None:
            try:
                parent.extend(changes)
            except StaleStateError:
                return multiple()
            raise AssertionError("a state that lost could be extended")
        version = parent.extend(changes)
        self.parents.append((version, parent))
        self.alive.append((version, applied(entries, changes)))
        return version

    @rule(version=consumes(versions))
    def commit(self, version: SpeculativeState) -> None:
        entries = self.entries_of(version)
        if self._parent(version) is not self.tip or version is self.tip:
            try:
                self.state.commit(version)
            except StaleStateError:
                return
            raise AssertionError("a state that does not follow the committed one was committed")
        self.state.commit(version)
        assert entries is not None
        self.entries, self.tip = entries, version
        self.alive = [
            (known, expected) for known, expected in self.alive if known is version or self._descends(known, version)
        ]

    def _parent(self, version: object) -> object:
        return next((parent for known, parent in self.parents if known is version), None)

    def _descends(self, version: SpeculativeState, ancestor: SpeculativeState) -> bool:
        parent = self._parent(version)
        while parent is not None:
            if parent is ancestor:
                return True
            parent = self._parent(parent)
        return False

    @rule(version=versions, key=KEYS)
    def prove(self, version: SpeculativeState, key: bytes) -> None:
        entries = self.entries_of(version)
        if entries is None:
            return
        proof = decode_state_proof(version.prove(key).encode())
        assert proof.lookup(key, version.root, BUCKETS_LOG2) == (True, entries.get(key))

    @invariant()
    def incremental_roots_equal_full_rebuilds(self) -> None:
        assert self.state.node == full_root(self.entries, BUCKETS_LOG2)
        for version, entries in self.alive[-3:]:
            assert version.node == full_root(entries, BUCKETS_LOG2)
            for key in list(entries)[:5]:
                assert version.get(key) == entries[key]


TestSpeculation = Speculation.TestCase
TestSpeculation.settings = settings(max_examples=100, stateful_step_count=12)


@given(st.lists(CHANGES, min_size=1, max_size=6), st.lists(KEYS, min_size=1, max_size=5), st.integers(0, 5))
def test_incremental_root_equals_full_rebuild_and_every_key_is_proven(
    blocks: list[dict[bytes, bytes | None]], asked: list[bytes], buckets_log2: int
) -> None:
    state = MemoryState(buckets_log2)
    entries: dict[bytes, bytes] = {}
    for changes in blocks:
        state.apply(changes)
        entries = applied(entries, changes)
        assert state.node == full_root(entries, buckets_log2)
    for key in [*asked, *entries]:
        proof = decode_state_proof(state.prove(key).encode())
        assert proof.lookup(key, state.root, buckets_log2) == (True, entries.get(key))


@given(st.dictionaries(KEYS, VALUES, min_size=2, max_size=30), st.data())
def test_the_root_does_not_depend_on_the_order_of_blocks(entries: dict[bytes, bytes], data: st.DataObject) -> None:
    once = MemoryState(BUCKETS_LOG2)
    once.apply(entries)
    bit_by_bit = MemoryState(BUCKETS_LOG2)
    for key in data.draw(st.permutations(sorted(entries))):
        bit_by_bit.apply({key: entries[key]})
    assert bit_by_bit.node == once.node


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=20), KEYS, VALUES)
def test_a_proof_of_one_state_proves_nothing_of_another(entries: dict[bytes, bytes], key: bytes, value: bytes) -> None:
    state = MemoryState(BUCKETS_LOG2)
    state.apply(entries)
    proof = state.prove(key)
    after = state.extend({key: value})
    if after.root != state.root:
        assert proof.lookup(key, after.root, BUCKETS_LOG2) == (False, None)
