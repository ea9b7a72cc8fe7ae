"""Mining nodes over the real ledger: the branch of most work is the chain, whoever was on another one comes over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from node.bodies import ProofResults
from node.inputs import Heard, Input, LaneChanged, NonceFound, Offered, ProofsChecked, Started, TimerFired, Verified
from node.miner import search
from node.payloads import decode_payload, encode_payload, message_id
from node.pow_node import PowNode
from node.work import Answer, Arm, CheckProofs, Committed, Mine, Payload, Post, Refusal, Seen, Stop, Verify, Work
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.mempool import Mempool
from state.scope import check_proof
from state.store.chain import ChainStore, create_chain
from state.store.memory import MemoryStore
from state.store.rows import ChainIdentity
from tests.chains import fake_members
from tests.node.engines import FEE, START_MS, make_genesis
from tests.signing import FakeSigner, fake_verify_one
from tests.state.kit import address
from trellis.block import Block
from trellis.constants import Context
from trellis.genesis import EngineKind
from trellis.parameters import Parameters
from trellis.transaction import Data, Transaction, TransactionBody, signing_bytes
from trellis.types import Hash, Height

PARAMETERS = Parameters(
    state_buckets_log2=4, pow_initial_target_log2=250, pow_retarget_blocks=8, pow_confirmations=4, block_interval_ms=500
)


@dataclass
class Miner:
    place: int
    engine: PowNode
    chain: ChainStore
    power: int
    """Hashes a virtual millisecond."""
    search: int = 0
    committed: list[Committed] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


class MiningNet:
    def __init__(self, powers: tuple[int, ...] = (4, 3, 2)) -> None:
        self.members = fake_members([10_000_000] * len(powers))
        self.accounts = tuple(FakeSigner(500 + place) for place in range(8))
        self.genesis = replace(make_genesis(self.members, self.accounts, PARAMETERS), engine=EngineKind.POW)
        self.now_ms = START_MS
        self.cut: frozenset[int] = frozenset()
        """These hear only each other."""
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self.miners = [self._make(place, power) for place, power in enumerate(powers)]
        for miner in self.miners:
            self.give(miner, Started(None))
        self.meet()

    def meet(self) -> None:
        for miner in self.miners:
            for other in self.miners:
                if other is not miner:
                    self.give(miner, LaneChanged(self.members[other.place].address, is_open=True))

    def _make(self, place: int, power: int) -> Miner:
        identity = ChainIdentity(self.genesis.hash, PARAMETERS.state_buckets_log2)
        chain = create_chain(MemoryStore(), identity, genesis_changes(self.genesis))
        proofs = ProofResults()
        ledger = Ledger(self.genesis, chain, check=proofs)

        def stored(height: Height) -> Block | None:
            with chain.read() as reader:
                return reader.block(height)

        me = self.members[place].address
        return Miner(place, PowNode(me, ledger, Mempool(), proofs, stored, mines=power > 0), chain, power)

    def later(self, delay_ms: int, then: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._heap, (self.now_ms + delay_ms, self._serial, then))

    def give(self, miner: Miner, given: Input, delay_ms: int = 0) -> None:
        self.later(delay_ms, lambda: self._carry_out(miner, miner.engine.handle(given, self.now_ms)))

    def run_for(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self._heap and self._heap[0][0] <= end_ms:
            at, _, then = heappop(self._heap)
            self.now_ms = at
            then()
        self.now_ms = end_ms

    def _carry_out(self, miner: Miner, work: list[Work]) -> None:
        for item in work:
            match item:
                case Verify():
                    self.give(miner, Verified(item.job, tuple(fake_verify_one(check) for check in item.checks)))
                case CheckProofs():
                    found = tuple(check_proof(w.verifier, w.statement, w.proof, w.limits) for w in item.proofs)
                    self.give(miner, ProofsChecked(item.job, found))
                case Arm():
                    self.give(miner, TimerFired(item.timer), item.delay_ms)
                case Mine():
                    miner.search = item.job
                    if item.header is not None and miner.power:
                        first = self._serial * 1_000_003
                        nonce = search(item.header.work_preimage(), item.target, first, 1 << 20)
                        assert nonce is not None
                        self.give(miner, NonceFound(item.job, nonce), (nonce - first) // miner.power + 1)
                case Post():
                    self._post(miner, item.to, item.payload)
                case Seen():
                    if isinstance(item.what, Committed):
                        miner.committed.append(item.what)
                    elif isinstance(item.what, Refusal):
                        miner.refusals.append(item.what)
                case Stop():
                    raise AssertionError(item.reason)
                case Answer():
                    pass
                case _:
                    pass

    def _post(self, source: Miner, to: object, payload: Payload) -> None:
        travelled = decode_payload(message_id(payload), encode_payload(payload))
        for target in self.miners:
            apart = (source.place in self.cut) != (target.place in self.cut)
            if target is not source and not apart and to in (None, self.members[target.place].address):
                self.give(target, Heard(self.members[source.place].address, travelled), 5)

    def transaction(self, signer: FakeSigner, nonce: int) -> Transaction:
        body = TransactionBody(address(signer), nonce, Height(10_000), FEE, Data(b"deed")).encode()
        signature = signer.sign(signing_bytes(self.genesis.hash, body), Context.TX.value)
        return Transaction(body, signer.alg_id, signer.public_key if nonce == 0 else b"", signature)

    def tips(self) -> list[tuple[int, Hash]]:
        return [(m.engine.ledger.tip.height, m.engine.ledger.tip.block_hash) for m in self.miners]

    def final(self, miner: Miner) -> list[Hash]:
        last = miner.engine.ledger.tip.height - PARAMETERS.pow_confirmations
        with miner.chain.read() as reader:
            return [reader.block_hash(Height(height)) for height in range(1, last + 1)]


def agree(net: MiningNet) -> None:
    finals = [net.final(miner) for miner in net.miners]
    shortest = min(len(final) for final in finals)
    assert shortest > 0
    assert len({tuple(final[:shortest]) for final in finals}) == 1


def test_miners_build_one_chain_and_include_transactions() -> None:
    net = MiningNet()
    for account in net.accounts[1:5]:
        net.give(net.miners[0], Offered(1, (net.transaction(account, 0),), from_client=True), 1_000)
    net.run_for(30_000)
    agree(net)
    for miner in net.miners:
        with miner.chain.read() as reader:
            blocks = [reader.block(Height(height)) for height in range(1, miner.engine.ledger.tip.height + 1)]
        assert sum(len(block.transactions) for block in blocks if block is not None) == 4
    assert not any(miner.refusals for miner in net.miners)


def test_a_branch_with_less_work_is_rolled_back_when_the_partition_heals() -> None:
    net = MiningNet(powers=(6, 2, 2))
    net.run_for(5_000)
    net.cut = frozenset({2})
    paid = net.transaction(net.accounts[1], 0)
    net.give(net.miners[2], Offered(1, (paid,), from_client=True))
    net.run_for(1_500)
    assert net.tips()[2] != net.tips()[0]
    net.cut = frozenset()
    net.meet()
    net.run_for(20_000)
    agree(net)
    assert net.miners[2].engine.reorganised_blocks > 0
    with net.miners[0].chain.read() as reader:
        assert reader.transaction(paid.txid(net.genesis.hash)) is not None, "what the lost branch held is mined again"


def test_a_follower_without_hash_power_keeps_up() -> None:
    net = MiningNet(powers=(4, 0))
    net.run_for(15_000)
    agree(net)
    assert net.tips()[0][0] > 5
