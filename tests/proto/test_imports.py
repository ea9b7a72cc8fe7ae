"""What importing the protocol layer pulls in: almost nothing for a wallet, nothing impure for the consensus core."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "proto" / "trellis"

IMPURE = {"trellis.__main__", "trellis.client", "trellis.v1", "trellis.crypto.keystore", "trellis.crypto.verifier"}
"""What the package's docstring names, and the command. Whatever is not below one of these is pure."""

LIBRARIES = {"trellis.crypto.schemes", "trellis.crypto.aead", "trellis.crypto.kdf", "trellis.crypto.kem"}
"""Thin wrappers of `cryptography`, which imports what it likes."""

WORKER = {"trellis.crypto.verify_worker", "trellis.crypto.worker_process", "trellis.crypto.phrase"}
"""A process of its own and what starts it, and the drawing of recovery phrases."""

FORBIDDEN = (
    "grpc",
    "google.protobuf",
    "multiprocessing",
    "subprocess",
    "concurrent.futures",
    "asyncio",
    "trio",
    "socket",
)


def modules() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names.append(".".join(("trellis", *(part for part in parts if part != "__init__"))))
    return names


def is_below(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


PURE = [name for name in modules() if not is_below(name, IMPURE | LIBRARIES | WORKER)]


def imported_by(name: str) -> set[str]:
    """Everything that a fresh interpreter has loaded after importing one module."""
    paths = [str(PACKAGE.parent), *sys.path]
    code = f"import sys, json; sys.path[:0] = {paths!r}; before = set(sys.modules); import {name}; "
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_else() -> None:
    assert {name for name in imported_by("trellis") if name.startswith("trellis")} == {"trellis"}


def test_the_pure_modules_are_many() -> None:
    assert len(PURE) >= 28
    for name in ("trellis.receipt", "trellis.schedule", "trellis.genesis", "trellis.evidence", "trellis.crypto.policy"):
        assert name in PURE


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_loads_neither_grpc_nor_processes_nor_cryptography(name: str) -> None:
    loaded = imported_by(name)
    bad = {m for m in loaded if m.startswith((*FORBIDDEN, "cryptography", "pqcrypto"))}
    assert bad == set()
    assert {m for m in loaded if m.split(".")[0] in ("node", "p2p", "state", "consensus")} == set()


def test_the_client_side_of_cryptography_loads_no_grpc() -> None:
    loaded = imported_by("trellis.crypto.schemes")
    assert not {m for m in loaded if m.startswith(("grpc", "google.protobuf", "multiprocessing", "pqcrypto"))}


def test_no_pure_module_names_a_clock_randomness_or_a_file() -> None:
    """By source, since the standard library's own modules import some of these."""
    import ast

    never = {
        "time",
        "random",
        "secrets",
        "os",
        "asyncio",
        "trio",
        "threading",
        "logging",
        "socket",
        "subprocess",
        "pathlib",
    }
    found = []
    for name in PURE:
        path = PACKAGE.joinpath(*name.split(".")[1:])
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                found += [(name, item.name) for item in node.names if item.name.split(".")[0] in never]
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in never:
                found.append((name, node.module))
            elif isinstance(node, ast.Constant) and isinstance(node.value, float):
                found.append((name, f"the float {node.value}"))
            elif isinstance(node, ast.Assert):
                found.append((name, "a bare assert"))
    assert found == []


def test_importing_the_package_takes_less_than_a_tenth_of_a_second() -> None:
    """The best of five: the machine may be busy."""
    code = "import time; a = time.perf_counter(); import trellis; print(time.perf_counter() - a)"
    taken = []
    for _ in range(5):
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {code}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        taken.append(float(done.stdout))
    assert min(taken) < 0.1
