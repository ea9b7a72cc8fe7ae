"""A node without consensus: the real ledger, pool and LMDB store behind the real control plane, on a trio thread.

Tests play the network: `commit()` makes the next block of what waits, with real signatures of a quorum. Everything that
a wallet can check therefore holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import trio

from node.metrics import Metrics
from node.rpc.errors import invalid
from node.rpc.ledger_half import LedgerHalf
from node.rpc.listening import Listener, operators
from node.rpc.port import (
    BanView,
    ConsensusView,
    DrainView,
    LogLevel,
    NodeFacts,
    PeerView,
    PrunedView,
    ReputationView,
    Role,
    SnapshotView,
    Step,
    SubmitOutcome,
    SyncView,
    Violation,
)
from node.rpc.quotas import UNLIMITED
from node.rpc.server import ControlPlane, PlaneSettings
from node.rpc.sets import SetArchive
from state.genesis_state import genesis_changes
from state.ledger import Committed, Ledger
from state.mempool import Mempool, PoolLimits, Refusal
from state.store.chain import create_chain
from state.store.lmdb_store import LmdbStore
from state.store.pruning import Retention
from state.store.rows import ChainIdentity
from state.transactions import Candidate, terms_of
from state.transition import Proposal
from tests.chains import Member, certify, small_genesis
from tests.signing import real_signer
from trellis.address import address_of
from trellis.certificate import Certificate
from trellis.client import Client, LocalSigner, RetryPolicy
from trellis.constants import Context
from trellis.crypto.schemes import SigningKey, verify_all
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.parameters import Parameters
from trellis.peerid import fingerprint, parse_peer_id, peer_id
from trellis.transaction import Data, Kind, Output, Transaction, TransactionBody, Transfer, signing_bytes
from trellis.types import Address, Hash, Height, PeerId, View
from trellis.votes import Vote, VoteKind

T = TypeVar("T")

PARAMETERS = Parameters(
    state_buckets_log2=4,
    min_stake=100,
    max_validators=8,
    epoch_blocks=10,
    evidence_window_blocks=30,
    unbonding_blocks=40,
    jail_blocks=15,
    proof_commit_blocks=1,
)
RICH = 1_000_000_000
MEMBERS = tuple(Member(real_signer(number), 1_000) for number in range(4))
ALICE, BOB, CAROL = (real_signer(100 + number) for number in range(3))


def address(key: SigningKey) -> Address:
    return address_of(key.alg_id, key.public_key)


def make_genesis(
    parameters: Parameters = PARAMETERS, rich: Sequence[SigningKey] = (ALICE, BOB), engine: EngineKind = EngineKind.PBFT
) -> Genesis:
    funded = [GenesisAccount(address(key), RICH) for key in rich]
    plain = small_genesis(MEMBERS, "rig", funded, parameters)
    verifiers = ("lrat.v1", "sat-model.v1", "z3-attest.v1")
    return replace(plain, engine=engine, verifiers=tuple((name, b"") for name in verifiers))


class RigPort(LedgerHalf):
    """The port's live half, played by the test: attributes are what the node would say."""

    def __init__(self, ledger: Ledger, pool: Mempool, chain: Any, archive: SetArchive) -> None:
        super().__init__(ledger, pool, chain, archive)
        key = MEMBERS[0].signer
        self.facts = NodeFacts(
            software_version="0.1.0",
            started_at_ms=1_700_000_000_000,
            moniker="rig",
            peer_id=peer_id(key.alg_id, key.public_key),
            fingerprint=fingerprint(key.alg_id, key.public_key),
            listen_addresses=("/ip4/127.0.0.1/tcp/26600",),
            role=Role.VALIDATOR,
            validator=MEMBERS[0].address,
            components=(("cryptography", "50"), ("grpcio", "1.85")),
        )
        self.known_peers: tuple[PeerView, ...] = tuple(
            PeerView(member.validator.network_id, connected=place < 3, validator=member.address, score_permille=900)
            for place, member in enumerate(MEMBERS[1:], 1)
        )
        self.opinions: tuple[ReputationView, ...] = tuple(
            ReputationView(
                member.validator.network_id, member.address, 1_000 - 100 * place, False, ((Violation.TIMEOUT, place),)
            )
            for place, member in enumerate(MEMBERS)
        )
        self.evidence_held: tuple[bytes, ...] = ()
        self.ban_list: dict[PeerId, BanView] = {}
        self.levels = {"": LogLevel.INFO, "p2p": LogLevel.INFO}
        self.hold: trio.Event | None = None
        """While set, submissions wait for it: a node that is busy."""
        self.submitting = 0
        self.cancelled = 0
        self.verified = 0

    async def submit(self, transactions: Sequence[Transaction]) -> list[SubmitOutcome]:
        self.submitting += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
            return await self._submit([self.prepared(transaction) for transaction in transactions])
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.submitting -= 1

    async def _submit(self, offered: list[Transaction]) -> list[SubmitOutcome]:
        terms, view = self._head_terms(), self.ledger.state
        found = [self.mempool.examine(transaction, view, terms) for transaction in offered]
        checks = [
            [check for claim in each.claims(view) for check in claim.checks] if isinstance(each, Candidate) else []
            for each in found
        ]
        flat = [check for each in checks for check in each]
        self.verified += len(flat)
        verdicts = iter(await trio.to_thread.run_sync(verify_all, flat))
        outcomes = []
        for transaction, each, asked in zip(offered, found, checks, strict=True):
            answers = [next(verdicts) for _ in asked]
            valid = all(answers)
            done = self.mempool.admit(each, self.ledger.state, valid) if isinstance(each, Candidate) else each
            outcomes.append(self.outcome(transaction, done.reason if isinstance(done, Refusal) else None))
        return outcomes

    async def verify_signature(self, transaction: Transaction) -> bool:
        transaction = self.prepared(transaction)
        claims = Candidate(transaction, self.ledger.state, self._head_terms()).claims(self.ledger.state)
        checks = [check for claim in claims for check in claim.checks]
        return bool(checks) and all(await trio.to_thread.run_sync(verify_all, checks))

    def consensus(self) -> ConsensusView:
        return ConsensusView(
            height=Height(self.ledger.tip.height + 1),
            view=0,
            step=Step.IDLE,
            leader=MEMBERS[0].address,
            own_validator=MEMBERS[0].address,
            quorum_power=2_667,
            total_power=4_000,
            connected_power=3_000,
            lock=(0, Hash(bytes(32))),
        )

    def peers(self) -> tuple[PeerView, ...]:
        return self.known_peers

    def reputations(self) -> tuple[ReputationView, ...]:
        return self.opinions

    def sync(self) -> SyncView:
        return SyncView(self.ledger.tip.height, recent_blocks=3)

    def pending_evidence(self) -> tuple[bytes, ...]:
        return self.evidence_held

    async def add_peer(self, text: str) -> PeerId:
        head, _, peer = text.rpartition("/p2p/")
        if not head:
            raise invalid("address", "a multiaddr that ends in /p2p/ and a peer id is wanted")
        try:
            return parse_peer_id(peer)
        except ValueError as fault:
            raise invalid("address", str(fault)) from fault

    async def remove_peer(self, peer: PeerId) -> bool | None:
        known = [each for each in self.known_peers if each.peer_id == peer]
        self.known_peers = tuple(each for each in self.known_peers if each.peer_id != peer)
        return known[0].connected if known else None

    async def ban_peer(self, peer: PeerId, reason: str, duration_ms: int) -> BanView:
        ban = BanView(peer, reason, 1_000, 1_000 + duration_ms if duration_ms else 0, automatic=False)
        self.ban_list[peer] = ban
        return ban

    async def unban_peer(self, peer: PeerId) -> BanView | None:
        return self.ban_list.pop(peer, None)

    def bans(self) -> tuple[BanView, ...]:
        return tuple(self.ban_list.values())

    def set_log_level(self, level: LogLevel, component: str) -> LogLevel:
        if component not in self.levels:
            raise invalid("component", f"parts of the node are {', '.join(filter(None, self.levels))}")
        before, self.levels[component] = self.levels[component], level
        return before

    async def create_snapshot(self) -> SnapshotView:
        tip = self.ledger.tip
        return SnapshotView(tip.height, tip.block_hash, "/snapshots/1", tip.state_root, 1, tip.size_bytes)

    async def prune(self, keep_blocks: int) -> PrunedView:
        keep = Retention(bodies=keep_blocks, results=keep_blocks)
        while self._chain.prune(keep):
            pass
        return PrunedView(self._chain.bounds.first_body, 0, 0)

    async def drain(self, timeout_ms: int) -> DrainView:
        self.stands(replace(self.standing, draining=True))
        return DrainView(complete=True, remaining_transactions=len(self.mempool))


