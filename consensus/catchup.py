"""Rule C12's other half: noticing that this replica is behind, and asking for help once.

Heights reported by others prove nothing: only what more than a third of power reports counts, so neither a peer that
inflates its height nor one that lowers it changes anything.
"""

from __future__ import annotations

from consensus.effects import RequestCatchUp, TimerKind
from consensus.instance import Instance
from consensus.rules import Rule
from consensus.tally import Ladder
from trellis.certificate import Certificate
from trellis.types import Address, Height
from trellis.validators import ValidatorSet


class Lag:
    """What is known of heights decided elsewhere."""

    __slots__ = ("_asked", "_certificate", "_heights")

    def __init__(self, validators: ValidatorSet) -> None:
        self._heights = Ladder(validators)
        self._certificate: Certificate | None = None
        self._asked = False

    def weigh_by(self, validators: ValidatorSet) -> None:
        self._heights = self._heights.moved_to(validators)

    def hear(self, validator: Address, height: Height) -> bool:
        """`validator` works on this height, so it decided the one before. Whether that is news."""
        return self._heights.raise_to(validator, height)

    def knows(self, validator: Address, height: Height) -> bool:
        return (self._heights.rung_of(validator) or 0) >= height

    def hear_certificate(self, certificate: Certificate) -> None:
        if self._certificate is None or certificate.height > self._certificate.height:
            self._certificate = certificate

    def caught_up(self, instance: Instance) -> None:
        """What is still missing is asked for after a pause: a host that cannot sync must not spin."""
        self._asked = False
        if instance.decided is None and self._decided_elsewhere(instance) >= instance.height:
            self._wait(instance)

    def consider(self, instance: Instance) -> None:
        """Ask at once if a whole height is missing; wait a base timeout if this height may still end by itself."""
        if self._asked or instance.decided is not None:
            return
        decided = self._decided_elsewhere(instance)
        if decided > instance.height or self._is_stuck(instance):
            self._ask(instance)
        elif decided == instance.height:
            self._wait(instance)

    def waited(self, instance: Instance) -> None:
        if not self._asked and instance.decided is None and self._decided_elsewhere(instance) >= instance.height:
            self._ask(instance)

    def _is_stuck(self, instance: Instance) -> bool:
        """Certified, but nobody here is at work on the block."""
        certificate = instance.certified
        if certificate is None:
            return False
        return certificate.block_hash not in instance.checked and certificate.block_hash not in instance.checking

    def _decided_elsewhere(self, instance: Instance) -> Height:
        by_power = (self._heights.highest_blocking() or 0) - 1
        by_certificate = 0 if self._certificate is None else self._certificate.height
        own = instance.height if instance.certified is not None else 0
        return Height(max(by_power, by_certificate, own))

    def _wait(self, instance: Instance) -> None:
        timers = instance.station.timers
        if not timers.is_armed(TimerKind.CATCH_UP):
            timers.arm(TimerKind.CATCH_UP, instance.station.pacemaker.base_ms)

    def _ask(self, instance: Instance) -> None:
        self._asked = True
        height = self._decided_elsewhere(instance)
        known = (self._certificate, instance.certified)
        certificate = next((c for c in known if c is not None and c.height == height), None)
        instance.note(Rule.BEHIND)
        instance.out.append(RequestCatchUp(height, certificate))
