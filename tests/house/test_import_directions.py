"""Every contract on the directions of imports is shown to catch the import it forbids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("consensus", "state", "p2p", "node")


@pytest.fixture(scope="module")
def copy_of_the_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    house = tmp_path_factory.mktemp("house")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for room in ROOMS:
        shutil.copytree(ROOT / room, house / room, ignore=skip)
    shutil.copytree(ROOT / "proto" / "trellis", house / "proto" / "trellis", ignore=skip)
    shutil.copy(ROOT / ".importlinter", house)
    return house


def check_imports(house: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(house), str(house / "proto")])}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    command += ["--cache-dir", str(house / ".cache")]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)


def test_the_house_keeps_its_contracts(copy_of_the_house: Path) -> None:
    answer = check_imports(copy_of_the_house)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert " 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("proto/trellis/types.py", "import node", "The protocol layer imports none"),
        ("proto/trellis/client/__init__.py", "import consensus", "The protocol layer imports none"),
        ("proto/trellis/v1/__init__.py", "import state", "The protocol layer imports none"),
        ("proto/trellis/crypto/schemes.py", "import p2p", "The protocol layer imports none"),
        ("proto/trellis/schedule.py", "import time", "Pure protocol modules"),
        ("proto/trellis/receipt.py", "import trellis.crypto.verifier", "Pure protocol modules"),
        ("consensus/replica.py", "import random", "The consensus core stands"),
        ("consensus/replica.py", "import state", "The consensus core stands"),
        ("consensus/replica.py", "import p2p", "The consensus core stands"),
        ("consensus/replica.py", "import node", "The consensus core stands"),
        ("state/transition.py", "import consensus", "The ledger imports neither"),
        ("state/transition.py", "import p2p", "The ledger imports neither"),
        ("state/transition.py", "import node", "The ledger imports neither"),
        ("state/transition.py", "import lmdb", "Only state.workers starts processes"),
        ("state/proofs/lrat.py", "import subprocess", "Only state.workers starts processes"),
        ("p2p/host.py", "import consensus", "The network imports no sibling"),
        ("p2p/host.py", "import state", "The network imports no sibling"),
        ("p2p/host.py", "import node", "The network imports no sibling"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    copy_of_the_house: Path, module: str, statement: str, contract: str
) -> None:
    path = copy_of_the_house / module
    text = path.read_text()
    path.write_text(f"{text}\n{statement}\n")
    try:
        answer = check_imports(copy_of_the_house)
    finally:
        path.write_text(text)
    assert answer.returncode != 0, f"{statement} in {module} went unnoticed"
    broken = [line for line in answer.stdout.splitlines() if line.rstrip().endswith("BROKEN")]
    assert any(line.startswith(contract) for line in broken), answer.stdout
