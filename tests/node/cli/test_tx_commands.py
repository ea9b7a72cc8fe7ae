"""`trellis tx`: payments and their like, from the key to the receipt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli.exits import Exit
from tests.node.cli.conftest import World
from tests.node.cli.kit import PASSWORD, address_text, run, write_key
from tests.proto.client.fake_chain import make_key
from tests.proto.client.fake_server import Refusal
from trellis.client.errors import Reason
from trellis.crypto.policy import Role
from trellis.crypto.schemes import verify_all
from trellis.outcome import Outcome
from trellis.peerid import peer_id
from trellis.receipt import Checkpoint
from trellis.transaction import Bond, Data, RotateKey, Transfer, Unbond, Unjail


def last_kind(world: World) -> object:
    return world.chain.blocks[-1].included[-1].transaction.parsed.kind


def test_a_payment_is_signed_sent_awaited_and_proven(world: World) -> None:
    answer = run("-o", "json", "tx", "send", address_text("bob"), "1.5", "--from", "alice")
    record = answer.json
    assert (answer.code, record["status"], record["outcome"], record["height"]) == (0, "final", "OK", 2)
    assert record["payments"] == [{"to": address_text("bob"), "amount": "1500000"}]
    kind = last_kind(world)
    assert isinstance(kind, Transfer)
    assert kind.outputs[0].amount == 1_500_000
    assert world.chain.blocks[-1].included[0].txid.hex() == record["txid"]


def test_the_table_speaks_in_the_chains_unit(world: World) -> None:
    answer = run("tx", "send", address_text("bob"), "1.5", address_text("carol"), "2", "--from", "alice")
    assert answer.code == Exit.OK
    assert f"1.5 to {address_text('bob')}, 2 to {address_text('carol')}" in answer.out
    assert "3.5" in answer.out
    assert "final" in answer.out


def test_a_receipt_is_saved_and_verifies_offline_with_the_client_alone(world: World) -> None:
    receipt = world.folder / "payment.receipt"
    assert run("tx", "send", address_text("bob"), "1", "--from", "alice", "--receipt", str(receipt)).code == Exit.OK
    world.node.stop()
    answer = run("-o", "json", "tx", "verify", str(receipt))
    assert (answer.code, answer.json["valid"], answer.json["outcome"]) == (0, True, "OK")
    own = [sys.executable, "-m", "trellis", "verify", str(receipt), "--genesis", str(world.genesis)]
    assert subprocess.run(own, check=False, capture_output=True).returncode == 0
    assert "VALID" in run("tx", "verify", str(receipt)).out


def test_a_changed_receipt_is_refused_with_exit_code_1(world: World) -> None:
    receipt = world.folder / "payment.receipt"
    run("tx", "send", address_text("bob"), "1", "--from", "alice", "--receipt", str(receipt))
    data = bytearray(receipt.read_bytes())
    data[len(data) // 2] ^= 1
    receipt.write_bytes(data)
    answer = run("-o", "json", "tx", "verify", str(receipt))
    assert (answer.code, answer.json["valid"]) == (Exit.NO, False)
    missing = run("tx", "verify", str(world.folder / "none"))
    assert missing.code == Exit.LOCAL
    assert "hint: name the receipt" in missing.err


def test_a_receipt_needs_something_to_be_checked_against(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELLIS_GENESIS")
    answer = run("tx", "verify", "payment.receipt")
    assert answer.code == Exit.USAGE
    assert "--genesis FILE, or --checkpoint FILE" in answer.err


def test_final_and_failed_is_told_by_the_exit_code(world: World) -> None:
    answer = run("-o", "json", "tx", "send", address_text("bob"), "9.9999", "--from", "alice")
    assert answer.code == Exit.NO
    assert answer.json["outcome"] == Outcome.INSUFFICIENT_FUNDS.name
    assert "its fee was kept" in answer.err
    assert "hint:" in answer.err


def test_a_dry_run_signs_and_sends_nothing_and_needs_no_password(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELLIS_KEY_PASSWORD_FILE")
    answer = run("-o", "json", "tx", "send", address_text("bob"), "1", "--from", "alice", "--dry-run")
    assert answer.json["status"] == "not signed"
    assert int(answer.json["fee"]) > world.chain.genesis.parameters.fee_key_registration
    assert world.node.calls["SubmitTransaction"] == 0


def test_no_wait_answers_when_a_node_has_taken_it(world: World) -> None:
    world.node.commits = False
    answer = run("-o", "json", "tx", "send", address_text("bob"), "1", "--from", "alice", "--no-wait")
    assert answer.json["status"] == "pending"
    txid = answer.json["txid"]
    shown = run("-o", "json", "tx", "show", txid)
    assert (shown.json["status"], shown.json["kind"], shown.json["block"]) == ("pending", "transfer", None)
    late = run("tx", "wait", txid, "--for", "0.3")
    assert late.code == Exit.TIMEOUT
    assert "trellis tx wait again" in late.err
    world.chain.commit_pending()
    waited = run("-o", "json", "tx", "wait", txid, "--receipt", str(world.folder / "r"))
    assert (waited.code, waited.json["status"]) == (0, "final")
    assert (world.folder / "r").exists()
    fetched = run("-o", "json", "tx", "receipt", txid, "--to", str(world.folder / "again"))
    assert fetched.json["receipt_bytes"] == (world.folder / "again").stat().st_size
    table = run("tx", "show", txid)
    assert "2, place 0" in table.out


def test_without_a_password_file_and_a_terminal_nothing_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELLIS_KEY_PASSWORD_FILE")
    answer = run("tx", "send", address_text("bob"), "1", "--from", "alice")
    assert answer.code == Exit.USAGE
    assert "--password-file FILE" in answer.err
    assert world.node.calls.total() == 0


def test_a_wrong_password_sends_nothing_and_is_not_shown(world: World) -> None:
    (world.folder / "password").write_text("hunter2\n")
    answer = run("tx", "send", address_text("bob"), "1", "--from", "alice")
    assert answer.code == Exit.LOCAL
    assert "hint:" in answer.err
    assert "hunter2" not in answer.err + answer.out
    assert world.node.calls["SubmitTransaction"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "remedy"),
    [
        (("trl1nonsense", "1"), Exit.USAGE, "it begins with trl1"),
        (("ADDRESS",), Exit.USAGE, "for example: trellis tx send"),
        (("ADDRESS", "a lot"), Exit.USAGE, "write it like 12.5"),
        (("ADDRESS", "0"), Exit.USAGE, "above zero"),
        (("ADDRESS", "0.0000001"), Exit.USAGE, "--base-units"),
        (("ADDRESS", "1", "--fee", "x"), Exit.USAGE, "write it like 12.5"),
        (("ADDRESS", "1", "--max-fee", "0.000001"), Exit.USAGE, "--max-fee"),
        (("ADDRESS", "1", "--receipt", "r", "--no-wait"), Exit.USAGE, "leave out --no-wait"),
        (("ADDRESS", "1", "--from", "nobody"), Exit.NOT_FOUND, "trellis keys list"),
        (("ADDRESS", "1", "--from", "../etc"), Exit.USAGE, "letters, digits"),
        (("ADDRESS", "1", "--account", "trl1"), Exit.USAGE, "it begins with trl1"),
    ],
)
def test_a_wrong_payment_is_refused_before_anything_is_sent(
    world: World, arguments: tuple[str, ...], code: Exit, remedy: str
) -> None:
    given = [address_text("bob") if word == "ADDRESS" else word for word in arguments]
    sender = [] if "--from" in given else ["--from", "alice"]
    answer = run("tx", "send", *given, *sender)
    assert answer.code == code, answer.err
    assert remedy in answer.err
    assert world.node.calls["SubmitTransaction"] == 0


def test_without_genesis_nothing_is_signed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELLIS_GENESIS")
    answer = run("tx", "send", address_text("bob"), "1", "--from", "alice")
    assert answer.code == Exit.USAGE
    assert "--genesis FILE, or set TRELLIS_GENESIS" in answer.err


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.NONCE_TOO_LOW, Exit.REFUSED),
        (Reason.INSUFFICIENT_FUNDS, Exit.REFUSED),
        (Reason.ALGORITHM_NOT_ALLOWED, Exit.REFUSED),
        (Reason.FEE_TOO_LOW, Exit.REFUSED),
    ],
)
def test_a_nodes_refusal_names_the_reason_and_what_to_do(world: World, reason: Reason, code: Exit) -> None:
    world.node.refuse("SubmitTransaction", Refusal(reason, {"expected_nonce": "7"}))
    answer = run("tx", "send", address_text("bob"), "1", "--from", "alice")
    assert answer.code == code
    assert reason in answer.err
    assert "hint: " in answer.err


def test_base_units_and_a_fee_are_taken_as_they_are(world: World) -> None:
    answer = run(
        "-o", "json", "tx", "send", address_text("bob"), "7", "--base-units", "--fee", "9000", "--from", "alice"
    )
    assert answer.json["fee"] == "9000"
    assert answer.json["payments"][0]["amount"] == "7"


def test_data_from_a_file_or_standard_input_goes_on_the_chain(world: World) -> None:
    file = world.folder / "contract.pdf"
    file.write_bytes(b"we agree")
    whole = run("-o", "json", "tx", "data", str(file), "--from", "alice")
    assert last_kind(world) == Data(b"we agree")
    digest = run("-o", "json", "tx", "data", str(file), "--digest", "--from", "alice")
    assert last_kind(world) == Data(bytes.fromhex(digest.json["file_sha3_256"]))
    assert whole.json["file_sha3_256"] == digest.json["file_sha3_256"]
    piped = run("-o", "json", "tx", "data", "-", "--from", "alice", stdin=b"we were here")
    assert last_kind(world) == Data(b"we were here")
    assert piped.json["file_bytes"] == 12


@pytest.mark.parametrize(
    ("content", "remedy"), [(b"", "name another file"), (bytes(2 << 20), "--digest"), (None, "check its name")]
)
def test_data_that_cannot_go_on_the_chain_is_refused(world: World, content: bytes | None, remedy: str) -> None:
    file = world.folder / "file"
    if content is not None:
        file.write_bytes(content)
    answer = run("tx", "data", str(file), "--from", "alice")
    assert answer.code == Exit.LOCAL
    assert remedy in answer.err


def test_a_rotated_key_proves_that_it_holds_the_new_one(world: World) -> None:
    new = make_key("alice 2")
    write_key(world.keys, "alice2", new)
    answer = run("-o", "json", "tx", "rotate-key", "alice2", "--from", "alice")
    kind = last_kind(world)
    assert isinstance(kind, RotateKey)
    assert kind.new_public_key == new.public_key
    body = world.chain.blocks[-1].included[-1].transaction.parsed
    assert all(verify_all(kind.checks(world.chain.genesis.hash, body.sender, body.nonce)))
    assert answer.json["sign_with"] == f"--from alice2 --account {address_text('alice')}"
    assert answer.json["txid"] == world.chain.blocks[-1].included[-1].txid.hex()


def test_a_key_cannot_be_replaced_by_itself_or_by_a_key_of_another_role(world: World) -> None:
    write_key(world.keys, "vote", make_key("vote"), Role.CONSENSUS_VOTE)
    assert run("tx", "rotate-key", "alice", "--from", "alice").code == Exit.USAGE
    assert run("tx", "rotate-key", "vote", "--from", "alice").code == Exit.LOCAL
    assert run("-o", "json", "tx", "rotate-key", "bob", "--from", "alice", "--dry-run").json["status"] == "not signed"


def test_stake_is_bonded_for_a_node_unbonded_and_freed_from_jail(world: World) -> None:
    vote, net = make_key("vote"), make_key("net")
    write_key(world.keys, "vote", vote, Role.CONSENSUS_VOTE)
    write_key(world.keys, "net", net, Role.NETWORK_IDENTITY)
    bond = ("tx", "stake", "bond", "2", "--from", "alice", "--consensus-key", "vote", "--network-key", "net")
    assert run("-o", "json", *bond).json["amount"] == "2000000"
    assert last_kind(world) == Bond(2_000_000, vote.alg_id, vote.public_key, peer_id(net.alg_id, net.public_key))
    assert run("tx", "stake", "unbond", "1", "--from", "alice", "--max-fee", "1").code == Exit.OK
    assert last_kind(world) == Unbond(1_000_000)
    assert run("tx", "stake", "unjail", "--from", "alice", "--max-fee", "1").code == Exit.OK
    assert last_kind(world) == Unjail()


def test_a_bond_must_name_one_node_that_can_vote(world: World) -> None:
    nothing = run("tx", "stake", "bond", "2", "--from", "alice")
    assert nothing.code == Exit.USAGE
    assert "--home DIR, or both --consensus-key and --network-key" in nothing.err
    unknown = ("--consensus-key", "vote", "--network-key", "net")
    assert run("tx", "stake", "bond", "2", "--from", "alice", *unknown).code == Exit.NOT_FOUND


def test_an_unknown_transaction_is_not_found_and_nonsense_is_wrong_usage(world: World) -> None:
    unknown = run("tx", "show", "ab" * 32)
    assert unknown.code == Exit.NOT_FOUND
    assert "TX_UNKNOWN" in unknown.err
    assert run("tx", "show", "abc").code == Exit.USAGE
    assert run("tx", "wait", "zz").code == Exit.USAGE


def test_no_password_is_ever_an_argument(world: World) -> None:
    for command in ("send", "data", "rotate-key"):
        page = run("tx", command, "--help").out
        assert "--password-file" in page
        assert "--password " not in page
    assert PASSWORD not in run("tx", "send", address_text("bob"), "1", "--from", "alice").out


def test_a_key_that_is_not_for_accounts_does_not_pay(world: World, tmp_path: Path) -> None:
    write_key(world.keys, "vote", make_key("vote"), Role.CONSENSUS_VOTE)
    answer = run("tx", "send", address_text("bob"), "1", "--from", "vote")
    assert answer.code == Exit.LOCAL
    assert "trellis keys list" in answer.err


def test_a_checkpoint_does_not_tell_the_unit_so_amounts_are_base_units(world: World) -> None:
    block = world.chain.blocks[-1].header
    checkpoint = Checkpoint(world.chain.genesis.hash, block.height, block.hash, world.chain.validators)
    world.chain.commit()
    file = world.folder / "checkpoint.json"
    file.write_text(json.dumps(checkpoint.to_json()))
    payment = ("tx", "send", address_text("bob"), "7", "--from", "alice", "--genesis", str(file))
    refused = run(*payment)
    assert refused.code == Exit.USAGE
    assert "--base-units" in refused.err
    assert world.node.calls["SubmitTransaction"] == 0
    assert run("-o", "json", *payment, "--base-units", "--no-wait").json["total"] == "7"
