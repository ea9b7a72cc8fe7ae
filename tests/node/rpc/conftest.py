"""One rig for each test that asks for it, and callers of its two listeners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.rpc.calls import Caller
from tests.node.rpc.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as made:
        yield made


@pytest.fixture
def public(rig: Rig) -> Iterator[Caller]:
    with Caller(rig.channel()) as caller:
        yield caller


@pytest.fixture
def operator(rig: Rig) -> Iterator[Caller]:
    with Caller(rig.channel(1)) as caller:
        yield caller
