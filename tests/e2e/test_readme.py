"""The README's shells and its wallet, taken from the page and run as they are written, in one folder, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from node.localnet.layout import Folder
from node.localnet.processes import find, names, stop

pytestmark = pytest.mark.e2e

ROOT: Final = Path(__file__).resolve().parents[2]
SECTIONS: Final = ("Five minutes, from a clone to a proof", "A wallet in Python", "With grpcurl")
RUN_S: Final = 280
_BLOCK: Final = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(section: str) -> list[tuple[str, str]]:
    """(language, content) of what the section shows."""
    page = (ROOT / "README.md").read_text()
    _, found, rest = page.partition(f"\n## {section}\n")
    assert found, f"the README has no section {section!r}"
    return _BLOCK.findall(rest.partition("\n## ")[0])


def script(sections: tuple[str, ...]) -> str:
    """One shell runs all: what a section sets, the next one uses."""
    lines = ["set -euo pipefail"]
    for section in sections:
        for language, content in blocks(section):
            if language == "python":
                lines += [
                    "cat > wallet.py <<'END OF WALLET'",
                    content.rstrip("\n"),
                    "END OF WALLET",
                    "python wallet.py",
                ]
            else:
                lines.append(content.rstrip("\n"))
    return "\n".join(lines) + "\n"


def grpcurl_is_there() -> bool:
    return any(os.access(Path(place) / "grpcurl", os.X_OK) for place in (*os.get_exec_path(), ROOT / ".venv" / "bin"))


def test_what_the_readme_shows_works_as_it_is_written(tmp_path: Path) -> None:
    sections = SECTIONS if grpcurl_is_there() else SECTIONS[:2]
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    python = shlex.quote(sys.executable)
    programs = {"python": "", "trellis": " -P -c 'from node.cli import main; main()'"}
    for name, arguments in programs.items():
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {python}{arguments} "$@"\n')
        (bin_folder / name).chmod(0o755)
    (tmp_path / "script.sh").write_text(script(sections))
    settings = {name: value for name, value in os.environ.items() if not name.startswith("TRELLIS_")}
    path = os.pathsep.join([settings["PATH"], str(ROOT / ".venv" / "bin")])
    environment = settings | {"HOME": str(tmp_path), "PATH": path, "TERM": "dumb"}
    folder = Folder(tmp_path / "net")
    log = tmp_path / "output"
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                ["bash", "script.sh"],  # noqa: S607 - wherever the system keeps it
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=RUN_S,
                check=False,
            )
        assert done.returncode == 0, log.read_text()[-6_000:]
        assert not folder.path.exists(), "the last line removes the network"
    finally:
        if folder.exists:
            stop(folder, names(folder.manifest()))
            assert all(find(folder, name) is None for name in names(folder.manifest()))
    said = log.read_text()
    assert "OK in block" in said
    assert "bob has 2500000 base units" in said
    assert "VALID: transaction" in said


def test_every_shell_of_the_readme_is_run_or_left_out_on_purpose() -> None:
    page = (ROOT / "README.md").read_text()
    left_out = {"Two commands", "Below the node", "The command line"}
    shown = {section.partition("\n")[0] for section in page.split("\n## ")[1:] if _BLOCK.search(section)}
    assert shown == {*SECTIONS} | left_out
