"""Byzantine validators: small classes that change what an honest host sends, signs or serves.

A corrupted host holds its own key and no other. It may see the whole world: schedules drawn blindly miss what an
adversary that knows the leader and the moment of locking finds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from consensus.effects import Broadcast
from consensus.guard import SignGuard
from node.simulator.host import Host, Packet
from node.simulator.ledger import Operation, OperationKind
from node.work import BodyRequest
from trellis.certificate import make_certificate
from trellis.constants import Context
from trellis.messages import Ballot, Proposal, ViewChange
from trellis.types import Hash, Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind


class Adversary(Host):
    """Runs the honest code, without a guard of its own."""

    honest = False

    def _sign_and_send(self, effect: Broadcast) -> None:
        self.durable.disk.guard = SignGuard(self.world.genesis.genesis_hash)
        super()._sign_and_send(effect)

    def sign(self, vote: Vote) -> SignedVote:
        signature = self.key.sign(vote.signing_bytes(self.world.genesis.genesis_hash), Context.VOTE.value)
        return SignedVote(vote, self.me, signature)

    def halves(self) -> tuple[list[int], list[int]]:
        others = self.world.others(self.index)
        self.world.chance.shuffle(others)
        return others[: len(others) // 2], others[len(others) // 2 :]


class Silent(Adversary):
    """Receives, and says nothing."""

    def send_all(self, packet: Packet) -> None:
        pass

    def send(self, to: int, packet: Packet) -> None:
        pass


class EquivocatingLeader(Adversary):
    """Proposes one block to one half of the network and another to the other."""

    def send_all(self, packet: Packet) -> None:
        if not isinstance(packet, Proposal) or packet.justification or self.state.height + 1 != packet.header.height:
            super().send_all(packet)
            return
        twin = self._twin(packet)
        left, right = self.halves()
        self.world.send(self.index, left, packet)
        self.world.send(self.index, right, twin)

    def _twin(self, proposal: Proposal) -> Proposal:
        serial = 1 << 40 | self.world.chance.randrange(1 << 30)
        operations = [Operation(serial, OperationKind.DATA, self.me, 1)]
        header = proposal.header
        block = self.make_block(header.view, proposal.parent_certificate, operations, header.timestamp_ms)
        self.durable.bodies[block.hash] = block
        vote = replace(proposal.signed.vote, block_hash=block.hash)
        return replace(proposal, signed=self.sign(vote), header=block.header, body=self.compact(block))


class EquivocatingVoter(Adversary):
    """Votes for what it should, and for something else, to different halves."""

    def send_all(self, packet: Packet) -> None:
        if not isinstance(packet, Ballot):
            super().send_all(packet)
            return
        vote = packet.signed.vote
        other = replace(vote, block_hash=self._other_hash(vote))
        left, right = self.halves()
        self.world.send(self.index, left, packet)
        self.world.send(self.index, right, Ballot(self.sign(other)))

    def _other_hash(self, vote: Vote) -> Hash:
        for host in self.world.hosts:
            for known in sorted(host.durable.bodies):
                if known != vote.block_hash:
                    return known
        return Hash(bytes(32))


class LockLiar(Adversary):
    """Commits, then denies its lock in every VIEW-CHANGE."""

    def send_all(self, packet: Packet) -> None:
        if isinstance(packet, ViewChange):
            vote = replace(packet.signed.vote, prepared=None)
            packet = ViewChange(self.sign(vote))
        super().send_all(packet)


class VoteWithholder(Adversary):
    """Sends a vote only now and then, and then to few."""

    def send_all(self, packet: Packet) -> None:
        if isinstance(packet, Ballot | ViewChange) and self.world.chance.randrange(3):
            left, _ = self.halves()
            self.world.send(self.index, left[:1], packet)
            return
        super().send_all(packet)


class BodyWithholder(Adversary):
    """Proposes, and serves the body to one validator only."""

    def receive(self, sender: int, packet: Packet) -> None:
        if isinstance(packet, BodyRequest) and sender != self.world.others(self.index)[0]:
            return
        super().receive(sender, packet)


class Replayer(Adversary):
    """Sends what others signed again: across views, heights, and as if it were its own."""

    def receive(self, sender: int, packet: Packet) -> None:
        # What the corrupted say is not repeated: three of these among ten would multiply each other's copies for ever.
        fresh = isinstance(packet, Ballot | ViewChange | Proposal) and self.world.hosts[sender].honest
        if fresh and self.world.chance.randrange(4) == 0:
            life, chance = self.life, self.world.chance

            def again() -> None:
                if self.running and self.life == life:
                    self.send_all(packet)

            self.world.heap.after(chance.randrange(3_000_000), again)
            if isinstance(packet, Ballot):
                stolen = replace(packet.signed, signer=self.me)
                self.send_all(Ballot(stolen))
                moved = replace(packet.signed.vote, view=View(packet.signed.vote.view + 1))
                self.send_all(Ballot(replace(packet.signed, vote=moved)))
        super().receive(sender, packet)


class Forger(Adversary):
    """Proposes without justification, and with certificates and entries it made up."""

    def receive(self, sender: int, packet: Packet) -> None:
        super().receive(sender, packet)
        if not isinstance(packet, ViewChange) or self.replica is None:
            return
        view = packet.signed.vote.view
        operations = [Operation(1 << 41 | view, OperationKind.DATA, self.me, 1)]
        certificate = self.durable.chain[-1][1] if self.durable.chain else None
        block = self.make_block(view, certificate, operations, self.clock_ms())
        self.durable.bodies[block.hash] = block
        vote = Vote(VoteKind.PRE_PREPARE, block.header.height, view, block_hash=block.hash)
        entries = tuple(replace(packet.signed, signer=member.address) for member in self.state.validators.members)
        chosen = self.world.chance.choice(((), (packet.signed,), entries, (packet.signed,) * len(entries)))
        self.send_all(
            Proposal(self.sign(vote), block.header, certificate, chosen, packet.prepared, self.compact(block))
        )


class HeightLiar(Adversary):
    """Tells heights that nobody reached, and heights long past."""

    def send_all(self, packet: Packet) -> None:
        if isinstance(packet, Ballot) and self.world.chance.randrange(2) == 0:
            vote = packet.signed.vote
            lie = replace(vote, height=Height(max(1, vote.height + self.world.chance.choice((-3, 1, 5, 1_000)))))
            super().send_all(Ballot(self.sign(lie)))
        super().send_all(packet)


class InvalidProposer(Adversary):
    """Proposes blocks that the ledger refuses."""

    def send_all(self, packet: Packet) -> None:
        if isinstance(packet, Proposal) and not packet.justification:
            block = self.spoil(packet)
            self.durable.bodies[block.hash] = block
            vote = replace(packet.signed.vote, block_hash=block.hash)
            packet = replace(packet, signed=self.sign(vote), header=block.header, body=self.compact(block))
        super().send_all(packet)


class QuietLeader(Adversary):
    """Lets one replica lock and then goes quiet: its COMMITs go nowhere, its proposals to all."""

    def send_all(self, packet: Packet) -> None:
        if isinstance(packet, Ballot):
            if packet.signed.vote.kind is VoteKind.PREPARE:
                self.world.send(self.index, self.world.others(self.index)[:1], packet)
            return
        super().send_all(packet)


class SlowDripper(Adversary):
    """Everything it sends comes just too late."""

    def send_all(self, packet: Packet) -> None:
        life = self.life

        def late() -> None:
            if self.running and self.life == life:
                super(SlowDripper, self).send_all(packet)

        self.world.heap.after(self.world.chance.randint(100, 1_500) * 1_000, late)


class Mislabeler(Adversary):
    """Signs one hash and sends two headers with it: whoever does not compare them cannot accuse it later."""

    def send_all(self, packet: Packet) -> None:
        if isinstance(packet, Proposal) and not packet.justification and self.state.height + 1 == packet.header.height:
            operations = [Operation(1 << 43 | packet.header.height, OperationKind.DATA, self.me, 1)]
            header, certificate = packet.header, packet.parent_certificate
            block = self.make_block(header.view, certificate, operations, header.timestamp_ms)
            self.durable.bodies[block.hash] = block
            left, right = self.halves()
            self.world.send(self.index, left, replace(packet, header=block.header, body=self.compact(block)))
            self.world.send(self.index, right, packet)
            return
        super().send_all(packet)


class PreparedLiar(Adversary):
    """Asks for the next view before anybody else does, naming a block that nobody has, with a made-up certificate."""

    told = (0, 0)
    """The highest (height, view) it lied about: one lie each, or several of its kind would drive each other."""

    def receive(self, sender: int, packet: Packet) -> None:
        super().receive(sender, packet)
        if isinstance(packet, ViewChange) and packet.signed.vote.height == self.height + 1:
            life, vote = self.life, packet.signed.vote
            if self.told >= (vote.height, vote.view + 1):
                return
            self.told = (vote.height, vote.view + 1)

            def lie() -> None:
                if self.running and self.life == life:
                    self._lie(vote.height, View(vote.view + 1))

            # Only a validator's highest VIEW-CHANGE is kept: the lie about this view must first do its work.
            self.world.heap.after(150_000, lie)

    def send_all(self, packet: Packet) -> None:
        if isinstance(packet, ViewChange):
            return
        if isinstance(packet, Proposal):
            self._lie(packet.header.height, View(1))
            return
        super().send_all(packet)

    def send(self, to: int, packet: Packet) -> None:
        if not isinstance(packet, Proposal | ViewChange):
            super().send(to, packet)

    def _lie(self, height: Height, view: View) -> None:
        prepared = Prepared(View(view - 1), Hash(bytes([view % 256]) * 32))
        members = self.state.validators
        vote = Vote(VoteKind.PREPARE, height, prepared.view, prepared.hash)
        forged = make_certificate([replace(self.sign(vote), signer=signer) for signer in members.addresses], members)
        self.world.send(
            self.index,
            self.world.others(self.index),
            ViewChange(self.sign(Vote(VoteKind.VIEW_CHANGE, height, view, None, prepared)), forged),
        )


class ViewDriver(Adversary):
    """Asks for view after view, alone."""

    asked = (0, 0)
    """The highest (height, view) it asked for: once each, or three of its kind among ten would multiply for ever."""

    def receive(self, sender: int, packet: Packet) -> None:
        super().receive(sender, packet)
        if isinstance(packet, Ballot | Proposal | ViewChange) and packet.signed.vote.height == self.height + 1:
            vote = packet.signed.vote
            if self.asked >= (vote.height, vote.view + 1):
                return
            self.asked = (vote.height, vote.view + 1)
            # After a pause, or an obedient network would change views for ever within one instant.
            further = Vote(VoteKind.VIEW_CHANGE, vote.height, View(vote.view + 1))
            life = self.life

            def drive() -> None:
                if self.running and self.life == life:
                    self.world.send(self.index, self.world.others(self.index), ViewChange(self.sign(further)))

            self.world.heap.after(5_000, drive)


ADVERSARIES: Final[dict[str, type[Adversary]]] = {
    "body_withholder": BodyWithholder,
    "equivocating_leader": EquivocatingLeader,
    "equivocating_voter": EquivocatingVoter,
    "forger": Forger,
    "height_liar": HeightLiar,
    "invalid_proposer": InvalidProposer,
    "lock_liar": LockLiar,
    "mislabeler": Mislabeler,
    "prepared_liar": PreparedLiar,
    "quiet_leader": QuietLeader,
    "replayer": Replayer,
    "silent": Silent,
    "slow_dripper": SlowDripper,
    "view_driver": ViewDriver,
    "vote_withholder": VoteWithholder,
}
