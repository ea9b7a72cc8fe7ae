"""The properties that the network is chosen for, each by its name, on small worlds that Hypothesis draws."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from consensus.evidence_detection import offences_among, votes_in, votes_of
from node.simulator import ledger
from node.simulator.adversary import ADVERSARIES
from node.simulator.checkers import SafetyViolation
from node.simulator.host import Host, Packet
from node.simulator.ledger import ChainBlock, Operation, OperationKind
from node.simulator.network import Weather
from node.simulator.stage import QUICK, Actor, Stage
from node.simulator.swarm import Result, Run, draw
from trellis.constants import Context
from trellis.messages import Ballot, Proposal
from trellis.types import Address, Hash, Height, View
from trellis.votes import SignedVote, Vote, VoteKind

SEEDS = st.integers(0, 1_000_000)
SIZES = st.sampled_from([(4, 0), (4, 1), (5, 1), (7, 2)])


def short(seed: int, nodes: int, byzantine: int) -> Result:
    """Two seconds of faults, then health."""
    return Run(draw(seed, nodes, byzantine), least_ms=1_000, most_ms=2_000).run()


def same_chains(hosts: list[Host]) -> bool:
    chains = [[block.hash for block, _ in host.durable.chain] for host in hosts]
    shared = min(map(len, chains))
    return all(chain[:shared] == chains[0][:shared] for chain in chains)


@given(SEEDS, SIZES)
def test_consensus_safety(seed: int, size: tuple[int, int]) -> None:
    """Whatever fails, nothing wrong is decided, signed twice, or blamed on the honest."""
    assert short(seed, *size).violation == ""


@given(SEEDS, SIZES)
def test_consensus_liveness_with_more_than_two_thirds_honest(seed: int, size: tuple[int, int]) -> None:
    """Once faults stop, there is progress within ten capped timeouts, whatever the corrupted go on doing."""
    result = short(seed, *size)
    assert not result.stalled
    assert result.heights >= 2


@given(SEEDS, st.sampled_from(sorted(ADVERSARIES)), st.integers(0, 3))
def test_byzantine_fault_tolerance_below_a_third(seed: int, strategy: str, index: int) -> None:
    """Any strategy of one of four, without other faults: the others agree and go on, and never accuse each other."""
    stage = Stage(seed=seed, roles={index: ADVERSARIES[strategy]})
    stage.begin()
    assert stage.progresses(4)
    assert same_chains(stage.honest())
    assert set(stage.checkers.accused_hosts) <= {index}


class Attack:
    """More than a third is corrupted: the leader shows one block to each side, and all corrupted vote for both."""

    def __init__(self, nodes: int, corrupted: int, seed: int) -> None:
        self.stage = Stage(nodes, seed)
        leader = self.stage.leader(Height(1), 0)
        if leader is None:
            raise RuntimeError("height 1 has a leader")
        self.leader = leader
        others = [actor for actor in self.stage.actors if actor is not leader]
        self.corrupted = [leader, *others[: corrupted - 1]]
        self.honest = others[corrupted - 1 :]
        for actor in self.corrupted:
            actor.turn()
        # The corrupted run no honest code: what they say is said by `speak`.
        silent = {actor.index for actor in self.corrupted}
        self.stage.passes = lambda sender, receiver, packet: sender not in silent or self._is_said(packet)
        self.said: set[Hash] = set()
        self.stage.start()

    def _is_said(self, packet: Packet) -> bool:
        return not isinstance(packet, Proposal | Ballot) or packet.signed.vote.block_hash in self.said

    def block(self, serial: int) -> ChainBlock:
        operation = Operation(1 << 44 | serial, OperationKind.DATA, self.leader.me, 1)
        return ledger.make_block(self.leader.state, View(0), self.leader.me, None, [operation], 5)

    def speak(self, block: ChainBlock, listeners: list[Actor]) -> None:
        self.said.add(block.hash)
        self.leader.durable.bodies[block.hash] = block
        to = [actor.index for actor in listeners]
        vote = Vote(VoteKind.PRE_PREPARE, Height(1), View(0), block.hash)
        proposal = Proposal(self.leader.sign(vote), block.header, None, body=block.hash)
        self.stage.send(self.leader.index, to, proposal)
        for actor in self.corrupted:
            for kind in (VoteKind.PREPARE, VoteKind.COMMIT):
                self.stage.send(actor.index, to, Ballot(actor.sign(replace(vote, kind=kind))))

    def blamed(self) -> set[Address]:
        """By whoever compares what honest validators archived: their logs, and the certificates of their chains."""
        votes: list[SignedVote] = []
        for actor in self.honest:
            disk, validators = actor.durable.disk, self.stage.genesis.validators
            for record in disk.records():
                votes += votes_in(record, validators)
            for _, certificate in actor.durable.chain[:1]:
                votes += votes_of(certificate, validators)
        found = offences_among(votes, self.stage.genesis.genesis_hash)
        return {offence.offender for offence in found}


@given(st.integers(4, 10), st.data(), SEEDS)
def test_51_percent_attack_any_fork_accuses_more_than_a_third(nodes: int, data: st.DataObject, seed: int) -> None:
    least = nodes // 3 + 1
    attack = Attack(nodes, data.draw(st.integers(least, nodes - 2), label="corrupted"), seed)
    cut = data.draw(st.integers(1, len(attack.honest) - 1), label="cut")
    left, right = attack.honest[:cut], attack.honest[cut:]
    validators = attack.stage.genesis.validators
    power = 10 * len(attack.corrupted)
    can_fork = validators.is_quorum(power + 10 * len(left)) and validators.is_quorum(power + 10 * len(right))
    attack.stage.network.partition([a.index for a in left], [a.index for a in right])
    attack.speak(attack.block(1), left)
    attack.speak(attack.block(2), right)
    forked = False
    try:
        attack.stage.run_ms(300)
    except SafetyViolation as violation:
        forked = str(violation).startswith("agreement")
        assert forked
    assert forked == can_fork
    if forked:
        blamed = attack.blamed()
        assert validators.is_blocking(validators.power_of_all(sorted(blamed)))
        assert blamed <= {actor.me for actor in attack.corrupted}


@given(st.integers(4, 10), st.data(), SEEDS)
def test_51_percent_attack_invalid_blocks_stay_refused(nodes: int, data: st.DataObject, seed: int) -> None:
    """Above two thirds the corrupted can certify anything; an honest replica stops rather than accept it."""
    attack = Attack(nodes, data.draw(st.integers(nodes // 3 + 1, nodes - 1), label="corrupted"), seed)
    sound = attack.block(1)
    broken = ChainBlock(replace(sound.header, state_root=Hash(bytes(32))), None, sound.body)
    attack.speak(broken, attack.honest)
    certified = attack.stage.genesis.validators.is_quorum(10 * len(attack.corrupted))
    try:
        attack.stage.run_ms(300)
        stopped = ""
    except SafetyViolation as violation:
        stopped = str(violation)
    assert stopped.startswith("halt") == certified
    assert not any(actor.durable.chain for actor in attack.honest)


@given(SEEDS, st.integers(1, 8), st.sampled_from(["silent", "equivocating_voter", "view_driver", "vote_withholder"]))
def test_sybil_resistance_by_stake(seed: int, identities: int, strategy: str) -> None:
    """A stake of less than a third gains nothing by being split among many identities, nor identities without any."""
    honest, attacker = (20, 20, 20), 24
    share = [attacker // identities] * identities
    stakes = (*honest, *share, 0, 0)
    roles = dict.fromkeys(range(3, len(stakes)), ADVERSARIES[strategy])
    stage = Stage(len(stakes), seed, stakes=stakes, roles=roles)
    assert not stage.genesis.validators.is_blocking(sum(share))
    assert len(stage.genesis.validators) == 3 + identities
    stage.begin()
    assert stage.progresses(2)
    assert same_chains(stage.honest())


@given(SEEDS, st.integers(4, 7), st.data())
def test_partition_safety_halts_then_resumes(seed: int, nodes: int, data: st.DataObject) -> None:
    stage = Stage(nodes, seed)
    indices = data.draw(st.permutations(range(nodes)))
    cut = data.draw(st.integers(1, nodes - 1))
    left, right = indices[:cut], indices[cut:]
    validators = stage.genesis.validators
    assume(not validators.is_quorum(10 * len(left)) and not validators.is_quorum(10 * len(right)))
    stage.begin()
    stage.run_ms(data.draw(st.integers(0, 500)))
    stage.network.partition(left, right)
    stage.lanes_changed()
    before = stage.highest_honest()
    stage.run_ms(3_000)
    assert stage.highest_honest() <= before + 1, "at most the height whose COMMITs had arrived"
    stage.network.heal()
    stage.lanes_changed()
    assert stage.progresses(2)
    assert same_chains(stage.honest())


@given(SEEDS, st.integers(200, 1_200), st.sampled_from([4_000, 8_000]))
def test_adaptive_timeout_adjustment(seed: int, step_at_ms: int, cap_ms: int) -> None:
    """Latency steps from 10 to 800 ms: few views change, the base grows, and blocks come in view 0 again.

    Here a view takes five hops, two of them for the body: 4.0 s. Under a cap of 4 s each block needs a second view.
    """
    stage = Stage(seed=seed, parameters=replace(QUICK, view_timer_cap_ms=cap_ms, block_interval_ms=100))
    stage.begin()
    stage.run_ms(step_at_ms)
    stage.network.weather.latency_ms = 800
    before, highest = stage.lowest_honest(), 0
    for _ in range(36):
        stage.run_ms(1_000)
        highest = max(highest, *(host.replica.view for host in stage.hosts if host.replica is not None))
    assert highest <= 4, "no runaway views"
    assert stage.lowest_honest() >= before + 4
    last = [block.header.view for block, _ in stage.hosts[0].durable.chain[-3:]]
    assert max(last) <= (0 if cap_ms > 5 * 800 else 1)
    assert all(host.replica is not None and host.replica.base_timeout_ms >= 4 * 800 for host in stage.hosts)


@given(SEEDS, st.integers(0, 300), st.integers(0, 60), st.integers(0, 3))
def test_eventual_consistency(seed: int, loss_permille: int, jitter_ms: int, alone: int) -> None:
    """After loss, reordering and a node that was cut off, all hold one chain and one state."""
    stage = Stage(seed=seed)
    stage.network.weather = Weather(latency_ms=10, jitter_ms=jitter_ms, loss_permille=loss_permille)
    stage.network.partition([alone], stage.others(alone))
    stage.begin()
    stage.run_ms(1_500)
    stage.network.heal()
    stage.network.weather = Weather(latency_ms=10, jitter_ms=0)
    stage.lanes_changed()
    assert stage.progresses(2)
    target = stage.highest_honest()
    assert stage.run_until(lambda: stage.lowest_honest() >= target, stage.heap.now_us + 5_000_000)
    assert same_chains(stage.honest())
    assert len({host.durable.states[target].root for host in stage.hosts}) == 1


def test_a_simulated_signature_is_bound_to_its_context() -> None:
    """Otherwise everything above would prove less."""
    actor = Stage().actors[0]
    assert actor.key.sign(b"m", Context.VOTE.value) != actor.key.sign(b"m", Context.TX.value)
