"""The engine: replica, ledger and guard behind one sans-IO seam. Events in, work out; `node.runtime` carries work out.

It never awaits, reads a clock or a socket, signs, or verifies. Blocks are executed before they are PREPAREd; compact
proposals are completed from known transactions, then from the proposer, then from whoever PREPAREd.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, assert_never

from consensus import Replica, Rule, message_fault, signature_checks
from consensus.checks import certificate_checks
from consensus.effects import (
    Accuse,
    AnswerDecided,
    ArmTimer,
    Broadcast,
    CheckBlock,
    Decide,
    DisarmTimer,
    Effect,
    Halt,
    Observe,
    Persist,
    RequestBlock,
    RequestCatchUp,
    Send,
    SendAll,
    TimerId,
    VotingMessage,
    signed_by,
)
from consensus.engine import Worth
from consensus.events import (
    BlockChecked,
    BlockProposed,
    CaughtUp,
    Event,
    HeightStarted,
    LaneChanged,
    MessageReceived,
    QuorumRtt,
    TimerFired,
)
from consensus.records import Record
from node.work import (
    Accused,
    Arm,
    BodyAnswer,
    BodyRequest,
    ChainAnswer,
    ChainRequest,
    Committed,
    ConsensusPayload,
    Disarm,
    Log,
    Post,
    Refusal,
    Seen,
    Sign,
    Stop,
    Verify,
    WaitId,
    Work,
)
from state.claims import certificate_claims, known_verdicts
from state.ledger import Ledger, ParentUnknown
from state.scope import ClaimKey, SignatureClaim
from state.transition import Applied, Proposal
from trellis.block import Block, compact_body, decode_block, decode_compact_body
from trellis.certificate import Certificate, decode_certificate
from trellis.crypto.algorithms import SignatureCheck, VerifyMany
from trellis.encoding import DecodeError
from trellis.messages import Ballot, DecidedNotice, Message, ViewChange, decode_message, encode_message
from trellis.receipt import certified_fault
from trellis.transaction import Transaction
from trellis.types import Address, Hash, Height
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind

CATCH_UP_BLOCKS: Final = 64
FETCH_RETRY_MS: Final = 60
CATCH_UP_WAIT_MS: Final = 1_000
MAX_PREPARERS: Final = 64
"""Hashes whose PREPARE signers are remembered as sources of bodies; a flood of hashes evicts nothing else."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """A message whose signatures are being verified."""

    message: Message
    sender: Address
    main: int
    """The first so many checks are the message's own; the rest are of a VIEW-CHANGE's certificate."""


@dataclass(frozen=True, slots=True)
class _Claims:
    """A block whose signatures are being verified."""

    claims: tuple[SignatureClaim, ...]
    effect: CheckBlock | None
    block: Block


@dataclass(slots=True)
class _Want:
    effect: CheckBlock | RequestBlock
    sources: list[Address]
    tried: int = 0
    serial: int = 0


Stored = Callable[[Height], tuple[bytes, bytes] | None]
"""A committed block and its certificate, as bytes, from the store."""


class Engine:
    """One node's state machine. `now_ms` comes with every call that needs the clock."""

    def __init__(
        self, me: Address, ledger: Ledger, stored: Stored, records: Iterable[Record], *, observing: bool
    ) -> None:
        self.me = me
        self.ledger = ledger
        self.replica = Replica.restore(me, ledger.genesis.hash, records, observing=observing)
        self._stored = stored
        self._events: deque[Event] = deque()
        self._out: list[Work] = []
        self._now_ms = 0
        self._jobs: dict[int, _Heard | _Claims] = {}
        self._next_job = 0
        self._bodies: dict[Hash, Block] = {}
        """Complete blocks of the height in progress."""
        self._verdicts: dict[ClaimKey, bool] = {}
        self._wants: dict[Hash, _Want] = {}
        self._prepared_by: dict[Hash, list[Address]] = {}
        self._lanes: set[Address] = set()
        self._catching_up = 0
        self._serial = 0
        self._parent: tuple[Block, Certificate] | None = None
        self._validators_before: ValidatorSet | None = None
        """V(tip), for certificates of the last committed block."""

    # What the runtime calls. Each answers with work, in the order in which it is to be done.

    def start(self, now_ms: int, parent: tuple[Block, Certificate] | None) -> list[Work]:
        """`parent`: the last committed block and the best certificate of it, where there is one."""
        self._parent = parent
        self._begin_height()
        return self._run(now_ms)

    def signed(self, message: VotingMessage, signature: bytes, now_ms: int) -> list[Work]:
        """The answer to `Sign`: the complete message, which goes to all and comes back here."""
        complete = signed_by(message, signature)
        self._out.append(Post(None, ConsensusPayload(encode_message(complete))))
        self._events.append(MessageReceived(complete, self.me))
        return self._run(now_ms)

    def heard(self, sender: Address, data: bytes, now_ms: int) -> list[Work]:
        """Bytes from a validator's lane."""
        try:
            message = decode_message(data)
        except DecodeError as fault:
            self._refuse(sender, f"malformed: {fault.reason}")
            return self._run(now_ms)
        if self.replica.worth(message) is not Worth.NOTHING:
            self._verify_message(message, sender)
        return self._run(now_ms)

    def verified(self, job: int, verdicts: list[bool], now_ms: int) -> list[Work]:
        waiting = self._jobs.pop(job, None)
        match waiting:
            case _Heard():
                self._message_verified(waiting, verdicts)
            case _Claims():
                self._claims_verified(waiting, verdicts)
            case None:
                pass
            case _:
                assert_never(waiting)
        return self._run(now_ms)

    def timer(self, timer: TimerId | WaitId, now_ms: int) -> list[Work]:
        if isinstance(timer, TimerId):
            self._events.append(TimerFired(timer))
        elif timer.subject is not None:
            self._fetch(timer.subject, timer.serial)
        elif timer.serial == self._catching_up:
            self._catching_up = 0
            self._events.append(CaughtUp(self.ledger.tip.height))
        return self._run(now_ms)

    def lane(self, validator: Address, is_open: bool, now_ms: int) -> list[Work]:
        (self._lanes.add if is_open else self._lanes.discard)(validator)
        self._events.append(LaneChanged(validator, is_open))
        return self._run(now_ms)

    def round_trip(self, rtt_ms: int, now_ms: int) -> list[Work]:
        self._events.append(QuorumRtt(rtt_ms))
        return self._run(now_ms)

    def body_requested(self, sender: Address, block_hash: Hash, now_ms: int) -> list[Work]:
        block = self._bodies.get(block_hash)
        if block is not None:
            self._out.append(Post(sender, BodyAnswer(block.encode())))
        return self._run(now_ms)

    def body_arrived(self, sender: Address, data: bytes, now_ms: int) -> list[Work]:
        try:
            block = decode_block(data)
        except DecodeError as fault:
            self._refuse(sender, f"malformed body: {fault.reason}")
            return self._run(now_ms)
        want = self._wants.pop(block.hash, None)
        if want is not None:
            self._have_body(want.effect, block)
        return self._run(now_ms)

    def chain_requested(self, sender: Address, above: Height, now_ms: int) -> list[Work]:
        blocks: list[tuple[bytes, bytes]] = []
        while len(blocks) < CATCH_UP_BLOCKS and (kept := self._stored(Height(above + 1 + len(blocks)))) is not None:
            blocks.append(kept)
        if blocks:
            self._out.append(Post(sender, ChainAnswer(tuple(blocks))))
        return self._run(now_ms)

    # The loop: events first, their effects in order, until nothing is left.

    def _run(self, now_ms: int) -> list[Work]:
        self._now_ms = now_ms
        while self._events:
            for effect in self.replica.step(self._events.popleft()):
                self._do(effect)
        work, self._out = self._out, []
        return work

    def _do(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self._out.append(Log(effect.record))
            case Broadcast():
                self._out.append(Sign(effect.message))
            case SendAll():
                self._out.append(Post(None, ConsensusPayload(encode_message(effect.message))))
            case Send():
                self._out.append(Post(effect.to, ConsensusPayload(encode_message(effect.message))))
            case AnswerDecided():
                self._answer(effect)
            case ArmTimer():
                self._out.append(Arm(effect.timer, effect.delay_ms))
            case DisarmTimer():
                self._out.append(Disarm(effect.kind))
            case RequestBlock():
                self._make_block(effect)
            case CheckBlock():
                self._check(effect)
            case Decide():
                self._decide(effect)
            case RequestCatchUp():
                self._catch_up()
            case Accuse():
                self._out.append(Seen(Accused(effect.evidence)))
            case Halt():
                self._out.append(Stop(f"broken invariant: {effect.reason}"))
            case Observe():
                self._out.append(Seen(effect))
            case _:
                assert_never(effect)

    def _refuse(self, peer: Address, reason: str) -> None:
        self._out.append(Seen(Refusal(peer, reason)))

    # Messages.

    def _verify_message(self, message: Message, sender: Address) -> None:
        validators = self._set_for(message)
        if validators is None:
            return
        fault = message_fault(message, validators)
        if fault is not None:
            self._refuse(sender, str(fault))
            return
        genesis_hash = self.ledger.genesis.hash
        checks = signature_checks(message, genesis_hash, validators)
        main = len(checks)
        if isinstance(message, ViewChange):
            checks += certificate_checks(message, genesis_hash, validators) or ()
        if not checks:
            self._feed_message(message, sender)
            return
        self._ask(_Heard(message, sender, main), checks, urgent=True)

    def _set_for(self, message: Message) -> ValidatorSet | None:
        if isinstance(message, DecidedNotice) and message.certificate.height < self.replica.height:
            if self._parent is not None and message.certificate.height == self._parent[0].header.height:
                return self._validators_before
            return None
        return self.replica.validators

    def _message_verified(self, heard: _Heard, verdicts: list[bool]) -> None:
        if not all(verdicts[: heard.main]):
            self._refuse(heard.sender, str(Rule.BAD_SIGNATURE))
            return
        message = heard.message
        if isinstance(message, ViewChange) and message.prepared is not None:
            rest = verdicts[heard.main :]
            if not rest or not all(rest):
                message = ViewChange(message.signed, None)
        self._feed_message(message, heard.sender)

    def _feed_message(self, message: Message, sender: Address) -> None:
        if isinstance(message, Ballot) and message.signed.vote.kind is VoteKind.PREPARE:
            block_hash = message.signed.vote.block_hash
            if block_hash is not None and (block_hash in self._prepared_by or len(self._prepared_by) < MAX_PREPARERS):
                self._prepared_by.setdefault(block_hash, []).append(message.signed.signer)
        self._events.append(MessageReceived(message, sender))

    def _ask(self, waiting: _Heard | _Claims, checks: tuple[SignatureCheck, ...], *, urgent: bool) -> None:
        self._next_job += 1
        self._jobs[self._next_job] = waiting
        self._out.append(Verify(self._next_job, checks, urgent))

    def _answer(self, effect: AnswerDecided) -> None:
        kept = self._stored(effect.height)
        if kept is not None:
            notice = DecidedNotice(decode_certificate(kept[1]))
            self._out.append(Post(effect.to, ConsensusPayload(encode_message(notice))))

    # Blocks.

    def _make_block(self, effect: RequestBlock) -> None:
        tip = self.ledger.tip
        if effect.height != tip.height + 1:
            return
        if effect.block_hash is not None:
            block = self._bodies.get(effect.block_hash)
            if block is None:
                self._want(effect.block_hash, effect, [])
            else:
                self._propose(effect, block)
            return
        if not effect.urgent:
            return
        certificate = effect.parent_certificate
        if certificate is not None:
            self._trust_certificate(certificate)
        timestamp_ms = max(self.ledger.head.timestamp_ms + 1, self._now_ms)
        proposal = Proposal(self.me, effect.view, timestamp_ms, certificate)
        built = self.ledger.propose(proposal, (), known_verdicts(self._verdicts))
        self._bodies[built.applied.block.hash] = built.applied.block
        self._propose(effect, built.applied.block)

    def _propose(self, effect: RequestBlock, block: Block) -> None:
        body = compact_body(block.transactions, self.ledger.genesis.hash)
        event = BlockProposed(effect.height, effect.view, block.header, block.parent_certificate, body)
        self._events.append(event)

    def _trust_certificate(self, certificate: Certificate) -> None:
        """Certificates that the replica hands out were verified before they reached it."""
        for claim in certificate_claims(certificate, self.ledger.genesis.hash, self._validators_before):
            self._verdicts[claim.key] = True

    def _check(self, effect: CheckBlock) -> None:
        if effect.height != self.ledger.tip.height + 1:
            return
        block = self._bodies.get(effect.block_hash)
        if block is None and effect.proposal is not None:
            block = self._complete(effect)
        if block is not None:
            self._have_body(effect, block)
            return
        sources = [] if effect.proposal is None else [effect.proposal.signed.signer]
        self._want(effect.block_hash, effect, sources)

    def _complete(self, effect: CheckBlock) -> Block | None:
        """The block of a compact proposal, if every transaction it names is known here."""
        proposal = effect.proposal
        if proposal is None:
            return None
        try:
            entries = decode_compact_body(proposal.body, self.ledger.genesis.parameters.max_block_bytes)
        except DecodeError:
            return None
        transactions: tuple[Transaction, ...] = ()
        return None if entries else Block(proposal.header, proposal.parent_certificate, transactions)

    def _have_body(self, effect: CheckBlock | RequestBlock, block: Block) -> None:
        claims = tuple(claim for claim in self.ledger.claims(block) if claim.key not in self._verdicts)
        check = effect if isinstance(effect, CheckBlock) else None
        waiting = _Claims(claims, check, block)
        if isinstance(effect, RequestBlock):
            self._bodies[block.hash] = block
            self._propose(effect, block)
            return
        if claims:
            self._ask(waiting, tuple(check for claim in claims for check in claim.checks), urgent=True)
        else:
            self._claims_verified(waiting, [])

    def _claims_verified(self, waiting: _Claims, verdicts: list[bool]) -> None:
        at = 0
        for claim in waiting.claims:
            self._verdicts[claim.key] = all(verdicts[at : at + len(claim.checks)])
            at += len(claim.checks)
        effect = waiting.effect
        if effect is None or effect.height != self.ledger.tip.height + 1:
            return
        result = self.ledger.execute(waiting.block, known_verdicts(self._verdicts))
        valid = isinstance(result, Applied)
        if valid and effect.fresh:
            drift_ms = self.ledger.genesis.parameters.clock_drift_ms
            valid = waiting.block.header.timestamp_ms <= self._now_ms + drift_ms
        if isinstance(result, Applied):
            self._bodies[waiting.block.hash] = waiting.block
        elif isinstance(result, ParentUnknown):
            return
        else:
            self._refuse(waiting.block.header.proposer, f"invalid block: {result.reason}")
        self._events.append(BlockChecked(effect.height, effect.view, effect.block_hash, valid))

    def _want(self, block_hash: Hash, effect: CheckBlock | RequestBlock, sources: list[Address]) -> None:
        if isinstance(effect, RequestBlock) and effect.prepared is not None:
            sources = [*sources, *effect.prepared.signer_addresses(self.replica.validators)]
        known = self._wants.get(block_hash)
        self._wants[block_hash] = _Want(effect, sources, serial=0 if known is None else known.serial)
        if known is None:
            self._fetch(block_hash, 0)

    def _fetch(self, block_hash: Hash, serial: int) -> None:
        want = self._wants.get(block_hash)
        if want is None or want.serial != serial:
            return
        sources = [*dict.fromkeys([*want.sources, *self._prepared_by.get(block_hash, [])])]
        sources = [address for address in sources if address != self.me]
        if sources:
            self._out.append(Post(sources[want.tried % len(sources)], BodyRequest(block_hash)))
            want.tried += 1
        want.serial += 1
        self._out.append(Arm(WaitId("body", block_hash, want.serial), FETCH_RETRY_MS))

    # The chain.

    def _decide(self, effect: Decide) -> None:
        if effect.height != self.ledger.tip.height + 1:
            return
        block = self._bodies[effect.block_hash]
        if self.ledger.applied(effect.block_hash) is None:
            result = self.ledger.execute(block, known_verdicts(self._verdicts))
            if not isinstance(result, Applied):
                self._out.append(Stop(f"a decided block does not execute: {result}"))
                return
        self._commit(block, effect.certificate)
        self._begin_height()

    def _commit(self, block: Block, certificate: Certificate) -> None:
        self._validators_before = self.ledger_validators()
        self.ledger.commit(block.hash, certificate)
        self._parent = (block, certificate)
        self._bodies.clear()
        self._wants.clear()
        self._prepared_by.clear()
        self._verdicts.clear()
        header = block.header
        signers = len(certificate.signatures)
        self._out.append(Seen(Committed(header.height, block.hash, certificate.view, len(block.transactions), signers)))

    def ledger_validators(self) -> ValidatorSet:
        """V(tip + 1): of the height in progress."""
        facts = self.ledger.facts_after(self.ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        return facts.validators

    def _begin_height(self) -> None:
        facts = self.ledger.facts_after(self.ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        if self._validators_before is None:
            self._validators_before = facts.validators
        certificate = self._parent[1] if self._parent is not None else None
        self._events.append(
            HeightStarted(facts.height, facts.validators, facts.schedule, facts.network.parameters, certificate)
        )

    # Catching up.

    def _catch_up(self) -> None:
        if self._catching_up:
            return
        self._serial += 1
        self._catching_up = self._serial
        lanes = sorted(self._lanes)
        if lanes:
            self._out.append(Post(lanes[self._serial % len(lanes)], ChainRequest(self.ledger.tip.height)))
        self._out.append(Arm(WaitId("chain", None, self._serial), CATCH_UP_WAIT_MS))

    def chain_arrived(self, sender: Address, answer: ChainAnswer, now_ms: int, verify: VerifyMany) -> list[Work]:
        """Blocks above the tip, each with its certificate, verified as they come."""
        if not self._catching_up:
            return []
        before = self.ledger.tip.height
        for data, raw in answer.blocks:
            if not self._adopt(sender, data, raw, verify):
                break
        self._catching_up = 0
        self._events.append(CaughtUp(self.ledger.tip.height))
        if self.ledger.tip.height > before:
            self._begin_height()
        return self._run(now_ms)

    def _adopt(self, sender: Address, data: bytes, raw: bytes, verify: VerifyMany) -> bool:
        try:
            block, certificate = decode_block(data), decode_certificate(raw)
        except DecodeError as fault:
            self._refuse(sender, f"malformed chain: {fault.reason}")
            return False
        if block.header.height != self.ledger.tip.height + 1:
            return block.header.height <= self.ledger.tip.height
        if certified_fault(block.header, certificate, self.ledger_validators(), verify) is not None:
            self._refuse(sender, "uncertified chain")
            return False
        for claim in self.ledger.claims(block):
            self._verdicts[claim.key] = all(verify(list(claim.checks)))
        if not isinstance(self.ledger.execute(block, known_verdicts(self._verdicts)), Applied):
            self._refuse(sender, "invalid chain")
            return False
        self._commit(block, certificate)
        return True
