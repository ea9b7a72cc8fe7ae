"""The algorithm policy: which algorithm may serve which role, from which height to which. Part of genesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final

from trellis.crypto.algorithms import VOTE_ALGORITHMS, AlgId
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.types import U64_MAX, Hash

MAX_POLICY_ENTRIES: Final = 256
_ENTRY_BYTES: Final = 1 + 1 + 8 + 8


class Role(IntEnum):
    NETWORK_IDENTITY = 1
    CONSENSUS_VOTE = 2
    ACCOUNT = 3
    COLD_CERTIFICATION = 4


@dataclass(frozen=True, slots=True, order=True)
class PolicyEntry:
    """An algorithm may serve a role at heights from `activation` up to, and without, `sunset`."""

    role: Role
    alg_id: AlgId
    activation: int = 0
    sunset: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.activation <= U64_MAX:
            raise ValueError(f"an activation height of {self.activation} is out of range")
        if self.sunset is not None and not self.activation < self.sunset < U64_MAX:
            raise ValueError(f"{self.alg_id.name}: the sunset {self.sunset} must come after {self.activation}")
        if self.role in (Role.NETWORK_IDENTITY, Role.CONSENSUS_VOTE) and self.alg_id not in VOTE_ALGORITHMS:
            raise ValueError(f"{self.alg_id.name} cannot serve {self.role.name}: it is too slow, or no single key")
        if self.role is Role.COLD_CERTIFICATION and self.alg_id is AlgId.MULTISIG:
            raise ValueError("a cold certificate carries the signature of one key, not a multi-signature")


@dataclass(frozen=True, slots=True)
class AlgorithmPolicy:
    """Entries ascend by (role, algorithm), each once."""

    entries: tuple[PolicyEntry, ...]

    def __post_init__(self) -> None:
        if len(self.entries) > MAX_POLICY_ENTRIES:
            raise ValueError(f"a policy has at most {MAX_POLICY_ENTRIES} entries")
        if any((a.role, a.alg_id) >= (b.role, b.alg_id) for a, b in pairwise(self.entries)):
            raise ValueError("policy entries ascend by role and algorithm, each pair once")

    def allows(self, role: Role, alg_id: int, height: int) -> bool:
        return any(
            entry.role is role
            and entry.alg_id == alg_id
            and entry.activation <= height
            and (entry.sunset is None or height < entry.sunset)
            for entry in self.entries
        )

    def encode(self) -> bytes:
        """number u16 ‖ (role u8 ‖ algorithm u8 ‖ activation u64 ‖ sunset u64, 2^64−1 for never) each."""
        writer = Writer().u16(len(self.entries))
        for entry in self.entries:
            writer.u8(entry.role).u8(entry.alg_id).u64(entry.activation)
            writer.u64(U64_MAX if entry.sunset is None else entry.sunset)
        return writer.done()

    def root(self) -> Hash:
        """alg_policy_root of the transport handshake."""
        return hash_tagged(Tag.POLICY, self.encode())

    def to_json(self) -> list[dict[str, object]]:
        return [
            {
                "role": entry.role.name.lower(),
                "algorithm": entry.alg_id.name,
                "activation_height": entry.activation,
                "sunset_height": entry.sunset,
            }
            for entry in self.entries
        ]

    @classmethod
    def from_json(cls, document: object) -> AlgorithmPolicy:
        """Raises `ValueError` with the entry at fault."""
        if not isinstance(document, list):
            raise ValueError("algorithm_policy is a list of entries")
        entries = [_entry(item, place) for place, item in enumerate(document)]
        # By the pair alone: of two entries for one pair a sunset may be null, and None does not compare.
        return cls(tuple(sorted(entries, key=lambda entry: (entry.role, entry.alg_id))))


def _entry(item: Any, place: int) -> PolicyEntry:
    where = f"algorithm_policy[{place}]"
    if not isinstance(item, Mapping) or not {"role", "algorithm"} <= set(item):
        raise ValueError(f"{where} needs the fields role and algorithm")
    unknown = set(item) - {"role", "algorithm", "activation_height", "sunset_height"}
    if unknown:
        raise ValueError(f"{where} has unknown fields: {', '.join(sorted(unknown))}")
    role, alg = str(item["role"]).upper(), str(item["algorithm"])
    if role not in Role.__members__:
        raise ValueError(f"{where}: role {item['role']!r} is not one of {', '.join(Role.__members__).lower()}")
    if alg not in AlgId.__members__:
        raise ValueError(f"{where}: algorithm {alg!r} is not one of {', '.join(AlgId.__members__)}")
    activation, sunset = item.get("activation_height", 0), item.get("sunset_height")
    if type(activation) is not int or not (sunset is None or type(sunset) is int):
        raise ValueError(f"{where}: heights are integers; sunset_height may be null")
    return PolicyEntry(Role[role], AlgId[alg], activation, sunset)


def decode_policy_document(data: bytes) -> AlgorithmPolicy:
    """The reverse of `AlgorithmPolicy.encode`, strict."""
    return decode_whole(data, "algorithm policy", 2 + MAX_POLICY_ENTRIES * _ENTRY_BYTES, _read_policy)


def _read_policy(reader: Reader) -> AlgorithmPolicy:
    number = reader.u16("policy entries")
    entries: list[PolicyEntry] = []
    for _ in range(number):
        role, alg = reader.u8("role"), reader.u8("algorithm")
        activation, sunset = reader.u64("activation"), reader.u64("sunset")
        if role not in Role.__members__.values() or alg not in AlgId.__members__.values():
            raise DecodeError(Malformed.UNKNOWN_KIND, f"role {role} with algorithm {alg}")
        try:
            entries.append(PolicyEntry(Role(role), AlgId(alg), activation, None if sunset == U64_MAX else sunset))
        except ValueError as fault:
            raise DecodeError(Malformed.NOT_CANONICAL, str(fault)) from fault
    try:
        return AlgorithmPolicy(tuple(entries))
    except ValueError as fault:
        raise DecodeError(Malformed.NOT_CANONICAL, str(fault)) from fault


DEFAULT_POLICY: Final = AlgorithmPolicy(
    (
        PolicyEntry(Role.NETWORK_IDENTITY, AlgId.ML_DSA_65),
        PolicyEntry(Role.NETWORK_IDENTITY, AlgId.ML_DSA_87),
        PolicyEntry(Role.CONSENSUS_VOTE, AlgId.ML_DSA_65),
        PolicyEntry(Role.CONSENSUS_VOTE, AlgId.ML_DSA_87),
        PolicyEntry(Role.ACCOUNT, AlgId.ML_DSA_65),
        PolicyEntry(Role.ACCOUNT, AlgId.ML_DSA_87),
        PolicyEntry(Role.ACCOUNT, AlgId.SLH_DSA_SHAKE_128S),
        PolicyEntry(Role.ACCOUNT, AlgId.MULTISIG),
        PolicyEntry(Role.COLD_CERTIFICATION, AlgId.SLH_DSA_SHAKE_128S),
    )
)
