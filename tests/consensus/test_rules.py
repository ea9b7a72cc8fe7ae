"""Every rule fires: in a transcript, or in one of the stories below for what a transcript cannot say."""

from __future__ import annotations

from collections.abc import Iterator

from consensus import BlockProposed, MessageReceived, QuorumRtt, Rule, SignGuard, TimerKind, authenticate
from consensus.justify import proposal_fault
from tests.chains import set_of
from tests.consensus import test_checks, test_guard, test_justify, test_replica
from tests.consensus.network import Network
from tests.consensus.scripts import FOLDER, run
from tests.signing import fake_verify_all
from trellis.messages import Ballot, ViewChange
from trellis.types import Height, View
from trellis.votes import Vote, VoteKind


def fired_in_transcripts() -> set[Rule]:
    rules: set[Rule] = set()
    for path in sorted(FOLDER.glob("*.txt")):
        _, script = run(path.read_text())
        rules |= set(script.network.fired)
    return rules


def fired_in_tables() -> Iterator[Rule]:
    """The predicates of C5, the checks of the host and the guard answer with the rule that refuses."""
    for _, make, rule in test_justify.CASES:
        found = proposal_fault(make(), test_justify.TERMS)
        assert found is rule
        if found is not None:
            yield found
    forged = Ballot(test_checks.forged(test_checks.MEMBERS[0].sign(test_checks.PREPARE, test_checks.G)))
    answer = authenticate(forged, test_checks.G, test_checks.VALIDATORS, fake_verify_all)
    assert isinstance(answer, Rule)
    yield answer
    committed = SignGuard(test_guard.G).after(test_guard.ballot(VoteKind.COMMIT, 5, 2))
    changed = SignGuard(test_guard.G).after(test_guard.change(5, 2))
    refused = [
        committed.check(test_guard.ballot(VoteKind.PREPARE, 5, 1)),
        committed.check(test_guard.ballot(VoteKind.PREPARE, 5, 2, "B")),
        committed.check(test_guard.change(5, 2)),
        committed.check(test_guard.change(5, 3)),
        changed.check(test_guard.change(5, 2, (1, "A"))),
    ]
    for refusal in refused:
        assert refusal is not None
        yield refusal


def fired_in_stories() -> Iterator[Network]:
    """What needs a measurement, many heights, a set change, a second process with one key, or a broken message."""
    network = test_replica.network_of()
    network.hosts[0].feed(QuorumRtt(900))
    network.fire_stale(0, TimerKind.VIEW)
    yield network

    yield test_replica.decided(80, 3)

    network = test_replica.network_of(3)
    to_view_zero = network.members[3].sign(Vote(VoteKind.VIEW_CHANGE, Height(1), View(0)), network.genesis_hash)
    network.hosts[0].feed(MessageReceived(ViewChange(to_view_zero), None))
    network.work(False, [0])
    block = network.block_named("A")
    network.hosts[0].feed(BlockProposed(Height(1), View(0), block.header, None, b""))
    never_cast = Vote(VoteKind.COMMIT, Height(1), View(0), block.header.hash)
    twin = network.members[1].sign(never_cast, network.genesis_hash)
    network.hosts[1].feed(MessageReceived(Ballot(twin), None))
    yield network

    network = Network([1] * 5)
    network.sets = {1: set_of(network.members[:4]), 2: set_of(network.members)}
    network.start()
    network.work(True, [0])
    early = Vote(VoteKind.PREPARE, Height(2), View(0), network.named("A"))
    network.hosts[1].feed(MessageReceived(Ballot(network.members[2].sign(early, network.genesis_hash)), None))
    network.stabilise(until=1)
    yield network


def test_every_rule_fires() -> None:
    fired = fired_in_transcripts() | set(fired_in_tables())
    for network in fired_in_stories():
        fired |= set(network.fired)
    missing = sorted(rule.number for rule in Rule if rule not in fired)
    assert missing == []
