"""Datadriven transcripts: `scripts/*.txt` hold commands and, after `----`, what happened. A person can read them.

    # comment
    start nodes=4
    ----
    ok

Commands take `key=value` options and words. Nodes are numbered 0…n−1 by ascending address; at height 1 node 0 leads
view 0. Blocks are called A, B, C… in the order in which they appear. See `Script` for the commands.

    python -m tests.consensus.scripts --rewrite [name …]

writes what happens now in place of what was expected: read the difference before you keep it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from consensus import (
    Accuse,
    AnswerDecided,
    ArmTimer,
    BlockChecked,
    Broadcast,
    CheckBlock,
    Decide,
    DisarmTimer,
    Effect,
    Halt,
    LaneChanged,
    Observe,
    Persist,
    Record,
    RequestBlock,
    RequestCatchUp,
    Rule,
    Send,
    SendAll,
    TimerKind,
)
from consensus.records import Voted
from tests.chains import certify
from tests.consensus.network import Block, Envelope, Host, Link, Network
from trellis.certificate import Certificate
from trellis.evidence import ConflictingVotes, LockLie
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, Proposal, ViewChange
from trellis.parameters import Parameters
from trellis.types import Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind

FOLDER = Path(__file__).parent / "scripts"


@dataclass
class Step:
    """One command of a script with what was expected of it."""

    comments: list[str]
    command: str
    expected: str


@dataclass
class Options:
    words: list[str]
    named: dict[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int | None = None) -> int:
        if name in self.named:
            return int(self.named[name])
        if default is None:
            raise ValueError(f"{name}= is missing")
        return default

    def nodes(self, name: str) -> list[int] | None:
        return nodes_of(self.named[name]) if name in self.named else None


def nodes_of(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def parse(text: str) -> list[Step]:
    """Comments and blank lines before a command belong to it; an expectation ends at a blank line."""
    blocks: list[Step] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        comments: list[str] = []
        while at < len(lines) and (not lines[at].strip() or lines[at].startswith("#")):
            comments.append(lines[at])
            at += 1
        if at == len(lines):
            break
        command = lines[at]
        if at + 1 >= len(lines) or lines[at + 1] != "----":
            raise ValueError(f"line {at + 2}: a command is followed by ----")
        at += 2
        expected: list[str] = []
        while at < len(lines) and lines[at].strip():
            expected.append(lines[at])
            at += 1
        blocks.append(Step(comments, command, "\n".join(expected)))
    return blocks


def render(blocks: list[tuple[Step, str]]) -> str:
    parts: list[str] = []
    for block, happened in blocks:
        parts.extend(block.comments)
        parts.extend((block.command, "----", happened))
    return "\n".join(parts) + "\n"


def run(text: str) -> tuple[list[tuple[Step, str]], Script]:
    script = Script()
    return [(block, script.perform(block.command)) for block in parse(text)], script


class Script:
    """The language. Every command returns the lines that it caused."""

    def __init__(self) -> None:
        self.network = Network()
        self._lines: list[str] = []
        self._shown = "plain"
        self._asked_for: dict[tuple[int, Height, View], Vote] = {}
        """The VIEW-CHANGE of each node, height and view."""
        self._commands: dict[str, Callable[[Options], None]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    def perform(self, command: str) -> str:
        word, *rest = command.split()
        named = dict(part.split("=", 1) for part in rest if "=" in part)
        options = Options([part for part in rest if "=" not in part], named)
        self._lines = []
        try:
            self._commands[word](options)
        except (ValueError, KeyError) as fault:
            self._lines.append(f"error: {fault!r}")
        return "\n".join(self._lines or ["ok"])

    def do_start(self, options: Options) -> None:
        """start nodes=4 | powers=3,1,1,1 [silent=3] [rotation=2] [cap=4000]: `silent` nodes have no replica."""
        powers = nodes_of(options.named["powers"]) if "powers" in options.named else [1] * options.number("nodes", 4)
        parameters = Parameters(
            min_stake=1,
            rotation_blocks=options.number("rotation", 32),
            view_timer_cap_ms=options.number("cap", 4_000),
        )
        self.network = Network(powers, parameters, silent=options.nodes("silent") or ())
        self.network.trace = self._trace
        self.network.start()
        self._lines = []

    def do_show(self, options: Options) -> None:
        """show plain | all | quiet: plain leaves out timers, records and what every height repeats."""
        self._shown = options.words[0]

    def do_work(self, options: Options) -> None:
        """work [fresh] [nodes=0,1]: there is something to do; unless fresh, it is overdue and known to all."""
        self.network.work("fresh" not in options.words, options.nodes("nodes"))

    def do_idle(self, _options: Options) -> None:
        """idle: from the next height on there is nothing to do."""
        for host in self.network.hosts:
            host.work = None

    def do_deliver(self, options: Options) -> None:
        """deliver [from=] [to=] [kind=] [height=] [view=] [block=] [round=N]: what is in the queue now, in order."""
        self.network.deliver_where(self._filter(options))

    def do_drop(self, options: Options) -> None:
        """drop, with the filters of deliver."""
        self._lines.append(f"dropped {len(self.network.take(self._filter(options)))}")

    def do_stabilise(self, options: Options) -> None:
        """stabilise [until=H]: deliver until the queue is empty, or until all decided height H."""
        until = options.number("until", 0) or None
        self.network.stabilise(until)

    def do_queue(self, _options: Options) -> None:
        """queue: what lies between the nodes."""
        for envelope in self.network.queue:
            self._lines.append(f"{envelope.sender} -> {envelope.to} {self.show_message(envelope.message)}")

    def do_partition(self, options: Options) -> None:
        """partition 0,1 2,3: only within groups; what is under way between them is lost."""
        self.network.partition(*(nodes_of(word) for word in options.words))

    def do_heal(self, _options: Options) -> None:
        """heal: all lanes open again, and both ends are told."""
        self.network.heal()

    def do_lane(self, options: Options) -> None:
        """lane 1 0 closed|open: node 1 is told so of its lane to node 0."""
        one, other = int(options.words[0]), int(options.words[1])
        self.network.hosts[one].feed(LaneChanged(self.network.address(other), options.words[2] == "open"))

    def do_fire(self, options: Options) -> None:
        """fire view 0,1: the timer of that kind at those nodes."""
        for index in nodes_of(options.words[1]):
            if not self.network.fire(index, TimerKind(options.words[0])):
                self._lines.append(f"{index}: no {options.words[0]} timer runs")

    def do_crash(self, options: Options) -> None:
        """crash 0,1: everything not durable is lost, messages to them too."""
        for index in nodes_of(options.words[0]):
            self.network.hosts[index].crash()
        self.network.take(lambda e: not self.network.hosts[e.to].is_up and e.to not in self.network.byzantine)

    def do_crash_after(self, options: Options) -> None:
        """crash_after 0 view_change|prepare|commit|locked: as soon as that record is durable, before the signature."""
        wanted = options.words[1].upper()

        def matches(record: Record) -> bool:
            return (
                record.vote.kind.name == wanted
                if isinstance(record, Voted)
                else type(record).__name__.upper() == wanted
            )

        for index in nodes_of(options.words[0]):
            self.network.hosts[index].crash_after = matches

    def do_restart(self, options: Options) -> None:
        """restart 0,1 [observing]: from log, guard, blocks and chain."""
        for index in nodes_of(options.words[0]):
            self.network.hosts[index].start(observing="observing" in options.words)

    def do_lose_log(self, options: Options) -> None:
        """lose_log 0: the write-ahead log is gone; chain, blocks and guard stay."""
        self.network.hosts[int(options.words[0])].disk.log.clear()

    def do_lose_blocks(self, options: Options) -> None:
        """lose_blocks 0: the chain is gone (an old store); log and guard stay."""
        self.network.hosts[int(options.words[0])].disk.chain.clear()

    def do_vote(self, options: Options) -> None:
        """vote 0: the host lets an observing node vote."""
        self.network.allow_voting(int(options.words[0]))

    def do_withhold(self, options: Options) -> None:
        """withhold 1,2 | A: those nodes cannot get bodies; or nobody can get that block who has it not."""
        word = options.words[0]
        if word.isalpha():
            self.network.withheld[self.network.named(word)] = None
            return
        for index in nodes_of(word):
            self.network.hosts[index].unavailable = True

    def do_release(self, options: Options) -> None:
        """release 1,2: their bodies arrive."""
        self.network.withheld.clear()
        for index in nodes_of(options.words[0]):
            host = self.network.hosts[index]
            host.unavailable = False
            host.make_blocks()
            host.check_blocks()

    def do_invalid(self, options: Options) -> None:
        """invalid A: honest hosts find this block invalid."""
        self.network.invalid[self.network.named(options.words[0])] = None

    def do_verdict(self, options: Options) -> None:
        """verdict 1 A view=0 valid|invalid: an answer that nobody waits for."""
        index, name, word = int(options.words[0]), options.words[1], options.words[2]
        host = self.network.hosts[index]
        view = View(options.number("view", 0))
        height = Height(options.number("height", host.replica.height))
        host.feed(BlockChecked(height, view, self.network.named(name), word == "valid"))

    def do_make(self, options: Options) -> None:
        """make by=3 [height=1] [view=0] [salt=1] [parent=VIEW:BLOCK:SIGNERS]: a block of a node without a replica."""
        height = options.number("height", 1)
        chain = list(max((host.disk.chain for host in self.network.hosts), key=len)[: height - 1])
        if "parent" in options.named:
            options.named["certificate"] = options.named["parent"]
            chain[-1] = Link(chain[-1].block, self._certificate(options, VoteKind.COMMIT, Height(height - 1)))
        proposer = options.number("by")
        block = self.network.forged_proposal_block(
            proposer, height, options.number("view", 0), options.number("salt", 1), chain
        )
        self.network.hosts[proposer].disk.blocks[block.header.hash] = block
        self._lines.append(f"block {self.network.name(block.header.hash)}")

    def do_say(self, options: Options) -> None:
        """say from=3 [to=0,1] [signer=3] KIND [height=1] [view=0] [block=A] [prepared=] [justified=] [certificate=].

        prepared=V:BLOCK names a prepared view; certificate=VIEW:BLOCK:SIGNERS travels beside it. justified=1,2,3 takes
        the VIEW-CHANGEs for the view that these nodes cast or said, of this height or of justified_height.
        """
        sender = options.number("from")
        message = self._made(options, sender)
        for to in options.nodes("to") or range(len(self.network.hosts)):
            if to != sender:
                self.network.post(sender, to, message)

    def _made(self, options: Options, sender: int) -> Message:
        height, view = Height(options.number("height", 1)), View(options.number("view", 0))
        word = options.words[0].upper().replace("-", "_")
        if word == "HEIGHT":
            return HeightNotice(height)
        if word == "DECIDED":
            return DecidedNotice(self._certificate(options, VoteKind.COMMIT, height))
        signer = options.number("signer", sender)
        if word == "VIEW_CHANGE":
            certificate = (
                self._certificate(options, VoteKind.PREPARE, height) if "certificate" in options.named else None
            )
            return ViewChange(self._signed(signer, self._view_change(options, height, view)), certificate)
        block = self.network.block_named(options.named["block"])
        if word in ("PREPARE", "COMMIT"):
            return Ballot(self._signed(signer, Vote(VoteKind[word], height, view, block.header.hash)))
        vote = Vote(VoteKind.PRE_PREPARE, height, view, block.header.hash)
        return self._proposal(options, self._signed(signer, vote), block)

    def _proposal(self, options: Options, signed: SignedVote, block: Block) -> Proposal:
        height = signed.vote.height
        certificate = self._certificate(options, VoteKind.PREPARE, height) if "certificate" in options.named else None
        of_height = Height(options.number("justified_height", height))
        justification = tuple(
            self._signed(node, self._asked_for[node, of_height, signed.vote.view])
            for node in options.nodes("justified") or ()
        )
        return Proposal(signed, block.header, block.parent_certificate, justification, certificate, block.body)

    def _signed(self, node: int, vote: Vote) -> SignedVote:
        return self.network.members[node].sign(vote, self.network.genesis_hash)

    def _view_change(self, options: Options, height: Height, view: View) -> Vote:
        prepared = None
        if "prepared" in options.named:
            at, name = options.named["prepared"].split(":")
            prepared = Prepared(View(int(at)), self.network.named(name))
        vote = Vote(VoteKind.VIEW_CHANGE, height, view, prepared=prepared)
        self._asked_for[options.number("signer", options.number("from")), height, view] = vote
        return vote

    def _certificate(self, options: Options, kind: VoteKind, height: Height) -> Certificate:
        """VIEW:BLOCK:SIGNERS, optionally of another height with certificate_height=."""
        at, name, signers = options.named["certificate"].split(":")
        height = Height(options.number("certificate_height", height))
        vote = Vote(kind, height, View(int(at)), self.network.named(name))
        members = [self.network.members[node] for node in nodes_of(signers)]
        return certify(vote, members, self.network.genesis_hash, self.network.set_at(height))

    def do_status(self, _options: Options) -> None:
        """status: height, view, lock and chain of every node."""
        for host in self.network.hosts:
            if host.index in self.network.byzantine:
                continue
            chain = "".join(self.network.name(link.block.header.hash) for link in host.disk.chain) or "-"
            if not host.is_up:
                self._lines.append(f"{host.index}: down, chain {chain}")
                continue
            replica = host.replica
            lock = replica.lock
            locked = "-" if lock is None else f"{lock.view}:{self.network.name(lock.block_hash)}"
            halted = f", halted {host.halted.reason}" if host.halted is not None else ""
            self._lines.append(
                f"{host.index}: height {replica.height} view {replica.view} lock {locked} chain {chain}{halted}"
            )

    def do_timers(self, _options: Options) -> None:
        """timers: what runs where."""
        for host in self.network.up():
            shown = ", ".join(f"{kind} {host.timers[kind].delay_ms} ms" for kind in sorted(host.timers))
            self._lines.append(f"{host.index}: {shown or '-'}")

    def do_check(self, _options: Options) -> None:
        """check: agreement, certificates, accusations."""
        self.network.check_agreement()
        self._lines.append("agreement holds")

    def _filter(self, options: Options) -> Callable[[Envelope], bool]:
        kinds = options.named["kind"].upper().replace("-", "_").split(",") if "kind" in options.named else None
        senders, receivers = options.nodes("from"), options.nodes("to")

        def matches(envelope: Envelope) -> bool:
            message = envelope.message
            if senders is not None and envelope.sender not in senders:
                return False
            if receivers is not None and envelope.to not in receivers:
                return False
            if kinds is not None and kind_of(message) not in kinds:
                return False
            signed = None if isinstance(message, DecidedNotice | HeightNotice) else message.signed
            if "view" in options.named and (signed is None or signed.vote.view != options.number("view")):
                return False
            return "height" not in options.named or signed is None or signed.vote.height == options.number("height")

        return matches

    def show_message(self, message: Message) -> str:
        match message:
            case DecidedNotice():
                return f"DECIDED {message.certificate.height}/{message.certificate.view}"
            case HeightNotice():
                return f"HEIGHT {message.height}"
            case Proposal() if message.justification:
                return f"NEW-VIEW {self._vote(message.signed.vote)}"
            case _:
                return f"{message.signed.vote.kind.name.replace('_', '-')} {self._vote(message.signed.vote)}"

    def _vote(self, vote: Vote) -> str:
        what = f"{vote.height}/{vote.view}"
        if vote.block_hash is not None:
            return f"{what} {self.network.name(vote.block_hash)}"
        named = vote.prepared
        return f"{what} prepared {'none' if named is None else f'{named.view}:{self.network.name(named.hash)}'}"

    def _trace(self, host: Host, effect: Effect) -> None:
        if isinstance(effect, Broadcast) and isinstance(effect.message, ViewChange):
            vote = effect.message.signed.vote
            self._asked_for[host.index, vote.height, vote.view] = vote
        line = "".join(self._describe(effect))
        if line:
            self._lines.append(f"{host.index}: {line}")

    def _describe(self, effect: Effect) -> Iterator[str]:
        """One line, or nothing for what this verbosity leaves out."""
        everything, quiet = self._shown == "all", self._shown == "quiet"
        match effect:
            case Decide():
                yield f"decides {effect.height}/{effect.view} {self.network.name(effect.block_hash)}"
            case Halt():
                yield f"halts: {effect.reason}"
            case Accuse():
                yield f"accuses {self._accusation(effect)}"
            case RequestCatchUp():
                yield f"asks to catch up to {effect.height}"
            case _ if quiet:
                return
            case Broadcast():
                yield f"casts {self.show_message(effect.message)}"
            case Observe():
                if everything or effect.rule not in _REPEATED_RULES:
                    about = "" if effect.about is None else f" (about {self.network.index_of(effect.about)})"
                    yield f"{effect.rule}{about}"
            case RequestBlock():
                wanted = "" if effect.block_hash is None else f" {self.network.name(effect.block_hash)}"
                yield f"asks for a block{wanted} for {effect.height}/{effect.view}{' at once' if effect.urgent else ''}"
            case AnswerDecided():
                yield f"answers {self.network.index_of(effect.to)} with the certificate of {effect.height}"
            case _ if not everything:
                return
            case CheckBlock():
                fresh = "fresh" if effect.fresh else "not fresh"
                yield f"checks {self.network.name(effect.block_hash)} for view {effect.view}, {fresh}"
            case Persist():
                yield f"logs {type(effect.record).__name__}"
            case ArmTimer():
                yield f"arms {effect.timer.kind}: {effect.delay_ms} ms"
            case DisarmTimer():
                yield f"disarms {effect.kind}"
            case SendAll():
                yield f"sends all {self.show_message(effect.message)}"
            case Send():
                yield f"sends {self.network.index_of(effect.to)} {self.show_message(effect.message)}"

    def _accusation(self, effect: Accuse) -> str:
        evidence = effect.evidence
        offender = self.network.index_of(evidence.offender)
        match evidence:
            case ConflictingVotes():
                kinds = f"{evidence.first.vote.kind.name} and {evidence.second.vote.kind.name}"
                return f"{offender} of conflicting {kinds} at {evidence.height}/{evidence.first.vote.view}"
            case LockLie():
                return f"{offender} of a lock lie at {evidence.height}/{evidence.commit.vote.view}"


_REPEATED_RULES = frozenset(
    {
        Rule.STARTED,
        Rule.ACCEPTED,
        Rule.CHECK_ASKED,
        Rule.PREPARED_VOTE,
        Rule.PROPOSED,
        Rule.LEADER,
        Rule.CERTIFIED,
        Rule.DECIDED,
        Rule.BASE_DECAYED,
        Rule.ANSWER_WITHHELD,
        Rule.LATE_COMMIT,
        Rule.BUFFERED_HEIGHT,
        Rule.REPEATED,
        Rule.BASE_DOUBLED,
        Rule.RECONNECTED,
        Rule.SENT_AGAIN,
    }
)


def kind_of(message: Message) -> str:
    match message:
        case DecidedNotice():
            return "DECIDED"
        case HeightNotice():
            return "HEIGHT"
        case _:
            return message.signed.vote.kind.name


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] != "--rewrite":
        print(__doc__)
        return 2
    names = arguments[1:]
    for path in sorted(FOLDER.glob("*.txt")):
        if names and path.stem not in names:
            continue
        before = path.read_text()
        after = render(run(before)[0])
        if after != before:
            path.write_text(after)
            print(f"rewrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
