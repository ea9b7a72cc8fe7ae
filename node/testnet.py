"""Makes a test network: a genesis, and one folder a validator, ready for `trellis start`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.home import CONFIG_NAME
from state.proofs import STATEMENTS, VERIFIERS
from state.workers.z3_pool import z3_build_hash
from trellis.address import address_of, format_address
from trellis.crypto.algorithms import AlgId
from trellis.crypto.keystore import ScryptCost, lock, write_keystore
from trellis.crypto.policy import DEFAULT_POLICY, Role
from trellis.crypto.schemes import SigningKey, scheme
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.parameters import Parameters
from trellis.peerid import peer_id, peer_id_text
from trellis.validators import Validator, make_validator_set

STAKE: Final = 10_000_000
BALANCE: Final = 1_000_000_000_000
_CHEAP: Final = ScryptCost(n_log2=14)
"""Keys of a test network guard nothing: their folders open in milliseconds."""


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    account: SigningKey
    consensus: SigningKey
    network: SigningKey
    port: int

    @property
    def validator(self) -> Validator:
        address = address_of(self.account.alg_id, self.account.public_key)
        network_id = peer_id(self.network.alg_id, self.network.public_key)
        return Validator(address, self.consensus.alg_id, self.consensus.public_key, network_id, STAKE)

    def multiaddr(self, port: int) -> str:
        return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id_text(self.validator.network_id)}"


def generate(
    directory: Path,
    *,
    name: str,
    ports: list[int],
    time_ms: int,
    parameters: Parameters,
    accounts: Sequence[GenesisAccount] = (),
    sections: Callable[[int], str] = lambda _place: "",
    dialled: Callable[[int, int], int] | None = None,
) -> Genesis:
    """One validator for each port. The folder must not hold a network yet.

    `accounts` are funded beside those of the validators; `sections` is more configuration for the node at a place;
    `dialled(here, there)` is the port at which one node dials another, where that is not its own.
    """
    if (directory / "genesis.json").exists():
        raise FileExistsError(f"{directory} holds a network already: choose another folder, or remove it")
    keys = scheme(AlgId.ML_DSA_65)
    members = [
        Member(f"node{place}", keys.generate(), keys.generate(), keys.generate(), port)
        for place, port in enumerate(ports)
    ]
    genesis = Genesis(
        chain_name=name,
        time_ms=time_ms,
        engine=EngineKind.PBFT,
        parameters=parameters,
        policy=DEFAULT_POLICY,
        validators=make_validator_set(member.validator for member in members),
        accounts=tuple(
            sorted(
                (*accounts, *(GenesisAccount(m.validator.address, BALANCE) for m in members)), key=lambda a: a.address
            )
        ),
        verifiers=_verifiers(),
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "genesis.json").write_text(json.dumps(genesis.to_json(), indent=2) + "\n")
    for place, member in enumerate(members):
        peers = [
            other.multiaddr(other.port if dialled is None else dialled(place, there))
            for there, other in enumerate(members)
            if there != place
        ]
        _write_home(directory / member.name, member, peers, sections(place))
    return genesis


def _verifiers() -> tuple[tuple[str, bytes], ...]:
    """All that this software has; the attested one only where its solver is installed."""
    build = z3_build_hash()
    return tuple(
        (name, b"" if name in VERIFIERS or build is None else bytes(build))
        for name in sorted(STATEMENTS)
        if name in VERIFIERS or build is not None
    )


def _write_home(home: Path, member: Member, peers: list[str], sections: str) -> None:
    (home / "keys").mkdir(parents=True)
    (home / "password").write_text("localnet\n")
    (home / "password").chmod(0o600)
    for role, key, file in (
        (Role.ACCOUNT, member.account, "account"),
        (Role.CONSENSUS_VOTE, member.consensus, "consensus"),
        (Role.NETWORK_IDENTITY, member.network, "network"),
    ):
        store = lock(key, "localnet", role=role, label=f"{member.name} {file}", cost=_CHEAP)
        write_keystore(home / "keys" / f"{file}.json", store)
    listed = ", ".join(f'"{peer}"' for peer in peers)
    (home / CONFIG_NAME).write_text(
        f"""[node]
moniker = "{member.name}"
genesis = "../genesis.json"
validator = true
account = "{format_address(member.validator.address)}"
consensus_key = "keys/consensus.json"
network_key = "keys/network.json"
payer_key = "keys/account.json"
password_file = "password"

[p2p]
listen = ["/ip4/127.0.0.1/tcp/{member.port}"]
static_peers = [{listed}]
{sections}"""
    )
