"""Compiles the schema: stubs beside the .proto files, and the descriptor set with the schema's comments.

    python proto/generate.py            write them
    python proto/generate.py --check    compile into a temporary folder and fail if what is committed differs

The output depends on nothing but the .proto files and the pinned compiler and plugins, so a difference means that
somebody changed one side and not the other.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent
PACKAGE: Final = Path("trellis", "v1")
DESCRIPTOR: Final = "descriptor.binpb"
GENERATED: Final = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi", DESCRIPTOR)
PINNED: Final = {"grpcio-tools": "1.81.1", "mypy-protobuf": "5.1.0"}
"""Other versions write other bytes, and grpcio-tools after this one wants protobuf 7, which libp2p does not accept."""

DIFF_LINES_MAX: Final = 40


class GenerationError(Exception):
    """The schema could not be compiled, or what is committed is not what it compiles to."""


def check_tools() -> None:
    for name, pinned in PINNED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        if found != pinned:
            raise GenerationError(f"{name} is {found}, but the stubs are made with {pinned}: run `make setup`")


def plugin(name: str) -> str:
    path = Path(sysconfig.get_path("scripts"), name)
    if not path.exists():
        raise GenerationError(f"{path} is missing: run `make setup`")
    return str(path)


def protoc(*arguments: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GenerationError(f"protoc refused the schema:\n{done.stderr or done.stdout}")


def compile_schema(out: Path) -> None:
    """Writes stubs and descriptor set below `out`; gRPC stubs only for files that define services."""
    paths = sorted((ROOT / PACKAGE).glob("*.proto"))
    sources = [str(path.relative_to(ROOT)) for path in paths]
    services = [name for name in sources if name.endswith("_service.proto")]
    (out / PACKAGE).mkdir(parents=True, exist_ok=True)
    protoc(
        f"--plugin=protoc-gen-mypy={plugin('protoc-gen-mypy')}",
        f"--python_out={out}",
        f"--mypy_out={out}",
        f"--descriptor_set_out={out / PACKAGE / DESCRIPTOR}",
        "--include_imports",
        "--include_source_info",
        *sources,
    )
    protoc(
        f"--plugin=protoc-gen-mypy_grpc={plugin('protoc-gen-mypy_grpc')}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out={out}",
        *services,
    )


def generated_files(root: Path) -> set[str]:
    return {path.name for pattern in GENERATED for path in (root / PACKAGE).glob(pattern)}


def differences(committed: Path, fresh: Path) -> Iterator[str]:
    """One finding for each file that is missing, left over, or different, with the first lines of its diff."""
    before, after = generated_files(committed), generated_files(fresh)
    yield from (f"{PACKAGE / name} is missing" for name in sorted(after - before))
    yield from (f"{PACKAGE / name} belongs to no .proto file any more" for name in sorted(before - after))
    for name in sorted(before & after):
        old, new = (committed / PACKAGE / name).read_bytes(), (fresh / PACKAGE / name).read_bytes()
        if old == new:
            continue
        if name == DESCRIPTOR:
            yield f"{PACKAGE / name} differs: {len(old)} bytes committed, {len(new)} compiled"
            continue
        lines = difflib.unified_diff(
            old.decode(errors="replace").splitlines(), new.decode().splitlines(), "committed", "compiled", lineterm=""
        )
        shown = [line for _, line in zip(range(DIFF_LINES_MAX), lines, strict=False)]
        yield "\n".join([f"{PACKAGE / name} differs:", *shown])


def check() -> None:
    with tempfile.TemporaryDirectory(prefix="trellis-proto-") as folder:
        compile_schema(Path(folder))
        found = list(differences(ROOT, Path(folder)))
    if found:
        raise GenerationError("\n".join([*found, "The stubs do not match the schema: run `make proto` and commit."]))


def write() -> None:
    """Compiles aside first, so that a schema that does not compile leaves the stubs as they were."""
    with tempfile.TemporaryDirectory(prefix="trellis-proto-") as folder:
        compile_schema(Path(folder))
        fresh = generated_files(Path(folder))
        for name in generated_files(ROOT) - fresh:
            (ROOT / PACKAGE / name).unlink()
        for name in fresh:
            shutil.copyfile(Path(folder) / PACKAGE / name, ROOT / PACKAGE / name)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the schema into stubs and a descriptor set.")
    parser.add_argument("--check", action="store_true", help="only compare: fail if the committed files differ")
    arguments = parser.parse_args()
    try:
        check_tools()
        check() if arguments.check else write()
    except GenerationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
