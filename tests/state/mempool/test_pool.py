"""The pool: its bounds, its order, its patience, and what it does with the bad and the late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.chain import read_network
from state.errors import InvalidReason
from state.mempool import Answer, Entry, Mempool, PoolLimits, Reason, Refusal, decode_pool
from state.mempool.order import RUN_ROWS, SortedRows
from state.mempool.pool import MAX_BARRED, MAX_MISSES
from state.transactions import Terms, terms_of, transaction_bytes
from state.transition import Dropped
from tests.signing import FakeSigner, fake_verify_all
from tests.state.kit import PARAMETERS, Chain, address, make_chain, pay
from tests.state.rules.test_kinds import rotation
from tests.state.rules.test_proofs import posted, reveal
from tests.strategies import transactions as any_transactions
from trellis.crypto.algorithms import AlgId
from trellis.encoding import DecodeError
from trellis.transaction import CommitProof, Data, RevealProof, Transaction, decode_transaction
from trellis.types import Height

hundred = settings(max_examples=100)


def terms(chain: Chain) -> Terms:
    return terms_of(read_network(chain.state), chain.genesis.hash, Height(chain.height + 1))


def offer(pool: Mempool, chain: Chain, transaction: Transaction) -> Entry | Refusal:
    """As a host does: examine, verify, admit."""
    found = pool.examine(transaction, chain.state, terms(chain))
    if isinstance(found, Refusal):
        return found
    valid = all(all(fake_verify_all(claim.checks)) for claim in found.claims(chain.state))
    return pool.admit(found, chain.state, valid)


def reason_of(result: Entry | Refusal) -> Reason | None:
    return result.reason if isinstance(result, Refusal) else None


def accept(pool: Mempool, chain: Chain, *transactions: Transaction) -> None:
    for transaction in transactions:
        result = offer(pool, chain, transaction)
        assert isinstance(result, Entry), result


def select(pool: Mempool, chain: Chain) -> list[Transaction]:
    return pool.select(read_network(chain.state))


@pytest.fixture
def chain() -> Chain:
    return make_chain()


def test_a_good_transaction_is_taken_once(chain: Chain) -> None:
    pool = Mempool()
    transaction = chain.tx(chain.rich[0], Data(b"x"))
    accept(pool, chain, transaction)
    assert offer(pool, chain, transaction) == Refusal(Reason.DUPLICATE, Answer.IGNORE)
    assert select(pool, chain) == [transaction]
    assert pool.get(transaction.txid(chain.genesis.hash)) == transaction


def test_refusals_say_why_and_whether_to_hold_it_against_the_sender(chain: Chain) -> None:
    pool = Mempool()
    a = chain.rich[0]
    chain.step(chain.tx(a, Data(b"key")), chain.tx(a, Data(b"key"), after=1))
    good = chain.tx(a, Data(b"x"))
    other = chain.tx(chain.rich[1], Data(b"x"))
    table: list[tuple[Transaction, Reason, Answer]] = [
        (replace(good, body=good.body + b"\0"), Reason.MALFORMED_TX, Answer.REJECT),
        (replace(good, signature=good.signature[:-1]), Reason.BAD_SIGNATURE, Answer.REJECT),
        (replace(good, signature=bytes(len(good.signature))), Reason.BAD_SIGNATURE, Answer.REJECT),
        (replace(good, public_key=a.public_key), Reason.KEY_NOT_EXPECTED, Answer.IGNORE),
        (replace(other, public_key=b""), Reason.KEY_MISSING, Answer.IGNORE),
        (replace(other, public_key=FakeSigner(5).public_key), Reason.KEY_MISMATCH, Answer.REJECT),
        (replace(good, alg_id=AlgId.ML_DSA_87), Reason.KEY_MISMATCH, Answer.REJECT),
        (chain.tx(a, Data(b"x"), valid_until=1), Reason.TX_EXPIRED, Answer.IGNORE),
        (chain.tx(a, Data(b"x"), nonce=1), Reason.NONCE_TOO_LOW, Answer.IGNORE),
        (chain.tx(a, Data(b"x"), after=64), Reason.NONCE_GAP, Answer.IGNORE),
        (chain.tx(a, Data(b"x"), fee=1), Reason.FEE_TOO_LOW, Answer.IGNORE),
        (chain.tx(a, Data(b"x"), fee=10**12), Reason.INSUFFICIENT_FUNDS, Answer.IGNORE),
        (chain.tx(a, pay(address(a), 10**12)), Reason.INSUFFICIENT_FUNDS, Answer.IGNORE),
    ]
    for transaction, reason, answer in table:
        assert offer(pool, chain, transaction) == Refusal(reason, answer)
    assert len(pool) == 0
    assert pool.size_bytes == 0


def test_what_fits_in_no_block_is_refused_at_the_door() -> None:
    chain = make_chain(parameters=replace(PARAMETERS, max_block_bytes=8_000, max_block_proof_cost=500))
    pool = Mempool()
    a = chain.rich[0]
    large = chain.tx(a, Data(bytes(9_000)))
    assert offer(pool, chain, large) == Refusal(Reason.INVALID_FIELD, Answer.REJECT)
    dear = chain.tx(a, RevealProof(posted(chain), b"proof", bytes(32), 501))
    assert offer(pool, chain, dear) == Refusal(Reason.INVALID_FIELD, Answer.REJECT)


def test_a_bad_signature_that_comes_first_does_not_bar_the_good_one(chain: Chain) -> None:
    pool = Mempool()
    good = chain.tx(chain.rich[0], Data(b"x"))
    poisoned = replace(good, signature=bytes(len(good.signature)))
    assert poisoned.txid(chain.genesis.hash) == good.txid(chain.genesis.hash)
    assert reason_of(offer(pool, chain, poisoned)) is Reason.BAD_SIGNATURE
    assert reason_of(offer(pool, chain, poisoned)) is Reason.KNOWN_BAD
    accept(pool, chain, good)
    assert reason_of(offer(pool, chain, poisoned)) is Reason.DUPLICATE
    assert pool.holds_variant(good.txid(chain.genesis.hash), good.witness_id(chain.genesis.hash))


def test_the_memory_of_bad_variants_is_bounded(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BARRED == 65_536
    monkeypatch.setattr("state.mempool.pool.MAX_BARRED", 2)
    pool = Mempool()
    good = chain.tx(chain.rich[0], Data(b"x"))
    bad = [replace(good, signature=bytes([place]) * len(good.signature)) for place in range(3)]
    for each in bad:
        offer(pool, chain, each)
    assert [pool.is_barred(each.witness_id(chain.genesis.hash)) for each in bad] == [False, True, True]


def test_a_replacement_pays_the_bump_or_is_refused(chain: Chain) -> None:
    pool = Mempool()
    a = chain.rich[0]
    old = chain.tx(a, Data(b"x"), fee=10_000)
    accept(pool, chain, old)
    under = chain.tx(a, Data(b"y"), fee=10_999)
    assert reason_of(offer(pool, chain, under)) is Reason.REPLACEMENT_UNDERPRICED
    larger = chain.tx(a, Data(bytes(4_000)), fee=15_000)
    assert reason_of(offer(pool, chain, larger)) is Reason.REPLACEMENT_UNDERPRICED
    new = chain.tx(a, Data(b"y"), fee=11_000)
    accept(pool, chain, new)
    assert select(pool, chain) == [new]
    assert len(pool) == 1


def test_nonces_may_arrive_in_any_order_and_leave_in_theirs(chain: Chain) -> None:
    pool = Mempool()
    a = chain.rich[0]
    first, second, third = (chain.tx(a, Data(b"x"), after=place, fee=10_000 + place) for place in range(3))
    accept(pool, chain, third, second)
    assert select(pool, chain) == []
    assert pool.pending_nonce(address(a), 0) == 0
    accept(pool, chain, first)
    assert select(pool, chain) == [first, second, third]
    assert pool.pending_nonce(address(a), 0) == 3


def test_outlays_of_a_queue_add_up(chain: Chain) -> None:
    pool = Mempool()
    a, b, *_ = chain.rich
    most = chain.account(a).balance
    accept(pool, chain, chain.tx(a, pay(address(b), most - 50_000)))
    assert reason_of(offer(pool, chain, chain.tx(a, pay(address(b), 10_001), after=1))) is Reason.INSUFFICIENT_FUNDS
    accept(pool, chain, chain.tx(a, pay(address(b), 10_000), after=1))


def test_after_a_commit_what_was_included_expired_or_lost_its_funds_is_gone(chain: Chain) -> None:
    pool = Mempool()
    a, b, c, _ = chain.rich
    included = chain.tx(a, pay(address(b), 1))
    later = chain.tx(a, Data(b"x"), after=1)
    short = chain.tx(b, Data(b"x"), valid_until=chain.height + 1)
    poor = chain.tx(c, pay(address(b), 6_000_000), after=1)
    accept(pool, chain, included, later, short, chain.tx(c, Data(b"first")), poor)
    spent = chain.tx(c, pay(address(b), 6_000_000))
    chain.step(included, spent)
    pool.committed([included, spent], chain.state, terms(chain))
    left = list(pool.transactions())
    assert [each.body for each in left] == [later.body]
    assert select(pool, chain) == left


def test_once_the_chain_knows_a_key_waiting_transactions_are_offered_without_it(chain: Chain) -> None:
    """A sender's first two transactions both carried it; a block can have the second only without."""
    pool = Mempool()
    a = chain.rich[0]
    first, second = chain.tx(a, Data(b"1")), chain.tx(a, Data(b"2"), after=1)
    accept(pool, chain, first, second)
    assert second.public_key
    chain.step(first)
    pool.committed([first], chain.state, terms(chain))
    (offered,) = select(pool, chain)
    assert not offered.public_key
    assert offered.txid(chain.genesis.hash) == second.txid(chain.genesis.hash)
    chain.step(offered)


