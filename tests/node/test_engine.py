"""Transactions through whole engines: admitted once, proposed compactly, executed before PREPARE, final everywhere."""

from __future__ import annotations

from functools import partial

from node.inputs import Heard
from node.work import BodyRequest, ConsensusPayload, Payload, TransactionsPayload
from state.scope import Slash, StatementPaid
from state.statements import Status, read_statement
from tests.chains import some_hash
from tests.node.engines import BALANCE, FEE, HOP_MS, EngineNet
from tests.state.kit import address
from trellis.messages import Ballot, decode_message, encode_message
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.records import AttestedVerdict
from trellis.transaction import Output, PostStatement, Transaction, Transfer
from trellis.types import Height, View
from trellis.votes import Vote, VoteKind


def test_a_transaction_submitted_anywhere_is_final_everywhere() -> None:
    net = EngineNet()
    for place, account in enumerate(net.accounts[1:5]):
        transaction = net.transaction(account, 0)
        net.submit(place, transaction, ticket=place + 1)
        net.run_until(partial(_all_included, net, place + 1), within_ms=2_000)
        wanted = transaction.txid(net.genesis.hash)
        assert all(net.included(each)[-1] == wanted for each in range(4))
        (admission,) = net.nodes[place].answers[place + 1]
        assert (admission.reason, admission.txid) == (None, wanted)
    assert len({node.engine.ledger.state.root for node in net.nodes}) == 1


def test_an_idle_network_includes_a_transaction_without_waiting_for_the_interval() -> None:
    net = EngineNet()
    net.run_for(1_000)
    began_ms = net.now_ms
    transaction = net.transaction(net.accounts[1], 0)
    net.submit(0, transaction)
    net.run_until(lambda: all(len(net.included(each)) == 1 for each in range(4)))
    assert net.now_ms - began_ms < net.genesis.parameters.block_interval_ms


def test_each_variant_is_verified_once_by_each_node() -> None:
    net = EngineNet()
    transactions = [net.transaction(account, 0) for account in net.accounts[1:7]]
    before = [node.engine.intake.verified_variants for node in net.nodes]
    net.submit(0, *transactions)
    net.submit(1, *transactions[:3], ticket=2)
    net.run_until(lambda: all(len(net.included(each)) == 6 for each in range(4)))
    assert before == [0] * 4
    assert [node.engine.intake.verified_variants for node in net.nodes] == [6] * 4


def test_what_one_validator_never_heard_of_is_fetched_from_the_leader() -> None:
    net = EngineNet()
    deaf = {place for place in range(4) if net.members[place].address != net.leader()}
    one = min(deaf)
    asked: list[BodyRequest] = []

    def deliver(source: int, target: int, payload: Payload) -> int | None:
        if isinstance(payload, BodyRequest):
            asked.append(payload)
        return None if target == one and isinstance(payload, TransactionsPayload) else HOP_MS

    net.deliver = deliver
    net.submit(max(deaf), *(net.transaction(account, 0) for account in net.accounts[1:5]))
    net.run_until(lambda: all(len(net.included(each)) == 4 for each in range(4)))
    assert asked
    assert all(request.places for request in asked), "pieces are asked for, not the whole block"


def test_what_a_push_lost_is_handed_on_again_until_a_block_takes_it() -> None:
    """Every second push is lost: the others hold transactions whose predecessors they never saw."""
    net = EngineNet(parameters=Parameters(state_buckets_log2=4, heartbeat_ms=200))
    seen = {"pushes": 0}

    def deliver(source: int, target: int, payload: Payload) -> int | None:
        if isinstance(payload, TransactionsPayload) and net.now_ms < began_ms + 1_000:
            seen["pushes"] += 1
            return None if seen["pushes"] % 2 else HOP_MS
        return HOP_MS

    began_ms = net.now_ms
    net.deliver = deliver
    for nonce in range(4):
        for account in net.accounts[1:7]:
            transaction = net.transaction(account, nonce)
            if nonce:
                transaction = Transaction(transaction.body, account.alg_id, account.public_key, transaction.signature)
            net.submit(2, transaction)
        net.run_for(50)
    net.run_until(partial(_all_included, net, 24), within_ms=30_000)


def test_a_dead_leader_costs_a_view_and_no_transaction() -> None:
    net = EngineNet()
    leader = next(node for node in net.nodes if node.member.address == net.leader())
    net.crash(leader)
    others = [node for node in net.nodes if node is not leader]
    net.submit(others[0].place, *(net.transaction(account, 0) for account in net.accounts[1:5]))
    net.run_until(lambda: all(len(net.included(node.place)) == 4 for node in others), within_ms=5_000)
    net.restart(leader)
    net.run_until(lambda: len(set(net.heights())) == 1, within_ms=40_000)
    assert len({node.engine.ledger.state.root for node in net.nodes}) == 1


def test_all_restart_with_a_prepared_block_and_serve_its_body_from_the_log() -> None:
    """Votes for the block reach nobody as COMMITs; then every node loses its memory at once."""
    net = EngineNet()
    net.deliver = lambda source, target, payload: None if is_commit(payload) else HOP_MS
    net.submit(0, *(net.transaction(account, 0) for account in net.accounts[1:5]))
    net.run_until(lambda: all(node.bodies for node in net.nodes))
    net.run_for(100)
    for node in net.nodes:
        net.crash(node)
    net.deliver = lambda source, target, payload: HOP_MS
    for node in net.nodes:
        net.restart(node)
    net.run_until(lambda: min(net.heights()) >= 1)
    assert all(len(net.included(each)) == 4 for each in range(4))


