"""`trellis proof`: a statement posted, a bounty claimed in two steps, and all ways to interrupt that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.cli.exits import Exit
from tests.node.cli.conftest import World
from tests.node.cli.kit import address_text, run
from tests.proto.client.fake_server import Refusal
from trellis.client.errors import Reason
from trellis.transaction import CommitProof, PostStatement, RevealProof
from trellis.types import Hash, Height
from trellis.v1 import ledger_service_pb2

STATEMENT = b"p cnf 2 2\n1 2 0\n-1 2 0\n"
MODEL = b"v 2 0\n"


@pytest.fixture
def posted(world: World) -> Hash:
    return world.node.post(PostStatement("sat-model.v1", STATEMENT, 5_000_000, Height(9_000)))


def written(world: World, content: bytes) -> str:
    file = world.folder / "model.sat"
    file.write_bytes(content)
    return str(file)


def kinds(world: World) -> list[Any]:
    return [item.transaction.parsed.kind for block in world.chain.blocks for item in block.included]


def claims(world: World) -> list[Path]:
    return list((world.folder / "home" / ".trellis" / "claims").glob("*"))


def test_a_statement_is_posted_with_its_bounty_and_its_form_checked_first(world: World) -> None:
    file = world.folder / "problem.cnf"
    file.write_bytes(STATEMENT)
    answer = run("-o", "json", "proof", "post", "sat-model.v1", str(file), "--bounty", "2", "--from", "alice")
    (kind,) = kinds(world)
    assert kind == PostStatement("sat-model.v1", STATEMENT, 2_000_000, Height(10_001))
    assert answer.json["statement_id"] == kind.statement_id.hex()
    file.write_bytes(b"p cnf nonsense")
    bad = run("proof", "post", "sat-model.v1", str(file), "--bounty", "2", "--from", "alice")
    assert bad.code == Exit.NO
    assert "hint:" in bad.err
    assert run("proof", "post", "magic.v1", str(file), "--bounty", "2", "--from", "alice").code == Exit.USAGE
    assert len(kinds(world)) == 1


def test_statements_are_listed(world: World, posted: Hash) -> None:
    (row,) = run("-o", "json", "proof", "list", "--status", "open").json["statements"]
    assert (row["statement_id"], row["status"], row["bounty"]) == (posted.hex(), "open", "5000000")
    assert posted.hex() in run("proof", "list").out
    assert run("proof", "list", "--status", "expired").out == "no statements\n"


def test_a_claim_commits_reveals_and_is_forgotten(world: World, posted: Hash) -> None:
    answer = run("-o", "json", "proof", "submit", posted.hex(), written(world, MODEL), "--from", "bob")
    record = answer.json
    assert (answer.code, record["status"], record["outcome"], record["bounty"]) == (0, "final", "OK", "5000000")
    commit, reveal = kinds(world)
    assert isinstance(commit, CommitProof)
    assert isinstance(reveal, RevealProof)
    sender = world.chain.blocks[-1].included[0].transaction.parsed.sender
    assert commit.commitment == reveal.commitment(sender)
    assert reveal.cost_limit == record["cost"] > 0
    assert len(reveal.salt) == 32
    assert claims(world) == []


def test_a_wrong_proof_costs_nothing(world: World, posted: Hash) -> None:
    answer = run("proof", "submit", posted.hex(), written(world, b"v 1 -2 0\n"), "--from", "bob")
    assert answer.code == Exit.NO
    assert "nothing was sent" in answer.err
    assert kinds(world) == []
    assert claims(world) == []


def test_a_dry_run_of_a_claim_checks_and_keeps_nothing(world: World, posted: Hash) -> None:
    record = run(
        "-o", "json", "proof", "submit", posted.hex(), written(world, MODEL), "--from", "bob", "--dry-run"
    ).json
    assert (record["status"], record["verifier"]) == ("not sent", "sat-model.v1")
    assert claims(world) == []


def test_an_interrupted_claim_goes_on_with_the_same_secret(world: World, posted: Hash) -> None:
    world.node.commits = False
    command = ("-o", "json", "proof", "submit", posted.hex(), written(world, MODEL), "--from", "bob")
    stopped = run(*command, "--for", "0.3")
    assert stopped.code == Exit.TIMEOUT
    assert "run the same command again" in stopped.err
    (file,) = claims(world)
    assert file.stat().st_mode & 0o077 == 0
    salt = json.loads(file.read_text())["salt"]
    world.chain.commit_pending()
    half = run(*command, "--for", "0.3")
    assert half.code == Exit.TIMEOUT
    assert json.loads(file.read_text())["salt"] == salt
    world.chain.commit_pending()
    assert run(*command).json["outcome"] == "OK"
    commit, reveal = kinds(world)
    assert (reveal.salt.hex(), isinstance(commit, CommitProof)) == (salt, True)
    assert claims(world) == []


def test_a_commitment_that_expired_unused_is_signed_anew_with_the_same_secret(world: World, posted: Hash) -> None:
    world.node.commits = False
    command = ("-o", "json", "proof", "submit", posted.hex(), written(world, MODEL), "--from", "bob")
    assert run(*command, "--for", "0.3").code == Exit.TIMEOUT
    world.chain.pending.clear()
    world.node.commits = True
    world.node.refuse("SubmitTransaction", Refusal(Reason.TX_EXPIRED))
    (file,) = claims(world)
    salt = json.loads(file.read_text())["salt"]
    assert run(*command).json["outcome"] == "OK"
    assert kinds(world)[1].salt.hex() == salt


def test_a_claim_is_only_used_for_what_it_was_made_for(world: World, posted: Hash) -> None:
    world.node.commits = False
    claim = ("--claim", str(world.folder / "claim.json"))
    command = ("proof", "submit", posted.hex(), written(world, MODEL), *claim)
    assert run(*command, "--from", "bob", "--for", "0.3").code == Exit.TIMEOUT
    other = run(*command, "--from", "alice")
    assert other.code == Exit.LOCAL
    assert "--claim" in other.err
    (world.folder / "claim.json").write_text("{}")
    broken = run(*command, "--from", "bob")
    assert broken.code == Exit.LOCAL
    assert "move it away" in broken.err


def test_a_statement_that_is_closed_unknown_or_forged_is_not_claimed(world: World, posted: Hash) -> None:
    command = ("proof", "submit", posted.hex(), written(world, MODEL), "--from", "bob")
    world.node.statements[posted].statement = b"p cnf 1 1\n1 0\n"
    assert run(*command).code == Exit.DISHONEST
    world.node.statements[posted].status = ledger_service_pb2.STATEMENT_STATUS_PROVEN
    closed = run(*command)
    assert closed.code == Exit.NO
    assert "is proven" in closed.err
    unknown = ("proof", "submit", "ab" * 32, written(world, MODEL), "--from", "bob")
    assert run(*unknown).code == Exit.NOT_FOUND
    assert run("proof", "submit", "ab", written(world, MODEL), "--from", "bob").code == Exit.USAGE
    assert run(*command, "--no-wait").code == Exit.USAGE
    assert kinds(world) == []


def test_the_secret_of_a_claim_is_never_shown(world: World, posted: Hash) -> None:
    world.node.commits = False
    stopped = run("proof", "submit", posted.hex(), written(world, MODEL), "--from", "bob", "--for", "0.3")
    (file,) = claims(world)
    salt = json.loads(file.read_text())["salt"]
    assert salt not in stopped.out + stopped.err
    assert address_text("bob") not in file.name
