"""`trellis genesis`: the document that makes a network. Its hash is the chain's id, so whoever joins compares that."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_genesis
from node.cli.format import OutputFormat, current_format, output_option
from node.cli.keyring import directory_option, public_key_of, write_file
from node.cli.output import emit_record
from trellis.address import ADDRESS_PREFIX, address_of, format_address, parse_address
from trellis.client.amounts import Amount
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import DEFAULT_POLICY
from trellis.encoding import DecodeError
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.parameters import Parameters, parameter_meanings, parameters_from_json
from trellis.peerid import peer_id
from trellis.types import Address
from trellis.validators import Validator, make_validator_set

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.group()
@output_option
def genesis() -> None:
    """Make, check and hash genesis documents.

    \b
    Examples:
      trellis genesis new --name orchard --validator 1000:ann:ann-vote:ann-net --out genesis.json
      trellis genesis validate genesis.json
      trellis genesis hash genesis.json
    """


@genesis.command()
@click.option("--name", required=True, help="The chain's name, for people.")
@click.option(
    "--validator",
    "validators",
    multiple=True,
    required=True,
    metavar="STAKE:ACCOUNT:VOTE:NETWORK",
    help="A validator: its stake, and the public keys of its account, its votes and its node. Each key is the name of "
    "one here, a key file, or a public export; the account may be an address.",
)
@click.option(
    "--account", "accounts", multiple=True, metavar="ACCOUNT=AMOUNT", help="Gives an account its first balance."
)
@click.option(
    "--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Changes a parameter from its default."
)
@click.option(
    "--verifier",
    "verifiers",
    multiple=True,
    metavar="NAME[=BUILD]",
    help="A proof verifier; for a solver, with the hash of its build.  [default: lrat.v1, sat-model.v1]",
)
@click.option(
    "--engine",
    type=click.Choice([str(kind) for kind in EngineKind]),
    default="pbft",
    show_default=True,
    help="What makes blocks.",
)
@click.option("--time-ms", type=click.IntRange(0), help="The chain's first moment. [default: now]")
@click.option("--out", "file", type=_FILE, required=True, help="Where to write it.")
@click.option("--replace", is_flag=True, help="Overwrite an existing file.")
@directory_option
@output_option
@click.pass_context
def new(
    ctx: click.Context,
    name: str,
    validators: tuple[str, ...],
    accounts: tuple[str, ...],
    parameters: tuple[str, ...],
    verifiers: tuple[str, ...],
    engine: str,
    time_ms: int | None,
    file: Path,
    replace: bool,
    directory: Path,
) -> None:
    """Make the genesis of a new network.

    Every organisation makes its own keys, keeps them, and sends the public exports to whoever writes the genesis. All
    then compare its hash before they start. Stakes and balances are in the chain's unit (unit_exponent, 6 by default).
    Parameters and their meanings: trellis genesis validate shows them.

    \b
    Examples:
      trellis keys export vote --as public --to ann-vote.pub.json
      trellis genesis new --name orchard --out genesis.json \\
          --validator 1000:ann.pub.json:ann-vote.pub.json:ann-net.pub.json \\
          --validator 1000:trl1…:bob-vote.pub.json:bob-net.pub.json \\
          --account trl1…=50000 --param heartbeat_ms=5000
    """
    try:
        chosen = parameters_from_json({key: _integer(value) for key, value in map(_pair, parameters)})
        balances: dict[Address, int] = {}
        for text, amount in map(_pair, accounts):
            owner = _account(directory, text)
            balances[owner] = balances.get(owner, 0) + _units(amount, chosen)
        document = Genesis(
            chain_name=name,
            time_ms=time.time_ns() // 1_000_000 if time_ms is None else time_ms,
            engine=EngineKind(engine),
            parameters=chosen,
            policy=DEFAULT_POLICY,
            validators=make_validator_set(_validator(directory, text, chosen) for text in validators),
            accounts=tuple(GenesisAccount(owner, balances[owner]) for owner in sorted(balances)),
            verifiers=_verifiers(verifiers),
        )
    except ValueError as fault:
        raise CommandFailed(Exit.USAGE, str(fault), "see: trellis genesis new --help") from fault
    write_file(file, json.dumps(document.to_json(), indent=2).encode() + b"\n", replace)
    file.chmod(0o644)
    emit_record(ctx, {"genesis": str(file)} | _summary(document))


@genesis.command()
@click.argument("file", type=_FILE)
@output_option
@click.pass_context
def validate(ctx: click.Context, file: Path) -> None:
    """Check the genesis FILE, and show what it says, every parameter with its meaning.

    \b
    Examples:
      trellis genesis validate genesis.json
      trellis --output json genesis validate genesis.json

    Exit codes: 0 it is sound, 7 it is not, or cannot be read.
    """
    document = load_genesis(file)
    record = {"valid": True} | _summary(document)
    meanings, values = parameter_meanings(), document.parameters.to_json()
    record |= {"parameters": values}
    shown = {name: value for name, value in record.items() if name != "parameters"}
    emit_record(ctx, record, shown=shown)
    if current_format(ctx) is OutputFormat.TABLE:
        click.echo()
        for name, value in values.items():
            click.echo(f"{name:>30} {value:>14}  {meanings[name]}")


@genesis.command(name="hash")
@click.argument("file", type=_FILE)
@output_option
@click.pass_context
def hash_(ctx: click.Context, file: Path) -> None:
    """Print the hash of the genesis FILE: the chain's id. White space and key order do not matter for it.

    \b
    Examples:
      trellis genesis hash genesis.json
      trellis --output json genesis hash genesis.json
    """
    document = load_genesis(file)
    if current_format(ctx) is OutputFormat.JSON:
        emit_record(ctx, {"genesis_hash": document.hash.hex(), "chain_name": document.chain_name})
    else:
        click.echo(document.hash.hex())


def _summary(document: Genesis) -> dict[str, Any]:
    exponent = document.parameters.unit_exponent
    return {
        "genesis_hash": document.hash.hex(),
        "chain_name": document.chain_name,
        "time_ms": document.time_ms,
        "engine": str(document.engine),
        "validators": [
            f"{format_address(member.address)} with {Amount(member.power, exponent)}"
            for member in document.validators.members
        ],
        "accounts": len(document.accounts),
        "supply": str(Amount(document.supply, exponent)),
        "verifiers": [name for name, _ in document.verifiers],
    }


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} lacks its value: write NAME=VALUE")
    return name, value


def _integer(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"a parameter's value is an integer, not {text[:40]!r}")
    return int(text)


def _units(amount: str, parameters: Parameters) -> int:
    return Amount.parse(amount, parameters.unit_exponent).units


def _account(directory: Path, text: str) -> Address:
    if not text.startswith(f"{ADDRESS_PREFIX}1"):
        return address_of(*public_key_of(directory, text))
    try:
        return parse_address(text)
    except DecodeError as fault:
        raise ValueError(f"{text}: {fault.detail}") from fault


def _validator(directory: Path, text: str, parameters: Parameters) -> Validator:
    parts = text.split(":")
    if len(parts) != 4:
        raise ValueError(f"{text!r} is no validator: write STAKE:ACCOUNT:VOTE:NETWORK")
    stake, account, vote, network = parts
    alg, public_key = public_key_of(directory, vote)
    network_id = peer_id(*public_key_of(directory, network))
    return Validator(_account(directory, account), AlgId(alg), public_key, network_id, _units(stake, parameters))


def _verifiers(named: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    """The pure checkers have no build to agree on; a solver's build hash must be named."""
    if not named:
        return (("lrat.v1", b""), ("sat-model.v1", b""))
    found: dict[str, bytes] = {}
    for text in named:
        name, _, build = text.partition("=")
        try:
            found[name] = bytes.fromhex(build)
        except ValueError as fault:
            raise ValueError(f"the build hash of verifier {name} is not hexadecimal") from fault
    return tuple(sorted(found.items()))