def test_a_rotated_key_takes_what_the_old_one_signed_with_it(chain: Chain) -> None:
    pool = Mempool()
    a = chain.rich[0]
    rotate = chain.tx(a, rotation(chain, a, FakeSigner(8_000)))
    accept(pool, chain, rotate, chain.tx(a, Data(b"x"), after=1))
    chain.step(rotate)
    pool.committed([rotate], chain.state, terms(chain))
    assert len(pool) == 0


def test_what_a_proposal_showed_to_be_invalid_is_never_offered_again(chain: Chain) -> None:
    """A proof beyond its declared cost passes every check at the door, and can be in no block."""
    statement = posted(chain)
    prover = chain.rich[1]
    kind = reveal(statement, limit=40)
    chain.step(chain.tx(prover, CommitProof(statement, kind.commitment(address(prover)))))
    pool = Mempool()
    bad, behind = chain.tx(prover, kind), chain.tx(prover, Data(b"x"), after=1)
    accept(pool, chain, bad, behind)
    built = chain.build(select(pool, chain))
    assert [(each.transaction, each.reason) for each in built.dropped] == [
        (bad, InvalidReason.PROOF_LIMIT),
        (behind, InvalidReason.NONCE_GAP),
    ]
    assert pool.dropped(built.dropped, chain.genesis.hash) == 1
    assert select(pool, chain) == []
    assert reason_of(offer(pool, chain, bad)) is Reason.KNOWN_BAD
    accept(pool, chain, chain.tx(prover, Data(b"instead")))
    assert len(select(pool, chain)) == 2


