"""Mutated handshakes: whatever arrives, no exception escapes, nothing over the caps is held, and nobody is let in.

python -m tests.p2p.fuzz_handshake 100000        the campaign
python -m tests.p2p.fuzz_handshake 1 --seed 77   one case again
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc
from dataclasses import dataclass, field

from p2p.handshake import Dialer, Established, Listener, Rejected
from p2p.handshake.messages import FRAME_HEADER_BYTES, MAX_BODY_BYTES
from tests.p2p.golden import CASES, Side, ends, vector_of

MAX_GROWTH_BYTES = 1 << 20
"""What one mutated handshake may allocate: far more than any message may measure, far less than one may claim."""


@dataclass
class Prepared:
    """A recorded handshake, both its ends, and the frames that honest ones exchanged."""

    dialer: Side
    listener: Side
    frames: list[bytes]


def prepared() -> list[Prepared]:
    found = []
    for case in CASES:
        vector = vector_of(case)
        frames = vector["frames"]
        if not isinstance(frames, list):
            raise TypeError("the vector is not in its format")
        found.append(Prepared(*ends(case, vector), [bytes.fromhex(frame) for frame in frames]))
    return found


@dataclass
class Tally:
    cases: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0

    def count(self, name: str) -> None:
        self.reasons[name] = self.reasons.get(name, 0) + 1


class FoundError(Exception):
    """A mutated handshake did what it must not; the seed replays it."""


def mutate(rng: random.Random, honest: bytes, others: list[bytes]) -> bytes:
    """One to four changes of the kinds that a peer, a middleman or a broken library would make."""
    data = bytearray(honest)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(10):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at] = rng.randrange(256)
            case 2:
                del data[at:]
            case 3:
                data += rng.randbytes(rng.choice((1, 2, 16, 1_000, 40_000)))
            case 4:
                data[at:at] = rng.randbytes(rng.randint(1, 64))
            case 5:
                del data[at : at + rng.randint(1, 64)]
            case 6:
                other = rng.choice(others)
                cut = rng.randrange(len(other))
                data[at:] = other[cut:]
            case 7:
                data[1:4] = rng.choice((0, 1, len(data), 1 << 12, 1 << 15, (1 << 24) - 1)).to_bytes(3, "big")
            case 8 if len(data) > 4:
                data[1:4] = b"\xff\xff\xff"
                data += bytes(40_000)
            case 8:
                data[:1] = bytes([rng.randrange(8)])
            case _:
                data[:] = rng.randbytes(rng.randint(0, 200))
    return bytes(data)


def feed(rng: random.Random, machine: Dialer | Listener, data: bytes) -> Established | Rejected | None:
    """In pieces, as a socket would."""
    most = max(MAX_BODY_BYTES.values()) + FRAME_HEADER_BYTES
    at = 0
    while at < len(data):
        size = rng.choice((1, 4, 100, 4_096, len(data)))
        chunk = data[at : at + size]
        at += size
        step = machine.receive(chunk)
        if step.outcome is not None:
            return step.outcome
        if machine.held_bytes > most:
            raise FoundError(f"{machine.held_bytes} bytes are held")
    return None


def attack(rng: random.Random, case: Prepared, tally: Tally) -> None:
    """Honest up to one message, which arrives mutated."""
    number = rng.randrange(4)
    mutated = mutate(rng, case.frames[number], case.frames)
    if mutated.startswith(case.frames[number]):
        # The message itself is whole: what follows it is the next layer's, or refused as extra bytes.
        mutated = mutated[:-1] if len(mutated) == len(case.frames[number]) else mutated
        if number == 3:
            return
    machine: Dialer | Listener
    if number % 2 == 0:
        machine = Listener(case.listener.setup)
        if number == 2:
            machine.receive(case.frames[0])
    else:
        machine = Dialer(case.dialer.setup, case.listener.setup.local.peer)
        machine.start()
        if number == 3:
            machine.receive(case.frames[1])
    outcome = feed(rng, machine, mutated)
    if isinstance(outcome, Established):
        raise FoundError(f"message {number + 1} was accepted mutated")
    tally.count("waiting" if outcome is None else outcome.reason.name)
    if outcome is None:
        ended = machine.end_of_stream().outcome
        if not isinstance(ended, Rejected):
            raise FoundError("an unfinished handshake ended without a refusal")


def campaign(transcripts: int, first_seed: int = 0, *, trace_memory: bool = False) -> Tally:
    cases, tally = prepared(), Tally()
    for case_seed in range(first_seed, first_seed + transcripts):
        rng = random.Random(case_seed)
        try:
            if trace_memory:
                tracemalloc.start()
            attack(rng, rng.choice(cases), tally)
            if trace_memory:
                peak = tracemalloc.get_traced_memory()[1]
                tally.peak_bytes = max(tally.peak_bytes, peak)
        except Exception as fault:
            raise FoundError(f"seed {case_seed}: {fault!r}") from fault
        finally:
            if trace_memory:
                tracemalloc.stop()
        if tally.peak_bytes > MAX_GROWTH_BYTES:
            raise FoundError(f"seed {case_seed}: {tally.peak_bytes} bytes were allocated")
        tally.cases += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description="mutated handshakes")
    parser.add_argument("transcripts", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    started = time.perf_counter()
    tally = campaign(chosen.transcripts, chosen.seed)
    print(f"{tally.cases} mutated handshakes in {time.perf_counter() - started:.1f} s, none accepted, no exception")
    for name, number in sorted(tally.reasons.items(), key=lambda entry: -entry[1]):
        print(f"  {number:7} {name}")


if __name__ == "__main__":
    main()
