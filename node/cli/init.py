"""`trellis init`: a node's folder for a network whose genesis is known."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_genesis
from node.cli.format import is_interactive, output_option
from node.cli.keyring import (
    KEY_NAME,
    ask_secret,
    directory_option,
    key_path,
    password_from,
    read_key,
    role_name,
    unlock_with,
    write_file,
    write_key,
)
from node.cli.output import emit_record
from node.cli.parsing import parsed_address
from node.home import CONFIG_NAME
from trellis.address import address_of, format_address
from trellis.crypto.algorithms import AlgId
from trellis.crypto.keystore import Keystore, ScryptCost, lock
from trellis.crypto.policy import Role
from trellis.crypto.schemes import scheme
from trellis.genesis import Genesis
from trellis.peerid import peer_id, peer_id_text
from trellis.types import Address

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_GENESIS_NAME: Final = "genesis.json"
_GENERATED_NAME: Final = "password"
_DEFAULT_LISTEN: Final = "/ip4/0.0.0.0/tcp/26600"


@dataclass(frozen=True, slots=True)
class _Password:
    text: str
    file: str
    """As the configuration names it; empty where somebody must still write it down."""


@click.command()
@click.argument("home", type=click.Path(file_okay=False, path_type=Path))
@click.option("--genesis", "genesis_file", type=_FILE, required=True, help="The network's genesis.json; it is copied.")
@click.option("--moniker", default="", help="A name for logs; nothing depends on it.")
@click.option("--account", help="The validator's account.  [default: a new key in the folder]")
@click.option("--consensus-key", help="A key for votes, by name or file; it is copied.  [default: a new one]")
@click.option("--network-key", help="The key that names the node, likewise.  [default: a new one]")
@click.option("--listen", "listens", multiple=True, help=f"Where to hear peers.  [default: {_DEFAULT_LISTEN}]")
@click.option("--peer", "peers", multiple=True, help="A peer to dial always: a multiaddr that ends in /p2p/ID.")
@click.option(
    "--password-file",
    type=_FILE,
    envvar="TRELLIS_KEY_PASSWORD_FILE",
    show_envvar=True,
    help="The keys' password; the configuration will name this file.",
)
@click.option("--generate-password", is_flag=True, help="Draw a password, and keep it in the folder.")
@directory_option
@output_option
@click.pass_context
def init(
    ctx: click.Context,
    home: Path,
    genesis_file: Path,
    moniker: str,
    account: str | None,
    consensus_key: str | None,
    network_key: str | None,
    listens: tuple[str, ...],
    peers: tuple[str, ...],
    password_file: Path | None,
    generate_password: bool,
    directory: Path,
) -> None:
    """Make a node's folder HOME for the network of a genesis: keys, configuration, and a copy of the genesis.

    If the genesis names its account among the validators, the node will vote; with other keys than the genesis says,
    nothing is made. Compare the genesis hash that is shown with what the other operators have.

    \b
    Examples:
      trellis init /var/lib/trellis --genesis genesis.json --generate-password
      trellis init ann --genesis genesis.json --password-file pw \\
          --account trl1… --consensus-key ann-vote --network-key ann-net --peer /ip4/192.0.2.7/tcp/26600/p2p/…
      trellis start --home ann
    """
    if (home / CONFIG_NAME).exists():
        raise CommandFailed(
            Exit.LOCAL, f"{home} is a node's folder already; it was left as it is", "name another folder"
        )
    if password_file is not None and generate_password:
        raise CommandFailed(Exit.USAGE, "one password, please", "give --password-file or --generate-password, not both")
    document = load_genesis(genesis_file)
    given_consensus = _given(directory, consensus_key, Role.CONSENSUS_VOTE)
    given_network = _given(directory, network_key, Role.NETWORK_IDENTITY)
    password = _password(home, password_file, generate_password)
    label = moniker if moniker.isprintable() else ""
    consensus = _opened(given_consensus, password) or _made(Role.CONSENSUS_VOTE, password, label)
    network = _opened(given_network, password) or _made(Role.NETWORK_IDENTITY, password, label)
    keys = {"consensus.json": consensus, "network.json": network}
    if account is None:
        keys["account.json"] = own = _made(Role.ACCOUNT, password, label)
        owner = address_of(own.alg_id, own.public_key)
    else:
        owner = parsed_address(account, "--account")
    votes = _votes(document, owner, consensus, network)
    for name, store in keys.items():
        write_key(home / "keys" / name, store, replace=False)
    if generate_password:
        write_file(home / _GENERATED_NAME, password.text.encode() + b"\n", replace=False)
    write_file(home / _GENESIS_NAME, json.dumps(document.to_json(), indent=2).encode() + b"\n", replace=False)
    settings = _settings(moniker, votes, owner, password.file, listens or (_DEFAULT_LISTEN,), peers)
    # Last: a folder without it is no node's folder yet, and whatever stopped us can be mended.
    write_file(home / CONFIG_NAME, settings.encode(), replace=False)
    record: dict[str, Any] = {
        "home": str(home),
        "chain_name": document.chain_name,
        "genesis_hash": document.hash.hex(),
        "validator": votes,
        "account": format_address(owner),
        "peer_id": peer_id_text(peer_id(network.alg_id, network.public_key)),
        "start_with": f"trellis start --home {home}",
    }
    emit_record(ctx, record)
    if not password.file:
        click.echo(
            f"before you start it: write the password into a file, and name it in {home / CONFIG_NAME}", err=True
        )


def _given(directory: Path, named: str | None, role: Role) -> tuple[Path, Keystore] | None:
    """A key that is to be copied: by its name here, or its file."""
    if named is None:
        return None
    path = key_path(directory, named) if KEY_NAME.fullmatch(named) and not Path(named).exists() else Path(named)
    store = read_key(path)
    if store.role is not role:
        raise CommandFailed(
            Exit.LOCAL,
            f"{path} is a key for {role_name(store.role)}, not for {role_name(role)}",
            f"make one: trellis keys new NAME --role {role_name(role)}",
        )
    return path, store


def _password(home: Path, file: Path | None, generate: bool) -> _Password:
    if file is not None:
        return _Password(password_from(file), str(file.absolute()))
    if generate:
        return _Password(secrets.token_urlsafe(24), _GENERATED_NAME)
    if not is_interactive():
        raise CommandFailed(
            Exit.USAGE,
            "the keys need a password, and there is no terminal to ask for it",
            "give --password-file FILE, or --generate-password to have one drawn and kept in the folder",
        )
    return _Password(ask_secret(f"Password of the keys in {home}", confirm=True), "")


def _opened(given: tuple[Path, Keystore] | None, password: _Password) -> Keystore | None:
    """A node opens all its keys with one password: better to learn now that it does not fit."""
    if given is None:
        return None
    path, store = given
    unlock_with(store, path, password.text)
    return store


def _made(role: Role, password: _Password, label: str) -> Keystore:
    try:
        return lock(scheme(AlgId.ML_DSA_65).generate(), password.text, role=role, label=label, cost=ScryptCost())
    except ValueError as fault:
        raise CommandFailed(Exit.USAGE, str(fault), "choose another password or moniker") from fault


def _votes(document: Genesis, owner: Address, consensus: Keystore, network: Keystore) -> bool:
    """Whether genesis has this very node as a validator. Nearly is a mistake that would only show as silence."""
    member = document.validators.get(owner)
    if member is None:
        return False
    if (member.alg_id, member.public_key) != (consensus.alg_id, consensus.public_key):
        key, option = "votes", "--consensus-key"
    elif member.network_id != peer_id(network.alg_id, network.public_key):
        key, option = "names its node", "--network-key"
    else:
        return True
    raise CommandFailed(
        Exit.LOCAL,
        f"genesis knows the validator {format_address(owner)}, and that it {key} with another key",
        f"name that key with {option}, or leave out --account for a node that does not vote",
    )


def _settings(
    moniker: str, votes: bool, owner: Address, password_file: str, listens: Sequence[str], peers: Sequence[str]
) -> str:
    """The configuration file. JSON's strings and lists of strings are TOML's."""
    lines = (
        "# trellis config show --home . lists all keys, their values in force, and what they mean.",
        "[node]",
        f"moniker = {json.dumps(moniker)}",
        f"genesis = {json.dumps(_GENESIS_NAME)}",
        f"validator = {json.dumps(votes)}",
        f"account = {json.dumps(format_address(owner))}",
        'consensus_key = "keys/consensus.json"',
        'network_key = "keys/network.json"',
        f"password_file = {json.dumps(password_file)}",
        "",
        "[p2p]",
        f"listen = {json.dumps(list(listens))}",
        f"static_peers = {json.dumps(list(peers))}",
    )
    return "\n".join(lines) + "\n"