def test_what_only_the_state_spoke_against_may_come_back_after_the_next_block(chain: Chain) -> None:
    pool = Mempool()
    transaction = chain.tx(chain.rich[0], Data(b"x"))
    accept(pool, chain, transaction)
    pool.dropped([Dropped(transaction, InvalidReason.UNPAYABLE_FEE)], chain.genesis.hash)
    assert reason_of(offer(pool, chain, transaction)) is Reason.KNOWN_BAD
    chain.step()
    pool.committed([], chain.state, terms(chain))
    accept(pool, chain, transaction)


def test_lack_of_room_is_forgiven_a_few_times(chain: Chain) -> None:
    pool = Mempool()
    transaction = chain.tx(chain.rich[0], Data(b"x"))
    accept(pool, chain, transaction)
    for _ in range(MAX_MISSES - 1):
        assert pool.dropped([Dropped(transaction, InvalidReason.TOO_MANY_BYTES)], chain.genesis.hash) == 0
    assert pool.dropped([Dropped(transaction, InvalidReason.TOO_MANY_BYTES)], chain.genesis.hash) == 1
    assert len(pool) == 0


def test_a_full_pool_makes_room_for_who_pays_more_and_for_nobody_else(chain: Chain) -> None:
    pool = Mempool(PoolLimits(max_count=2))
    a, b, c, d = chain.rich
    low, high = chain.tx(a, Data(b"x"), fee=10_000), chain.tx(b, Data(b"x"), fee=30_000)
    accept(pool, chain, low, high)
    assert reason_of(offer(pool, chain, chain.tx(c, Data(b"x"), fee=10_000))) is Reason.MEMPOOL_FULL
    accept(pool, chain, chain.tx(d, Data(b"x"), fee=20_000))
    assert low.txid(chain.genesis.hash) not in pool
    assert high.txid(chain.genesis.hash) in pool


