"""Four real nodes, one wallet: any of them takes a payment, all of them tell the same, and what the wallet saved holds
where there is no network and no node."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.nets import Net, running
from tests.e2e.network import wait_for
from trellis.address import format_address
from trellis.client import LocalSigner
from trellis.client.methods import GET_ACCOUNT, GET_HEADER, GET_TRANSACTION, unary
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.genesis import Genesis
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.receipt import ReceiptInvalid, decode_receipt, verify_receipt
from trellis.transaction import PostStatement
from trellis.types import Height
from trellis.v1 import common_pb2, consensus_service_pb2, ledger_service_pb2, transaction_service_pb2

pytestmark = pytest.mark.e2e

ROOT: Final = Path(__file__).resolve().parents[2]
FINAL_S: Final = 30
ABSTAINER: Final = "node3"
BOUNTY: Final = 900_000
_L, _C = ledger_service_pb2, consensus_service_pb2
GET_STATEMENT: Final = unary("LedgerService", "GetStatement", _L.GetStatementRequest, _L.GetStatementResponse)
LIST_VALIDATORS: Final = unary(
    "ConsensusService", "ListValidators", _C.ListValidatorsRequest, _C.ListValidatorsResponse
)
ACCURACY: Final = unary(
    "ConsensusService",
    "GetVerificationAccuracy",
    _C.GetVerificationAccuracyRequest,
    _C.GetVerificationAccuracyResponse,
)
EVEN_IS_NOT_ODD: Final = b"(set-logic QF_LIA)\n(declare-const x Int)\n(assert (= (* 2 x) 7))\n(check-sat)\n"
"""No x: what is stated, that twice a number is never seven, is proven."""
PIGEONS: Final = 10
HARD_S: Final = 5
"""What the solver needs at the least for that many pigeons in too few holes, on a machine with nothing else to do."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    def settings(name: str) -> list[str]:
        return ["[proofs]", "attest = false"] if name == ABSTAINER else []

    path = tmp_path_factory.mktemp("four") / "net"
    with running(path, parameters=Parameters(heartbeat_ms=500), accounts=4, settings=settings) as network:
        yield network


def test_any_node_takes_a_payment_and_all_nodes_tell_the_same_of_it(net: Net) -> None:
    for place, name in enumerate(net.names):
        signer, recipient = LocalSigner(net.accounts(4)[place]), LocalSigner.generate()
        with net.client(name) as client:
            sent = client.send(to=recipient.address, amount=1_000 + place, signer=signer)
            finality = client.wait(sent.txid, FINAL_S)
        assert finality.outcome is Outcome.OK
        least = common_pb2.Consistency(min_height=finality.height)
        told = set()
        for other in net.names:
            net.reach(finality.height, other)
            with net.client(other) as client:
                receipt = client.receipt(sent.txid)
                assert verify_receipt(receipt.receipt, net.genesis, verify_all) == receipt.finality
                assert receipt.finality.block_hash == finality.block_hash
                proven = client.account(recipient.address, verify=True)
                assert (proven.proven, proven.balance) == (True, 1_000 + place)
            request = transaction_service_pb2.GetTransactionRequest(txid=sent.txid.hex(), include_transaction=True)
            transaction = net.call(other, GET_TRANSACTION, request).transaction
            account = _L.GetAccountRequest(address=format_address(signer.address), consistency=least)
            header = net.call(other, GET_HEADER, _L.GetHeaderRequest(height=finality.height)).header
            told.add(
                (
                    transaction.SerializeToString(deterministic=True),
                    net.call(other, GET_ACCOUNT, account).account.SerializeToString(deterministic=True),
                    header.SerializeToString(deterministic=True),
                    header.state_root,
                )
            )
        assert len(told) == 1


def saved_receipt(net: Net, folder: Path) -> Path:
    with net.client() as client:
        sent = client.notarise(b"a document's hash", LocalSigner(net.accounts(1)[0]))
        client.wait(sent.txid, FINAL_S)
        return client.receipt(sent.txid).save(folder / "saved.receipt")


