"""What importing a module of cryptography may pull in: checked in a fresh interpreter each."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROCESSES = {"subprocess", "multiprocessing", "concurrent.futures.process"}
HEAVY = {"cryptography", "pqcrypto", "grpc", "mnemonic"}
PURE = {"time", "random", "secrets", "asyncio", "trio", "threading", "logging", "socket"}


def loaded_by(statement: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["algorithms", "policy", "cold"])
def test_pure_modules_load_no_library_and_nothing_impure(module: str) -> None:
    loaded = loaded_by(f"import trellis.crypto.{module}")
    assert f"trellis.crypto.{module}" in loaded
    assert not loaded & (HEAVY | PURE | PROCESSES)


@pytest.mark.parametrize("module", ["schemes", "kdf", "aead", "kem", "phrase", "keystore", "verify_worker"])
def test_only_the_verifier_pulls_in_processes(module: str) -> None:
    loaded = loaded_by(f"import trellis.crypto.{module}")
    assert not loaded & (PROCESSES | {"pqcrypto", "grpc"})


def test_the_verifier_needs_subprocess_and_not_multiprocessing() -> None:
    loaded = loaded_by("import trellis.crypto.verifier")
    assert "subprocess" in loaded
    assert not loaded & {"multiprocessing", "pqcrypto", "grpc"}


def test_slh_dsa_is_loaded_when_it_is_first_used() -> None:
    use = "from trellis.crypto.schemes import SCHEMES; SCHEMES[3].verify(bytes(32), b'', bytes(7_856), b'')"
    assert "pqcrypto" in loaded_by(use)
    assert "pqcrypto" not in loaded_by(use.replace("SCHEMES[3]", "SCHEMES[1]"))