def test_high_fees_behind_a_gap_or_a_cheap_one_protect_nobody(chain: Chain) -> None:
    """Fees that a proposer cannot collect are no reason to stay in a full pool."""
    pool = Mempool(PoolLimits(max_count=3))
    a, b, c, d = chain.rich
    gapped = chain.tx(a, Data(b"x"), after=1, fee=500_000)
    accept(pool, chain, gapped, chain.tx(b, Data(b"x"), fee=10_000), chain.tx(c, Data(b"x"), fee=10_000))
    accept(pool, chain, chain.tx(d, Data(b"x"), fee=9_000))
    assert gapped.txid(chain.genesis.hash) not in pool
    assert reason_of(offer(pool, chain, gapped)) is Reason.MEMPOOL_FULL


def test_a_replacement_that_finds_no_room_leaves_the_old_one_where_it_was(chain: Chain) -> None:
    pool = Mempool(PoolLimits(max_bytes=2 * 6_200))
    a, b, *_ = chain.rich
    old = chain.tx(a, Data(b"x"), fee=10_000)
    accept(pool, chain, old, chain.tx(b, Data(b"x"), fee=90_000))
    large = chain.tx(a, Data(bytes(2_000)), fee=50_000)
    assert reason_of(offer(pool, chain, large)) is Reason.MEMPOOL_FULL
    assert pool.get(old.txid(chain.genesis.hash)) == old
    assert len(select(pool, chain)) == 2


def test_a_restart_finds_the_same_pool(chain: Chain) -> None:
    pool = Mempool()
    accept(pool, chain, *(chain.tx(s, Data(b"x"), after=n, fee=9_000 + n) for s in chain.rich for n in range(3)))
    again = Mempool()
    for transaction in decode_pool(pool.encode()):
        accept(again, chain, transaction)
    assert select(again, chain) == select(pool, chain)
    assert again.size_bytes == pool.size_bytes
    assert again.encode() == pool.encode()


@pytest.mark.parametrize("data", [b"", b"\0\0\0\1", b"\xff" * 8, b"\0\0\0\0x"])
def test_a_damaged_file_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_pool(data)


@hundred
@given(any_transactions())
def test_the_size_of_a_transaction_is_known_without_encoding_it(transaction: Transaction) -> None:
    assert transaction_bytes(transaction) == len(transaction.encode())
    assert transaction_bytes(decode_transaction(transaction.encode())) == len(transaction.encode())


@st.composite
def offers(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """(sender, nonce ahead, fee, payload size)"""
    one = st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(6_000, 60_000), st.integers(1, 3_000))
    return draw(st.lists(one, min_size=1, max_size=30))


def made(chain: Chain, drawn: Sequence[tuple[int, int, int, int]]) -> list[Transaction]:
    return [chain.tx(chain.rich[who], Data(b"x" * size), after=ahead, fee=fee) for who, ahead, fee, size in drawn]


def check_consistent(pool: Mempool, chain: Chain) -> None:
    waiting = list(pool.transactions())
    assert len(waiting) == len(pool) <= pool.limits.max_count
    assert pool.size_bytes <= pool.limits.max_bytes
    assert pool.size_bytes == sum(transaction_bytes(each) + 512 for each in waiting)
    places = [(each.parsed.sender, each.parsed.nonce) for each in waiting]
    assert len(set(places)) == len(places)


