"""What a validator knows of its own votes when it starts: a lost log or guard is remembered over further starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from node import testnet
from node.home import Home, open_home
from node.runtime import Opened, open_node
from trellis.parameters import Parameters


@pytest.fixture
def home(tmp_path: Path) -> Home:
    testnet.generate(tmp_path / "net", name="one", ports=[1], time_ms=1, parameters=Parameters(state_buckets_log2=4))
    return open_home(tmp_path / "net" / "node0", {})


def close(opened: Opened) -> None:
    opened.journal.close()
    opened.guard.close()
    opened.chain.close()


def suspected(home: Home) -> bool:
    """After one start and stop."""
    opened = open_node(home)
    close(opened)
    return opened.suspicion.stands


def test_a_new_validator_votes(home: Home) -> None:
    assert not suspected(home)
    assert not suspected(home)


@pytest.mark.parametrize("lost", ["log", "guard"])
def test_a_lost_log_or_guard_is_remembered_until_the_quarantine_is_over(home: Home, lost: str) -> None:
    suspected(home)
    shutil.rmtree(home.log_directory if lost == "log" else home.guard_directory)
    assert suspected(home)
    assert suspected(home), "the second start finds both files, made by the first"
    opened = open_node(home)
    opened.suspicion.lift()
    close(opened)
    assert not suspected(home)
