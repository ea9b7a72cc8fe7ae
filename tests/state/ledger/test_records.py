"""What became of validators, as services ask for it: payments, sums, accuracy, accepted evidence, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from state.claims import known_verdicts, verify_claims
from state.events import decode_events, encode_events
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.results import accuracies, known_validators, read_incidents, read_rewards
from state.scope import Reward, RewardKind, SetChanged, Slash, StatementExpired, StatementPaid
from state.store.chain import ChainStore, create_chain
from state.store.errors import CorruptStoreError
from state.store.lmdb_store import LmdbStore
from state.store.memory import MemoryStore
from state.store.pruning import KEEP_ALL, Retention
from state.store.reader import MAX_SCANNED, ChainReader
from state.store.rows import ChainIdentity, height_key
from state.store.store import Batch, Store, Table
from tests.signing import fake_verify_all
from tests.state.kit import Chain, make_chain
from tests.state.rules.test_evidence import double_sign
from trellis.encoding import DecodeError
from trellis.evidence import EvidenceKind, encode_evidence
from trellis.outcome import Outcome
from trellis.transaction import SubmitEvidence, Transaction
from trellis.types import Address, Hash, Height


class Recorded:
    """The chain of `tests.state.kit`, followed block by block by a ledger over a real store."""

    def __init__(self, store: Store, retention: Retention = KEEP_ALL) -> None:
        self.chain: Chain = make_chain()
        genesis = self.chain.genesis
        identity = ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2)
        self.stored: ChainStore = create_chain(store, identity, genesis_changes(genesis), retention=retention)
        self.ledger = Ledger(genesis, self.stored)

    def step(self, *transactions: Transaction) -> None:
        block = self.chain.step(*transactions).block
        verdicts = known_verdicts(verify_claims(self.ledger.claims(block), fake_verify_all))
        self.ledger.execute(block, verdicts)
        self.ledger.commit(block.hash, self.chain.certificate)

    def accusation(self, seat: int) -> Transaction:
        """Against the member in that seat, of signing two blocks at this height."""
        evidence = double_sign(self.chain, self.chain.members[seat], self.chain.height)
        return self.chain.tx(self.chain.rich[seat], SubmitEvidence(encode_evidence(evidence)), fee=100_000)


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "store", map_bytes=1 << 26)
    yield made
    made.close()


def paid(reader: ChainReader, validator: Address | None, limit: int = 5) -> list[tuple[int, Address, int, RewardKind]]:
    """Every page, one after the other."""
    found: list[tuple[int, Address, int, RewardKind]] = []
    page = reader.rewards(limit, validator=validator)
    while True:
        found += [(entry.height, *entry.reward) for entry in page.rewards]
        if page.before is None:
            return found
        page = reader.rewards(limit, page.before, validator=validator)


def test_payments_are_found_by_validator_and_height_and_add_up_to_the_sums_in_the_state(store: Store) -> None:
    recorded = Recorded(store)
    for _ in range(12):
        recorded.step()
    with recorded.stored.read() as reader:
        every = paid(reader, None)
        assert [height for height, *_ in every] == sorted((height for height, *_ in every), reverse=True)
        assert {height for height, *_ in every} == set(range(2, 13))
        for address in known_validators(reader):
            own = paid(reader, address)
            assert own == [entry for entry in every if entry[1] == address]
            total = read_rewards(reader, address)
            assert total.units == sum(units for _, _, units, _ in own) > 0
            assert total.as_proposer == sum(units for _, _, units, kind in own if kind is RewardKind.PROPOSER)
            assert total.signed == 11
        assert sum(read_rewards(reader, address).proposed for address in known_validators(reader)) == 12
        page = reader.rewards(100, Height(8), down_to=Height(6))
        assert {entry.height for entry in page.rewards} == {6, 7}
        assert page.before is None


def test_who_signs_and_proposes_is_counted_where_nothing_is_paid() -> None:
    recorded = Recorded(MemoryStore())
    quiet = recorded.chain.members[3]
    for _ in range(6):
        recorded.chain.certificate = (
            None
            if recorded.chain.height == 0
            else recorded.chain.certify(recorded.chain.blocks[-1], recorded.chain.members[:3])
        )
        recorded.step()
    with recorded.stored.read() as reader:
        total = read_rewards(reader, quiet.address)
        assert (total.units - total.as_proposer, total.signed) == (0, 0)
        assert read_rewards(reader, recorded.chain.members[0].address).signed == 5


def test_accepted_evidence_is_listed_newest_first_with_its_bytes_reporter_and_cost(store: Store) -> None:
    recorded = Recorded(store)
    recorded.step()
    accusations = []
    for seat in (0, 1):
        transaction = recorded.accusation(seat)
        accusations.append(transaction)
        recorded.step(transaction)
    # Rejected, so it is not listed: this offence was punished already.
    repeated = recorded.chain.tx(recorded.chain.rich[2], accusations[0].parsed.kind, fee=100_000)
    recorded.step(repeated)
    assert recorded.chain.applied[-1].executed.receipts[0].outcome is Outcome.ALREADY_PUNISHED
    members, genesis_hash = recorded.chain.members, recorded.chain.genesis.hash
    with recorded.stored.read() as reader:
        page = reader.evidence(10)
        assert page.before is None
        assert [entry.height for entry in page.found] == [3, 2]
        for entry, seat in zip(page.found, (1, 0), strict=True):
            item, transaction = entry.evidence, accusations[seat]
            kind = transaction.parsed.kind
            assert isinstance(kind, SubmitEvidence)
            assert (item.accused, item.kind) == (members[seat].address, EvidenceKind.CONFLICTING_VOTES)
            assert (item.txid, item.reporter) == (transaction.txid(genesis_hash), transaction.parsed.sender)
            assert item.evidence == kind.evidence
            assert item.units == read_incidents(reader, item.accused).units > 0
            assert item.offence_height == entry.height - 1
        first = reader.evidence(1)
        assert first.before is not None
        assert reader.evidence(1, first.before).found == page.found[1:]
        assert reader.evidence(9, accused=members[0].address).found == page.found[1:]
        assert reader.evidence(9, kind=EvidenceKind.LOCK_LIE).found == ()
        assert reader.evidence(9, min_offence_height=Height(2)).found == page.found[:1]


def test_pruning_takes_events_and_evidence_along_and_a_rollback_takes_its_own_back(store: Store) -> None:
    recorded = Recorded(store, Retention(undo_blocks=2))
    recorded.step()
    recorded.step(recorded.accusation(0))
    for _ in range(6):
        recorded.step()
    recorded.step(recorded.accusation(1))
    recorded.stored.prune(Retention(results=4, undo_blocks=2))
    with recorded.stored.read() as reader:
        assert reader.bounds.first_result == 6
        assert reader.events(Height(5)) is None
        assert {height for height, *_ in paid(reader, None)} == {6, 7, 8, 9}
        assert [entry.height for entry in reader.evidence(10).found] == [9]
    recorded.ledger.rollback()
    with recorded.stored.read() as reader:
        assert reader.events(Height(9)) is None
        assert reader.evidence(10).found == ()


def test_a_page_looks_at_a_bounded_number_of_blocks_and_says_where_it_stopped() -> None:
    recorded = Recorded(MemoryStore())
    for _ in range(MAX_SCANNED + 5):
        recorded.step()
    with recorded.stored.read() as reader:
        nobody = Address(Hash(bytes(32)))
        page = reader.rewards(10, validator=nobody)
        assert (page.rewards, page.before) == ((), 6)
        assert reader.rewards(10, page.before, validator=nobody).before is None
        for wrong in (0, 1_001):
            with pytest.raises(ValueError, match="a page of rewards"):
                reader.rewards(wrong)
            with pytest.raises(ValueError, match="a page of evidence"):
                reader.evidence(wrong)


def test_missing_events_of_a_kept_block_are_reported_not_passed_over() -> None:
    recorded = Recorded(MemoryStore())
    recorded.step()
    batch = Batch()
    batch.delete(Table.EVENTS, height_key(1))
    recorded.stored.store.commit(batch)
    with recorded.stored.read() as reader, pytest.raises(CorruptStoreError, match="events of block 1"):
        reader.events(Height(1))


def test_accuracy_of_everyone_is_read_at_once() -> None:
    recorded = Recorded(MemoryStore())
    recorded.step()
    with recorded.stored.read() as reader:
        everyone = known_validators(reader)
        assert [(each.given, each.abstained, each.permille) for each in accuracies(reader, everyone)] == [
            (0, 0, 1_000)
        ] * len(everyone)


def test_events_come_back_as_they_were_and_cut_ones_are_refused() -> None:
    one, other = Hash(bytes([1]) * 32), Hash(bytes([2]) * 32)
    events = (
        Reward(Address(one), 5, RewardKind.COMMIT),
        Slash(Address(other), Height(7), 1, 200, 9),
        StatementPaid(one, Address(other), 3),
        StatementExpired(other, Address(one), 4),
        SetChanged(Height(11), one),
    )
    data = encode_events(events)
    assert decode_events(data) == events
    whole = {len(encode_events(events[:count])) for count in range(len(events) + 1)}
    for cut in range(len(data)):
        if cut not in whole:
            with pytest.raises(DecodeError):
                decode_events(data[:cut])
    for wrong in (b"\x06" + bytes(40), b"\x01" + bytes(40) + b"\x09"):
        with pytest.raises(DecodeError):
            decode_events(wrong)
