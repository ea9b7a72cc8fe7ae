"""Removing any one check from the verification of a receipt makes a case of the table come out differently.

The list of checks is taken from the source of `trellis.receipt` and `trellis.certificate`: every `if` that raises or
returns a fault, every operand of its condition, both halves of a chained comparison. Each is removed in turn from a
copy of the module, which is then asked about every receipt of the table.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest

import trellis.certificate
import trellis.receipt
from tests.proto.receipt_cases import Case, TrustedBlock, all_cases
from tests.signing import fake_verify_all
from trellis.encoding import DecodeError
from trellis.types import Hash, Height

NOT_VERIFICATION = {
    "make_certificate": "builds certificates; its checks are of the caller, and have tests of their own",
    "checkpoint_from_json": "reads the trust, not the receipt; each of its checks has a test of its own",
}


@dataclass(frozen=True)
class Removed:
    """One check, gone."""

    module: str
    line: int
    what: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.what}"


def _is_check(node: ast.AST) -> bool:
    """An `if` whose body ends the verification: it raises, or returns a fault."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    last = node.body[-1]
    return isinstance(last, ast.Raise) or (isinstance(last, ast.Return) and last.value is not None)


def _checks(tree: ast.Module) -> list[ast.If]:
    found: list[ast.If] = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name not in NOT_VERIFICATION:
            found += [node for node in ast.walk(function) if _is_check(node)]  # type: ignore[misc]  # `_is_check` says so
    return found


def _weaker(test: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The condition with one part of it gone."""
    if isinstance(test, ast.BoolOp):
        for place in range(len(test.values)):
            rest = [value for at, value in enumerate(test.values) if at != place]
            yield f"without part {place + 1}", rest[0] if len(rest) == 1 else ast.BoolOp(test.op, rest)
    inner = test.operand if isinstance(test, ast.UnaryOp) else test
    if isinstance(inner, ast.Compare) and len(inner.ops) == 2:
        middle = inner.comparators[0]
        halves = [
            ast.Compare(inner.left, inner.ops[:1], [middle]),
            ast.Compare(middle, inner.ops[1:], inner.comparators[1:]),
        ]
        for place, half in enumerate(halves):
            yield f"only half {place + 1}", ast.UnaryOp(ast.Not(), half) if inner is not test else half


def removals(module: ModuleType) -> list[Removed]:
    source = inspect.getsource(module)
    original = ast.parse(source)
    found: list[Removed] = []
    for place, check in enumerate(_checks(original)):
        variants: list[tuple[str, ast.expr]] = [("removed", ast.Constant(False)), *_weaker(check.test)]
        for what, condition in variants:
            tree = copy.deepcopy(original)
            _checks(tree)[place].test = condition
            ast.fix_missing_locations(tree)
            found.append(Removed(module.__name__, check.lineno, f"{ast.unparse(check.test)} [{what}]", tree))
    return found


def load(name: str, tree: ast.Module) -> ModuleType:
    module = ModuleType(name)
    # Its name must be found while dataclasses are made.
    before = sys.modules[name]
    sys.modules[name] = module
    try:
        exec(compile(tree, f"<mutated {name}>", "exec"), module.__dict__)  # noqa: S102 - our own source, changed
    finally:
        sys.modules[name] = before
    return module


def receipt_module(mutation: Removed | None) -> ModuleType:
    """A copy of `trellis.receipt`, with the mutation in it or in the certificates it uses."""
    if mutation is None or mutation.module == "trellis.receipt":
        tree = ast.parse(inspect.getsource(trellis.receipt)) if mutation is None else mutation.tree
        return load("trellis.receipt", tree)
    certificates = load("trellis.certificate", mutation.tree)
    sys.modules["trellis.certificate"] = certificates
    try:
        return load("trellis.receipt", ast.parse(inspect.getsource(trellis.receipt)))
    finally:
        sys.modules["trellis.certificate"] = trellis.certificate


def verdict(module: ModuleType, case: Case) -> str:
    trust = case.trust
    if isinstance(trust, TrustedBlock):
        trust = module.Checkpoint(trust.genesis_hash, Height(trust.height), Hash(bytes(32)), trust.validators)
    try:
        finality = module.verify_receipt(module.decode_receipt(case.data), trust, fake_verify_all)
    except module.ReceiptInvalid as fault:
        return f"{fault.fault}: {fault.detail}"
    except DecodeError as fault:
        return f"does not decode: {fault.reason}"
    except Exception as escaped:
        return f"escaped: {type(escaped).__name__}"
    return f"holds: {finality}"


MUTATIONS = [*removals(trellis.receipt), *removals(trellis.certificate)]


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    module = receipt_module(None)
    return {case.name: verdict(module, case) for case in all_cases()}


def test_the_unchanged_copy_answers_as_the_table_says(expected: dict[str, str]) -> None:
    assert len(expected) == len(all_cases())
    for case in all_cases():
        assert expected[case.name].startswith("holds") == (case.fault is None)


def test_the_list_of_checks_is_not_empty_by_mistake() -> None:
    per_module = Counter(mutation.module for mutation in MUTATIONS)
    assert per_module["trellis.receipt"] >= 18
    assert per_module["trellis.certificate"] >= 9


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_removing_a_check_changes_the_answer_about_some_receipt(mutation: Removed, expected: dict[str, str]) -> None:
    module = receipt_module(mutation)
    changed = [case.name for case in all_cases() if verdict(module, case) != expected[case.name]]
    assert changed != [], f"nothing notices that {mutation} is gone"


def test_removing_a_check_lets_a_receipt_through_that_should_be_refused() -> None:
    only_reasons = set()
    for mutation in MUTATIONS:
        if not mutation.what.endswith("[removed]"):
            continue
        module = receipt_module(mutation)
        answers = {case.name: verdict(module, case) for case in all_cases() if case.fault is not None}
        if not any(answer.startswith(("holds", "escaped")) for answer in answers.values()):
            only_reasons.add(mutation.what.removesuffix(" [removed]"))
    assert only_reasons == set(ONLY_A_BETTER_REASON)


ONLY_A_BETTER_REASON = {
    "len(signature) != SIZES[AlgId(member.alg_id)].signature_bytes": "verification refuses such a signature too; this "
    "says so before any of the others is verified, so that a spoiled certificate costs nothing"
}
