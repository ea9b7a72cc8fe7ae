"""The byte layouts a second time, from `proto/README.md`, with `struct` and `hashlib` alone.

Nothing here imports the protocol layer, so a golden vector that both agree on is not merely consistent with itself.
Every function takes the fields as the vector files write them: bytes as hex strings, integers as numbers.
"""

from __future__ import annotations

import struct
from hashlib import sha3_256, sha3_384
from typing import Any

Fields = dict[str, Any]


def h(tag: str, *parts: bytes) -> bytes:
    return sha3_256(tag.encode() + b"".join(parts)).digest()


def u8(value: int) -> bytes:
    return struct.pack(">B", value)


def u16(value: int) -> bytes:
    return struct.pack(">H", value)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def lp(value: bytes) -> bytes:
    return u32(len(value)) + value


# Addresses: the sample code of BIP-350, shortened

_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _polymod(values: list[int]) -> int:
    generator = [0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place in range(5):
            check ^= generator[place] if (top >> place) & 1 else 0
    return check


def bech32(prefix: str, groups: list[int], constant: int) -> str:
    """Groups of five bits under a prefix, with the checksum that belongs to `constant`."""
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = _polymod(expanded + groups + [0] * 6) ^ constant
    groups = groups + [(check >> 5 * (5 - place)) & 31 for place in range(6)]
    return prefix + "1" + "".join(_LETTERS[group] for group in groups)


def five_bits(data: bytes) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    return [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]


def bech32m(prefix: str, data: bytes) -> str:
    return bech32(prefix, five_bits(data), 0x2BC830A3)


def address(alg_id: int, public_key: bytes) -> bytes:
    return h("trellis/addr/1", u8(alg_id), public_key)


# Header, votes, certificate, validator set


def header(f: Fields) -> bytes:
    hashes = ("parent_hash", "parent_certificate_hash", "tx_root", "witness_root", "state_root", "note_root")
    tail = ("validators_hash", "next_validators_hash", "params_hash", "engine_seal_hash", "proposer")
    packed = struct.pack(">H32sQQQ", 1, raw(f["genesis_hash"]), f["height"], f["view"], f["timestamp_ms"])
    packed += b"".join(raw(f[name]) for name in hashes) + raw(f["proof_commitment"])
    return packed + b"".join(raw(f[name]) for name in tail)


def _vote_tail(f: Fields) -> bytes:
    if f["block_hash"] is not None:
        return raw(f["block_hash"])
    if f["prepared"] is None:
        return u8(0) + u64(0) + bytes(32)
    return u8(1) + u64(f["prepared"]["view"]) + raw(f["prepared"]["hash"])


def vote_signing_bytes(f: Fields, genesis_hash: bytes) -> bytes:
    return u8(f["kind"]) + genesis_hash + u64(f["height"]) + u64(f["view"]) + _vote_tail(f)


def signed_vote(f: Fields) -> bytes:
    vote = f["vote"]
    head = u8(vote["kind"]) + u64(vote["height"]) + u64(vote["view"]) + _vote_tail(vote)
    return head + raw(f["signer"]) + lp(raw(f["signature"]))


def certificate(f: Fields) -> bytes:
    head = u8(f["kind"]) + u64(f["height"]) + u64(f["view"]) + raw(f["block_hash"]) + lp(raw(f["signers"]))
    return head + u32(len(f["signatures"])) + b"".join(lp(raw(item)) for item in f["signatures"])


def validator_set(f: Fields) -> bytes:
    packed = u32(len(f["members"]))
    for member in f["members"]:
        packed += raw(member["address"]) + u8(member["alg_id"]) + lp(raw(member["public_key"]))
        packed += lp(raw(member["network_id"])) + u64(member["power"])
    return packed


# Genesis


def parameters(values: dict[str, int]) -> bytes:
    return u16(len(values)) + b"".join(u64(value) for value in values.values())


def policy(entries: list[Fields]) -> bytes:
    packed = u16(len(entries))
    for entry in entries:
        never = 2**64 - 1
        sunset = never if entry["sunset"] is None else entry["sunset"]
        packed += u8(entry["role"]) + u8(entry["alg_id"]) + u64(entry["activation"]) + u64(sunset)
    return packed


def genesis(f: Fields) -> bytes:
    packed = u16(1) + lp(f["chain_name"].encode()) + u64(f["time_ms"]) + lp(f["engine"].encode())
    packed += lp(parameters(f["parameters"])) + lp(policy(f["policy"]["entries"])) + lp(validator_set(f["validators"]))
    packed += u32(len(f["accounts"]))
    for account in f["accounts"]:
        packed += raw(account["address"]) + u64(account["balance"])
    packed += u16(len(f["verifiers"]))
    for name, build in f["verifiers"]:
        packed += lp(name.encode()) + lp(raw(build))
    return packed


def params_hash(f: Fields) -> bytes:
    packed = lp(parameters(f["parameters"])) + u16(len(f["verifiers"]))
    for name, build in sorted(f["verifiers"]):
        packed += lp(name.encode()) + lp(raw(build))
    return h("trellis/params/1", packed)


# Transactions


def txid(genesis_hash: bytes, body: bytes) -> bytes:
    return h("trellis/tx/1", genesis_hash, body)


def witness_leaf(alg_id: int, public_key: bytes, signature: bytes) -> bytes:
    return h("trellis/witness/1", lp(u8(alg_id)), lp(public_key), lp(signature))


def tx_leaf(transaction_id: bytes, outcome: int, fee: int) -> bytes:
    return h("trellis/leaf/1", transaction_id, u16(outcome), u64(fee))


# Merkle trees, by their recursive definitions


def merkle(leaves: list[bytes]) -> bytes:
    if not leaves:
        return h("trellis/empty/1")
    if len(leaves) == 1:
        return leaves[0]
    left = 1
    while left * 2 < len(leaves):
        left *= 2
    return h("trellis/merkle-node/1", merkle(leaves[:left]), merkle(leaves[left:]), u64(len(leaves)))


def proof_commitment(entries: list[bytes]) -> bytes:
    def of(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        left = 1
        while left * 2 < len(leaves):
            left *= 2
        tail = of(leaves[:left]) + of(leaves[left:]) + u64(len(leaves))
        return sha3_384(b"trellis/proof-node/1" + tail).digest()

    if not entries:
        return sha3_384(b"trellis/proof-empty/1").digest()
    return of([sha3_384(b"trellis/proof-leaf/1" + entry).digest() for entry in entries])


def inclusion_proof(f: Fields) -> bytes:
    packed = u64(f["count"]) + u32(len(f["indices"])) + b"".join(u64(index) for index in f["indices"])
    return packed + u32(len(f["hashes"])) + b"".join(raw(item) for item in f["hashes"])


def mmr_peaks(leaves: list[bytes]) -> list[bytes]:
    def perfect(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return part[0]
        half = len(part) // 2
        return h("trellis/mmr-node/1", perfect(part[:half]), perfect(part[half:]))

    peaks, rest = [], leaves
    while rest:
        size = 1 << len(rest).bit_length() - 1
        peaks.append(perfect(rest[:size]))
        rest = rest[size:]
    return peaks


def mmr_root(leaves: list[bytes]) -> bytes:
    return h("trellis/mmr-root/1", u64(len(leaves)), *mmr_peaks(leaves))


StateNode = tuple[bytes, int, int]
"""Hash, leaves below, bytes of keys and values below."""


def state_join(left: StateNode, right: StateNode) -> StateNode:
    leaves, size = left[1] + right[1], left[2] + right[2]
    return h("trellis/state-node/1", left[0], right[0], u64(leaves), u64(size)), leaves, size


def state_bucket(entries: list[tuple[bytes, bytes]]) -> StateNode:
    if not entries:
        return h("trellis/state-empty/1"), 0, 0
    if len(entries) == 1:
        key, value = entries[0]
        return h("trellis/state-leaf/1", lp(key), lp(value)), 1, len(key) + len(value)
    left = 1
    while left * 2 < len(entries):
        left *= 2
    return state_join(state_bucket(entries[:left]), state_bucket(entries[left:]))


def bucket_of(key: bytes, buckets_log2: int) -> int:
    return int.from_bytes(h("trellis/state-key/1", key), "big") >> 256 - buckets_log2


def state_root(state: dict[bytes, bytes], buckets_log2: int) -> StateNode:
    buckets: list[list[tuple[bytes, bytes]]] = [[] for _ in range(1 << buckets_log2)]
    for key in sorted(state):
        buckets[bucket_of(key, buckets_log2)].append((key, state[key]))
    level = [state_bucket(entries) for entries in buckets]
    while len(level) > 1:
        level = [state_join(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]


# Records, evidence, frames, receipts


def address_record(f: Fields) -> bytes:
    packed = raw(f["genesis_hash"]) + u8(f["alg_id"]) + lp(raw(f["public_key"])) + lp(raw(f["cold_certificate"]))
    packed += u64(f["sequence"]) + u16(len(f["addresses"]))
    return packed + b"".join(lp(item.encode()) for item in f["addresses"])


def manifest(f: Fields) -> bytes:
    packed = raw(f["genesis_hash"]) + u64(f["height"]) + raw(f["block_hash"]) + raw(f["state_root"])
    packed += u64(f["leaves"]) + u64(f["size_bytes"]) + u8(f["buckets_log2"])
    return packed + u32(f["chunk_bytes"]) + u32(f["chunk_count"])


def signed_manifest(f: Fields) -> bytes:
    return manifest(f["manifest"]) + u8(f["alg_id"]) + lp(raw(f["public_key"])) + lp(raw(f["signature"]))


def verdict_batch(f: Fields) -> bytes:
    packed = b"trellis/verdicts/1" + raw(f["genesis_hash"]) + u64(f["height"]) + u32(len(f["entries"]))
    return packed + b"".join(raw(statement) + u8(verdict) for statement, verdict in f["entries"])


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += u8(value & 127 | 128)
        value >>= 7
    return out + u8(value)


def transaction(f: Fields) -> bytes:
    def field(number: int, content: bytes) -> bytes:
        return u8(number << 3 | 2) + varint(len(content)) + content if content else b""

    packed = field(1, raw(f["body"])) + u8(2 << 3) + varint(f["alg_id"])
    return packed + field(3, raw(f["public_key"])) + field(4, raw(f["signature"]))


def evidence(f: Fields) -> bytes:
    kind = f["kind"]
    if kind == "ConflictingVotes":
        return u8(1) + signed_vote(f["first"]) + signed_vote(f["second"])
    if kind == "LockLie":
        return u8(2) + signed_vote(f["commit"]) + signed_vote(f["view_change"])
    packed = u8(3) + signed_vote(f["prepare"]) + header(f["header"]) + lp(inclusion_proof(f["path"]))
    return packed + lp(transaction(f["transaction"])) + u64(f["fee"])


def frame(f: Fields) -> bytes:
    payload = raw(f["payload"])
    return struct.pack(">IHIB", 7 + len(payload), f["message_id"], f["sequence"], f["flags"]) + payload


def receipt(f: Fields) -> bytes:
    packed = b"trellis-receipt\x00" + u16(1) + lp(raw(f["body"])) + u16(f["outcome"]) + u64(f["fee"])
    packed += lp(inclusion_proof(f["path"])) + header(f["header"]) + lp(certificate(f["certificate"]))
    packed += u32(len(f["transitions"]))
    for step in f["transitions"]:
        packed += header(step["header"]) + lp(certificate(step["certificate"]))
        packed += lp(validator_set(step["following"]))
    return packed


def multisig_policy(f: Fields) -> bytes:
    packed = u8(f["threshold"]) + u8(len(f["keys"]))
    return packed + b"".join(u8(alg) + lp(raw(key)) for alg, key in f["keys"])


def member_signatures(items: list[list[Any]]) -> bytes:
    return u8(len(items)) + b"".join(u8(index) + lp(raw(signature)) for index, signature in items)