def wallet_environment(folder: Path) -> dict[str, str]:
    """Where only the client and what it needs to verify can be imported."""
    shutil.copytree(ROOT / "proto" / "trellis", folder / "trellis", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cryptography", "cffi", "pycparser", "pqcrypto"):
        for found in Path(sysconfig.get_path("platlib")).glob(f"{name}*"):
            (folder / found.name).symlink_to(found)
    for found in Path(sysconfig.get_path("platlib")).glob("_cffi_backend*"):
        (folder / found.name).symlink_to(found)
    return {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}


WITHOUT_NETWORK: Final = """
import runpy, sys
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.posix_spawn", "os.fork")):
        raise RuntimeError("verifying a receipt reached for " + event)
sys.addaudithook(watch)
for absent in ("node", "state", "consensus", "p2p", "grpc", "trio", "libp2p"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise RuntimeError(absent + " can be imported here")
sys.argv[0] = "trellis"
runpy.run_module("trellis", run_name="__main__")
"""


def verify_alone(environment: dict[str, str], receipt: Path, genesis: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-P", "-c", WITHOUT_NETWORK, "verify", str(receipt), "--genesis", str(genesis)]
    return subprocess.run(
        [*command, "--output", "json"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def other_chain(genesis: Genesis) -> Genesis:
    return replace(genesis, time_ms=genesis.time_ms + 1)


def test_a_saved_receipt_verifies_with_the_client_alone_and_no_network_and_nothing_like_it_does(
    net: Net, tmp_path: Path
) -> None:
    receipt = saved_receipt(net, tmp_path)
    (tmp_path / "site").mkdir()
    environment = wallet_environment(tmp_path / "site")
    good = verify_alone(environment, receipt, net.folder.genesis_path)
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["outcome"] == "OK"

    data = receipt.read_bytes()
    for place in (40, len(data) // 2, len(data) - 1):
        changed = tmp_path / "changed.receipt"
        changed.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        bad = verify_alone(environment, changed, net.folder.genesis_path)
        assert (bad.returncode, json.loads(bad.stdout)["valid"]) == (1, False), bad.stderr
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps(other_chain(net.genesis).to_json()))
    refused = verify_alone(environment, receipt, foreign)
    assert (refused.returncode, json.loads(refused.stdout)["fault"]) == (1, "wrong_chain")


def test_no_bit_of_a_receipt_can_be_changed(net: Net, tmp_path: Path) -> None:
    data = saved_receipt(net, tmp_path).read_bytes()
    finality = verify_receipt(decode_receipt(data), net.genesis, verify_all)
    assert finality.outcome is Outcome.OK
    chance = random.Random(7)
    places = [*range(1_200), *chance.sample(range(1_200, len(data)), 1_200)]
    for place in places:
        changed = data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        with pytest.raises((DecodeError, ReceiptInvalid)):
            verify_receipt(decode_receipt(changed), net.genesis, verify_all)


def test_validators_attest_a_statement_and_share_its_bounty_and_who_abstains_loses_nothing(net: Net) -> None:
    posted = PostStatement("z3-attest.v1", EVEN_IS_NOT_ODD, BOUNTY, Height(10_000))
    addresses = {name: net.key_of(name, "account") for name in net.names}
    before = balances(net)
    with net.client() as client:
        sent = client.execute(posted, LocalSigner(net.accounts(2)[1]))
        assert client.wait(sent.txid, FINAL_S).outcome is Outcome.OK

    def statement() -> ledger_service_pb2.Statement:
        request = _L.GetStatementRequest(statement_id=posted.statement_id.hex())
        return net.call("node0", GET_STATEMENT, request).statement

    wait_for(lambda: statement().status == _L.STATEMENT_STATUS_PROVEN, 60, "the verdict of a quorum")
    assert not net.events(ABSTAINER, "statement"), "a node that shall not ask the solver did"
    assert all(net.events(name, "statement") for name in net.names if name != ABSTAINER)
    after = balances(net)
    # Block rewards come beside; the least share of the bounty is far above them.
    gained = {name: after[name] - before[name] for name in addresses}
    share = (BOUNTY - 20_000) // 3
    assert all(gained[name] > share for name in net.names if name != ABSTAINER), gained
    assert 0 <= gained[ABSTAINER] < share // 2, gained
    for member in net.call("node0", LIST_VALIDATORS, _C.ListValidatorsRequest()).validators:
        assert not member.jailed
        assert member.power == member.bonded == "10000000"
    for accuracy in net.call("node0", ACCURACY, _C.GetVerificationAccuracyRequest()).accuracies:
        assert accuracy.votes == accuracy.correct_votes


def balances(net: Net) -> dict[str, int]:
    with net.client("node0") as client:
        return {name: client.balance(LocalSigner(net.key_of(name, "account")).address) for name in net.names}


def pigeonhole_script(pigeons: int) -> bytes:
    """They do not fit into one hole less; a solver that resolves needs long to see it."""
    holes = pigeons - 1
    sits = [[f"p{pigeon}_{hole}" for hole in range(holes)] for pigeon in range(pigeons)]
    lines = ["(set-logic QF_UF)", *(f"(declare-const {name} Bool)" for row in sits for name in row)]
    lines += [f"(assert (or {' '.join(row)}))" for row in sits]
    for hole in range(holes):
        for first in range(pigeons):
            for second in range(first):
                lines.append(f"(assert (or (not {sits[first][hole]}) (not {sits[second][hole]})))")
    return "\n".join([*lines, "(check-sat)", ""]).encode()


def test_a_node_that_is_told_to_stop_does_not_wait_for_its_solver(net: Net) -> None:
    """Last in this file: it stops a node."""
    posted = PostStatement("z3-attest.v1", pigeonhole_script(PIGEONS), 1, Height(10_000))
    with net.client() as client:
        sent = client.execute(posted, LocalSigner(net.accounts(3)[2]))
        assert client.wait(sent.txid, FINAL_S).outcome is Outcome.OK
    net.send(signal.SIGTERM, "node1")
    assert net.ended("node1", HARD_S) == 0
    assert not [e for e in net.events("node1", "statement") if e["id"] == posted.statement_id.hex()[:16]]