def test_a_validator_without_its_log_watches_and_then_votes_again() -> None:
    net = EngineNet(parameters=Parameters(state_buckets_log2=4, heartbeat_ms=500))
    net.run_until(lambda: min(net.heights()) >= 2)
    node = net.nodes[1]
    net.crash(node)
    node.records.clear()
    node.bodies.clear()
    net.restart(node, observing=True)
    assert node.engine.observing
    net.run_until(lambda: not node.engine.observing, within_ms=60_000)
    net.run_until(lambda: len(set(net.heights())) == 1)


def test_an_admitted_transaction_that_a_proposal_cannot_hold_is_evicted_everywhere() -> None:
    """The later nonce came first, then one that spends all: together they cannot be paid."""
    net = EngineNet()
    sender = net.accounts[1]
    later = net.transaction(sender, 1)
    later = Transaction(later.body, later.alg_id, sender.public_key, later.signature)
    spend = Transfer((Output(address(net.accounts[2]), BALANCE - 2 * FEE),))
    net.submit(0, later)
    net.run_until(lambda: all(later.txid(net.genesis.hash) in node.engine.pool for node in net.nodes))
    net.run_for(1_000)
    assert set(net.heights()) == {0}, "what waits behind a gap is no work"
    net.submit(0, net.transaction(sender, 0, spend, fee=2 * FEE), ticket=2)
    net.run_until(partial(_all_included, net, 1))
    net.run_for(5_000)
    assert [len(node.engine.pool) for node in net.nodes] == [0, 0, 0, 0]
    assert [committed.certificate.view for committed in net.nodes[0].committed if committed.certificate] == [0]


def test_a_forged_signature_is_held_against_who_sent_it_and_does_not_bar_the_good_one() -> None:
    net = EngineNet()
    good = net.transaction(net.accounts[1], 0)
    forged = Transaction(good.body, good.alg_id, good.public_key, bytes(len(good.signature)))
    sender = net.members[2].address
    net.give(net.nodes[0], Heard(sender, TransactionsPayload((forged.encode(),))))
    net.run_for(10)
    assert [(refusal.peer, refusal.reason) for refusal in net.nodes[0].refusals] == [
        (sender, "transaction: BAD_SIGNATURE")
    ]
    net.submit(0, good)
    net.run_until(lambda: all(len(net.included(each)) == 1 for each in range(4)))


def test_conflicting_votes_are_brought_to_the_ledger_once_and_slashed() -> None:
    net = EngineNet()
    net.submit(0, net.transaction(net.accounts[1], 0))
    net.run_until(partial(_all_included, net, 1))
    liar = net.members[3]
    height = Height(net.nodes[0].engine.replica.height)
    for node in net.nodes[:3]:
        for name in ("one", "other"):
            vote = Vote(VoteKind.PREPARE, height, View(0), some_hash(name))
            ballot = Ballot(liar.sign(vote, net.genesis.hash))
            net.give(node, Heard(liar.address, ConsensusPayload(encode_message(ballot))))

    def slashed() -> bool:
        return all(_slashes(net, place) for place in range(3))

    net.run_until(slashed, within_ms=10_000)
    net.run_for(20_000)
    assert [len(_slashes(net, place)) for place in range(3)] == [1, 1, 1]
    assert _slashes(net, 0)[0].address == liar.address
    outcomes = [
        receipt.outcome for committed in net.nodes[0].committed for receipt in committed.done.applied.executed.receipts
    ]
    assert outcomes == [Outcome.OK, Outcome.OK], "nobody pays for evidence that the chain has dealt with"


def test_a_statement_is_attested_by_a_quorum_and_the_one_that_abstains_is_not_punished() -> None:
    net = EngineNet()
    without_solver = 2
    net.solve = lambda place, statement: None if place == without_solver else AttestedVerdict.PROVEN
    poster = net.accounts[1]
    script = b"(set-logic QF_BV)\n(declare-const x (_ BitVec 8))\n(assert (distinct x x))\n(check-sat)\n"
    posted = PostStatement("z3-attest.v1", script, 1_000_000, Height(40))
    net.submit(0, net.transaction(poster, 0, posted, fee=200_000))

    def closed() -> bool:
        records = [read_statement(node.engine.ledger.state, posted.statement_id) for node in net.nodes]
        return all(record is not None and record.status is Status.ATTESTED_PROVEN for record in records)

    net.run_until(closed, within_ms=20_000)
    paid = [
        event
        for committed in net.nodes[0].committed
        for event in committed.done.applied.executed.events
        if isinstance(event, StatementPaid)
    ]
    assert sum(event.units for event in paid) == 1_000_000
    assert net.members[without_solver].address not in {event.address for event in paid[2:]}
    assert not _slashes(net, 0)


def _slashes(net: EngineNet, place: int) -> list[Slash]:
    return [
        event
        for committed in net.nodes[place].committed
        for event in committed.done.applied.executed.events
        if isinstance(event, Slash)
    ]


def _all_included(net: EngineNet, number: int) -> bool:
    return all(len(net.included(node.place)) == number for node in net.nodes)


def is_commit(payload: Payload) -> bool:
    if not isinstance(payload, ConsensusPayload):
        return False
    message = decode_message(payload.data)
    return isinstance(message, Ballot) and message.signed.vote.kind is VoteKind.COMMIT
