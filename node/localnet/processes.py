"""Starts and ends the processes of a local network, by process ids kept in its folder.

A number alone proves nothing: after a restart of the machine it may be anybody's. A process counts as ours only while
its command line names our folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from node.config import ENVIRONMENT_PREFIX
from node.localnet.layout import Folder, LocalnetFault, Manifest

PROXY: Final = "proxy"
STOP_S: Final = 10.0
"""A node that has not stopped by then is killed."""
_POLL_S: Final = 0.05
_EXEC_POLL_S: Final = 0.01
_EXEC_POLLS: Final = 100
_ENDED: Final = frozenset("ZX")
"""Ended, but not waited for."""
_NODE_SETTINGS: Final = ("NODE_", "P2P_", "GRPC_", "METRICS_", "MEMPOOL_")
_ENTRY: Final = "from node.cli import main; main()"
"""Run with -P: a folder called `node` where the command happens to be started is none of ours."""


class State(StrEnum):
    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    frozen: bool

    @property
    def state(self) -> State:
        return State.FROZEN if self.frozen else State.RUNNING


def node_command(folder: Folder, name: str) -> list[str]:
    return [sys.executable, "-P", "-c", _ENTRY, "start", "--home", str(folder.home(name).resolve())]


def proxy_command(folder: Folder) -> list[str]:
    return [sys.executable, "-P", "-m", "node.localnet.proxy", str(folder.path.resolve())]


def _command(folder: Folder, name: str) -> list[str]:
    return proxy_command(folder) if name == PROXY else node_command(folder, name)


def names(manifest: Manifest) -> tuple[str, ...]:
    """All processes of the network, in the order of their start."""
    return ((PROXY,) if manifest.links else ()) + tuple(entry.name for entry in manifest.nodes)


def start(folder: Folder, name: str) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C reaches the command alone, which then stops the nodes in order."""
    # Settings of one node in the caller's environment would be in force in all of them.
    settings = tuple(ENVIRONMENT_PREFIX + section for section in _NODE_SETTINGS)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(settings)}
    log = folder.proxy_log if name == PROXY else folder.log_path(name)
    with log.open("ab") as out:
        process = subprocess.Popen(
            _command(folder, name),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    folder.pid_path(name).write_text(f"{process.pid}\n")
    return process


def find(folder: Folder, name: str) -> Process | None:
    """The running process, if it is ours."""
    try:
        pid = int(folder.pid_path(name).read_text())
    except (OSError, ValueError):
        return None
    words, frozen = _look_up(pid)
    # The interpreter may be shown under another path; what follows it names the folder. ps joins words by spaces.
    ours = " ".join(_command(folder, name)[1:])
    if not " ".join(words).endswith(" " + ours):
        return None
    return Process(pid, frozen)


def _look_up(pid: int) -> tuple[list[str], bool]:
    """A process's command line, empty if there is none or it has ended, and whether it is stopped."""
    if not Path("/proc/self/stat").exists():
        return _ask_ps(pid)
    for _ in range(_EXEC_POLLS):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            return [], False
        if words or state in _ENDED:
            return words, state in {"T", "t"}
        # Between its first moment and its program a process has no command line.
        time.sleep(_EXEC_POLL_S)
    return [], False


def _ask_ps(pid: int) -> tuple[list[str], bool]:
    shown = subprocess.run(
        ["ps", "-ww", "-o", "stat=,command=", "-p", str(pid)],  # noqa: S607 - wherever the system keeps it
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    stat, _, command = shown.partition(" ")
    return ([], False) if not shown or stat[0] in _ENDED else (command.strip().split(" "), stat.startswith("T"))


def signal_to(folder: Folder, name: str, number: signal.Signals) -> None:
    """To a process that must be running."""
    found = find(folder, name)
    if found is None:
        raise LocalnetFault(f"{name} is not running", f"start it: trellis localnet faults restart {name}")
    try:
        os.kill(found.pid, number)
    except ProcessLookupError as fault:
        raise LocalnetFault(f"{name} ended just now", "see: trellis localnet status") from fault


def wait_until(condition: Callable[[], bool], deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True


def stop(folder: Folder, running: Sequence[str]) -> list[str]:
    """Asks all of them at once to stop, waits, kills the rest. Answers with those that had to be killed."""
    asked = [(name, found) for name in running if (found := find(folder, name)) is not None]
    for _, found in asked:
        _try_signal(found.pid, signal.SIGCONT)
        _try_signal(found.pid, signal.SIGTERM)
    wait_until(lambda: all(find(folder, name) is None for name, _ in asked), STOP_S)
    killed = []
    for name, found in asked:
        if find(folder, name) is not None:
            _try_signal(found.pid, signal.SIGKILL)
            killed.append(name)
    wait_until(lambda: all(find(folder, name) is None for name in killed), STOP_S)
    for name in running:
        folder.pid_path(name).unlink(missing_ok=True)
    return killed


def _try_signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile, which is what is wanted
        os.kill(pid, number)


def last_lines(log: Path, number: int = 3) -> list[str]:
    """The end of a log, for whoever must find out why a process ended."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            return file.read().decode(errors="replace").splitlines()[-number:]
    except OSError:
        return []