class Rig:
    """Use as a context manager. Methods may be called from the test's own thread."""

    def __init__(
        self,
        directory: Path,
        *,
        genesis: Genesis | None = None,
        limits: PoolLimits | None = None,
        listeners: Sequence[Listener] | None = None,
        settings: PlaneSettings | None = None,
    ) -> None:
        self.genesis = make_genesis() if genesis is None else genesis
        self.directory = directory
        self.limits = limits
        self.metrics = Metrics()
        self.settings = settings
        self.listeners = tuple(
            listeners or (Listener("127.0.0.1:0", quotas=UNLIMITED), operators(f"unix:{directory}/admin.sock"))
        )
        self.fault: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rig")

    def __enter__(self) -> Rig:
        self._thread.start()
        self._ready.wait(30)
        if self.fault is not None:
            self._thread.join()
            raise self.fault
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as fault:
            self.fault = fault
        finally:
            self._ready.set()

    async def _main(self) -> None:
        identity = ChainIdentity(self.genesis.hash, self.genesis.parameters.state_buckets_log2)
        store = LmdbStore(self.directory / "store")
        self.chain = create_chain(store, identity, genesis_changes(self.genesis))
        archive = SetArchive(self.directory / "sets")
        self.ledger = Ledger(self.genesis, self.chain)
        self.pool = Mempool(self.limits)
        self.port = RigPort(self.ledger, self.pool, self.chain, archive)
        self.plane = ControlPlane(self.port, self.listeners, self.metrics, self.settings)
        self._certificate: Certificate | None = None
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.plane.run)
                    self._token = trio.lowlevel.current_trio_token()
                    self._ready.set()
        finally:
            self.chain.close()
            archive.close()

    def stop(self) -> None:
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
            self._thread.join(20)

    def on_node(self, function: Callable[..., T], *arguments: Any) -> T:
        """Between two steps of the node."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    @property
    def address(self) -> str:
        return self.plane.addresses[0]

    # The network.

    def commit(self, *transactions: Transaction, signers: Sequence[Member] = MEMBERS[:3]) -> Committed:
        """The next block: of what waits in the pool, or of exactly these transactions."""
        return self.on_node(self._commit, transactions, signers)

    def commit_to(self, height: int) -> None:
        while self.ledger.tip.height < height:
            self.commit()

    def _commit(self, transactions: Sequence[Transaction], signers: Sequence[Member]) -> Committed:
        ledger, tip = self.ledger, self.ledger.tip
        facts = ledger.facts_after(tip.block_hash)
        assert facts is not None
        offered = transactions or self.pool.select(facts.network)
        proposal = Proposal(
            facts.schedule.leader_of(View(0), facts.validators),
            View(0),
            facts.parent_timestamp_ms + 100,
            self._certificate,
        )
        built = ledger.propose(proposal, offered, lambda key: True)
        assert not transactions or not built.dropped, built.dropped
        self.pool.dropped(built.dropped, self.genesis.hash)
        header = built.applied.block.header
        vote = Vote(VoteKind.COMMIT, header.height, header.view, header.hash)
        chosen = [member for member in signers if member.address in facts.validators]
        self._certificate = certify(vote, chosen, self.genesis.hash, facts.validators)
        done = ledger.commit(header.hash, self._certificate)
        terms = terms_of(facts.network, self.genesis.hash, Height(header.height + 1))
        self.pool.committed(built.applied.block.transactions, ledger.state, terms)
        self.port.committed(done, finality_ms=12)
        return done

    def stand(self, **changes: Any) -> None:
        self.on_node(lambda: self.port.stands(replace(self.port.standing, **changes)))

    # Wallets.

    def tx(
        self,
        key: SigningKey,
        kind: Kind | None = None,
        *,
        nonce: int = 0,
        fee: int = 50_000,
        valid_until: int = 500,
        carry_key: bool = True,
        genesis_hash: Hash | None = None,
    ) -> Transaction:
        body = TransactionBody(address(key), nonce, Height(valid_until), fee, kind or Data(b"note"))
        raw = body.encode()
        signature = key.sign(signing_bytes(genesis_hash or self.genesis.hash, raw), Context.TX.value)
        return Transaction(raw, key.alg_id, key.public_key if carry_key else b"", signature)

    def client(self, **settings: Any) -> Client:
        settings.setdefault("trust", self.genesis)
        settings.setdefault("retry", RetryPolicy(attempts=1, budget_s=20.0, attempt_s=10.0))
        return Client([self.address], **settings)

    def channel(self, place: int = 0) -> grpc.Channel:
        return grpc.insecure_channel(
            self.plane.addresses[place], options=[("grpc.max_receive_message_length", 64 << 20)]
        )


def pay(recipient: SigningKey, amount: int) -> Transfer:
    return Transfer((Output(address(recipient), amount),))


def signer(key: SigningKey) -> LocalSigner:
    return LocalSigner(key)
