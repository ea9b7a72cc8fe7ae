"""The command line as a whole: help, versions, output formats, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from node.cli import trellis
from node.cli.exits import CommandFailed, Exit


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from node.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_command_with_one_line() -> None:
    answer = CliRunner().invoke(trellis, ["--help"])
    assert answer.exit_code == Exit.OK
    for name in trellis.commands if trellis.commands else ("keys", "version"):
        assert name in answer.output
    assert "Exit codes" in answer.output


def test_help_and_version_load_neither_libp2p_nor_grpc() -> None:
    script = (
        "import sys; sys.argv = ['trellis', 'version']\n"
        "from node.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'libp2p', 'grpc', 'trio', 'lmdb', 'z3'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [("version", "--output", "json"), ("--output", "json", "version")])
def test_output_json_may_stand_before_or_after_the_command(arguments: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(trellis, list(arguments))
    assert answer.exit_code == Exit.OK
    assert json.loads(answer.output)["trellis"]


def test_the_nearer_output_option_wins() -> None:
    answer = CliRunner().invoke(trellis, ["--output", "json", "version", "--output", "table"])
    assert "trellis" in answer.output
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.output)


def test_a_wrong_command_is_wrong_usage_and_names_the_help() -> None:
    answer = run("fly")
    assert answer.returncode == Exit.USAGE
    assert "No such command 'fly'" in answer.stderr
    assert "--help" in answer.stderr


def test_a_failed_command_says_what_to_do_and_carries_its_code() -> None:
    failure = CommandFailed(Exit.UNREACHABLE, "no node answered at 127.0.0.1:1", "is it running? try: trellis start")
    assert failure.code == Exit.UNREACHABLE
    assert "no node answered" in failure.message
    assert "trellis start" in failure.hint
