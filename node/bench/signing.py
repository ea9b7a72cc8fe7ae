"""Signed transactions, made before the clock starts and kept for the next run.

A signature takes about a millisecond of a core, so a minute of load is signed by a pool of processes, with a file
beside the network that keeps what was not sent. The file is this machine's own: it is trusted to hold what was written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128
from multiprocessing import get_context
from pathlib import Path
from struct import Struct
from typing import Final

from node.localnet.layout import account_address, account_key
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import SigningKey
from trellis.fees import minimum_fee
from trellis.genesis import Genesis
from trellis.parameters import Parameters
from trellis.transaction import Data, Transaction, TransactionBody, signing_bytes
from trellis.types import Hash, Height

VALID_UNTIL: Final = Height(1 << 40)
"""Never expires while anybody measures."""
CHUNK: Final = 64
MIN_BODY_BYTES: Final = 128
_RECORD: Final = Struct(">IQ?32sI")
_LENGTH_DELIMITED: Final = 0x0A
"""Field 1 of SubmitTransactionsRequest."""


@dataclass(frozen=True, slots=True)
class Order:
    """A transaction that is wanted."""

    index: int
    """Of the sender."""
    nonce: int
    carries_key: bool


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction ready to be sent."""

    order: Order
    txid: Hash
    framed: bytes
    """As an item of the request's list: requests are joined from these."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all transactions of a run share."""

    seed: bytes
    genesis_hash: Hash
    parameters: Parameters
    body_bytes: int

    def __post_init__(self) -> None:
        if self.body_bytes < MIN_BODY_BYTES:
            raise ValueError(f"a body has at least {MIN_BODY_BYTES} bytes, not {self.body_bytes}")


def recipe_for(genesis: Genesis, seed: bytes, body_bytes: int) -> Recipe:
    return Recipe(seed, genesis.hash, genesis.parameters, body_bytes)


@lru_cache(maxsize=4_096)
def _key(seed: bytes, index: int) -> SigningKey:
    return account_key(seed, index)


def sign(recipe: Recipe, order: Order) -> Signed:
    """A data transaction whose body has exactly the size asked for."""
    key = _key(recipe.seed, order.index)
    carried = key.public_key if order.carries_key else b""
    body = _body(recipe, order, key, carried)
    signature = key.sign(signing_bytes(recipe.genesis_hash, body), Context.TX.value)
    transaction = Transaction(body, key.alg_id, carried, signature)
    encoded = transaction.encode()
    return Signed(
        order, transaction.txid(recipe.genesis_hash), bytes([_LENGTH_DELIMITED]) + varint(len(encoded)) + encoded
    )


def _body(recipe: Recipe, order: Order, key: SigningKey, carried: bytes) -> bytes:
    name = order.index.to_bytes(4, "big") + order.nonce.to_bytes(8, "big")
    filling = shake_128(recipe.seed + name).digest(recipe.body_bytes)
    sender = account_address(key)
    size = recipe.body_bytes - MIN_BODY_BYTES // 2
    fee = 0
    while True:
        body = TransactionBody(sender, order.nonce, VALID_UNTIL, fee, Data(filling[:size])).encode()
        least = minimum_fee(recipe.parameters, Transaction(body, AlgId.ML_DSA_65, carried, b""), key.public_key)
        if len(body) == recipe.body_bytes and fee == least:
            return body
        size, fee = size + recipe.body_bytes - len(body), least


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sign_chunk(recipe: Recipe, orders: Sequence[Order]) -> list[Signed]:
    return [sign(recipe, order) for order in orders]


def sign_all(recipe: Recipe, orders: Sequence[Order], workers: int) -> Iterator[Signed]:
    """In order. Processes are started afresh: forking one that has gRPC's threads does not work."""
    chunks = [orders[first : first + CHUNK] for first in range(0, len(orders), CHUNK)]
    if not chunks:
        return
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn")) as pool:
        for signed in pool.map(_sign_chunk, [recipe] * len(chunks), chunks):
            yield from signed


class Cache:
    """Signed transactions in a file named by chain and size."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.path = folder / f"bench-{recipe.genesis_hash.hex()[:16]}-{recipe.body_bytes}.signed"

    def load(self, wanted: Iterable[Order]) -> dict[Order, Signed]:
        """What the file holds of it. The file goes if it holds nothing of use."""
        left = set(wanted)
        found: dict[Order, Signed] = {}
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return found
        at = 0
        while at + _RECORD.size <= len(data):
            index, nonce, carries_key, txid, size = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            order = Order(index, nonce, carries_key)
            if order in left and at + size <= len(data):  # a run that was killed leaves half a record at the end
                found[order] = Signed(order, Hash(txid), data[at : at + size])
            at += size
        if not found:
            self.path.unlink()
        return found

    def store(self, signed: Iterable[Signed]) -> None:
        """All or nothing."""
        fresh = self.path.with_suffix(".new")
        with fresh.open("wb") as file:
            for each in signed:
                order = each.order
                file.write(_RECORD.pack(order.index, order.nonce, order.carries_key, each.txid, len(each.framed)))
                file.write(each.framed)
        os.replace(fresh, self.path)


def prepare(
    recipe: Recipe,
    orders: Sequence[Order],
    *,
    workers: int,
    cache: Cache | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> dict[Order, Signed]:
    """All of them, signed; from the cache as far as it goes. `progress` is told how many are ready."""
    ready = {} if cache is None else cache.load(orders)
    progress(len(ready))
    missing = [order for order in orders if order not in ready]
    for signed in sign_all(recipe, missing, workers):
        ready[signed.order] = signed
        progress(len(ready))
    if missing and cache is not None:
        cache.store(ready.values())
    return ready
