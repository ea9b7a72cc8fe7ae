"""Golden vectors of the trees: Merkle trees, mountain ranges, the state tree."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chains import some_hash
from trellis.encoding import Writer
from trellis.merkle import InclusionProof, merkle_root, proof_commitment, prove_inclusion
from trellis.mmr import EMPTY_MMR, mmr_node, prove_mmr
from trellis.statetree import EMPTY_NODE, Entry, Node, StateProof, bucket_of, join, leaf_node
from trellis.types import Hash


def leaves_of(count: int) -> list[Hash]:
    return [some_hash(("leaf", place)) for place in range(count)]


def encoded(proof: InclusionProof) -> bytes:
    writer = Writer()
    proof.write(writer)
    return writer.done()


def merkle_vectors() -> object:
    sizes = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33, 100)
    proofs = [
        (1, [0]),
        (2, [1]),
        (3, [2]),
        (7, [0]),
        (7, [6]),
        (33, [32]),
        (5, [0, 4]),
        (9, [1, 2, 8]),
        (6, list(range(6))),
    ]
    return {
        "leaves": [leaf.hex() for leaf in leaves_of(100)],
        "roots": [{"count": n, "root": merkle_root(leaves_of(n)).hex()} for n in sizes],
        "proof_commitments": [
            {"entries": [entry.hex() for entry in entries], "root": proof_commitment(entries).hex()}
            for entries in ([b"proof %d" % place for place in range(count)] for count in (0, 1, 2, 3, 5))
        ],
        "proofs": [
            {
                "count": n,
                "indices": indices,
                "hashes": [item.hex() for item in prove_inclusion(leaves_of(n), indices).hashes],
                "encoded": encoded(prove_inclusion(leaves_of(n), indices)).hex(),
                "root": merkle_root(leaves_of(n)).hex(),
            }
            for n, indices in proofs
        ],
    }


def perfect(leaves: Sequence[Hash], start: int, height: int) -> Hash:
    if height == 0:
        return leaves[start]
    half = 1 << height - 1
    return mmr_node(perfect(leaves, start, height - 1), perfect(leaves, start + half, height - 1))


def mmr_vectors() -> object:
    leaves = leaves_of(70)
    roots, range_ = [], EMPTY_MMR
    for leaf in leaves:
        range_ = range_.append(leaf)
        roots.append({"count": range_.count, "root": range_.root.hex(), "encoded": range_.encode().hex()})
    proofs = []
    for index, count in ((0, 1), (0, 2), (2, 3), (4, 7), (6, 7), (0, 64), (63, 64), (64, 70), (69, 70), (31, 70)):
        proof = prove_mmr(index, count, lambda start, height: perfect(leaves, start, height))
        proofs.append(
            {
                "index": index,
                "count": count,
                "path": [item.hex() for item in proof.path],
                "others": [item.hex() for item in proof.others],
                "encoded": proof.encode().hex(),
            }
        )
    return {
        "leaves": [leaf.hex() for leaf in leaves],
        "empty_root": EMPTY_MMR.root.hex(),
        "roots": [roots[count - 1] for count in (1, 2, 3, 4, 7, 8, 63, 64, 70)],
        "proofs": proofs,
    }


class SmallStateTree:
    """A whole state tree in memory, only good for making proofs in tests."""

    def __init__(self, state: dict[bytes, bytes], buckets_log2: int) -> None:
        self.state, self.buckets_log2 = state, buckets_log2
        self.buckets: list[list[bytes]] = [[] for _ in range(1 << buckets_log2)]
        for key in sorted(state):
            self.buckets[bucket_of(key, buckets_log2)].append(key)

    def _node(self, keys: Sequence[bytes]) -> Node:
        if not keys:
            return EMPTY_NODE
        if len(keys) == 1:
            return leaf_node(keys[0], self.state[keys[0]])
        left = 1 << (len(keys) - 1).bit_length() - 1
        return join(self._node(keys[:left]), self._node(keys[left:]))

    def _entry(self, keys: Sequence[bytes], key: bytes) -> Entry:
        path: list[tuple[bool, Node]] = []
        while len(keys) > 1:
            left = 1 << (len(keys) - 1).bit_length() - 1
            if key in keys[:left]:
                path.insert(0, (False, self._node(keys[left:])))
                keys = keys[:left]
            else:
                path.insert(0, (True, self._node(keys[:left])))
                keys = keys[left:]
        return Entry(key, self.state[key], tuple(path))

    def _levels(self) -> list[list[Node]]:
        levels = [[self._node(keys) for keys in self.buckets]]
        while len(levels[-1]) > 1:
            below = levels[-1]
            levels.append([join(below[at], below[at + 1]) for at in range(0, len(below), 2)])
        return levels

    @property
    def root(self) -> Node:
        return self._levels()[-1][0]

    def prove(self, key: bytes) -> StateProof:
        place = bucket_of(key, self.buckets_log2)
        keys = self.buckets[place]
        siblings = []
        for level in self._levels()[:-1]:
            siblings.append(level[place ^ 1])
            place >>= 1
        if key in self.state:
            return StateProof(self._entry(keys, key), None, tuple(siblings))
        below, above = [k for k in keys if k < key], [k for k in keys if k > key]
        left = self._entry(keys, below[-1]) if below else None
        right = self._entry(keys, above[0]) if above else None
        return StateProof(left, right, tuple(siblings))


def some_state(count: int) -> dict[bytes, bytes]:
    return {b"key %d" % n: b"value " * (n % 4) + b"%d" % n for n in range(count)}


def state_vectors() -> object:
    cases = []
    for count, buckets_log2 in ((0, 4), (1, 4), (40, 4), (200, 4), (40, 6)):
        state = some_state(count)
        tree = SmallStateTree(state, buckets_log2)
        asked = [b"key 0", b"key 7", b"absent", b"key 39x", b"\0", b"\xff"]
        root = tree.root
        cases.append(
            {
                "buckets_log2": buckets_log2,
                "state": [[key.hex(), state[key].hex()] for key in sorted(state)],
                "root": {"hash": root.hash.hex(), "leaves": root.leaves, "size_bytes": root.size_bytes},
                "proofs": [
                    {
                        "key": key.hex(),
                        "value": state[key].hex() if key in state else None,
                        "encoded": tree.prove(key).encode().hex(),
                    }
                    for key in asked
                ],
            }
        )
    leaf = leaf_node(b"key", b"value")
    joined = join(leaf, EMPTY_NODE)
    return {
        "empty_node": EMPTY_NODE.hash.hex(),
        "leaf_node": {"key": b"key".hex(), "value": b"value".hex(), "hash": leaf.hash.hex()},
        "joined_with_empty": joined.hash.hex(),
        "trees": cases,
    }
