"""Genesis: the document that makes a network. Its hash is the chain's id, bound into every signature and every topic.

`genesis.json` is for people; what is hashed is the canonical binary form, so white space and key order do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

from trellis.address import format_address, parse_address
from trellis.crypto.algorithms import VOTE_ALGORITHMS, AlgId, check_key_size
from trellis.crypto.policy import DEFAULT_POLICY, AlgorithmPolicy, Role
from trellis.encoding import DecodeError, Writer
from trellis.hashing import Tag, hash_tagged
from trellis.parameters import Parameters, parameters_from_json
from trellis.peerid import parse_peer_id, peer_id_text
from trellis.transaction import MAX_VERIFIER_NAME_BYTES
from trellis.types import U64_MAX, Address, Hash
from trellis.validators import Validator, ValidatorSet, make_validator_set

GENESIS_VERSION: Final = 1
MAX_CHAIN_NAME_BYTES: Final = 64
MAX_GENESIS_ACCOUNTS: Final = 10_000_000
MAX_VERIFIERS: Final = 64
_MAX_DIGITS: Final = 20
"""Of 2^64 − 1. Python refuses to convert thousands of digits with an error of its own."""


class EngineKind(StrEnum):
    PBFT = "pbft"
    POW = "pow"


@dataclass(frozen=True, slots=True)
class GenesisAccount:
    address: Address
    balance: int


@dataclass(frozen=True)
class Genesis:
    chain_name: str
    time_ms: int
    engine: EngineKind
    parameters: Parameters
    policy: AlgorithmPolicy
    validators: ValidatorSet
    """V(1). A validator's power is its bonded stake."""
    accounts: tuple[GenesisAccount, ...]
    """Ascending by address, each once."""
    verifiers: tuple[tuple[str, bytes], ...]
    """Proof verifiers by name, ascending, with the hash of the build that this network agrees on (empty: pure)."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.chain_name.encode()) <= MAX_CHAIN_NAME_BYTES:
            raise ValueError(f"a chain name has 1 to {MAX_CHAIN_NAME_BYTES} bytes")
        if not 0 <= self.time_ms <= U64_MAX:
            raise ValueError("the genesis time is a count of milliseconds since 1970")
        if any(low.address >= high.address for low, high in pairwise(self.accounts)):
            raise ValueError("accounts ascend by address, each once")
        if any(low[0] >= high[0] for low, high in pairwise(self.verifiers)):
            raise ValueError("verifiers ascend by name, each once")
        small = [m for m in self.validators.members if m.power < self.parameters.min_stake]
        if small:
            raise ValueError(
                f"validator {format_address(small[0].address)} has a stake of {small[0].power}, "
                f"below min_stake {self.parameters.min_stake}"
            )
        for what, values in (
            ("consensus keys", [m.public_key for m in self.validators.members]),
            ("network ids", [m.network_id for m in self.validators.members]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"two validators share one of their {what}")
        self._check_validators_may_vote()
        if len(self.accounts) > MAX_GENESIS_ACCOUNTS or len(self.verifiers) > MAX_VERIFIERS:
            raise ValueError(f"a genesis has at most {MAX_GENESIS_ACCOUNTS} accounts and {MAX_VERIFIERS} verifiers")
        if not all(1 <= len(name.encode()) <= MAX_VERIFIER_NAME_BYTES for name, _ in self.verifiers):
            raise ValueError(f"a verifier's name has 1 to {MAX_VERIFIER_NAME_BYTES} bytes, or no statement can name it")
        if self.supply + self.parameters.emission_cap > U64_MAX:
            raise ValueError("the genesis supply and the emission cap together must fit in 64 bits")

    def _check_validators_may_vote(self) -> None:
        """A first set that the policy silences, or whose form no decoder accepts, is a chain that never starts."""
        for member in self.validators.members:
            named = AlgId(member.alg_id).name
            if member.alg_id not in VOTE_ALGORITHMS or not self.policy.allows(Role.CONSENSUS_VOTE, member.alg_id, 1):
                raise ValueError(
                    f"validator {format_address(member.address)} votes with {named}: not allowed at height 1"
                )

    @property
    def supply(self) -> int:
        return sum(account.balance for account in self.accounts) + self.validators.total_power

    def encode(self) -> bytes:
        """The canonical bytes; proto/README.md lists them."""
        writer = Writer().u16(GENESIS_VERSION).text(self.chain_name).u64(self.time_ms).text(self.engine)
        writer.lp(self.parameters.encode()).lp(self.policy.encode()).lp(self.validators.encode())
        writer.u32(len(self.accounts))
        for account in self.accounts:
            writer.hash(account.address).u64(account.balance)
        writer.u16(len(self.verifiers))
        for name, build in self.verifiers:
            writer.text(name).lp(build)
        return writer.done()

    @cached_property
    def hash(self) -> Hash:
        """genesis_hash: the chain's id."""
        return hash_tagged(Tag.GENESIS, self.encode())

    @cached_property
    def params_hash(self) -> Hash:
        return self.parameters.hash_with(dict(self.verifiers))

    def to_json(self) -> dict[str, object]:
        return {
            "version": GENESIS_VERSION,
            "chain_name": self.chain_name,
            "time_ms": self.time_ms,
            "engine": str(self.engine),
            "parameters": self.parameters.to_json(),
            "algorithm_policy": self.policy.to_json(),
            "validators": [
                {
                    "address": format_address(member.address),
                    "algorithm": AlgId(member.alg_id).name,
                    "public_key": member.public_key.hex(),
                    "network_id": peer_id_text(member.network_id),
                    "stake": str(member.power),
                }
                for member in self.validators.members
            ],
            "accounts": [
                {"address": format_address(account.address), "balance": str(account.balance)}
                for account in self.accounts
            ],
            "verifiers": {name: build.hex() for name, build in self.verifiers},
        }


