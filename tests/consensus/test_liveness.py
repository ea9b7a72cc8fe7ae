"""On a virtual clock: progress resumes, nothing runs away, and an idle network is quiet."""

from __future__ import annotations

from itertools import pairwise

import pytest

from consensus import Rule
from tests.chains import set_of
from tests.consensus.network import Envelope
from tests.consensus.timed import TimedNetwork
from trellis.messages import Message
from trellis.parameters import Parameters
from trellis.types import Height
from trellis.votes import VoteKind

SECOND = 1_000
MINUTE = 60 * SECOND


def started(nodes: int = 4, *, work: bool = True, latency_ms: int = 10, **parameters: int) -> TimedNetwork:
    network = TimedNetwork([1] * nodes, Parameters(min_stake=1, **parameters), latency_ms=latency_ms, verify=False)
    network.start()
    if work:
        network.work(True)
    return network


def fired(network: TimedNetwork, rule: Rule) -> int:
    return network.fired.get(rule, 0)


def test_a_single_validator_is_its_own_quorum() -> None:
    network = started(1, work=False)
    network.work_ends = True
    for _ in range(5):
        network.work(True)
    assert network.heights() == [5]
    network.check_agreement()


@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 7, 10])
def test_any_number_of_replicas_decides(nodes: int) -> None:
    network = started(nodes)
    network.run(30 * SECOND, network.all_at(5))
    assert min(network.heights()) >= 5
    assert fired(network, Rule.TIMED_OUT) == 0
    network.check_agreement()


def test_an_idle_network_only_beats() -> None:
    network = started(work=False)
    network.run(10 * MINUTE)
    assert fired(network, Rule.TIMED_OUT) == 0
    assert 18 <= min(network.heights()) <= max(network.heights()) <= 20
    assert max(host.replica.view for host in network.hosts) == 0


def test_a_dead_leader_costs_one_timeout_and_not_one_a_rotation() -> None:
    network = started()
    network.run(30 * SECOND, network.all_at(40))
    network.hosts[network.index_of(network.hosts[0].replica.leader)].crash()
    dead = next(host.index for host in network.hosts if not host.is_up)
    height = max(network.heights())
    took = network.run(30 * SECOND, network.all_at(height + 2))
    assert took < 2 * SECOND
    timeouts = fired(network, Rule.TIMED_OUT)
    assert timeouts > 0
    network.run(60 * SECOND, network.all_at(height + 16))
    assert fired(network, Rule.TIMED_OUT) == timeouts
    assert not network.hosts[dead].is_up
    network.check_agreement()


def test_a_turn_that_passes_to_a_dead_leader_costs_one_timeout_a_demotion() -> None:
    network = started(rotation_blocks=2, demotion_heights=16)
    network.run(30 * SECOND, network.all_at(10))
    network.hosts[2].crash()
    before = max(network.heights())
    network.run(5 * MINUTE, network.all_at(before + 120))
    views = [link.certificate.view for link in network.hosts[0].disk.chain[before:]]
    assert len(views) >= 120
    late = sum(1 for view in views if view > 0)
    assert 1 <= late <= 8, "demotion doubles with each strike: 16, 32, 64, 128 heights"
    schedule_power = [
        sum(1 for demotion in network.schedule_after(network.hosts[0].disk.chain[:height]).demotions)
        for height in range(1, len(network.hosts[0].disk.chain))
    ]
    assert max(schedule_power) == 1, "of four equal validators one may be demoted: never a third of power"


@pytest.mark.parametrize(("hop_ms", "minutes"), [(2_500, 10), (6_000, 40)])
def test_hops_slower_than_the_cap_still_decide(hop_ms: int, minutes: int) -> None:
    network = started(latency_ms=hop_ms)
    network.run(minutes * MINUTE, network.all_at(2))
    assert min(network.heights()) >= 2
    network.check_agreement()


def test_a_latency_step_is_followed_when_it_is_measured() -> None:
    network = started(latency_ms=10)
    network.tell_rtt(20)
    network.run(30 * SECOND, network.all_at(60))
    assert network.hosts[0].replica.base_timeout_ms == 200
    network.latency = lambda _sender, _to: 800
    network.tell_rtt(1_600)
    assert network.hosts[0].replica.base_timeout_ms == 4_000
    network.run(2 * MINUTE, network.all_at(62))
    timeouts = fired(network, Rule.TIMED_OUT)
    height = max(network.heights())
    network.run(5 * MINUTE, network.all_at(height + 10))
    assert min(network.heights()) >= height + 10
    assert fired(network, Rule.TIMED_OUT) == timeouts


def test_a_latency_step_that_nobody_measures_is_learned_from_view_changes() -> None:
    network = started(latency_ms=10)
    network.run(30 * SECOND, network.all_at(60))
    network.latency = lambda _sender, _to: 800
    height = max(network.heights())
    network.run(10 * MINUTE, network.all_at(height + 20))
    views = [link.certificate.view for link in network.hosts[0].disk.chain[height : height + 20]]
    assert len(views) == 20
    assert sum(1 for view in views if view == 0) >= 10
    network.check_agreement()


def test_neither_half_of_a_partition_decides_or_runs_away_and_both_resume() -> None:
    network = started()
    network.run(10 * SECOND, network.all_at(5))
    network.partition([0, 1], [2, 3])
    network.run(SECOND)
    heights = network.heights()
    network.run(30 * MINUTE)
    assert network.heights() == heights
    assert max(host.replica.view for host in network.hosts) <= 1
    network.heal()
    took = network.run(MINUTE, network.all_at(max(heights) + 3))
    assert took < 10 * SECOND
    network.check_agreement()


