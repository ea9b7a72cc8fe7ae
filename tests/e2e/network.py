"""Real nodes in real processes: start, kill, freeze, watch. Everything ends with the test, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node import testnet
from trellis.parameters import Parameters

POLL_S = 0.05


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago; all are held until all are chosen."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_for(condition: Callable[[], bool], deadline_s: float, what: str) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s} s")
        time.sleep(POLL_S)


@dataclass
class Node:
    """One node's folder, and its process while there is one. Logs of all its lives are in one file."""

    home: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        return self.home / "node.log"

    def start(self) -> None:
        environment = os.environ | {"TRELLIS_LOG_FORMAT": "json"}
        command = [sys.executable, "-c", "from node.cli import main; main()", "start", "--home", str(self.home)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def events(self, name: str) -> list[dict[str, Any]]:
        if not self.log_path.exists():
            return []
        found = []
        for line in self.log_path.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                if entry["event"] == name:
                    found.append(entry)
        return found

    def finals(self) -> dict[int, str]:
        """Block by height, as this node announced them."""
        return {entry["height"]: entry["block"] for entry in self.events("final")}

    @property
    def height(self) -> int:
        return max(self.finals(), default=0)


@contextmanager
def network(folder: Path, validators: int, parameters: Parameters) -> Iterator[list[Node]]:
    directory = folder / "network"
    now_ms = time.time_ns() // 1_000_000
    ports = free_ports(3 * validators)

    def sections(place: int) -> str:
        grpc, metrics = ports[validators + place], ports[2 * validators + place]
        return f'\n[grpc]\nlisten = "127.0.0.1:{grpc}"\n\n[metrics]\nlisten = "127.0.0.1:{metrics}"\n'

    testnet.generate(
        directory, name="e2e", ports=ports[:validators], time_ms=now_ms, parameters=parameters, sections=sections
    )
    nodes = [Node(directory / f"node{place}") for place in range(validators)]
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.send(signal.SIGCONT)
                node.kill()
