"""A stranger's clients, with no code of ours: grpcurl over plaintext and the unix socket, and buf curl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.node.rpc.calls import Caller
from tests.node.rpc.rig import ALICE, BOB, Rig, pay

ROOT = Path(__file__).resolve().parents[3]


def _find(name: str) -> str | None:
    places = [ROOT / ".venv" / "bin"]
    go = shutil.which("go")
    if go is not None:
        asked = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False, timeout=30)
        if asked.returncode == 0 and asked.stdout.strip():
            places.append(Path(asked.stdout.strip()) / "bin")
    found = shutil.which(name)
    for place in places:
        if found is None and os.access(place / name, os.X_OK):
            found = str(place / name)
    return found


GRPCURL, BUF = _find("grpcurl"), _find("buf")
needs_grpcurl = pytest.mark.skipif(GRPCURL is None, reason="grpcurl is neither on PATH, in .venv/bin nor in GOPATH/bin")
needs_buf = pytest.mark.skipif(BUF is None, reason="buf is neither on PATH, in .venv/bin nor in GOPATH/bin")


def grpcurl(*arguments: str) -> str:
    assert GRPCURL is not None
    done = subprocess.run([GRPCURL, "-plaintext", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(rig: Rig, method: str, request: dict[str, Any] | None = None) -> Any:
    return json.loads(grpcurl("-d", json.dumps(request or {}), rig.address, f"trellis.v1.{method}"))


@needs_grpcurl
def test_grpcurl_lists_and_describes_the_services_with_their_comments(rig: Rig) -> None:
    assert "trellis.v1.LedgerService" in grpcurl(rig.address, "list").split()
    described = grpcurl(rig.address, "describe", "trellis.v1.FinalityService")
    assert "Tells whether a block or a transaction is final" in described
    grpcurl(rig.address, "describe")


@needs_grpcurl
def test_grpcurl_submits_a_transaction_and_finds_it_final(rig: Rig) -> None:
    from base64 import b64encode

    transaction = rig.tx(ALICE, pay(BOB, 5))
    parts = {
        "body": b64encode(transaction.body).decode(),
        "algId": transaction.alg_id,
        "publicKey": b64encode(transaction.public_key).decode(),
        "signature": b64encode(transaction.signature).decode(),
    }
    sent = asked(rig, "TransactionService/SubmitTransaction", {"transaction": parts})
    assert sent["result"]["status"] == "TRANSACTION_STATUS_PENDING"
    rig.commit()
    final = asked(rig, "FinalityService/GetFinality", {"txid": sent["result"]["txid"]})
    assert final["block"]["final"]
    assert len(asked(rig, "NodeService/ListPeers")["peers"]) == 2


@needs_grpcurl
def test_grpcurl_streams_blocks_and_reads_errors(rig: Rig) -> None:
    rig.commit_to(3)
    assert GRPCURL is not None
    stream = [GRPCURL, "-plaintext", "-max-time", "2", "-d", '{"start_height": 1}', rig.address]
    done = subprocess.run(
        [*stream, "trellis.v1.SubscriptionService/SubscribeBlocks"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.count('"blockHash"') >= 3
    failed = subprocess.run(
        [GRPCURL, "-plaintext", "-d", '{"height": 9}', rig.address, "trellis.v1.LedgerService/GetBlock"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert failed.returncode != 0
    assert "HEIGHT_FUTURE" in failed.stderr


@needs_grpcurl
def test_grpcurl_operates_the_node_over_the_unix_socket(rig: Rig) -> None:
    socket = rig.plane.addresses[1].removeprefix("unix:")
    listed = grpcurl("-unix", socket, "list")
    assert "trellis.v1.AdminService" in listed
    assert json.loads(grpcurl("-unix", "-d", "{}", socket, "trellis.v1.AdminService/ListBans")) == {"page": {}}


@needs_buf
def test_buf_curl_asks_by_reflection(rig: Rig, public: Caller) -> None:
    assert BUF is not None
    target = f"http://{rig.address}/trellis.v1.LedgerService/GetServiceInfo"
    command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", "{}", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["chainName"] == "rig"