class GenesisInvalid(ValueError):
    """A genesis document that says something impossible; the message names the field."""


def _field(document: Mapping[str, Any], name: str, kind: type[Any], where: str = "genesis") -> Any:
    if name not in document:
        raise GenesisInvalid(f"{where} lacks the field {name!r}")
    value = document[name]
    if type(value) is not kind:
        raise GenesisInvalid(f"{where}: {name} is {value!r}, it takes a {kind.__name__}")
    return value


def _units(document: Mapping[str, Any], name: str, where: str) -> int:
    text = _field(document, name, str, where)
    plain = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and (text == "0" or text[0] != "0")
    if not plain or int(text) > U64_MAX:
        raise GenesisInvalid(f"{where}: {name} is {text[:32]!r}, it takes base units as a decimal string")
    return int(text)


def _only(document: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(document) - known)
    if unknown:
        raise GenesisInvalid(f"{where} has unknown fields: {', '.join(unknown)}")


def genesis_from_json(document: object) -> Genesis:
    """Raises `GenesisInvalid` with the field at fault."""
    if not isinstance(document, dict):
        raise GenesisInvalid("a genesis document is a JSON object")
    known = {
        "version",
        "chain_name",
        "time_ms",
        "engine",
        "parameters",
        "algorithm_policy",
        "validators",
        "accounts",
        "verifiers",
    }
    _only(document, known, "genesis")
    version = _field(document, "version", int)
    if version != GENESIS_VERSION:
        raise GenesisInvalid(f"genesis version {version}: this software knows {GENESIS_VERSION}")
    engine = _field(document, "engine", str)
    if engine not in EngineKind.__members__.values():
        raise GenesisInvalid(f"engine {engine!r}: it is one of {', '.join(EngineKind)}")
    accounts = [_account(item, place) for place, item in enumerate(_field(document, "accounts", list))]
    try:
        return Genesis(
            chain_name=_field(document, "chain_name", str),
            time_ms=_field(document, "time_ms", int),
            engine=EngineKind(engine),
            parameters=parameters_from_json(_field(document, "parameters", dict)),
            policy=_policy(document),
            validators=make_validator_set(
                _validator(item, place) for place, item in enumerate(_field(document, "validators", list))
            ),
            accounts=tuple(sorted(accounts, key=lambda account: account.address)),
            verifiers=tuple(sorted(_verifiers(document).items())),
        )
    except GenesisInvalid:
        raise
    except ValueError as fault:
        raise GenesisInvalid(str(fault)) from fault


def _policy(document: Mapping[str, Any]) -> AlgorithmPolicy:
    if "algorithm_policy" not in document:
        return DEFAULT_POLICY
    return AlgorithmPolicy.from_json(document["algorithm_policy"])


def _account(item: Any, place: int) -> GenesisAccount:
    where = f"accounts[{place}]"
    if not isinstance(item, dict):
        raise GenesisInvalid(f"{where} is not an object")
    _only(item, {"address", "balance"}, where)
    return GenesisAccount(_address(item, where), _units(item, "balance", where))


def _address(item: Mapping[str, Any], where: str) -> Address:
    try:
        return parse_address(_field(item, "address", str, where))
    except DecodeError as fault:
        raise GenesisInvalid(f"{where}: address: {fault.detail}") from fault


def _validator(item: Any, place: int) -> Validator:
    where = f"validators[{place}]"
    if not isinstance(item, dict):
        raise GenesisInvalid(f"{where} is not an object")
    _only(item, {"address", "algorithm", "public_key", "network_id", "stake"}, where)
    name = _field(item, "algorithm", str, where)
    votes_with = {alg.name: alg for alg in VOTE_ALGORITHMS}
    if name not in votes_with:
        raise GenesisInvalid(f"{where}: algorithm {name!r} is not one of {', '.join(votes_with)}")
    try:
        public_key = bytes.fromhex(_field(item, "public_key", str, where))
        check_key_size(votes_with[name], public_key, "public_key")
        network_id = parse_peer_id(_field(item, "network_id", str, where))
    except DecodeError as fault:
        raise GenesisInvalid(f"{where}: {fault.detail}") from fault
    except ValueError as fault:
        raise GenesisInvalid(f"{where}: public_key is not hex") from fault
    return Validator(_address(item, where), votes_with[name], public_key, network_id, _units(item, "stake", where))


def _verifiers(document: Mapping[str, Any]) -> dict[str, bytes]:
    verifiers: dict[str, bytes] = {}
    for name, build in _field(document, "verifiers", dict).items():
        try:
            verifiers[name] = bytes.fromhex(build)
        except (TypeError, ValueError) as fault:
            raise GenesisInvalid(f"verifiers: the build hash of {name!r} is not hex") from fault
    return verifiers
