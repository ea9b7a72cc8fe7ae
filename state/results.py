"""What became of validators, for anyone who asks: rewards, verification accuracy, incidents; all under the root."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from state.chain import read_head
from state.overlay import Overlay
from state.scope import Reward, RewardKind, Slash
from state.stake import read_roster
from state.validator_sets import require_set, set_at
from state.view import StateView
from trellis.certificate import MAX_BITMAP_BYTES
from trellis.encoding import Reader, Writer
from trellis.evidence import EvidenceKind
from trellis.types import Address, Height
from trellis.validators import ValidatorSet

REWARD_PREFIX: Final = b"r"
INCIDENT_PREFIX: Final = b"i"
ACCURACY_KEY: Final = b"maccuracy"
ACCURACY_BLOCKS: Final = 100
"""N: accuracy looks at this many of the latest proof-bearing blocks."""

KEPT_INCIDENTS: Final = 16
_REWARD: Final = Struct(">QQQQ")


class RewardTotal(NamedTuple):
    """Since genesis."""

    units: int
    as_proposer: int
    """The part of them for proposing."""
    proposed: int
    """Blocks that it proposed."""
    signed: int
    """Certificates carried by blocks in which its signature counts."""


def read_rewards(view: StateView, address: Address) -> RewardTotal:
    row = view.get(REWARD_PREFIX + address)
    return RewardTotal(0, 0, 0, 0) if row is None else RewardTotal._make(_REWARD.unpack(row))


def record_block(state: Overlay, proposer: Address, signers: Iterable[Address], rewards: Iterable[Reward]) -> None:
    """One row for each who took part, once a block, paid or not."""
    found: dict[Address, list[int]] = {}

    def total(address: Address) -> list[int]:
        if address not in found:
            found[address] = list(read_rewards(state, address))
        return found[address]

    total(proposer)[2] += 1
    for signer in signers:
        total(signer)[3] += 1
    for reward in rewards:
        earned = total(reward.address)
        earned[0] += reward.units
        earned[1] += 0 if reward.kind is RewardKind.COMMIT else reward.units
    for address, counts in found.items():
        state.put(REWARD_PREFIX + address, _REWARD.pack(*counts))


@dataclass(frozen=True, slots=True)
class Judged:
    """One proof-bearing block: who stood for its verdicts, and who was shown to have stood for a wrong one.

    On the chain a validator's verdict is its signature in the certificate: it signs no COMMIT without a PREPARE, and no
    PREPARE without checking. Whoever is not in the certificate abstained.
    """

    height: Height
    signed: bytes
    wrong: bytes


def _bit(bitmap: bytes, place: int) -> bool:
    return place // 8 < len(bitmap) and bool(bitmap[place // 8] >> place % 8 & 1)


def _with_bit(bitmap: bytes, place: int) -> bytes:
    changed = bytearray(bitmap)
    changed[place // 8] |= 1 << place % 8
    return bytes(changed)


def read_judged(view: StateView) -> tuple[Judged, ...]:
    row = view.get(ACCURACY_KEY)
    if row is None:
        return ()
    reader = Reader(row)
    found: list[Judged] = []
    while reader.remaining_bytes:
        height = Height(reader.u64("height"))
        signed = reader.lp("signed", MAX_BITMAP_BYTES)
        found.append(Judged(height, signed, reader.lp("wrong", MAX_BITMAP_BYTES)))
    return tuple(found)


def _write_judged(state: Overlay, judged: tuple[Judged, ...]) -> None:
    writer = Writer()
    for entry in judged[-ACCURACY_BLOCKS:]:
        writer.u64(entry.height).lp(entry.signed).lp(entry.wrong)
    state.put(ACCURACY_KEY, writer.done())


def record_verdicts(state: Overlay, height: Height, signers: bytes) -> None:
    """Block `height` bore proofs, and these validators of V(height) signed it."""
    _write_judged(state, (*read_judged(state), Judged(height, signers, bytes(len(signers)))))


@dataclass(frozen=True, slots=True)
class Accuracy:
    correct: int
    given: int
    abstained: int
    """Proof-bearing blocks of its time in the set that it did not sign; they do not count."""

    @property
    def permille(self) -> int:
        """1,000 for who gave no verdict: abstaining is no mistake."""
        return 1_000 if not self.given else 1_000 * self.correct // self.given


def accuracy(view: StateView, address: Address) -> Accuracy:
    """Over the last `ACCURACY_BLOCKS` proof-bearing blocks, abstentions excluded."""
    return accuracies(view, (address,))[0]


def accuracies(view: StateView, addresses: Sequence[Address]) -> tuple[Accuracy, ...]:
    """Of several at once: the record of blocks is read once."""
    judged = tuple((entry, set_at(view, entry.height)) for entry in read_judged(view))
    return tuple(_accuracy(judged, address) for address in addresses)


def _accuracy(judged: Sequence[tuple[Judged, ValidatorSet | None]], address: Address) -> Accuracy:
    given = wrong = abstained = 0
    for entry, validators in judged:
        place = None if validators is None else validators.index(address)
        if place is None:
            continue
        mistaken = _bit(entry.wrong, place)
        voted = mistaken or _bit(entry.signed, place)
        given += voted
        abstained += not voted
        wrong += mistaken
    return Accuracy(given - wrong, given, abstained)


@dataclass(frozen=True, slots=True)
class Incident:
    """One slash, as it is remembered."""

    kind: int
    offence_height: Height
    punished_at: Height
    permille: int
    units: int


_INCIDENT: Final = Struct(">BQQHQ")
_INCIDENTS_HEAD: Final = Struct(">IQ")


@dataclass(frozen=True, slots=True)
class Incidents:
    """How many there ever were, what they cost in all, and the latest."""

    count: int
    units: int
    latest: tuple[Incident, ...]


def read_incidents(view: StateView, address: Address) -> Incidents:
    row = view.get(INCIDENT_PREFIX + address)
    if row is None:
        return Incidents(0, 0, ())
    items = _INCIDENT.iter_unpack(row[_INCIDENTS_HEAD.size :])
    latest = tuple(Incident(k, Height(h), Height(at), permille, units) for k, h, at, permille, units in items)
    count, units = _INCIDENTS_HEAD.unpack_from(row)
    return Incidents(count, units, latest)


def record_slash(state: Overlay, slashed: Slash, at: Height, validators: ValidatorSet) -> None:
    """`validators` is the set of the offence's height."""
    old = read_incidents(state, slashed.address)
    incident = Incident(slashed.evidence_kind, slashed.offence_height, at, slashed.permille, slashed.units)
    latest = (*old.latest, incident)[-KEPT_INCIDENTS:]
    packed = (
        _INCIDENT.pack(item.kind, item.offence_height, item.punished_at, item.permille, item.units) for item in latest
    )
    head = _INCIDENTS_HEAD.pack(old.count + 1, old.units + slashed.units)
    state.put(INCIDENT_PREFIX + slashed.address, head + b"".join(packed))
    place = validators.index(slashed.address)
    if slashed.evidence_kind != EvidenceKind.INVALID_PROOF_PREPARE or place is None:
        return
    judged = {entry.height: entry for entry in read_judged(state)}
    empty = bytes((len(validators) + 7) // 8)
    # The block with the invalid proof was refused; its height may hold no proof-bearing block. It counts all the same.
    entry = judged.get(slashed.offence_height, Judged(slashed.offence_height, empty, empty))
    judged[entry.height] = Judged(entry.height, entry.signed, _with_bit(entry.wrong, place))
    _write_judged(state, tuple(judged[height] for height in sorted(judged)))


def known_validators(view: StateView) -> tuple[Address, ...]:
    """Everyone with a stake or a seat in the set of the next height, ascending."""
    seated = require_set(view, read_head(view).height + 1).addresses
    return tuple(sorted({*read_roster(view), *seated}))
