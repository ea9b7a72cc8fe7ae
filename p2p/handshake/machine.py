"""What dialer and listener have in common: one message due at a time, its cap, the deadline, one end for all faults."""

from __future__ import annotations

from typing import Final

from p2p.handshake.messages import M1_TYPE, M2_TYPE, MAX_BODY_BYTES, FrameBuffer
from p2p.handshake.outcome import Rejected, Step
from p2p.handshake.reject import RefusedError, Reject
from p2p.handshake.setup import HANDSHAKE_TIMEOUT_MS, Setup
from trellis.encoding import DecodeError, Malformed

DONE: Final = 0
"""No message is due any more."""


class Handshake:
    """Bytes in, bytes out. Subclasses say which message is due (`_due`) and what to do with it (`_on_message`)."""

    __slots__ = ("_buffer", "_due", "_setup", "_started_ms")

    def __init__(self, setup: Setup, due: int) -> None:
        self._setup = setup
        self._due = due
        self._buffer = FrameBuffer()
        self._started_ms = setup.clock.steady_ms()

    @property
    def wants_bytes(self) -> int:
        """How many bytes the due message still lacks, as far as is known: reading that many never reads ahead."""
        return max(self._buffer.missing_bytes(), 0)

    @property
    def signs_next(self) -> bool:
        """Whether the message that is due is answered with a signature: a millisecond, ten times all the rest."""
        return self._due in {M1_TYPE, M2_TYPE}

    @property
    def held_bytes(self) -> int:
        """What is buffered: never more than the cap of the message that is due and one read."""
        return self._buffer.held_bytes

    def receive(self, data: bytes) -> Step:
        """Takes what arrived. Whatever it is, the answer is a step, never an exception."""
        if self._due == DONE:
            raise ValueError("the handshake is over")
        try:
            return self._receive(data)
        except RefusedError as fault:
            return self._over(Rejected(fault.reason, fault.detail))
        except DecodeError as fault:
            reason = Reject.UNKNOWN_VERSION if fault.reason is Malformed.UNKNOWN_VERSION else Reject.MALFORMED
            return self._over(Rejected(reason, str(fault)))

    def end_of_stream(self) -> Step:
        """The peer closed its end."""
        return self._over(Rejected(Reject.CLOSED, "the peer hung up during the handshake"))

    def expire(self) -> Step:
        """The deadline passed while waiting."""
        return self._over(Rejected(Reject.TIMEOUT, f"no session after {HANDSHAKE_TIMEOUT_MS} ms"))

    def _receive(self, data: bytes) -> Step:
        if self._setup.clock.steady_ms() - self._started_ms > HANDSHAKE_TIMEOUT_MS:
            return self.expire()
        self._buffer.feed(data)
        kind = self._buffer.kind()
        if kind is None:
            return Step()
        if kind != self._due:
            reflected = kind == M1_TYPE and self._due == M2_TYPE
            reason = Reject.REFLECTED if reflected else Reject.UNEXPECTED_FRAME
            raise RefusedError(reason, f"message {kind} came, {self._due} was due")
        body_bytes = self._buffer.body_bytes()
        if body_bytes is None:
            return Step()
        if body_bytes > MAX_BODY_BYTES[kind]:
            raise RefusedError(Reject.FRAME_TOO_LARGE, f"message {kind} claims {body_bytes} bytes")
        if self._buffer.missing_bytes() > 0:
            return Step()
        return self._on_message(self._buffer.take())

    def _on_message(self, body: bytes) -> Step:
        raise NotImplementedError

    def _nothing_may_follow(self) -> None:
        """It is our turn to speak: a peer that has already said more guesses, or replays."""
        if self._buffer.held_bytes:
            raise RefusedError(Reject.EXTRA_BYTES, f"{self._buffer.held_bytes} bytes came before our answer")

    def _over(self, outcome: Rejected, send: bytes = b"") -> Step:
        self._finish()
        return Step(send, outcome)

    def _finish(self) -> None:
        """Drops what may not outlive the handshake. Python cannot promise that the memory is zeroed."""
        self._due = DONE
        self._buffer.rest()
