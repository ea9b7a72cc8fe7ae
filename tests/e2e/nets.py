"""Local networks for tests: the folder and processes of `trellis localnet`, with parameters of the test's own choice,
exit codes that can be waited for, and nothing left running whatever happens."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from node.home import CONFIG_NAME, read_genesis
from node.localnet.layout import PASSWORD, Folder, Manifest
from node.localnet.making import LENDABLE, make, taken_ports
from node.localnet.processes import start
from node.localnet.samples import Scrape, ScrapeFault, fetch, is_ready, total
from tests.e2e.network import wait_for
from trellis.client import Client, LocalSigner, RetryPolicy
from trellis.client.methods import Method, Req, Res
from trellis.crypto.keystore import read_keystore
from trellis.crypto.schemes import SigningKey
from trellis.genesis import Genesis
from trellis.parameters import Parameters

READY_S = 120
"""Four interpreters load at once, beside whatever else the machine does."""
STOP_S = 20
REACH_S = 90
CALL_S = 20.0


@dataclass
class Net:
    folder: Folder
    manifest: Manifest
    genesis: Genesis
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    channels: dict[str, grpc.Channel] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.manifest.nodes]

    def endpoint(self, name: str) -> str:
        return self.manifest.node(name).grpc_address

    def start(self, *names: str) -> None:
        for name in names or self.names:
            self.processes[name] = start(self.folder, name)

    def await_ready(self, *names: str, deadline_s: float = READY_S) -> None:
        wanted = names or tuple(self.names)

        def ready() -> bool:
            for name in wanted:
                ended = self.processes[name].poll()
                assert ended is None, f"{name} ended with {ended}:\n" + self.tail(name)
            return all(is_ready(self.manifest.node(name).metrics_address) for name in wanted)

        wait_for(ready, deadline_s, f"{', '.join(wanted)} ready")

    def send(self, number: signal.Signals, *names: str) -> None:
        for name in names or self.names:
            self.processes[name].send_signal(number)

    def ended(self, name: str, deadline_s: float = STOP_S) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.processes[name].wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} still runs after {deadline_s} s:\n" + self.tail(name)) from None

    def kill(self, *names: str) -> None:
        self.send(signal.SIGKILL, *names)
        for name in names or self.names:
            self.ended(name)

    def tail(self, name: str, lines: int = 12) -> str:
        return "\n".join(self.log(name)[-lines:])

    def log(self, name: str) -> list[str]:
        path = self.folder.log_path(name)
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        """The log's entries of that name, of all lives of the node."""
        found = []
        for line in self.log(name):
            if f'"{event}"' in line and line.startswith("{"):
                entry = json.loads(line)
                if entry.get("event") == event:
                    found.append(entry)
        return found

    def scrape(self, name: str) -> Scrape:
        return fetch(self.manifest.node(name).metrics_address)

    def height(self, name: str) -> int:
        """-1 where nobody answers."""
        try:
            return int(total(self.scrape(name), "ledger_height"))
        except ScrapeFault:
            return -1

    def heights(self) -> list[int]:
        return [self.height(name) for name in self.names]

    def reach(self, height: int, *names: str, deadline_s: float = REACH_S) -> None:
        """Until these nodes, or all, have that block."""
        wanted = names or tuple(self.names)
        wait_for(
            lambda: all(self.height(name) >= height for name in wanted),
            deadline_s,
            f"block {height} at {', '.join(wanted)}",
        )

    # Wallets.

    def client(self, *names: str, **settings: Any) -> Client:
        settings.setdefault("retry", RetryPolicy(attempts=20, budget_s=40.0, attempt_s=CALL_S))
        return Client([self.endpoint(name) for name in names or self.names], trust=self.genesis, **settings)

    def call(self, name: str, method: Method[Req, Res], request: Req, *, patient: bool = False) -> Res:
        """One call to one node, with nothing between. `patient`: the node runs, but the channel may have met it down
        before, and tries again only after a while."""
        if name not in self.channels:
            options = [("grpc.max_receive_message_length", 64 << 20)]
            self.channels[name] = grpc.insecure_channel(self.endpoint(name), options)
        rpc = self.channels[name].unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        answer: Res = rpc(request, timeout=CALL_S, wait_for_ready=patient)
        return answer

    @property
    def faucet(self) -> LocalSigner:
        return LocalSigner(read_keystore(self.folder.faucet_path).unlock(PASSWORD))

    def accounts(self, number: int) -> list[SigningKey]:
        return self.folder.account_keys(range(number))

    def key_of(self, name: str, role: str) -> SigningKey:
        """ "account", "consensus" or "network" of a validator."""
        return read_keystore(self.folder.home(name) / "keys" / f"{role}.json").unlock(PASSWORD)

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        for process in self.processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def free_range(number: int) -> int:
    """The first of so many free ports in a row, at a place where no other test is likely to look: the usual ports are
    taken by whichever network starts first."""
    while True:
        first = random.SystemRandom().choice(LENDABLE[:-number])
        if not taken_ports(list(range(first, first + number))):
            return first


@contextmanager
def made(
    path: Path,
    *,
    parameters: Parameters | None = None,
    nodes: int = 4,
    accounts: int = 0,
    settings: Callable[[str], Sequence[str]] = lambda _name: (),
) -> Iterator[Net]:
    """A network's folder, nothing running yet; `settings` are more lines of a node's configuration."""
    folder = Folder(path)
    manifest = make(folder, nodes=nodes, accounts=accounts, parameters=parameters, port=free_range(3 * nodes))
    for entry in manifest.nodes:
        lines = settings(entry.name)
        if lines:
            with (folder.home(entry.name) / CONFIG_NAME).open("a") as file:
                file.write("\n" + "\n".join(lines) + "\n")
    net = Net(folder, manifest, read_genesis(folder.genesis_path))
    try:
        yield net
    finally:
        net.close()


@contextmanager
def running(path: Path, **settings: Any) -> Iterator[Net]:
    with made(path, **settings) as net:
        net.start()
        net.await_ready()
        yield net
