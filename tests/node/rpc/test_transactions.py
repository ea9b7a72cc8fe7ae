"""TransactionService over a real ledger, pool and store."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from node.rpc.encode import transaction_message
from node.rpc.transactions import wait_seconds
from state.mempool import PoolLimits
from tests.node.rpc.calls import Caller, Refusal
from tests.node.rpc.rig import ALICE, BOB, CAROL, Rig, address, make_genesis, pay
from tests.signing import real_signer
from trellis.address import format_address
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import verify_all
from trellis.outcome import Outcome
from trellis.peerid import peer_id
from trellis.receipt import Checkpoint, decode_receipt, verify_receipt
from trellis.transaction import Bond, Data, Transaction
from trellis.types import Hash, Height
from trellis.v1 import chain_pb2, transaction_service_pb2

_S = transaction_service_pb2


def submit(public: Caller, *transactions: Transaction) -> Any:
    request = _S.SubmitTransactionsRequest(transactions=[transaction_message(each) for each in transactions])
    return public.ask("TransactionService/SubmitTransactions", request)


def submit_one(public: Caller, transaction: Transaction) -> Any:
    request = _S.SubmitTransactionRequest(transaction=transaction_message(transaction))
    return public.ask("TransactionService/SubmitTransaction", request)


def refused(public: Caller, transaction: Transaction) -> Refusal:
    with pytest.raises(Refusal) as caught:
        submit_one(public, transaction)
    return caught.value


def txid(rig: Rig, transaction: Transaction) -> str:
    return transaction.txid(rig.genesis.hash).hex()


def test_submitting_is_idempotent_before_and_after_finality(rig: Rig, public: Caller) -> None:
    transaction = rig.tx(ALICE, pay(BOB, 5))
    first, again = submit_one(public, transaction), submit_one(public, transaction)
    assert (first.result.status, first.result.duplicate) == (chain_pb2.TRANSACTION_STATUS_PENDING, False)
    assert (again.result.status, again.result.duplicate) == (chain_pb2.TRANSACTION_STATUS_PENDING, True)
    rig.commit()
    later = submit_one(public, transaction)
    assert later.result.status == chain_pb2.TRANSACTION_STATUS_FINAL
    assert later.result.duplicate
    assert (later.result.block.height, later.result.outcome.name) == (1, "OK")
    assert later.at.height == 1
    assert later.at.final


def test_a_second_signature_over_a_final_body_is_the_same_transaction(rig: Rig, public: Caller) -> None:
    rig.commit(rig.tx(ALICE))
    other = rig.tx(ALICE)
    assert submit_one(public, other).result.status == chain_pb2.TRANSACTION_STATUS_FINAL


def test_a_batch_answers_item_by_item_in_its_order(rig: Rig, public: Caller) -> None:
    good = rig.tx(ALICE, nonce=0)
    bad = Transaction(good.body, good.alg_id, good.public_key, bytes(len(good.signature)))
    malformed = Transaction(b"\x08\x01", good.alg_id, good.public_key, good.signature)
    results = submit(public, malformed, good, rig.tx(ALICE, nonce=1), rig.tx(BOB, nonce=99), bad).results
    assert [item.error.reason for item in results] == ["MALFORMED_TX", "", "", "NONCE_GAP", "BAD_SIGNATURE"]
    assert results[0].txid == ""
    assert results[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert results[1].txid == txid(rig, good)
    assert dict(results[3].error.metadata) == {"expected_nonce": "0"}


def test_a_stream_is_summed_up_with_its_rejections(rig: Rig, public: Caller) -> None:
    good = [rig.tx(ALICE, nonce=nonce) for nonce in range(60)]
    broken = Transaction(good[0].body, good[0].alg_id, good[0].public_key, b"")
    sent = [*good[:30], broken, *good[30:], good[0], *(rig.tx(BOB, nonce=nonce) for nonce in range(20))]
    call = public.raw("TransactionService/SubmitStream")
    messages = (_S.SubmitStreamRequest(transaction=transaction_message(each)) for each in sent)
    answer = call(messages, timeout=30)
    assert (answer.admitted_count, answer.duplicate_count, answer.rejected_count) == (80, 1, 1)
    assert [(item.index, item.result.error.reason) for item in answer.rejections] == [(30, "BAD_SIGNATURE")]
    assert len(rig.pool) == 80


def test_each_reason_of_refusal_reaches_the_wallet_with_its_metadata(rig: Rig, public: Caller) -> None:
    rig.commit(rig.tx(ALICE))
    good = rig.tx(ALICE, nonce=1, carry_key=False)
    flipped = bytes([good.signature[0] ^ 1]) + good.signature[1:]
    nobody = real_signer(777)

    def told(transaction: Transaction) -> tuple[str, str, dict[str, str]]:
        refusal = refused(public, transaction)
        return refusal.reason, refusal.code.name, refusal.metadata

    assert told(Transaction(b"\xff", 1, b"", good.signature))[:2] == ("MALFORMED_TX", "INVALID_ARGUMENT")
    assert told(Transaction(good.body, 1, b"", flipped))[:2] == ("BAD_SIGNATURE", "INVALID_ARGUMENT")
    assert told(Transaction(good.body, 1, b"", flipped))[:2] == ("BAD_SIGNATURE", "INVALID_ARGUMENT")
    elsewhere = rig.tx(BOB, genesis_hash=Hash(bytes(32)))
    assert told(elsewhere)[0] == "BAD_SIGNATURE"
    assert told(Transaction(good.body, 77, b"", good.signature))[::2] == ("INVALID_FIELD", {"field": "public_key"})
    assert told(rig.tx(BOB, carry_key=False))[::2] == ("INVALID_FIELD", {"field": "public_key"})
    assert told(Transaction(good.body, 0, b"", good.signature))[::2] == ("INVALID_FIELD", {"field": "alg_id"})
    assert told(rig.tx(ALICE, Data(b"late"), nonce=0, carry_key=False)) == (
        "NONCE_TOO_LOW",
        "FAILED_PRECONDITION",
        {"expected_nonce": "1"},
    )
    assert told(rig.tx(ALICE, nonce=65, carry_key=False)) == (
        "NONCE_GAP",
        "FAILED_PRECONDITION",
        {"expected_nonce": "1"},
    )
    assert told(rig.tx(ALICE, nonce=1, valid_until=1, carry_key=False)) == (
        "TX_EXPIRED",
        "FAILED_PRECONDITION",
        {"valid_until_height": "1", "latest_height": "1"},
    )
    poor = told(rig.tx(BOB, pay(ALICE, 999_999_999)))
    assert poor == ("INSUFFICIENT_FUNDS", "FAILED_PRECONDITION", {"balance": "1000000000", "needed": "1000049999"})
    assert told(rig.tx(nobody))[0] == "INSUFFICIENT_FUNDS"
    cheap = told(rig.tx(BOB, fee=7))
    assert cheap[:2] == ("FEE_TOO_LOW", "FAILED_PRECONDITION")
    assert int(cheap[2]["minimum_fee"]) > 2_100


def test_a_replacement_must_pay_more_and_is_told_how_much(rig: Rig, public: Caller) -> None:
    submit_one(public, rig.tx(ALICE, Data(b"one"), fee=10_000))
    refusal = refused(public, rig.tx(ALICE, Data(b"two"), fee=10_001))
    assert (refusal.reason, refusal.metadata) == ("FEE_TOO_LOW", {"minimum_fee": "11000"})
    submit_one(public, rig.tx(ALICE, Data(b"two"), fee=11_000))
    assert len(rig.pool) == 1


def test_a_key_carried_once_too_often_is_taken_off_rather_than_refused(rig: Rig, public: Caller) -> None:
    late = rig.tx(ALICE, nonce=1, carry_key=True)
    rig.commit(rig.tx(ALICE, nonce=0))
    assert submit_one(public, late).result.status == chain_pb2.TRANSACTION_STATUS_PENDING
    rig.commit()
    found = public.ask("TransactionService/GetTransaction", txid=txid(rig, late), includeTransaction=True)
    assert found.transaction.status == chain_pb2.TRANSACTION_STATUS_FINAL
    assert found.transaction.transaction.public_key == b""


def test_a_forbidden_algorithm_is_refused_with_its_role(tmp_path: Path) -> None:
    from dataclasses import replace

    from trellis.crypto.policy import AlgorithmPolicy, Role

    genesis = make_genesis()
    kept = tuple(e for e in genesis.policy.entries if (e.role, e.alg_id) != (Role.ACCOUNT, AlgId.ML_DSA_87))
    big = real_signer(300, AlgId.ML_DSA_87)
    genesis = replace(make_genesis(rich=(ALICE, big)), policy=AlgorithmPolicy(kept))
    with Rig(tmp_path, genesis=genesis) as rig, Caller(rig.channel()) as public:
        refusal = refused(public, rig.tx(big))
        assert refusal.reason == "ALGORITHM_NOT_ALLOWED"
        assert refusal.metadata == {"alg_id": "2", "role": "account"}
        body = rig.tx(big).body
        with pytest.raises(Refusal) as caught:
            public.ask("TransactionService/EstimateFee", _S.EstimateFeeRequest(body=body, alg_id=2))
        assert caught.value.reason == "ALGORITHM_NOT_ALLOWED"


def test_a_full_pool_pushes_back_with_a_delay(tmp_path: Path) -> None:
    with Rig(tmp_path, limits=PoolLimits(max_count=2)) as rig, Caller(rig.channel()) as public:
        submit(public, rig.tx(ALICE, nonce=0, fee=90_000), rig.tx(ALICE, nonce=1, fee=90_000))
        refusal = refused(public, rig.tx(BOB, fee=50_000))
        assert (refusal.reason, refusal.code.name) == ("MEMPOOL_FULL", "RESOURCE_EXHAUSTED")
        assert refusal.retry_after_ms == 1_000
        assert submit(public, rig.tx(BOB, fee=50_000)).results[0].error.retry_after_ms == 1_000
        rig.commit()
        submit_one(public, rig.tx(BOB, fee=50_000))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"has_quorum": False}, "NO_QUORUM"),
        ({"stage": 5, "target_height": 77}, "SYNCING"),
        ({"draining": True}, "DRAINING"),
    ],
)
def test_a_node_that_cannot_finish_anything_takes_nothing(
    rig: Rig, public: Caller, change: dict[str, Any], reason: str
) -> None:
    from node.rpc.port import SyncStage

    if "stage" in change:
        change = {**change, "stage": SyncStage(change["stage"])}
    rig.stand(**change)
    refusal = refused(public, rig.tx(ALICE))
    assert (refusal.reason, refusal.code.name) == (reason, "UNAVAILABLE")
    if reason == "SYNCING":
        assert refusal.metadata == {"height": "0", "target_height": "77"}
    with pytest.raises(Refusal) as waited:
        public.ask("TransactionService/WaitForFinality", txid="00" * 32)
    assert waited.value.reason == reason


def test_sizes_of_batches_are_bounded(rig: Rig, public: Caller) -> None:
    for count in (0, 257):
        with pytest.raises(Refusal) as caught:
            submit(public, *[rig.tx(ALICE)] * count)
        assert caught.value.metadata == {"field": "transactions"}
    assert len(submit(public, *[rig.tx(ALICE)] * 256).results) == 256


def test_a_wait_ends_with_the_block_that_holds_the_transaction(rig: Rig, public: Caller) -> None:
    transaction = rig.tx(ALICE, pay(BOB, 5))
    future = public.raw("TransactionService/WaitForFinality").future(
        _S.WaitForFinalityRequest(txid=txid(rig, transaction)), timeout=20
    )
    rig.commit()
    assert not future.done()
    submit_one(public, transaction)
    rig.commit()
    answer = future.result()
    assert answer.transaction.status == chain_pb2.TRANSACTION_STATUS_FINAL
    assert (answer.transaction.block.height, answer.transaction.outcome.code) == (2, Outcome.OK)


def test_many_waits_for_one_block_all_end(rig: Rig, public: Caller) -> None:
    transactions = [rig.tx(ALICE, nonce=nonce) for nonce in range(20)]
    call = public.raw("TransactionService/WaitForFinality")
    futures = [call.future(_S.WaitForFinalityRequest(txid=txid(rig, each)), timeout=20) for each in transactions * 3]
    submit(public, *transactions)
    rig.commit()
    assert {future.result().transaction.block.height for future in futures} == {1}


def test_a_wait_that_runs_out_tells_the_last_status_before_the_callers_deadline(rig: Rig, public: Caller) -> None:
    transaction = rig.tx(ALICE)
    submit_one(public, transaction)
    for name, expected in (
        (txid(rig, transaction), "TRANSACTION_STATUS_PENDING"),
        ("00" * 32, "TRANSACTION_STATUS_UNSPECIFIED"),
    ):
        for request, timeout in (({"txid": name, "timeoutMs": 50}, 20.0), ({"txid": name}, 0.8)):
            with pytest.raises(Refusal) as caught:
                public.ask("TransactionService/WaitForFinality", timeout=timeout, **request)
            assert (caught.value.reason, caught.value.code.name) == ("WAIT_TIMEOUT", "DEADLINE_EXCEEDED")
            assert caught.value.metadata == {"status": expected, "latest_height": "0"}


@pytest.mark.parametrize(
    ("timeout_ms", "deadline_s", "expected"),
    [
        (0, None, 30.0),
        (500, None, 0.5),
        (0, 10.0, 9.75),
        (0, 0.8, 0.7),
        (60_000, 10.0, 9.75),
        (100, 10.0, 0.1),
        (0, -1, 0.0),
    ],
)
def test_the_earlier_of_request_and_deadline_rules_a_wait(
    timeout_ms: int, deadline_s: float | None, expected: float
) -> None:
    assert wait_seconds(timeout_ms, deadline_s) == pytest.approx(expected)


def test_waits_learn_of_transactions_that_no_block_will_hold(rig: Rig, public: Caller) -> None:
    expiring = rig.tx(ALICE, nonce=1, valid_until=2)  # a gap: no block can have it
    replaced = rig.tx(BOB, Data(b"one"), fee=10_000)
    submit(public, expiring, replaced)
    call = public.raw("TransactionService/WaitForFinality")
    futures = [
        call.future(_S.WaitForFinalityRequest(txid=txid(rig, each)), timeout=20) for each in (expiring, replaced)
    ]
    submit(public, rig.tx(BOB, Data(b"two"), fee=20_000))
    rig.commit_to(3)
    ends = [future.result().transaction for future in futures]
    assert [end.status for end in ends] == [
        chain_pb2.TRANSACTION_STATUS_EXPIRED,
        chain_pb2.TRANSACTION_STATUS_REPLACED,
    ]
    assert ends[1].sender == format_address(address(BOB))
    assert not ends[0].HasField("block")
    assert not ends[0].HasField("outcome")


def test_a_transaction_pushed_out_of_a_full_pool_is_dropped(tmp_path: Path) -> None:
    with Rig(tmp_path, limits=PoolLimits(max_count=1)) as rig, Caller(rig.channel()) as public:
        cheap = rig.tx(ALICE, fee=10_000)
        submit_one(public, cheap)
        submit_one(public, rig.tx(BOB, fee=900_000))
        found = public.ask("TransactionService/GetTransaction", txid=txid(rig, cheap))
        assert found.transaction.status == chain_pb2.TRANSACTION_STATUS_DROPPED


def test_a_lookup_finds_pending_and_final_ones_and_nothing_else(rig: Rig, public: Caller) -> None:
    transaction = rig.tx(ALICE, pay(BOB, 5))
    name = txid(rig, transaction)
    with pytest.raises(Refusal) as caught:
        public.ask("TransactionService/GetTransaction", txid=name)
    assert (caught.value.reason, caught.value.code.name) == ("TX_UNKNOWN", "NOT_FOUND")
    submit_one(public, transaction)
    pending = public.ask("TransactionService/GetTransaction", txid=name, includeTransaction=True).transaction
    assert pending.status == chain_pb2.TRANSACTION_STATUS_PENDING
    assert pending.transaction.signature == transaction.signature
    assert pending.kind == chain_pb2.TRANSACTION_KIND_TRANSFER
    rig.commit()
    rig.commit_to(20)  # far enough down that it is read from the disk
    final = public.ask("TransactionService/GetTransaction", txid=name, includeTransaction=True).transaction
    assert (final.block.height, final.index, final.outcome.name, final.fee) == (1, 0, "OK", "50000")
    assert final.transaction.body == transaction.body
    with pytest.raises(Refusal) as future:
        public.ask("TransactionService/GetTransaction", txid=name, consistency={"minHeight": 21})
    assert (future.value.reason, future.value.metadata) == ("HEIGHT_FUTURE", {"latest_height": "20"})


def test_receipts_lead_over_changes_of_the_set_and_from_a_checkpoint(rig: Rig, public: Caller) -> None:
    for height, sender, seed in ((1, ALICE, 50), (12, BOB, 51)):
        rig.commit_to(height - 1)
        newcomer = real_signer(seed)
        identity = peer_id(newcomer.alg_id, newcomer.public_key)
        rig.commit(rig.tx(sender, Bond(100, newcomer.alg_id, newcomer.public_key, identity)))
    rig.commit_to(74)  # beyond the window in which the state keeps old sets
    transaction = rig.tx(BOB, pay(CAROL, 5), nonce=1, carry_key=False)
    submit_one(public, transaction)
    rig.commit()
    answer = public.ask("TransactionService/GetReceipt", txid=txid(rig, transaction))
    receipt = decode_receipt(answer.receipt)
    assert [change.header.height for change in receipt.transitions] == [10, 20]
    assert verify_receipt(receipt, rig.genesis, verify_all).height == 75
    assert answer.checkpoint_hash == rig.genesis.hash.hex()
    from_checkpoint = public.ask("TransactionService/GetReceipt", txid=txid(rig, transaction), checkpointHeight="30")
    with rig.chain.read() as reader:
        header = reader.header(Height(30))
    assert header is not None
    assert from_checkpoint.checkpoint_hash == header.hash.hex()
    following = receipt.transitions[1].following
    trust = Checkpoint(rig.genesis.hash, Height(30), header.hash, following)
    short = decode_receipt(from_checkpoint.receipt)
    assert short.transitions == ()
    assert verify_receipt(short, trust, verify_all).trusted == "checkpoint at height 30"
    with pytest.raises(Refusal) as above:
        public.ask("TransactionService/GetReceipt", txid=txid(rig, transaction), checkpointHeight="76")
    assert above.value.reason == "HEIGHT_FUTURE"


def test_every_place_of_a_block_has_a_receipt_that_verifies(rig: Rig, public: Caller) -> None:
    transactions = [rig.tx(ALICE, nonce=nonce) for nonce in range(7)] + [rig.tx(BOB, nonce=nonce) for nonce in range(6)]
    submit(public, *transactions)
    rig.commit()
    for transaction in transactions:
        answer = public.ask("TransactionService/GetReceipt", txid=txid(rig, transaction))
        told = verify_receipt(decode_receipt(answer.receipt), rig.genesis, verify_all)
        assert told.txid == transaction.txid(rig.genesis.hash)


def test_a_receipt_of_what_is_not_final_is_refused_with_its_status(rig: Rig, public: Caller) -> None:
    transaction = rig.tx(ALICE)
    submit_one(public, transaction)
    with pytest.raises(Refusal) as caught:
        public.ask("TransactionService/GetReceipt", txid=txid(rig, transaction))
    assert (caught.value.reason, caught.value.code.name) == ("NOT_FINAL", "FAILED_PRECONDITION")
    assert caught.value.metadata == {"status": "TRANSACTION_STATUS_PENDING"}
    with pytest.raises(Refusal) as unknown:
        public.ask("TransactionService/GetReceipt", txid="00" * 32)
    assert unknown.value.reason == "TX_UNKNOWN"


def simulate(public: Caller, transaction: Transaction) -> Any:
    request = _S.SimulateTransactionRequest(transaction=transaction_message(transaction))
    return public.ask("TransactionService/SimulateTransaction", request)


def test_a_simulation_tells_what_would_come_of_a_transaction_signed_or_not(rig: Rig, public: Caller) -> None:
    signed = rig.tx(ALICE, pay(CAROL, 70), fee=10_000)
    bare = Transaction(signed.body, signed.alg_id, b"", b"")
    for transaction in (signed, bare):
        told = simulate(public, transaction)
        assert told.outcome.name == "OK"
        assert not told.HasField("admission_error")
        assert told.txid == txid(rig, signed)
        changes = {item.address: (item.before, item.after) for item in told.balance_changes}
        assert told.balance_changes[0].address == format_address(address(ALICE))
        assert changes[format_address(address(ALICE))] == ("1000000000", str(1_000_000_000 - 10_070))
        assert changes[format_address(address(CAROL))] == ("0", "70")
        assert int(told.minimum_fee) == 2_100 + len(signed.body)
    assert len(rig.pool) == 0


def test_a_simulation_tells_what_would_keep_a_transaction_out(rig: Rig, public: Caller) -> None:
    signed = rig.tx(ALICE, pay(CAROL, 70))
    flipped = Transaction(signed.body, signed.alg_id, signed.public_key, b"\x01" + signed.signature[1:])
    told = simulate(public, flipped)
    assert told.admission_error.reason == "BAD_SIGNATURE"
    assert told.outcome.name == "OK"
    expired = rig.tx(BOB, valid_until=1)
    rig.commit()
    late = simulate(public, Transaction(expired.body, expired.alg_id, b"", b""))
    assert late.admission_error.reason == "TX_EXPIRED"
    assert not late.HasField("outcome")
    poor = rig.tx(CAROL, pay(BOB, 1))
    assert simulate(public, poor).admission_error.reason == "INSUFFICIENT_FUNDS"
    with pytest.raises(Refusal) as caught:
        simulate(public, Transaction(b"\xff", 1, b"", b""))
    assert caught.value.reason == "MALFORMED_TX"
    for alg_id, public_key in ((77, b"key"), (16, b"no policy"), (16, b""), (0, b"")):
        with pytest.raises(Refusal) as caught:
            simulate(public, Transaction(poor.body, alg_id, public_key, b"signature"))
        assert caught.value.reason == "INVALID_FIELD"


def test_an_estimate_is_the_fee_that_the_chain_then_accepts(rig: Rig, public: Caller) -> None:
    draft = rig.tx(ALICE, Data(b"x" * 300), fee=0)
    told = public.ask("TransactionService/EstimateFee", _S.EstimateFeeRequest(body=draft.body))
    parts = [told.body_fee, told.algorithm_fee, told.key_registration_fee, told.proof_fee]
    assert sum(map(int, parts)) == int(told.minimum_fee) == int(told.suggested_fee)
    assert told.public_key_required
    assert told.key_registration_fee == "2000"
    submit_one(public, rig.tx(ALICE, Data(b"x" * 300), fee=int(told.minimum_fee)))
    rig.commit()
    again = public.ask("TransactionService/EstimateFee", _S.EstimateFeeRequest(body=draft.body))
    assert not again.public_key_required
    assert int(again.minimum_fee) == int(told.minimum_fee) - 2_000


def test_a_suggestion_rises_once_blocks_are_full(tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.node.rpc.rig import PARAMETERS

    genesis = make_genesis(replace(PARAMETERS, max_block_transactions=4))
    with Rig(tmp_path, genesis=genesis) as rig, Caller(rig.channel()) as public:
        draft = _S.EstimateFeeRequest(body=rig.tx(BOB, fee=0).body)
        calm = public.ask("TransactionService/EstimateFee", draft)
        submit(public, *[rig.tx(ALICE, nonce=nonce, fee=500_000) for nonce in range(20)])
        busy = public.ask("TransactionService/EstimateFee", draft)
        assert int(busy.suggested_fee) > 50 * int(calm.suggested_fee)
        assert busy.minimum_fee == calm.minimum_fee


def test_a_caller_that_gives_up_ends_its_work_on_the_node(rig: Rig, public: Caller) -> None:
    import trio

    rig.on_node(lambda: setattr(rig.port, "hold", trio.Event()))
    request = _S.SubmitTransactionRequest(transaction=transaction_message(rig.tx(ALICE)))
    future = public.raw("TransactionService/SubmitTransaction").future(request, timeout=20)
    reached(lambda: rig.port.submitting == 1)
    future.cancel()
    reached(lambda: rig.port.cancelled == 1)
    with pytest.raises(Refusal) as caught:
        public.ask("TransactionService/SubmitTransaction", request, timeout=0.2)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    reached(lambda: rig.port.cancelled == 2)
    assert rig.port.submitting == 0


def reached(condition: Any, seconds: float = 10) -> None:
    pause = threading.Event()
    for _ in range(int(seconds * 200)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition never came true")
