"""The whole command tree: every command has a page with an example, answers in JSON, and takes no secret in words."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from node.cli import trellis
from node.cli.exits import Exit
from tests.node.cli.kit import run

_OTHERS = ("bench", "demo", "localnet", "p2p", "sim")
"""Tools that stand beside a node rather than operate one; their own tests look at their pages."""


def _walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1] if path else "trellis")
        for name in command.list_commands(context):
            if not path and name in _OTHERS:
                continue
            child = command.get_command(context, name)
            assert child is not None, name
            yield from _walk(child, (*path, name))


TREE = dict(_walk(trellis, ()))


@pytest.mark.parametrize("path", [path for path in TREE if path], ids=" ".join)
def test_every_command_has_a_page_with_an_example_that_names_it(path: tuple[str, ...]) -> None:
    answer = run(*path, "--help")
    assert answer.code == Exit.OK
    page = answer.out
    assert re.search(r"^  Examples?:$", page, re.MULTILINE), page
    examples = page.partition("Example")[2].partition("Options:")[0]
    assert "trellis " in examples
    assert any(word in examples for word in (" ".join(path), path[-1])), page
    for parameter in TREE[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, (path, parameter.name)


@pytest.mark.parametrize("path", list(TREE), ids=lambda path: " ".join(path) or "trellis")
def test_every_command_answers_in_json_if_asked_to(path: tuple[str, ...]) -> None:
    options = {opt for parameter in TREE[path].params for opt in parameter.opts}
    assert {"--output", "-o"} <= options


@pytest.mark.parametrize("path", list(TREE), ids=lambda path: " ".join(path) or "trellis")
def test_no_option_takes_a_secret_as_its_value(path: tuple[str, ...]) -> None:
    for parameter in TREE[path].params:
        secret = re.search(r"password|token|secret|phrase", parameter.name or "")
        if secret and isinstance(parameter, click.Option) and not parameter.is_flag:
            assert isinstance(parameter.type, click.Path), (path, parameter.name)


def test_every_examples_options_exist() -> None:
    """A page that shows an option which is not there teaches a mistake."""
    known = {opt for command in TREE.values() for parameter in command.params for opt in parameter.opts}
    known |= {opt for command in TREE.values() for parameter in command.params for opt in parameter.secondary_opts}
    for path, command in TREE.items():
        for line in (command.help or "").splitlines():
            if line.strip().startswith("trellis "):
                used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", line))
                assert used <= known | {"--help"}, (path, line)


_IMPORTS = """
import sys
sys.argv = ["trellis", *{arguments!r}]
from node.cli import main
try:
    main()
except SystemExit:
    pass
print(sorted({{"grpc", "libp2p", "lmdb", "trio", "z3", "rich"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [(["--help"], "[]"), (["tx", "--help"], "[]"), (["proof", "--help"], "[]"), (["version"], "['rich']")],
)
def test_help_loads_nothing_heavy(arguments: list[str], loaded: str) -> None:
    script = _IMPORTS.format(arguments=arguments)
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == loaded


@pytest.mark.parametrize("arguments", [["--help"], ["version"]])
def test_help_and_version_answer_at_once(arguments: list[str]) -> None:
    """In processor time, the best of five runs: on a busy machine the clock measures the neighbours."""
    taken_s: list[float] = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        script = "from node.cli import main; main()"
        subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken_s) < 0.25


def test_a_fault_of_ours_ends_in_one_line_and_exit_code_70(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the unexpected")

    monkeypatch.setattr(trellis, "main", broken)
    answer = run("status")
    assert answer.code == Exit.INTERNAL
    assert "a fault of ours: RuntimeError" in answer.err
    assert "Traceback" not in answer.err
    assert "trellis debug dump" in answer.err
    monkeypatch.setenv("TRELLIS_TRACEBACK", "1")
    assert "Traceback" in run("status").err


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "from node.cli import main; main()"
    shell = f'"{sys.executable}" -c "{script}" --help | true; echo "${{PIPESTATUS[0]}}"'
    answer = subprocess.run(["/bin/bash", "-c", shell], capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "0"
    assert answer.stderr == ""


def test_every_exit_code_is_documented_on_the_first_page() -> None:
    page = run("--help").out
    for code in Exit:
        assert re.search(rf"^ +{code.value} ", page, re.MULTILINE), code
