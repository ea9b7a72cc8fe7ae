"""A wallet's whole path against the real ledger: `trellis.client` on one end, the control plane on the other."""

from __future__ import annotations

from pathlib import Path

from tests.node.rpc.rig import ALICE, BOB, Rig, address, signer
from trellis.client import Status
from trellis.crypto.schemes import verify_all
from trellis.outcome import Outcome
from trellis.receipt import decode_receipt, verify_receipt


def test_a_payment_becomes_final_and_its_receipt_verifies_offline(rig: Rig, tmp_path: Path) -> None:
    rig.commit()
    with rig.client() as client:
        sent = client.send(to=address(BOB), amount=1_500, signer=signer(ALICE))
        assert sent.status is Status.PENDING
        assert client.account(address(ALICE)).pending_nonce == 1
        rig.commit()
        finality = client.wait(sent.txid)
        assert (finality.outcome, finality.height) == (Outcome.OK, 2)
        saved = client.receipt(sent.txid).save(tmp_path / "payment.receipt")
        proven = client.account(address(BOB), verify=True)
        assert proven.proven
        assert proven.balance == client.balance(address(BOB)) == 1_000_000_000 + 1_500
    receipt = decode_receipt(saved.read_bytes())
    assert verify_receipt(receipt, rig.genesis, verify_all).txid == sent.txid
