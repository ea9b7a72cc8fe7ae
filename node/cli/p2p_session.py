"""What the commands of `trellis p2p` share: who we are, whom we call, and what can go wrong between the two."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import trio

from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.keyring import DEFAULT_DIRECTORY, key_path, password_option, read_key, unlock
from node.home import HomeFault, read_genesis
from node.p2p_tool import TOOL_NETWORK, Tool
from node.stubchain import StubFault
from p2p.dialing import PeerAddress
from p2p.discovery.addresses import parse_peer_address
from p2p.handshake import LocalIdentity, Network, Reject
from p2p.host import DialError, NotConnectedError
from p2p.requests import RequestError, RequestFault
from p2p.streams import StreamError
from trellis.crypto.aead import Suite
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import scheme
from trellis.encoding import DecodeError

SUITES: Final = {suite.name.lower().replace("_", "-"): suite for suite in Suite}
_ALGORITHMS: Final = {scheme(alg).name.lower(): alg for alg in (AlgId.ML_DSA_65, AlgId.ML_DSA_87)}
_OPTIONS: Final = (
    click.option(
        "--genesis",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The network whose peers to talk to. Default: a test network of these commands' own.",
    ),
    click.option("--key", help="Be the key of this name. Default: a fresh key, forgotten afterwards."),
    click.option(
        "--keys-dir",
        "directory",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DIRECTORY,
        envvar="TRELLIS_KEYS_DIR",
        show_default=True,
        help="Where key files live.",
    ),
    password_option,
    click.option(
        "--algorithm",
        type=click.Choice(list(_ALGORITHMS)),
        default="ml-dsa-65",
        show_default=True,
        help="Of a fresh key.",
    ),
    click.option(
        "--suite",
        type=click.Choice(list(SUITES)),
        help="Speak this cipher suite alone. Default: both, ChaCha20-Poly1305 preferred.",
    ),
    output_option,
)


@dataclass(frozen=True, slots=True)
class Persona:
    """Who we are, and on which network, as the command line says it."""

    genesis: Path | None
    key: str | None
    directory: Path
    password_file: Path | None
    algorithm: str
    suite: str | None

    def tool(self, listen: tuple[str, ...] = ()) -> Tool:
        suites = tuple(Suite) if self.suite is None else (SUITES[self.suite],)
        genesis_hash, policy_root = TOOL_NETWORK.genesis_hash, TOOL_NETWORK.policy_root
        if self.genesis is not None:
            try:
                genesis = read_genesis(self.genesis)
            except HomeFault as fault:
                raise CommandFailed(Exit.LOCAL, str(fault), "give the network's genesis.json") from None
            genesis_hash, policy_root = genesis.hash, genesis.policy.root()
        if self.key is None:
            signer = scheme(_ALGORITHMS[self.algorithm]).generate()
        else:
            path = key_path(self.directory, self.key)
            signer = unlock(read_key(path), path, self.password_file)
        try:
            return Tool(LocalIdentity.of(signer), Network(genesis_hash, policy_root, suites=suites), listen)
        except ValueError as fault:
            raise CommandFailed(Exit.USAGE, str(fault), "an address to listen on is /ip4/0.0.0.0/tcp/4001") from None


def as_persona(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of a persona, and hands it one as `persona`."""

    @functools.wraps(command)
    def run(*arguments: Any, **given: Any) -> Any:
        own = {name: given.pop(name) for name in Persona.__dataclass_fields__}
        return command(*arguments, persona=Persona(**own), **given)

    with_options: Callable[..., Any] = run
    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options


def peer_address(text: str) -> PeerAddress:
    try:
        return parse_peer_address(text)
    except DecodeError as fault:
        raise CommandFailed(
            Exit.USAGE,
            f"{text[:100]!r} is no address of a peer: {fault.detail}",
            "paste the line that `trellis p2p listen` printed: /ip4/127.0.0.1/tcp/4001/p2p/PEER-ID",
        ) from None


def run_tool(tool: Tool, work: Callable[[], Awaitable[None]], address: str = "") -> None:
    """Does `work` while the tool runs; what can go wrong with the peer at `address` ends as an exit code."""

    async def main() -> None:
        async with tool.run():
            await work()

    with _faults(address):
        trio.run(main)


@contextmanager
def _faults(address: str) -> Iterator[None]:
    try:
        yield
    except Exception as fault:  # nurseries wrap what is raised inside them: looked into, and raised again if unknown
        failure = _failure(_innermost(fault), address)
        if failure is None:
            raise
        raise failure from None


def _innermost(fault: BaseException) -> BaseException:
    return _innermost(fault.exceptions[0]) if isinstance(fault, BaseExceptionGroup) else fault


def _failure(fault: BaseException, address: str) -> CommandFailed | None:
    match fault:
        case CommandFailed():
            return fault
        case DialError():
            return _no_connection(fault, address)
        case RequestError():
            code = Exit.TIMEOUT if fault.reason is RequestFault.DEADLINE else Exit.REFUSED
            return CommandFailed(code, f"{address} did not answer as it should: {fault}", "try again, or another peer")
        case StubFault():
            return CommandFailed(Exit.NO, f"the chain of {address} is not right: {fault}", "do not use this peer")
        case StreamError() | NotConnectedError():
            return CommandFailed(Exit.UNREACHABLE, f"the connection to {address} was lost: {fault}", "try again")
        case OSError():
            return CommandFailed(Exit.LOCAL, str(fault), "choose an address of this machine, and a free port; 0 is any")
        case _:
            return None


def _no_connection(fault: DialError, address: str) -> CommandFailed:
    if fault.reason is Reject.TIMEOUT:
        return CommandFailed(Exit.TIMEOUT, f"{address}: no whole handshake in 10 s", "is it a Trellis node?")
    if fault.reason is None or (fault.reason is Reject.CLOSED and not fault.told):
        hint = "is `trellis p2p listen` running there, with this peer id and network? Each run makes a new peer id"
        return CommandFailed(Exit.UNREACHABLE, f"nobody answers as that peer at {address}", hint)
    who = "the peer refuses us" if fault.told else "its handshake is refused here"
    return CommandFailed(Exit.REFUSED, f"{address}: {who}: {fault.reason.name}", "p2p/README.md lists the reject codes")
