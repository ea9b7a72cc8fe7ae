"""Finding one peer's record among many peers, sans-IO: iterative, over disjoint paths.

Every answer brings records nearer to the target, each signed by the peer it is of, so nobody can lie about who is
where. What a liar can do is answer nothing, junk, or only its friends. So the lookup walks several paths that share no
peer: friends of a liar fill the path on which it was asked, and the others go on. A path asks one peer at a time, the
nearest it knows, and ends when it has asked the nearest `WIDTH` of those it heard of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from p2p.discovery.records import Contact
from p2p.discovery.table import Key, distance, key_of
from trellis.types import PeerId

PATHS: Final = 3
"""As many questions are on their way at once."""
WIDTH: Final = 8
"""Of the contacts nearest to the target, how many a path asks before it gives up."""
ANSWER_CONTACTS: Final = 8
"""That count of one answer: a peer that tells of thousands makes us sort and hold them."""
MAX_QUESTIONS: Final = 96
"""Of one lookup: an endless supply of ever nearer identities, which cost nothing, must not keep us asking."""


@dataclass(frozen=True, slots=True)
class Question:
    """Ask `contact` for peers near the target, and tell the lookup what came of it."""

    path: int
    contact: Contact


@dataclass(slots=True)
class _Path:
    known: dict[PeerId, Contact] = field(default_factory=dict)
    asked: set[PeerId] = field(default_factory=set)
    """By this path."""
    failed: set[PeerId] = field(default_factory=set)
    waiting: bool = False
    over: bool = False


class Lookup:
    """Take `questions()`, ask them, feed `answered` or `failed`, until `done`."""

    def __init__(self, target: Key, starts: Sequence[Contact], *, wanted: PeerId | None = None) -> None:
        """`starts`: contacts of the own table. With `wanted`, the peer whose key `target` is, finding it ends all."""
        self.target = target
        self.wanted = wanted
        self.found: Contact | None = None
        self.hops = 0
        """Questions asked one after another on the path that found the peer; 0: the table had it."""
        self.asked = 0
        """Questions of all paths."""
        self._answered: dict[PeerId, Contact] = {}
        self._claimed: set[PeerId] = set()
        self._paths = [_Path() for _ in range(PATHS)]
        nearest = sorted(starts, key=self._distance)
        for place, contact in enumerate(nearest):
            if contact.peer == wanted:
                self.found = contact
            self._paths[place % PATHS].known[contact.peer] = contact

    @property
    def done(self) -> bool:
        return self.found is not None or all(path.over and not path.waiting for path in self._paths)

    @property
    def nearest(self) -> list[Contact]:
        """Those who answered, the nearest to the target first."""
        return sorted(self._answered.values(), key=self._distance)

    def questions(self) -> list[Question]:
        """What to ask now: at most one for each path that waits for none."""
        if self.found is not None:
            return []
        fresh: list[Question] = []
        for number, path in enumerate(self._paths):
            if path.waiting or path.over:
                continue
            contact = self._next(path)
            if contact is None or self.asked >= MAX_QUESTIONS:
                path.over = True
                continue
            self._claimed.add(contact.peer)
            path.asked.add(contact.peer)
            path.waiting = True
            self.asked += 1
            fresh.append(Question(number, contact))
        return fresh

    def answered(self, question: Question, contacts: Sequence[Contact]) -> None:
        """What the peer told, judged already: records whose signatures hold."""
        path = self._paths[question.path]
        path.waiting = False
        self._answered[question.contact.peer] = question.contact
        for contact in sorted(contacts, key=self._distance)[:ANSWER_CONTACTS]:
            if contact.peer == self.wanted and self.found is None:
                self.found, self.hops = contact, len(path.asked)
            known = path.known.get(contact.peer)
            if known is None or known.sequence < contact.sequence:
                path.known[contact.peer] = contact

    def failed(self, question: Question) -> None:
        """The peer could not be reached, or what it said was junk."""
        path = self._paths[question.path]
        path.waiting = False
        path.failed.add(question.contact.peer)

    def _next(self, path: _Path) -> Contact | None:
        """The nearest that nobody asked yet, if it is among the nearest that this path has to ask."""
        alive = sorted((each for peer, each in path.known.items() if peer not in path.failed), key=self._distance)
        for contact in alive[:WIDTH]:
            if contact.peer not in self._claimed:
                return contact
        return None

    def _distance(self, contact: Contact) -> int:
        return distance(key_of(contact.peer), self.target)
