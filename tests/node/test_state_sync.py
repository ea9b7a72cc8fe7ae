"""Starting from a snapshot over real connections: certified before it is fetched, several sources, liars banned."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from node.anchors import ANCHOR_PIECE, anchor_fault, anchor_of, decode_anchor
from node.chain_service import ChainService
from node.home import CONFIG_NAME, Home, open_home
from node.snapshot_service import SnapshotService
from node.snapshots import snapshot_name
from node.state_sync import state_sync
from p2p.book import PeerBook
from p2p.handshake import LocalIdentity, Network
from p2p.host import Host, HostConfig
from p2p.messages import decode_get_chunk
from p2p.requests import Requests
from state.store.chain import ChainStore, load_chain
from state.store.lmdb_store import LmdbStore
from state.store.rows import ChainIdentity
from state.store.shelf import SnapshotShelf
from state.store.snapshots import SnapshotFiles, SnapshotSource
from tests.node.cli.stored import BLOCKS, make_home
from tests.p2p.net import LOOPBACK, run, until
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import SigningKey, scheme, verify_all
from trellis.peerid import peer_id, peer_id_text
from trellis.records import SignedManifest
from trellis.types import Hash, Height, PeerId
from trellis.validators import ValidatorSet
from trellis.wire import MessageId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

NOW_MS = 1_800_000_000_000
CHUNK_BYTES = 4_096
Spoil = Callable[[int, bytes], bytes]


def always(_index: int) -> bool:
    return True


@dataclass
class Source:
    """A host that serves the validator's snapshot, honestly or not."""

    home: Home
    key: SigningKey
    spoil: Spoil
    asked: list[int]
    address: str = ""
    ready: Callable[[int], bool] = always
    """Whether this piece is given out already."""

    @property
    def peer(self) -> PeerId:
        return peer_id(self.key.alg_id, self.key.public_key)

    def host(self, chain: ChainStore) -> Host:
        network = Network(self.home.genesis.hash, self.home.genesis.policy.root())
        host = Host(HostConfig(LocalIdentity.of(self.key), network, LOOPBACK))
        requests = Requests(host, self.home.genesis.hash)
        ChainService(chain.read).serve(requests)
        sets = {self.home.genesis.validators.hash: self.home.genesis.validators}
        service = SnapshotService(SnapshotShelf(self.home.snapshot_directory), chain.read, sets.get)
        service.serve(requests)
        honest = requests.desk.handlers[MessageId.GET_CHUNK]

        async def answer(peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
            index = decode_get_chunk(payload).index
            self.asked.append(index)
            await until(lambda: self.ready(index), "the others were asked")
            async for kind, data in honest(peer, payload):
                yield kind, self.spoil(index, data) if kind == MessageId.CHUNK else data

        requests.serve(MessageId.GET_CHUNK, answer)
        return host


def honest(_index: int, data: bytes) -> bytes:
    return data


def lies_about(pieces: Callable[[int], bool]) -> Spoil:
    return lambda index, data: data[:-1] + bytes([data[-1] ^ 1]) if pieces(index) else data


@pytest.fixture
def validator(tmp_path: Path) -> Home:
    home = open_home(make_home(tmp_path / "net"), {})
    chain = load_chain(LmdbStore(home.store_directory))
    key, identity = home.network_key, ChainIdentity(home.genesis.hash, 4)
    with chain.read() as reader:
        source = SnapshotSource(reader, identity, CHUNK_BYTES)
        signature = key.sign(source.manifest.encode(), Context.SNAPSHOT.value)
        signed = SignedManifest(source.manifest, key.alg_id, key.public_key, signature)
        SnapshotFiles(home.snapshot_directory / snapshot_name(BLOCKS)).write(source, signed)
    assert source.manifest.chunk_count >= 2
    chain.close()
    return home


def fresh_home(validator: Home, folder: Path, sources: list[Source]) -> Home:
    """The same network, another peer, nothing stored."""
    origin = validator.loaded.base
    home = folder / "new"
    shutil.copytree(origin, home, ignore=shutil.ignore_patterns("data", "guard"))
    listed = ", ".join(f'"{each.address}/p2p/{peer_id_text(each.peer)}"' for each in sources)
    text = (home / CONFIG_NAME).read_text().replace("../genesis.json", str(origin.parent / "genesis.json"))
    head, _, rest = text.partition("static_peers = [")
    (home / CONFIG_NAME).write_text(f"{head}static_peers = [{listed}]\n{rest.partition(']')[2]}")
    return open_home(home, {})


def make_sources(validator: Home, *spoils: Spoil) -> list[Source]:
    """In the order in which they are asked."""
    keys = [scheme(AlgId.ML_DSA_65).generate() for _ in spoils]
    keys.sort(key=lambda key: peer_id(key.alg_id, key.public_key))
    return [Source(validator, key, spoil, []) for key, spoil in zip(keys, spoils, strict=True)]


def sync_from(validator: Home, folder: Path, sources: list[Source]) -> tuple[Home, PeerBook, int | None]:
    found: list[tuple[Home, PeerBook, int | None]] = []

    async def main() -> None:
        chain = load_chain(LmdbStore(validator.store_directory))
        try:
            async with trio.open_nursery() as nursery:
                for source in sources:
                    await nursery.start(_serve, source, chain)
                home = fresh_home(validator, folder, sources)
                book = PeerBook(folder / "book", home.genesis.hash, lambda: NOW_MS)
                home.data_directory.mkdir(parents=True, exist_ok=True)
                try:
                    found.append((home, book, await state_sync(home, book, connect_s=5)))
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            chain.close()

    run(main)
    return found[0]


async def _serve(source: Source, chain: ChainStore, *, task_status: TaskStatus[None]) -> None:
    host = source.host(chain)
    async with host.run():
        source.address = host.addresses[0]
        task_status.started()
        await trio.sleep_forever()


def test_a_new_node_has_the_certified_state_of_the_network(validator: Home, tmp_path: Path) -> None:
    home, book, height = sync_from(validator, tmp_path, make_sources(validator, honest))
    assert height == BLOCKS
    mine, theirs = (load_chain(LmdbStore(each.store_directory)) for each in (home, validator))
    assert mine.tip == theirs.tip
    with mine.read() as reader:
        assert reader.certificate(Height(BLOCKS)) is not None
        assert reader.bounds.first_body == BLOCKS + 1
    assert not book.bans()
    mine.close()
    theirs.close()


@pytest.mark.parametrize(
    "piece",
    [lambda index: index == ANCHOR_PIECE, lambda index: index < 1_000, lambda index: index > ANCHOR_PIECE],
    ids=["the anchor", "chunks", "the index"],
)
def test_a_source_that_lies_is_banned_and_what_it_sent_comes_from_another(
    validator: Home, tmp_path: Path, piece: Callable[[int], bool]
) -> None:
    sources = make_sources(validator, lies_about(piece), lies_about(piece), honest)
    *liars_first, last = sources
    last.ready = lambda index: not piece(index) or any(any(map(piece, each.asked)) for each in liars_first)
    home, book, height = sync_from(validator, tmp_path, sources)
    assert height == BLOCKS
    liars = {source.peer for source in sources[:2] if any(map(piece, source.asked))}
    assert liars, "the liars were asked too"
    assert {ban.peer for ban in book.bans()} == liars
    chain = load_chain(LmdbStore(home.store_directory))
    assert chain.tip.height == BLOCKS
    chain.close()


def test_without_an_honest_source_nothing_is_made_and_the_node_says_what_to_do(validator: Home, tmp_path: Path) -> None:
    sources = make_sources(validator, lies_about(lambda index: index < 1_000))
    home, _, height = sync_from(validator, tmp_path, sources)
    assert height is None
    with pytest.raises(Exception, match="no chain was ever stored"):
        load_chain(LmdbStore(home.store_directory))


def test_an_anchor_is_believed_only_from_genesis_on(validator: Home) -> None:
    chain = load_chain(LmdbStore(validator.store_directory))
    sets: dict[Hash, ValidatorSet] = {validator.genesis.validators.hash: validator.genesis.validators}
    with chain.read() as reader:
        anchor = decode_anchor(anchor_of(reader, Height(BLOCKS), sets.get).encode())
        other = anchor_of(reader, Height(BLOCKS - 1), sets.get)
    chain.close()
    assert anchor_fault(anchor, validator.genesis, verify_all) is None
    swapped = type(anchor)(anchor.header, other.certificate, ())
    assert anchor_fault(swapped, validator.genesis, verify_all) is not None
