"""The same commands against the real control plane: ledger, pool, store and services, with blocks made on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.exits import Exit
from tests.node.cli.kit import PASSWORD, run, write_key
from tests.node.rpc.rig import ALICE, BOB, Rig, address
from trellis.address import format_address
from trellis.crypto.schemes import scheme

STATEMENT = b"p cnf 2 2\n1 2 0\n-1 2 0\n"


@pytest.fixture
def rig(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A node whose next block is made as soon as something waits for it."""
    (bare / "rig").mkdir()
    with Rig(bare / "rig") as made:
        (bare / "genesis.json").write_text(json.dumps(made.genesis.to_json()))
        for name, key in (("alice", ALICE), ("bob", BOB)):
            write_key(bare / "keys", name, scheme(key.alg_id).from_secret(key.secret()))
        (bare / "password").write_text(PASSWORD + "\n")
        monkeypatch.setenv("TRELLIS_ENDPOINT", made.address)
        monkeypatch.setenv("TRELLIS_GENESIS", str(bare / "genesis.json"))
        monkeypatch.setenv("TRELLIS_KEYS_DIR", str(bare / "keys"))
        monkeypatch.setenv("TRELLIS_KEY_PASSWORD_FILE", str(bare / "password"))
        made.commit()
        yield made


class _Miner(threading.Thread):
    """Makes blocks until it is told to stop, so that commands which wait see the chain move."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self._rig = rig
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self._rig.commit()

    def __enter__(self) -> _Miner:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def test_a_payment_is_proven_its_receipt_verifies_and_accounts_change(rig: Rig, bare: Path) -> None:
    bob = format_address(address(BOB))
    before = int(run("-o", "json", "account", "bob", "--verify").json["balance"])
    receipt = str(bare / "payment.receipt")
    with _Miner(rig):
        paid = run("-o", "json", "tx", "send", bob, "1.5", "--from", "alice", "--receipt", receipt)
    assert (paid.code, paid.json["outcome"]) == (Exit.OK, "OK"), paid.err
    assert int(run("-o", "json", "account", "bob", "--verify").json["balance"]) == before + 1_500_000
    assert run("tx", "verify", receipt).code == Exit.OK
    txid = paid.json["txid"]
    assert run("-o", "json", "tx", "show", txid).json["status"] == "final"
    history = run("-o", "json", "account", "bob", "--history", "5").json["transactions"]
    assert [item["txid"] for item in history] == [txid]
    shown = run("-o", "json", "block", str(paid.json["height"]), "--verify").json
    assert [item["txid"] for item in shown["transactions"]] == [txid]


def test_a_node_and_its_network_are_shown(rig: Rig) -> None:
    assert run("-o", "json", "status").json["moniker"] == "rig"
    assert run("status", "--check").code == Exit.OK
    assert len(run("-o", "json", "validators").json["validators"]) == 4
    assert run("-o", "json", "peers", "list", "--all").json["peers"]
    assert run("-o", "json", "evidence", "list").json == {"evidence": []}
    assert run("block", "9999").code == Exit.NOT_FOUND


def test_a_bounty_is_posted_and_claimed_with_a_proof(rig: Rig, bare: Path) -> None:
    (bare / "problem.cnf").write_bytes(STATEMENT)
    (bare / "model.sat").write_bytes(b"v 2 0\n")
    with _Miner(rig):
        post = ("proof", "post", "sat-model.v1", str(bare / "problem.cnf"), "--bounty", "2", "--from", "alice")
        posted = run("-o", "json", *post)
        assert posted.code == Exit.OK, posted.err
        statement = posted.json["statement_id"]
        claimed = run("-o", "json", "proof", "submit", statement, str(bare / "model.sat"), "--from", "bob")
    assert (claimed.code, claimed.json["outcome"]) == (Exit.OK, "OK"), claimed.err
    (row,) = run("-o", "json", "proof", "list").json["statements"]
    assert (row["status"], row["prover"]) == ("proven", format_address(address(BOB)))
    again = run("proof", "submit", statement, str(bare / "model.sat"), "--from", "bob")
    assert again.code == Exit.NO


def test_more_than_there_is_cannot_be_paid(rig: Rig) -> None:
    refused = run("tx", "send", format_address(address(BOB)), "99999999", "--from", "alice", "--no-wait")
    assert refused.code == Exit.REFUSED
    assert "INSUFFICIENT_FUNDS" in refused.err