@hundred
@given(offers(), st.integers(1, 12), st.integers(8_000, 60_000))
def test_bounds_are_never_passed(drawn: list[tuple[int, int, int, int]], count: int, size: int) -> None:
    chain = make_chain()
    pool = Mempool(PoolLimits(max_count=count, max_bytes=size))
    for transaction in made(chain, drawn):
        offer(pool, chain, transaction)
        check_consistent(pool, chain)
    for transaction in select(pool, chain):
        pool.dropped([Dropped(transaction, InvalidReason.BAD_SIGNATURE)], chain.genesis.hash)
        check_consistent(pool, chain)


@hundred
@given(offers(), st.randoms(use_true_random=False))
def test_mempool_prioritisation(drawn: list[tuple[int, int, int, int]], random: object) -> None:
    """By fee density among what is next of each sender, nonces in order, and the same however it arrived."""
    chain = make_chain()
    chain.step(*(chain.tx(signer, Data(b"key")) for signer in chain.rich))
    unique = {(who, ahead): each for who, ahead, fee, size in drawn for each in [(who, ahead, fee, size)]}
    transactions = made(chain, sorted(unique.values()))
    pool, other = Mempool(), Mempool()
    accept(pool, chain, *transactions)
    accept(other, chain, *reversed(transactions))
    chosen = select(pool, chain)
    assert chosen == select(other, chain)

    waiting = {(each.parsed.sender, each.parsed.nonce): each for each in transactions}
    following = {address(signer): 1 for signer in chain.rich}

    def density(each: Transaction) -> tuple[int, bytes]:
        return -((each.parsed.fee << 20) // transaction_bytes(each)), each.txid(chain.genesis.hash)

    expected: list[Transaction] = []
    while True:
        heads = [waiting[sender, nonce] for sender, nonce in following.items() if (sender, nonce) in waiting]
        if not heads:
            break
        best = min(heads, key=density)
        expected.append(best)
        following[best.parsed.sender] += 1
    assert chosen == expected
    built = chain.build(chosen)
    assert not built.dropped


@hundred
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1_000, 400_000)), min_size=1, max_size=8))
def test_proof_mempool_integration(drawn: list[tuple[int, int]]) -> None:
    """Proofs wait by difficulty, hardest first, go before what merely pays, bring what their sender must send before
    them, stay within the block's cost, and their queue is bounded."""
    chain = make_chain(parameters=replace(PARAMETERS, max_block_proof_cost=1_000_000))
    statement = posted(chain)
    pool = Mempool(PoolLimits(max_proofs=5))
    ahead = dict.fromkeys(range(4), 0)
    for who, limit in drawn:
        kind = RevealProof(statement, b"p" * 50, bytes(32), limit)
        transaction = chain.tx(chain.rich[who], kind, after=ahead[who], fee=30_000)
        ahead[who] += isinstance(offer(pool, chain, transaction), Entry)
    limits = [each.parsed.kind.cost_limit for each in pool.proof_queue() if isinstance(each.parsed.kind, RevealProof)]
    assert limits == sorted(limits, reverse=True)
    assert pool.proofs == len(limits) <= 5
    payer = FakeSigner(103)
    accept(pool, chain, chain.tx(payer, Data(b"rich"), after=ahead[3], fee=900_000))
    chosen = select(pool, chain)
    proofs = [each for each in chosen if isinstance(each.parsed.kind, RevealProof)]
    assert chosen[: len(proofs)] == proofs
    costs = [each.parsed.kind.cost_limit for each in proofs if isinstance(each.parsed.kind, RevealProof)]
    assert sum(costs) <= 1_000_000
    seen: dict[bytes, int] = {}
    for each in chosen:
        wanted = seen.get(each.parsed.sender, chain.account(each.parsed.sender).nonce)
        assert each.parsed.nonce == wanted
        seen[each.parsed.sender] = wanted + 1


@hundred
@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=400, unique=True), st.integers(2, 9))
def test_sorted_rows_are_a_sorted_list(rows: list[int], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("state.mempool.order.RUN_ROWS", size)
        ordered: SortedRows[int] = SortedRows()
        for row in rows:
            ordered.add(row)
        assert list(ordered) == sorted(rows)
        assert list(reversed(ordered)) == sorted(rows, reverse=True)
        for row in rows[::2]:
            ordered.remove(row)
        left = sorted(rows[1::2])
        assert list(ordered) == left
        assert ordered.first() == (left[0] if left else None)
        with pytest.raises(KeyError):
            ordered.remove(rows[0])
    assert RUN_ROWS == 512
