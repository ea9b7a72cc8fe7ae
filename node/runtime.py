"""The runtime: carries the engine's work out, on trio. Log durable, then guard, then signature, then network.

Any task of the node that ends by an exception ends the process: there is no half-alive node.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

import structlog
import trio

from consensus.effects import Observe, TimerId, TimerKind
from consensus.guard import Quarantine
from node.engine import Engine
from node.home import Home
from node.journal import GuardFile, Journal
from node.lanes import Lane, read_frames
from node.metrics import Metrics
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
    Payload,
    Post,
    Refusal,
    Seen,
    Sign,
    Stop,
    Verify,
    WaitId,
    Work,
)
from p2p.dialing import PeerAddress
from p2p.handshake import LocalIdentity, Network
from p2p.host import Host, HostConfig
from p2p.streams import Stream
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.store.chain import ChainStore, create_chain, load_chain
from state.store.errors import StoreMissingError
from state.store.lmdb_store import LmdbStore
from state.store.rows import ChainIdentity
from trellis.block import Block
from trellis.certificate import Certificate
from trellis.constants import Context
from trellis.crypto.schemes import verify_all
from trellis.crypto.verifier import Batch, Verifier, VerifierError
from trellis.encoding import DecodeError, Reader, Writer, decode_whole
from trellis.evidence import encode_evidence
from trellis.messages import Ballot, Proposal
from trellis.peerid import parse_peer_id
from trellis.types import Address, Hash, Height, PeerId
from trellis.votes import VoteKind
from trellis.wire import MAX_FRAME_PAYLOAD_BYTES, Frame, MessageId

RTT_PERIOD_S: Final = 1.0
_KINDS: Final = {
    ConsensusPayload: MessageId.CONSENSUS,
    BodyRequest: MessageId.BODY_REQUEST,
    BodyAnswer: MessageId.BODY_RESPONSE,
    ChainRequest: MessageId.GET_BLOCKS,
    ChainAnswer: MessageId.BLOCKS,
}


class NodeStopped(Exception):
    """The node stopped itself: a broken invariant. The message is the last line of its log."""


def protocol_name(genesis_hash: Hash) -> str:
    return f"/trellis/{genesis_hash[:4].hex()}/consensus/1"


def encode_payload(payload: Payload) -> bytes:
    match payload:
        case ConsensusPayload():
            return payload.data
        case BodyRequest():
            return payload.block_hash
        case BodyAnswer():
            return payload.block
        case ChainRequest():
            return payload.above.to_bytes(8, "big")
        case ChainAnswer():
            writer = Writer().u32(len(payload.blocks))
            for block, certificate in payload.blocks:
                writer.lp(block).lp(certificate)
            return writer.done()
        case _:
            assert_never(payload)


def decode_chain_answer(data: bytes) -> ChainAnswer:
    def read(reader: Reader) -> ChainAnswer:
        number = reader.count("blocks", 1_024, 8)
        most = MAX_FRAME_PAYLOAD_BYTES
        return ChainAnswer(tuple((reader.lp("block", most), reader.lp("certificate", most)) for _ in range(number)))

    return decode_whole(data, "blocks", MAX_FRAME_PAYLOAD_BYTES, read)


@dataclass(slots=True)
class Opened:
    """What lies on the disk, opened and checked."""

    chain: ChainStore
    store: LmdbStore
    journal: Journal
    guard: GuardFile
    observing: bool


def open_node(home: Home) -> Opened:
    """Opens or creates store, log and guard. A validator whose log or guard is gone, or older, observes first."""
    genesis = home.genesis
    identity = ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2)
    store = LmdbStore(home.store_directory)
    try:
        chain = load_chain(store, identity)
    except StoreMissingError:
        chain = create_chain(store, identity, genesis_changes(genesis))
    journal = Journal(home.log_directory)
    guard = GuardFile(home.guard_directory, genesis.hash)
    fresh = chain.tip.height == 0 and journal.was_missing and guard.was_missing
    missing = journal.was_missing or guard.was_missing
    newest = max((record.height for record in journal.records()), default=Height(0))
    older = guard.guard.height > newest
    return Opened(chain, store, journal, guard, observing=not fresh and (missing or older))


class Runtime:
    """One running node."""

    def __init__(self, home: Home, opened: Opened, metrics: Metrics) -> None:
        self.home = home
        self.opened = opened
        self.metrics = metrics
        self.log = structlog.get_logger().bind(node=home.config.node.moniker or "node")
        self._genesis_hash = home.genesis.hash
        self.ledger = Ledger(home.genesis, opened.chain)
        self.engine = Engine(
            home.account,
            self.ledger,
            self._stored,
            opened.journal.records(),
            observing=opened.observing,
        )
        self._quarantine: Quarantine | None = None
        self._timers: dict[TimerKind, tuple[TimerId, trio.CancelScope]] = {}
        self._lanes: dict[Address, Lane] = {}
        self._inbox: deque[Callable[[], list[Work]]] = deque()
        self._news = trio.Event()
        self._address_of: dict[PeerId, Address] = {
            member.network_id: member.address for member in home.genesis.validators.members
        }

    def _stored(self, height: Height) -> tuple[bytes, bytes] | None:
        with self.opened.chain.read() as reader:
            block, certificate = reader.block_bytes(height), reader.certificate_bytes(height)
        return None if block is None or not certificate else (block, certificate)

    def _parent(self) -> tuple[Block, Certificate] | None:
        height = self.opened.chain.tip.height
        if height == 0:
            return None
        with self.opened.chain.read() as reader:
            block, certificate = reader.block(height), reader.certificate(height)
        if block is None or certificate is None:
            raise NodeStopped(f"the store has no block {height}, its own tip")
        return block, certificate

    async def run(self, started: Callable[[Host], None] | None = None) -> None:
        """Until cancelled. Raises what stopped the node."""
        host = Host(self._host_config())
        host.serve(protocol_name(self._genesis_hash), self._serve_lane)
        with Verifier(self.home.config.node.verify_workers) as verifier:
            self._verifier = verifier
            async with host.run(), trio.open_nursery() as nursery:
                self._nursery = nursery
                self._token = trio.lowlevel.current_trio_token()
                self._host = host
                for member in self.home.genesis.validators.members:
                    if member.address != self.home.account:
                        self._open_lane(member.address, member.network_id)
                nursery.start_soon(self._measure)
                if started is not None:
                    started(host)
                self.log.info("started", height=self.opened.chain.tip.height, addresses=host.addresses)
                self._take(lambda: self.engine.start(_now_ms(), self._parent()))
                await self._work_loop()

    def _host_config(self) -> HostConfig:
        config, genesis = self.home.config, self.home.genesis
        peers = []
        for text in config.p2p.static_peers:
            address, _, peer = text.rpartition("/p2p/")
            peers.append(PeerAddress(parse_peer_id(peer), (address,)))
        return HostConfig(
            identity=LocalIdentity.of(self.home.network_key),
            network=Network(genesis.hash, genesis.policy.root()),
            listen=config.p2p.listen,
            peers=tuple(peers),
            validators=frozenset(member.network_id for member in genesis.validators.members),
        )

    # One task runs the engine and carries its work out; everybody else puts events into its inbox.

    def _take(self, event: Callable[[], list[Work]]) -> None:
        self._inbox.append(event)
        self._news.set()

    async def _work_loop(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._inbox:
                self._carry_out(deque(self._inbox.popleft()()))
                await trio.lowlevel.checkpoint()

    def _carry_out(self, work: deque[Work]) -> None:
        while work:
            item = work.popleft()
            if not isinstance(item, Log):
                self.opened.journal.sync()
            match item:
                case Log():
                    self.opened.journal.append(item.record)
                case Sign():
                    # What signing brings about comes after the rest of this work.
                    work.extend(self._sign(item))
                case Post():
                    self._post(item)
                case Arm():
                    self._arm(item)
                case Disarm():
                    self._disarm(item.kind)
                case Verify():
                    self._verify(item)
                case Stop():
                    raise NodeStopped(item.reason)
                case Seen():
                    self._seen(item)
                case _:
                    assert_never(item)
        self.opened.journal.sync()

    def _sign(self, item: Sign) -> list[Work]:
        vote = item.message.signed.vote
        guard = self.opened.guard
        refusal = guard.guard.check(vote)
        if refusal is not None:
            self.log.error("the sign guard refuses a vote", rule=str(refusal), vote=vote.kind.name, height=vote.height)
            return []
        guard.admit(vote)
        signature = self.home.consensus_key.sign(vote.signing_bytes(self._genesis_hash), Context.VOTE.value)
        self._count_vote(item)
        return self.engine.signed(item.message, signature, _now_ms())

    def _count_vote(self, item: Sign) -> None:
        match item.message:
            case Proposal():
                self.metrics.proposals_sent.inc()
            case Ballot():
                is_prepare = item.message.signed.vote.kind is VoteKind.PREPARE
                (self.metrics.prepares_sent if is_prepare else self.metrics.commits_sent).inc()
            case _:
                self.metrics.view_changes.inc()

    def _post(self, item: Post) -> None:
        kind, data = _KINDS[type(item.payload)], encode_payload(item.payload)
        if item.to is not None:
            lane = self._lanes.get(item.to)
            if lane is not None:
                lane.post(kind, data)
            return
        for _, lane in sorted(self._lanes.items()):
            lane.post(kind, data)

    # Timers.

    def _arm(self, item: Arm) -> None:
        scope = trio.CancelScope()
        if isinstance(item.timer, TimerId):
            self._disarm(item.timer.kind)
            self._timers[item.timer.kind] = (item.timer, scope)
        self._nursery.start_soon(self._wait, item.timer, item.delay_ms, scope)

    def _disarm(self, kind: TimerKind) -> None:
        armed = self._timers.pop(kind, None)
        if armed is not None:
            armed[1].cancel()

    async def _wait(self, timer: TimerId | WaitId, delay_ms: int, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(delay_ms / 1_000)
            if isinstance(timer, TimerId) and self._timers.get(timer.kind, (None,))[0] == timer:
                del self._timers[timer.kind]
            self._take(lambda: self.engine.timer(timer, _now_ms()))

    # Verification.

    def _verify(self, item: Verify) -> None:
        def done(batch: Batch) -> None:
            self._token.run_sync_soon(self._verified, item.job, batch)

        self._verifier.submit(item.checks, urgent=item.urgent, on_done=done)

    def _verified(self, job: int, batch: Batch) -> None:
        try:
            verdicts = batch.result(0)
        except VerifierError as fault:
            raise NodeStopped(f"signatures can no longer be verified: {fault}") from fault
        self._take(lambda: self.engine.verified(job, verdicts, _now_ms()))

    # Lanes.

    def _open_lane(self, validator: Address, peer: PeerId) -> None:
        def changed(is_open: bool) -> None:
            self.log.info("lane", validator=validator.hex()[:8], open=is_open)
            self._take(lambda: self.engine.lane(validator, is_open, _now_ms()))

        lane = Lane(self._host, peer, protocol_name(self._genesis_hash), changed)
        self._lanes[validator] = lane
        self._nursery.start_soon(lane.run)

    async def _serve_lane(self, stream: Stream) -> None:
        validator = self._address_of.get(stream.peer)
        if validator is None:
            await stream.reset()
            return
        await read_frames(stream, lambda frame: self._frame(validator, frame))

    def _frame(self, validator: Address, frame: Frame) -> None:
        data, now = frame.payload, _now_ms()
        match frame.message_id:
            case MessageId.CONSENSUS:
                self._take(lambda: self.engine.heard(validator, data, now))
            case MessageId.BODY_REQUEST if len(data) == 32:
                self._take(lambda: self.engine.body_requested(validator, Hash(data), now))
            case MessageId.BODY_RESPONSE:
                self._take(lambda: self.engine.body_arrived(validator, data, now))
            case MessageId.GET_BLOCKS if len(data) == 8:
                above = Height(int.from_bytes(data, "big"))
                self._take(lambda: self.engine.chain_requested(validator, above, now))
            case MessageId.BLOCKS:
                try:
                    answer = decode_chain_answer(data)
                except DecodeError as fault:
                    self._seen(Seen(Refusal(validator, str(fault.reason))))
                    return
                self._take(lambda: self.engine.chain_arrived(validator, answer, now, verify_all))
            case _:
                self._seen(Seen(Refusal(validator, "unexpected frame")))

    async def _measure(self) -> None:
        """Round trips to the others, as the health pings measured them."""
        while True:
            await trio.sleep(RTT_PERIOD_S)
            rtts = {self._address_of.get(health.peer): health.rtt_us for health in self._host.peers()}
            validators = self.engine.ledger_validators()
            power = validators.power_of(self.home.account)
            for rtt_us, address in sorted((rtt, a) for a, rtt in rtts.items() if a is not None and rtt):
                power += validators.power_of(address)
                if validators.is_quorum(power):
                    self._measured(max(1, rtt_us // 1_000))
                    break

    def _measured(self, rtt_ms: int) -> None:
        self._take(lambda: self.engine.round_trip(rtt_ms, _now_ms()))

    # Watching.

    def _seen(self, item: Seen) -> None:
        match item.what:
            case Committed():
                committed = item.what
                self.metrics.finalized.inc()
                self.metrics.height.set(committed.height)
                self.metrics.sequence.set(committed.height + 1)
                self.metrics.view.set(0)
                self.metrics.round_participants.set(committed.participants)
                self.log.info(
                    "final",
                    height=committed.height,
                    block=committed.block_hash.hex()[:16],
                    view=committed.view,
                    transactions=committed.transactions,
                    signers=committed.participants,
                )
            case Accused():
                evidence = item.what.evidence
                self.log.error(
                    "evidence",
                    kind=evidence.kind.name.lower(),
                    validator=evidence.offender.hex()[:8],
                    height=evidence.height,
                    proof=encode_evidence(evidence).hex(),
                )
            case Refusal():
                self.metrics.rejects.labels(reason="consensus").inc()
                self.log.warning("refused", validator=item.what.peer.hex()[:8], reason=item.what.reason)
            case Observe():
                self.metrics.view.set(item.what.view)
                if item.what.violation is not None:
                    self.metrics.violations.labels(kind=item.what.violation).inc()
                self.log.debug("rule", rule=str(item.what.rule), height=item.what.height, view=item.what.view)
            case _:
                assert_never(item.what)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