def test_timeouts_are_reset_by_progress() -> None:
    network = started()
    network.run(10 * SECOND, network.all_at(30))
    network.partition([0, 1], [2, 3])
    network.run(20 * MINUTE)
    network.heal()
    height = max(network.heights())
    network.run(MINUTE, network.all_at(height + 40))
    assert {host.replica.view for host in network.hosts} == {0}
    assert max(host.replica.base_timeout_ms for host in network.hosts) == 200


def _lets_one_lock(network: TimedNetwork, culprit: int) -> None:
    """Shows its proposal to two others, its PREPARE to one of them, and nothing else to anybody."""
    post = network.post

    def filtered(sender: int, to: int, message: Message) -> None:
        if sender == culprit:
            signed = getattr(message, "signed", None)
            kind = None if signed is None else signed.vote.kind
            near, far = (culprit + 1) % 4, (culprit + 2) % 4
            allowed = (kind is VoteKind.PRE_PREPARE and to in (near, far)) or (kind is VoteKind.PREPARE and to == near)
            if not allowed:
                return
        post(sender, to, message)

    network.post = filtered  # type: ignore[method-assign]  # the culprit's own network


def test_a_leader_that_lets_one_lock_and_goes_quiet_loses_its_turn() -> None:
    network = started(rotation_blocks=6)
    _lets_one_lock(network, 0)
    network.run(10 * MINUTE, lambda: min(network.heights()[1:]) >= 60)
    chain = network.hosts[1].disk.chain
    assert len(chain) >= 60
    late = [link.block.header.height for link in chain if link.certificate.view > 0]
    stalled = [h for h in late if network.address(0) == chain[h - 1].block.header.proposer]
    assert 0 < len(stalled) <= len(chain) // 5
    runs = [h for h in stalled if h + 1 in stalled and h + 2 in stalled]
    assert runs == [], "its turn ends one height after the first block that needed a later view than its own"
    network.check_agreement()


def test_the_log_is_bounded_while_a_node_lags_for_ever() -> None:
    network = started()
    network.hosts[3].crash()
    network.run(5 * MINUTE, network.all_at(100))
    for host in network.up():
        begun = [at for at, data in enumerate(host.disk.log) if data[0] == 1]
        longest = max(after - before for before, after in pairwise(begun))
        assert longest <= 8, "what a height needs in the log does not grow with the chain"
    assert min(len(host.disk.chain) for host in network.up()) >= 100


def test_a_lone_laggard_below_an_idle_tip_catches_up_at_its_heartbeat() -> None:
    network = started(work=False, heartbeat_ms=5_000)
    network.cut = {(sender, 3) for sender in range(3)}
    network.work(True, nodes=[0])
    network.run(2 * SECOND, lambda: len(network.hosts[0].disk.chain) >= 3)
    for host in network.hosts:
        host.work = None
    network.run(100)
    network.cut.clear()
    behind = len(network.hosts[3].disk.chain)
    assert behind < len(network.hosts[0].disk.chain)
    network.run(6 * SECOND)
    assert len(network.hosts[3].disk.chain) >= len(network.hosts[0].disk.chain) - 1
    network.check_agreement()


def test_many_small_stakes_below_a_third_neither_stop_nor_steer_the_rest() -> None:
    """Sybil resistance by stake: twenty silent identities with 20 of 110 power."""
    powers = [30, 30, 30] + [1] * 20
    network = TimedNetwork(powers, Parameters(min_stake=1), verify=False)
    small = [index for index, member in enumerate(network.members) if member.power == 1]
    network.byzantine = frozenset(small)
    network.start()
    network.work(True)
    network.run(3 * MINUTE, network.all_at(10))
    assert min(len(host.disk.chain) for host in network.up()) >= 10
    for link in network.hosts[next(iter(network.up())).index].disk.chain:
        assert link.certificate.vote.kind is VoteKind.COMMIT
    network.check_agreement()


def test_a_third_of_power_that_is_silent_halts_the_rest_and_nothing_is_decided() -> None:
    network = started(3)
    network.hosts[2].crash()
    network.run(5 * MINUTE)
    assert network.heights()[:2] == [0, 0]
    network.hosts[2].start()
    network.run(5 * MINUTE, network.all_at(2))
    assert min(network.heights()) >= 2


def test_all_at_once_a_set_change_a_view_change_and_a_restart() -> None:
    network = started(5, rotation_blocks=4)
    everyone = network.members
    network.sets = {1: set_of(everyone[:4]), 6: set_of(everyone[1:])}
    for host in network.hosts:
        host.crash()
    network.start()
    network.work(True)
    network.run(MINUTE, lambda: len(network.hosts[1].disk.chain) >= 4)
    network.hosts[0].crash()
    network.hosts[2].crash()
    network.run(300)
    network.hosts[2].start()
    network.run(5 * MINUTE, lambda: min(len(network.hosts[i].disk.chain) for i in (1, 2, 3, 4)) >= 12)
    assert min(network.heights()[1:]) >= 12
    assert not network.hosts[2].guard_refusals
    assert network.hosts[4].replica.is_voting
    assert fired(network, Rule.WITHOUT_A_VOTE) > 0
    assert network.set_at(Height(12)).addresses == tuple(member.address for member in everyone[1:])
    network.check_agreement()


def test_lost_messages_are_sent_again_until_the_height_is_decided() -> None:
    network = started()
    lost: list[Envelope | tuple[int, int]] = []

    def latency(sender: int, to: int) -> int | None:
        if network.random.randrange(100) < 50:
            lost.append((sender, to))
            return None
        return 10

    network.latency = latency
    network.run(10 * MINUTE, network.all_at(10))
    assert min(network.heights()) >= 10
    assert lost
    assert fired(network, Rule.SENT_AGAIN) > 0
    network.check_agreement()
