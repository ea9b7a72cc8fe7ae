"""The replica's edges: host misuse, restarts, late votes, what verifying is worth, twins, and forks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus import (
    BlockChecked,
    BlockProposed,
    CaughtUp,
    Halted,
    HeightStarted,
    LaneChanged,
    MessageReceived,
    Observe,
    Persist,
    QuorumRtt,
    Replica,
    RequestBlock,
    Rule,
    TimerKind,
    VotingAllowed,
    WorkPending,
    Worth,
    decode_record,
)
from consensus.effects import Broadcast, HaltReason
from consensus.evidence_detection import offences_among, votes_in, votes_of
from consensus.records import HeightBegun, Locked, Proposed, Voted
from consensus.restoring import LogFault
from consensus.station import ANSWERS_A_PERIOD
from tests.chains import certify, set_of, some_hash
from tests.consensus.network import Link, Network
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Proposal, ViewChange
from trellis.parameters import DEFAULTS
from trellis.schedule import first_schedule
from trellis.types import Address, Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind


def network_of(*silent: int, nodes: int = 4) -> Network:
    network = Network([1] * nodes, silent=silent)
    network.start()
    return network


def decided(heights: int, *silent: int) -> Network:
    network = network_of(*silent)
    network.work(True)
    network.stabilise(until=heights)
    return network


def sign(network: Network, node: int, kind: VoteKind, height: int, view: int, block: str) -> SignedVote:
    vote = Vote(kind, Height(height), View(view), network.named(block))
    return network.members[node].sign(vote, network.genesis_hash)


def rules(network: Network, node: int) -> list[Rule]:
    return [observed.rule for observed in network.hosts[node].observed]


def started(network: Network, height: int = 1, **changes: object) -> HeightStarted:
    validators = network.set_at(Height(height))
    event = HeightStarted(Height(height), validators, first_schedule(validators), network.parameters, None)
    return replace(event, **changes)  # type: ignore[arg-type]  # the caller names fields of the event


def test_before_the_first_height_every_other_event_is_host_misuse() -> None:
    network = Network()
    replica = Replica(network.address(0), network.genesis_hash)
    assert (replica.height, replica.view, replica.is_voting) == (0, 0, False)
    for event in (WorkPending(True), QuorumRtt(5), CaughtUp(Height(0)), VotingAllowed()):
        with pytest.raises(ValueError, match="HeightStarted"):
            replica.step(event)
    with pytest.raises(ValueError, match="HeightStarted"):
        _ = replica.leader
    with pytest.raises(ValueError, match="HeightStarted"):
        replica.worth(HeightNotice(Height(1)))


def test_a_height_cannot_start_twice_or_with_the_schedule_of_another() -> None:
    network = Network()
    replica = Replica(network.address(0), network.genesis_hash)
    replica.step(started(network))
    with pytest.raises(ValueError, match="cannot start after"):
        replica.step(started(network))
    with pytest.raises(ValueError, match="schedule"):
        replica.step(started(network, height=Height(2)))


def test_what_a_replica_tells_of_itself() -> None:
    network = decided(2)
    replica = network.hosts[1].replica
    assert replica.height == 3
    assert replica.validators == set_of(network.members)
    assert replica.leader == network.address(0)
    assert replica.lock is None
    assert replica.decided is None
    assert replica.base_timeout_ms == 810
    assert replica.reputation.score(network.address(0)) == 1_000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"height": 7}, "another chain or height"),
        ({"genesis_hash": some_hash("other")}, "another chain or height"),
        ({"parent_certificate_hash": some_hash("other")}, "parent certificate"),
        ({"view": 3}, "fresh block"),
        ({"proposer": some_hash("other")}, "fresh block"),
    ],
)
def test_a_block_that_the_host_cannot_have_meant_raises(change: dict[str, object], reason: str) -> None:
    network = network_of()
    host = network.hosts[0]
    host.unavailable = True
    network.work(True)
    request = host.waiting_blocks[0]
    block = network.make_block(host, request)
    header = replace(block.header, **change)  # type: ignore[arg-type]  # fields of a header
    with pytest.raises(ValueError, match=reason):
        host.replica.step(BlockProposed(Height(1), View(0), header, None, b""))


def test_a_block_nobody_asked_for_raises_and_a_second_one_is_ignored() -> None:
    network = network_of()
    host = network.hosts[0]
    request = RequestBlock(Height(1), View(0), None, True)
    block = network.make_block(host, request)
    event = BlockProposed(Height(1), View(0), block.header, None, b"")
    with pytest.raises(ValueError, match="nobody asked"):
        network.hosts[1].replica.step(event)
    network.work(False, [0])
    host.feed(event)
    assert rules(network, 0)[-1] is Rule.BLOCK_TOO_LATE
    network.stabilise(until=1)
    host.feed(event)
    assert rules(network, 0)[-1] is Rule.BLOCK_TOO_LATE


def test_a_leader_that_was_asked_to_bring_a_block_cannot_bring_another() -> None:
    network = locked_by_two()
    host = network.hosts[1]
    host.unavailable = True
    for node in (1, 2, 3):
        network.fire(node, TimerKind.VIEW)
    network.deliver_where(lambda envelope: envelope.sender != 0 and envelope.to != 0)
    request = host.waiting_blocks[-1]
    assert request.block_hash == network.named("A")
    other = network.make_block(host, RequestBlock(Height(1), View(1), None, True))
    with pytest.raises(ValueError, match="not the one"):
        host.replica.step(BlockProposed(Height(1), View(1), other.header, None, b""))


def locked_by_two() -> Network:
    """Nodes 2 and 3 hold the lock of A; node 1, the leader of view 1, only accepted it; node 0 is gone."""
    network = network_of()
    network.work(False, [0])
    network.deliver_where(lambda envelope: True)
    network.deliver_where(lambda envelope: envelope.to in (2, 3))
    network.hosts[0].crash()
    network.take(lambda envelope: True)
    assert network.hosts[2].replica.lock is not None
    return network


def test_the_block_is_proposed_again_from_the_header_when_the_body_is_not_validated_here() -> None:
    network = network_of()
    network.hosts[1].unavailable = True
    network.work(False, [0])
    network.deliver_where(lambda envelope: True)
    network.deliver_where(lambda envelope: envelope.to in (0, 2, 3))
    network.hosts[0].crash()
    network.take(lambda envelope: True)
    for node in (1, 2, 3):
        network.fire(node, TimerKind.VIEW)
    network.deliver_where(lambda envelope: True)
    assert Rule.NEW_VIEW in rules(network, 1)
    network.hosts[1].unavailable = False
    network.hosts[1].check_blocks()
    network.stabilise(until=1)
    assert network.heights()[1:] == [1, 1, 1]
    network.check_agreement()


def test_effects_of_a_vote_come_in_the_order_log_then_signature() -> None:
    network = network_of()
    orders: list[list[str]] = []
    host = network.hosts[1]
    step = host.replica.step

    def watched(event: object) -> object:
        effects = step(event)  # type: ignore[arg-type]  # whatever the network feeds
        orders.append([type(effect).__name__ for effect in effects if isinstance(effect, Persist | Broadcast)])
        return effects

    host.replica.step = watched  # type: ignore[method-assign, assignment]  # only watches
    network.work(True)
    network.stabilise(until=1)
    votes = [order for order in orders if "Broadcast" in order]
    assert votes
    for order in votes:
        for place, name in enumerate(order):
            assert name != "Broadcast" or order[place - 1] == "Persist"


def test_every_vote_sent_is_in_the_log_before_and_the_lock_before_the_commit() -> None:
    network = decided(3)
    for host in network.hosts:
        records = [decode_record(data) for data in host.disk.log]
        kinds = [
            record.vote.kind.name if isinstance(record, Voted) else type(record).__name__
            for record in records
            if record.height == 1
        ]
        assert kinds in (
            ["HeightBegun", "PREPARE", "Locked", "COMMIT"],
            ["HeightBegun", "Proposed", "PREPARE", "Locked", "COMMIT"],
        )


def test_a_log_that_this_core_did_not_write_is_refused() -> None:
    network = Network()
    me, genesis = network.address(0), network.genesis_hash
    one, other = (Vote(VoteKind.PREPARE, Height(2), View(0), some_hash(name)) for name in "AB")
    bad_logs = [
        [Voted(one)],
        [HeightBegun(Height(1), View(0)), Voted(one)],
        [HeightBegun(Height(2), View(0)), HeightBegun(Height(2), View(0))],
        [HeightBegun(Height(2), View(0)), HeightBegun(Height(1), View(0))],
    ]
    for log in bad_logs:
        with pytest.raises(LogFault):
            Replica.restore(me, genesis, log)
    unnamed = Vote(VoteKind.VIEW_CHANGE, Height(1), View(1), prepared=Prepared(View(0), some_hash("A")))
    with pytest.raises(LogFault, match="does not hold"):
        Replica.restore(me, genesis, [HeightBegun(Height(1), View(0)), Voted(unnamed)]).step(started(network))
    with pytest.raises(LogFault, match="two different"):
        Replica.restore(me, genesis, [HeightBegun(Height(1), View(0)), *_at_height_one(one, other)]).step(
            started(network)
        )
    assert Replica.restore(me, genesis, []).height == 0


def _at_height_one(*votes: Vote) -> list[Voted]:
    return [Voted(replace(vote, height=Height(1))) for vote in votes]


def test_the_view_in_which_the_last_height_ended_survives_a_restart() -> None:
    """C6 needs it: here between the decision and the first record of the next height."""
    network = network_of()
    network.work(True, [1, 2, 3])
    for node in (1, 2, 3):
        network.fire(node, TimerKind.VIEW)
    network.take(lambda envelope: envelope.to == 0)
    network.stabilise(until=None, limit=60)
    host = network.hosts[2]
    assert len(host.disk.chain) >= 1
    log = [record for record in map(decode_record, host.disk.log) if record.height == 1]
    replica = Replica.restore(host.member.address, network.genesis_hash, log)
    chain = host.disk.chain[:1]
    effects = replica.step(
        HeightStarted(
            Height(2),
            network.set_at(Height(2)),
            network.schedule_after(chain),
            network.parameters,
            chain[0].certificate,
        )
    )
    begun = [effect.record for effect in effects if isinstance(effect, Persist)]
    assert begun == [HeightBegun(Height(2), View(1))]
    again = Replica.restore(host.member.address, network.genesis_hash, begun)
    resumed = again.step(
        HeightStarted(
            Height(2),
            network.set_at(Height(2)),
            network.schedule_after(chain),
            network.parameters,
            chain[0].certificate,
        )
    )
    assert not any(isinstance(effect, Persist) for effect in resumed)


def test_a_restart_finds_the_certificate_of_an_earlier_lock_for_its_view_change() -> None:
    """The VIEW-CHANGE of view 1 names the lock of view 0; in view 1 a new lock was taken since."""
    network = locked_by_two()
    for node in (1, 2, 3):
        network.fire(node, TimerKind.VIEW)
    while network.hosts[2].replica.lock is None or network.hosts[2].replica.lock.view == 0:
        network.deliver(network.queue.pop(0))
    network.take(lambda envelope: True)
    network.hosts[2].crash()
    network.hosts[2].start()
    sent = [envelope.message for envelope in network.queue if envelope.sender == 2 and envelope.to == 3]
    assert [type(message) for message in sent] == [ViewChange, Ballot, Ballot]
    change = sent[0]
    assert isinstance(change, ViewChange)
    assert change.prepared is not None
    assert change.signed.vote.prepared == Prepared(View(0), network.named("A"))
    assert change.prepared.view == 0
    assert network.hosts[2].replica.lock is not None
    assert network.hosts[2].replica.lock.view == 1


def test_late_commits_join_the_certificate_that_the_next_block_carries() -> None:
    network = network_of()
    network.work(False, [0])
    network.deliver_where(lambda envelope: True)
    network.deliver_where(lambda envelope: True)
    network.deliver_where(lambda envelope: envelope.to == 0 and envelope.sender != 3)
    assert network.heights() == [1, 0, 0, 0]
    host = network.hosts[0]
    assert len(host.disk.chain[0].certificate.signatures) == 3
    first = host.disk.blocks[max(host.disk.blocks, key=lambda h: host.disk.blocks[h].header.height)]
    assert first.parent_certificate is not None
    assert len(first.parent_certificate.signatures) == 3
    network = network_of()
    network.work_ends = True
    network.work(False, [0])
    network.deliver_where(lambda envelope: True)
    network.deliver_where(lambda envelope: True)
    network.deliver_where(lambda envelope: envelope.to == 0)
    assert Rule.LATE_COMMIT in rules(network, 0)
    network.work(False, [0])
    second = network.hosts[0].disk.blocks[network.named("B")]
    assert second.parent_certificate is not None
    assert len(second.parent_certificate.signatures) == 4


def test_a_second_process_with_this_key_is_noticed() -> None:
    network = network_of(3)
    network.work(False, [0])
    network.deliver_where(lambda envelope: envelope.to == 1)
    stranger = network.make_block(network.hosts[0], RequestBlock(Height(1), View(3), None, True))
    vote = Vote(VoteKind.COMMIT, Height(1), View(0), stranger.header.hash)
    network.hosts[1].feed(MessageReceived(Ballot(network.members[1].sign(vote, network.genesis_hash)), None))
    assert Rule.TWIN in rules(network, 1)
    assert not any(
        envelope.message.signed.vote == vote for envelope in network.queue if isinstance(envelope.message, Ballot)
    )


def test_messages_of_strangers_count_for_nothing() -> None:
    network = Network([1] * 5)
    network.sets = {1: set_of(network.members[:4])}
    network.start()
    network.work(True)
    block = network.block_named("A")
    stranger = network.members[4]
    for height in (1, 2):
        vote = Vote(VoteKind.PREPARE, Height(height), View(0), block.header.hash)
        signed = stranger.sign(vote, network.genesis_hash)
        network.hosts[1].feed(MessageReceived(Ballot(signed), stranger.address))
        assert rules(network, 1)[-1] is Rule.NOT_A_MEMBER
        assert network.hosts[1].replica.worth(Ballot(signed)) is Worth.NOTHING
    network.stabilise(until=1)
    late = stranger.sign(Vote(VoteKind.COMMIT, Height(1), View(0), block.header.hash), network.genesis_hash)
    network.hosts[1].feed(MessageReceived(Ballot(late), stranger.address))
    assert rules(network, 1)[-1] is Rule.NOT_A_MEMBER
    network.hosts[1].feed(LaneChanged(stranger.address, True))
    network.hosts[1].feed(MessageReceived(HeightNotice(Height(1)), stranger.address))
    assert rules(network, 1)[-1] is Rule.ANSWER_WITHHELD


def test_nobody_gets_more_answers_than_its_share_and_strangers_by_gossip_none() -> None:
    network = decided(2, 3)
    host = network.hosts[1]
    network.take(lambda envelope: True)
    for _ in range(3 * ANSWERS_A_PERIOD):
        host.feed(MessageReceived(HeightNotice(Height(1)), network.address(3)))
    answers = [envelope for envelope in network.queue if isinstance(envelope.message, DecidedNotice)]
    assert len(answers) == ANSWERS_A_PERIOD
    host.feed(MessageReceived(HeightNotice(Height(1)), network.address(2)))
    assert len([e for e in network.queue if isinstance(e.message, DecidedNotice)]) == ANSWERS_A_PERIOD + 1
    before = len(network.queue)
    host.feed(MessageReceived(HeightNotice(Height(1)), None))
    host.feed(MessageReceived(Ballot(sign(network, 3, VoteKind.PREPARE, 1, 0, "A")), None))
    host.feed(MessageReceived(HeightNotice(Height(0)), network.address(2)))
    assert len(network.queue) == before


def test_what_verifying_is_worth() -> None:
    network = network_of(3)
    network.work(False, [0])
    network.deliver_where(lambda envelope: True)
    replica = network.hosts[1].replica
    block = network.block_named("A")
    other = network.make_block(network.hosts[0], RequestBlock(Height(1), View(1), None, True))
    prepare = Ballot(sign(network, 2, VoteKind.PREPARE, 1, 0, "A"))
    assert replica.worth(prepare) is Worth.MUCH
    network.deliver_where(lambda envelope: True)
    assert replica.worth(prepare) is Worth.NOTHING
    assert replica.worth(Ballot(sign(network, 3, VoteKind.PREPARE, 1, 0, "A"))) is Worth.LITTLE
    assert replica.worth(Ballot(sign(network, 2, VoteKind.PREPARE, 1, 0, "B"))) is Worth.MUCH
    assert replica.worth(Ballot(sign(network, 3, VoteKind.COMMIT, 1, 0, "A"))) is Worth.MUCH
    assert replica.worth(Ballot(sign(network, 3, VoteKind.COMMIT, 1, 2, "A"))) is Worth.MUCH
    proposal = Proposal(sign(network, 0, VoteKind.PRE_PREPARE, 1, 0, "A"), block.header, None)
    assert replica.worth(proposal) is Worth.NOTHING
    rival = Vote(VoteKind.PRE_PREPARE, Height(1), View(0), other.header.hash)
    signed = network.members[0].sign(rival, network.genesis_hash)
    assert replica.worth(Proposal(signed, other.header, None)) is Worth.MUCH
    ahead = Vote(VoteKind.PRE_PREPARE, Height(1), View(1), other.header.hash)
    unjustified = Proposal(network.members[1].sign(ahead, network.genesis_hash), other.header, None)
    host = network.hosts[2]
    host.feed(MessageReceived(unjustified, None))
    assert host.replica.worth(unjustified) is Worth.MUCH, "what came with the vote was refused, not the vote"
    assert replica.worth(HeightNotice(Height(9))) is Worth.MUCH


def test_what_verifying_view_changes_and_other_heights_is_worth() -> None:
    network = network_of(3)
    replica, host = network.hosts[1].replica, network.hosts[1]
    network.work(False, [0])
    vote = Vote(VoteKind.VIEW_CHANGE, Height(1), View(1), prepared=Prepared(View(0), network.named("A")))
    signed = network.members[3].sign(vote, network.genesis_hash)
    certificate = certify(
        Vote(VoteKind.PREPARE, Height(1), View(0), network.named("A")),
        network.members[:3],
        network.genesis_hash,
        set_of(network.members),
    )
    assert replica.worth(ViewChange(signed)) is Worth.MUCH
    host.feed(MessageReceived(ViewChange(signed), None))
    assert replica.worth(ViewChange(signed)) is Worth.NOTHING
    assert replica.worth(ViewChange(signed, certificate)) is Worth.MUCH
    conflicting = network.members[3].sign(replace(vote, prepared=None), network.genesis_hash)
    assert replica.worth(ViewChange(conflicting)) is Worth.LITTLE
    early = Ballot(sign(network, 3, VoteKind.PREPARE, 2, 0, "A"))
    far = Ballot(sign(network, 3, VoteKind.PREPARE, 8, 0, "A"))
    assert replica.worth(early) is Worth.MUCH
    host.feed(MessageReceived(early, None))
    assert replica.worth(early) is Worth.NOTHING
    assert replica.worth(far) is Worth.MUCH
    host.feed(MessageReceived(far, None))
    assert replica.worth(far) is Worth.NOTHING
    decision = DecidedNotice(
        certify(Vote(VoteKind.COMMIT, Height(1), View(0), network.named("A")), network.members, network.genesis_hash)
    )
    assert replica.worth(decision) is Worth.MUCH
    network.stabilise(until=1)
    assert replica.worth(decision) is Worth.LITTLE
    assert replica.worth(Ballot(sign(network, 3, VoteKind.PREPARE, 1, 0, "A"))) is Worth.LITTLE


def test_messages_verified_against_an_old_set_are_dropped_when_the_set_changes() -> None:
    network = Network([1] * 5)
    network.sets = {1: set_of(network.members[:4]), 2: set_of(network.members)}
    network.start()
    network.work(True, [0])
    vote = Vote(VoteKind.PREPARE, Height(2), View(0), network.named("A"))
    signed = network.members[2].sign(vote, network.genesis_hash)
    network.hosts[1].feed(MessageReceived(Ballot(signed), None))
    assert rules(network, 1)[-1] is Rule.BUFFERED_HEIGHT
    network.stabilise(until=1)
    assert Rule.BUFFER_DROPPED in rules(network, 1)
    network.stabilise(until=2)
    assert min(network.heights()) >= 2


def test_a_validator_that_stays_silent_for_eight_heights_loses_reputation_but_is_never_banned() -> None:
    network = decided(80, 3)
    reputation = network.hosts[1].replica.reputation
    assert Rule.SILENT in rules(network, 1)
    assert reputation.score(network.address(3)) < 500
    assert not reputation.is_banned(network.address(3))
    assert reputation.score(network.address(2)) == 1_000


def test_a_measured_round_trip_moves_the_base_timeout() -> None:
    network = network_of()
    host = network.hosts[0]
    host.feed(QuorumRtt(900))
    assert rules(network, 0)[-1] is Rule.BASE_MEASURED
    assert host.replica.base_timeout_ms == 3_600


def test_a_timer_that_is_not_armed_any_more_does_nothing() -> None:
    network = network_of()
    network.fire_stale(0, TimerKind.VIEW)
    assert rules(network, 0)[-1] is Rule.STALE_TIMER
    assert network.hosts[0].replica.view == 0


def test_observing_ends_only_once_and_only_for_members() -> None:
    network = network_of()
    network.allow_voting(0)
    assert Rule.OBSERVING_ENDED not in rules(network, 0)
    network.hosts[1].start(observing=True)
    assert not network.hosts[1].replica.is_voting
    network.allow_voting(1)
    assert network.hosts[1].replica.is_voting
    outsider = Replica(Address(some_hash("outsider")), network.genesis_hash, observing=True)
    outsider.step(started(network))
    outsider.step(VotingAllowed())
    assert not outsider.is_voting


def test_an_observer_with_its_log_signs_it_again_when_it_may_vote() -> None:
    network = network_of()
    network.work(False, [0])
    network.deliver_where(lambda envelope: True)
    network.hosts[1].crash()
    network.hosts[1].start(observing=True)
    assert not network.hosts[1].replica.is_voting
    before = len(network.queue)
    network.allow_voting(1)
    sent = [envelope.message for envelope in network.queue[before:] if envelope.to == 2]
    assert [message.signed.vote.kind for message in sent if isinstance(message, Ballot)] == [VoteKind.PREPARE]
    network.stabilise(until=1)
    assert min(network.heights()) >= 1


def test_work_after_the_decision_waits_for_the_next_height() -> None:
    network = network_of()
    replica = Replica(network.address(1), network.genesis_hash)
    replica.step(started(network))
    network.work(True, [0])
    network.stabilise(until=1)
    certificate = network.hosts[0].disk.chain[0].certificate
    block = network.block_named("A")
    proposal = Proposal(sign(network, 0, VoteKind.PRE_PREPARE, 1, 0, "A"), block.header, None)
    replica.step(MessageReceived(proposal, None))
    replica.step(BlockChecked(Height(1), View(0), block.header.hash, True))
    replica.step(MessageReceived(DecidedNotice(certificate), None))
    assert replica.decided == certificate
    assert replica.step(WorkPending(True)) == ()
    late = replica.step(BlockChecked(Height(1), View(0), block.header.hash, True))
    assert [effect.rule for effect in late if isinstance(effect, Observe)] == [Rule.LATE_VERDICT]
    notice = replica.step(MessageReceived(HeightNotice(Height(1)), network.address(2)))
    assert [effect.rule for effect in notice if isinstance(effect, Observe)] == [Rule.ANSWERED]
    opened = replica.step(LaneChanged(network.address(2), True))
    assert [getattr(effect, "message", None) for effect in opened if not isinstance(effect, Observe)] == [
        HeightNotice(Height(2))
    ]


def test_a_host_that_synced_another_block_than_was_decided_here_is_stopped() -> None:
    network = decided(1)
    host = network.hosts[1]
    replica = Replica(network.address(1), network.genesis_hash)
    replica.step(started(network))
    block, certificate = host.disk.chain[0].block, host.disk.chain[0].certificate
    proposal = Proposal(sign(network, 0, VoteKind.PRE_PREPARE, 1, 0, "A"), block.header, None)
    replica.step(MessageReceived(proposal, None))
    replica.step(BlockChecked(Height(1), View(0), block.header.hash, True))
    replica.step(MessageReceived(DecidedNotice(certificate), None))
    other = certify(
        Vote(VoteKind.COMMIT, Height(1), View(0), some_hash("other")),
        network.members,
        network.genesis_hash,
        set_of(network.members),
    )
    schedule = network.schedule_after(host.disk.chain[:1])
    effects = replica.step(HeightStarted(Height(2), network.set_at(Height(2)), schedule, DEFAULTS, other))
    assert getattr(effects[-1], "reason", None) is HaltReason.FORK
    assert effects[-1].certificates == (certificate, other)  # type: ignore[union-attr]  # it is the Halt
    with pytest.raises(Halted):
        replica.step(WorkPending(True))


def test_a_fork_whose_blame_needs_the_prepared_certificate_of_an_accepted_new_view() -> None:
    """Nodes 0 and 1 (half of all power) are faulty. Node 2 decides A in view 0, node 3 decides B in view 1.

    Node 3 saw the PREPAREs of B only as the certificate inside the NEW-VIEW that it accepted; node 2 holds those of A.
    Only together, and only because the certificate was kept, do the archives convict both of them.
    """
    network = network_of(0, 1)
    blocks = {name: network.forged_proposal_block(0, 1, 0, salt, []) for salt, name in enumerate("AB")}
    assert [network.name(blocks[name].header.hash) for name in "AB"] == ["A", "B"]

    def tell(node: int, message: object) -> None:
        network.hosts[node].feed(MessageReceived(message, None))  # type: ignore[arg-type]  # a message of the test

    for node, name in ((2, "A"), (3, "B")):
        header = blocks[name].header
        tell(node, Proposal(sign(network, 0, VoteKind.PRE_PREPARE, 1, 0, name), header, None, body=b"forged"))
    for kind in (VoteKind.PREPARE, VoteKind.COMMIT):
        for faulty in (0, 1):
            tell(2, Ballot(sign(network, faulty, kind, 1, 0, "A")))
    assert network.heights() == [0, 0, 1, 0]
    network.take(lambda envelope: True)
    prepares = [sign(network, node, VoteKind.PREPARE, 1, 0, "B") for node in (0, 1, 3)]
    from trellis.certificate import make_certificate

    certificate = make_certificate(prepares, set_of(network.members))
    named = Prepared(View(0), network.named("B"))
    votes = [Vote(VoteKind.VIEW_CHANGE, Height(1), View(1), prepared=p) for p in (named, named, None)]
    justification = tuple(
        network.members[node].sign(vote, network.genesis_hash) for node, vote in zip((0, 1, 3), votes, strict=True)
    )
    pre_prepare = sign(network, 1, VoteKind.PRE_PREPARE, 1, 1, "B")
    tell(3, Proposal(pre_prepare, blocks["B"].header, None, justification, certificate, b"forged"))
    for kind in (VoteKind.PREPARE, VoteKind.COMMIT):
        for faulty in (0, 1):
            tell(3, Ballot(sign(network, faulty, kind, 1, 1, "B")))
    assert network.heights() == [0, 0, 1, 1]
    chains = [network.hosts[node].disk.chain for node in (2, 3)]
    assert chains[0][0].block.header.hash != chains[1][0].block.header.hash

    validators = set_of(network.members)
    kept: list[SignedVote] = []
    for node in (2, 3):
        for data in network.hosts[node].disk.archive:
            kept.extend(votes_in(decode_record(data), validators))
        link: Link = network.hosts[node].disk.chain[0]
        kept.extend(votes_of(link.certificate, validators))
    blamed = sorted({network.index_of(evidence.offender) for evidence in offences_among(kept, network.genesis_hash)})
    assert blamed == [0, 1]
    without = [signed for signed in kept if signed not in prepares]
    assert offences_among(without, network.genesis_hash) == [], "the prepared certificate is what convicts them"


def test_records_that_hold_no_votes_of_others_accuse_nobody() -> None:
    network = decided(1)
    validators = set_of(network.members)
    for data in network.hosts[0].disk.log:
        record = decode_record(data)
        assert bool(votes_in(record, validators)) is isinstance(record, Locked)
    assert any(isinstance(decode_record(data), Proposed) for data in network.hosts[0].disk.log)
