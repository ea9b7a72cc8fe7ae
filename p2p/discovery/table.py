"""Whose records a node keeps: buckets by XOR distance, old contacts before new ones, few from one network.

As in Kademlia: the bucket of a contact is the length of the prefix that its key shares with ours, so a node knows many
peers near itself and some everywhere. A full bucket keeps who is there, because who was long there will stay, and
because otherwise new identities, which are free, would push honest contacts out. A contact leaves when it fails.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from hashlib import sha256
from typing import Final, NewType

from p2p.discovery.addresses import network_of
from p2p.discovery.records import Contact
from trellis.types import PeerId

Key = NewType("Key", int)
"""Where a peer stands: SHA2-256 of its peer id, as a number. XOR of two is their distance."""

KEY_BITS: Final = 256
BUCKET: Final = 16
"""Contacts of one bucket, and spare ones that wait for a place in it."""
PER_NETWORK: Final = 2
"""Contacts of one /24 in a bucket: identities are free, addresses in many networks are not."""
FAILURES: Final = 2
"""In a row, after which a contact gives its place to a spare one."""


@lru_cache(maxsize=4_096)
def key_of(peer: PeerId) -> Key:
    return Key(int.from_bytes(sha256(peer).digest(), "big"))


def distance(one: Key, other: Key) -> int:
    return one ^ other


class Table:
    """At most `BUCKET` contacts and as many spare ones in each of 256 buckets, most of them empty: log2 n fill up."""

    def __init__(self, own: PeerId, *, per_network: int = PER_NETWORK) -> None:
        self._own = own
        self._key = key_of(own)
        self._per_network = per_network
        self._buckets: list[OrderedDict[PeerId, Contact]] = [OrderedDict() for _ in range(KEY_BITS)]
        self._spare: list[OrderedDict[PeerId, Contact]] = [OrderedDict() for _ in range(KEY_BITS)]
        self._failures: dict[PeerId, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def __contains__(self, peer: PeerId) -> bool:
        return peer != self._own and peer in self._buckets[self._bucket(peer)]

    def get(self, peer: PeerId) -> Contact | None:
        if peer == self._own:
            return None
        at = self._bucket(peer)
        return self._buckets[at].get(peer) or self._spare[at].get(peer)

    def offer(self, contact: Contact) -> bool:
        """A record that counts. True if the contact has a place now; else it waits as a spare one, the oldest of which
        goes when there are too many."""
        peer = contact.peer
        if peer == self._own:
            return False
        bucket, spare = self._buckets[self._bucket(peer)], self._spare[self._bucket(peer)]
        known = bucket.get(peer) or spare.get(peer)
        if known is not None and known.sequence >= contact.sequence:
            return peer in bucket
        if peer in bucket:
            bucket[peer] = contact
            return True
        if self._has_room(bucket, contact):
            spare.pop(peer, None)
            bucket[peer] = contact
            return True
        spare[peer] = contact
        if len(spare) > BUCKET:
            spare.popitem(last=False)
        return False

    def answered(self, peer: PeerId) -> None:
        self._failures.pop(peer, None)

    def failed(self, peer: PeerId) -> None:
        """A contact that could not be reached, or that lied."""
        if self.get(peer) is None:
            return
        self._failures[peer] = self._failures.get(peer, 0) + 1
        if self._failures[peer] >= FAILURES:
            self.remove(peer)

    def remove(self, peer: PeerId) -> None:
        if peer == self._own:
            return
        self._failures.pop(peer, None)
        bucket, spare = self._buckets[self._bucket(peer)], self._spare[self._bucket(peer)]
        spare.pop(peer, None)
        if bucket.pop(peer, None) is None:
            return
        for waiting in reversed(list(spare.values())):
            if self._has_room(bucket, waiting):
                bucket[waiting.peer] = spare.pop(waiting.peer)
                return

    def nearest(self, key: Key, n: int) -> list[Contact]:
        """The contacts nearest to `key`, the nearest first."""
        everyone = (contact for bucket in self._buckets for contact in bucket.values())
        return sorted(everyone, key=lambda each: distance(key_of(each.peer), key))[:n]

    def _bucket(self, peer: PeerId) -> int:
        return KEY_BITS - distance(self._key, key_of(peer)).bit_length()

    def _has_room(self, bucket: OrderedDict[PeerId, Contact], contact: Contact) -> bool:
        if len(bucket) >= BUCKET:
            return False
        network = network_of(contact.addresses[0])
        return sum(network_of(each.addresses[0]) == network for each in bucket.values()) < self._per_network
