"""LedgerService, FinalityService, ConsensusService and NodeService over a real chain."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from node.rpc.encode import transaction_message
from node.rpc.ledger_half import final_height
from node.rpc.port import Standing, SyncStage
from state.proofs.cnf import canonical_cnf
from tests.chains import certify
from tests.node.rpc.calls import Caller, Refusal
from tests.node.rpc.rig import ALICE, BOB, CAROL, MEMBERS, PARAMETERS, Rig, address, make_genesis, pay
from tests.signing import real_signer
from trellis.address import format_address
from trellis.certificate import decode_certificate
from trellis.client import Client, RetryPolicy
from trellis.crypto.schemes import verify_all
from trellis.evidence import accuse_of_conflict, encode_evidence
from trellis.genesis import EngineKind
from trellis.header import decode_header
from trellis.mmr import decode_mmr, decode_mmr_proof
from trellis.parameters import Parameters
from trellis.peerid import peer_id, peer_id_text
from trellis.receipt import certified_fault
from trellis.statetree import decode_state_proof
from trellis.transaction import Bond, PostStatement, SubmitEvidence, Transaction, Unbond
from trellis.types import Hash, Height, View
from trellis.v1 import chain_pb2, consensus_service_pb2, ledger_service_pb2, node_service_pb2, transaction_service_pb2
from trellis.validators import decode_validator_set
from trellis.votes import Vote, VoteKind

ALICE_TEXT, BOB_TEXT, CAROL_TEXT = (format_address(address(key)) for key in (ALICE, BOB, CAROL))


def refusal(caller: Caller, name: str, **fields_: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        caller.ask(name, **fields_)
    return caught.value


def put(public: Caller, *transactions: Transaction) -> None:
    messages = [transaction_message(transaction) for transaction in transactions]
    request = transaction_service_pb2.SubmitTransactionsRequest(transactions=messages)
    results = public.ask("TransactionService/SubmitTransactions", request).results
    assert not any(result.error.reason for result in results), results


def bond(seed: int, amount: int = 100) -> Bond:
    key = real_signer(seed)
    return Bond(amount, key.alg_id, key.public_key, peer_id(key.alg_id, key.public_key))


# LedgerService


def test_a_new_chain_says_which_it_is_before_any_block(rig: Rig, public: Caller) -> None:
    info = public.ask("LedgerService/GetServiceInfo")
    assert (info.at.height, info.at.block_hash, info.at.final) == (0, rig.genesis.hash.hex(), True)
    assert (info.chain_name, info.genesis_hash) == ("rig", rig.genesis.hash.hex())
    assert (info.max_page_size, info.max_batch_size, info.max_wait_ms) == (1_000, 256, 600_000)
    assert info.engine == ledger_service_pb2.CONSENSUS_ENGINE_PBFT
    assert refusal(public, "LedgerService/GetBlock").reason == "HEIGHT_FUTURE"
    assert refusal(public, "LedgerService/GetHeader").reason == "HEIGHT_FUTURE"
    assert refusal(public, "FinalityService/GetCertificate").reason == "HEIGHT_FUTURE"
    assert public.ask("FinalityService/GetFinality").block.final
    assert public.ask("LedgerService/ListBlocks").blocks == []
    unproven = refusal(public, "LedgerService/GetAccount", address=ALICE_TEXT, includeProof=True)
    assert (unproven.reason, unproven.metadata) == ("HEIGHT_FUTURE", {"latest_height": "0"})


def test_a_block_is_found_by_height_by_hash_and_as_the_latest(rig: Rig, public: Caller) -> None:
    put(public, rig.tx(ALICE, pay(BOB, 5)))
    rig.commit()
    rig.commit()
    found = public.ask("LedgerService/GetBlock", height="1", includeTransactions=True)
    block = found.block
    assert decode_header(block.header.raw).hash.hex() == block.header.block_hash
    assert block.transactions[0].transaction.public_key == ALICE.public_key
    assert block.transactions[0].sender == ALICE_TEXT
    assert block.size_bytes == block.transactions[0].size_bytes
    assert (found.at.height, block.final) == (2, True)
    again = public.ask("LedgerService/GetBlock", blockHash=block.header.block_hash).block
    assert (again.header, again.transactions[0].HasField("transaction")) == (block.header, False)
    assert public.ask("LedgerService/GetBlock").block.header.height == 2
    assert refusal(public, "LedgerService/GetBlock", blockHash="00" * 32).reason == "NOT_FOUND"
    assert refusal(public, "LedgerService/GetBlock", height="3").metadata == {"latest_height": "2"}
    assert refusal(public, "LedgerService/GetBlock", height="0").metadata == {"field": "height"}
    assert refusal(public, "LedgerService/GetBlock", blockHash="xy").metadata == {"field": "block_hash"}
    assert refusal(public, "LedgerService/GetBlock", blockHash="AB" * 32).metadata == {"field": "block_hash"}


def test_a_history_proof_leads_from_the_latest_certified_header_to_an_old_block(rig: Rig, public: Caller) -> None:
    rig.commit_to(13)
    for height in (1, 5, 8, 12):
        answer = public.ask("LedgerService/GetHeader", height=str(height), includeHistoryProof=True)
        root = answer.history_proof.root
        newer = decode_header(root.header)
        assert newer.height == answer.at.height == 13
        certificate = decode_certificate(root.certificate)
        assert certified_fault(newer, certificate, rig.genesis.validators, verify_all) is None
        entry = root.entries[0]
        proven, value = decode_state_proof(entry.proof).lookup(entry.key, newer.state_root, 4)
        assert proven
        assert value == entry.value
        path = decode_mmr_proof(answer.history_proof.proof)
        assert path.verifies(Hash(bytes.fromhex(answer.header.block_hash)), decode_mmr(entry.value).root)
    latest = public.ask("LedgerService/GetHeader", includeHistoryProof=True)
    assert (latest.header.height, latest.HasField("history_proof")) == (13, False)


def listed(public: Caller, name: str, what: str, **arguments: Any) -> list[Any]:
    """All items, page by page."""
    found: list[Any] = []
    token = ""
    while True:
        page = {"pageSize": arguments.get("size", 3), "pageToken": token}
        rest = {key: value for key, value in arguments.items() if key != "size"}
        answer = public.ask(name, page=page, **rest)
        items = list(getattr(answer, what))
        assert len(items) <= page["pageSize"]
        found += items
        token = answer.page.next_page_token
        if not token:
            return found
        assert len(token) <= 256


def test_blocks_are_listed_page_by_page_both_ways(rig: Rig, public: Caller) -> None:
    rig.commit(rig.tx(ALICE))
    rig.commit_to(10)
    name = "LedgerService/ListBlocks"
    assert [item.block.height for item in listed(public, name, "blocks")] == list(range(10, 0, -1))
    up = listed(public, name, "blocks", ascending=True, minHeight="3", maxHeight="8")
    assert [item.block.height for item in up] == list(range(3, 9))
    first = public.ask(name, ascending=True).blocks[0]
    assert (first.transaction_count, first.size_bytes > 3_000, first.block.final) == (1, True, True)
    assert first.proposer == public.ask("LedgerService/GetHeader", height="1").header.proposer
    assert refusal(public, name, minHeight="5", maxHeight="4").metadata == {"field": "min_height"}
    assert refusal(public, name, maxHeight="11").reason == "HEIGHT_FUTURE"


def test_page_tokens_serve_only_the_list_and_arguments_that_they_were_made_for(rig: Rig, public: Caller) -> None:
    rig.commit_to(5)
    token = public.ask("LedgerService/ListBlocks", page={"pageSize": 2}).page.next_page_token
    for name, page in (
        ("LedgerService/ListBlocks", {"pageToken": token[:-4] + "AAAA"}),
        ("LedgerService/ListBlocks", {"pageToken": "not base64 at all!"}),
        ("LedgerService/ListBlocks", {"pageToken": "A" * 257}),
        ("ConsensusService/ListValidators", {"pageToken": token}),
    ):
        assert refusal(public, name, page=page).metadata == {"field": "page.page_token"}
    other = refusal(public, "LedgerService/ListBlocks", page={"pageToken": token}, ascending=True)
    assert other.metadata == {"field": "page.page_token"}
    assert refusal(public, "LedgerService/ListBlocks", page={"pageSize": 1_001}).metadata == {"field": "page.page_size"}
    rest = public.ask("LedgerService/ListBlocks", page={"pageSize": 99, "pageToken": token})
    assert [item.block.height for item in rest.blocks] == [3, 2, 1]


def test_an_account_shows_its_state_its_stake_and_the_nonce_to_use_next(rig: Rig, public: Caller) -> None:
    fresh = public.ask("LedgerService/GetAccount", address=CAROL_TEXT).account
    assert (fresh.balance, fresh.bonded, fresh.nonce, fresh.pending_nonce, fresh.alg_id) == ("0", "0", 0, 0, 0)
    rig.commit(rig.tx(ALICE, bond(60, 500)))
    rig.commit(rig.tx(ALICE, Unbond(200), nonce=1, carry_key=False))
    put(public, rig.tx(ALICE, nonce=2, carry_key=False), rig.tx(ALICE, nonce=3, carry_key=False))
    answer = public.ask("LedgerService/GetAccount", address=ALICE_TEXT, consistency={"minHeight": "2"})
    account = answer.account
    assert (answer.at.height, account.nonce, account.pending_nonce) == (2, 2, 4)
    assert (account.bonded, account.unbondings[0].amount) == ("300", "200")
    assert (account.alg_id, account.public_key) == (1, ALICE.public_key)
    assert not answer.HasField("proof")
    late = refusal(public, "LedgerService/GetAccount", address=ALICE_TEXT, consistency={"minHeight": "3"})
    assert late.reason == "HEIGHT_FUTURE"
    for wrong in ("", "trl1qqqq", "TRL1" + "Q" * 58, "xyz1abc", "é" * 62):
        assert refusal(public, "LedgerService/GetAccount", address=wrong).metadata == {"field": "address"}


def test_accounts_are_proven_to_the_client_with_all_rows_present_or_absent(rig: Rig) -> None:
    rig.commit(rig.tx(ALICE, bond(60, 500)))
    rig.commit(rig.tx(ALICE, Unbond(200), nonce=1, carry_key=False))
    with rig.client() as client:
        for key in (ALICE, BOB, CAROL):
            account = client.account(address(key), verify=True)
            assert account.proven
        assert client.account(address(ALICE), verify=True).bonded == 300


def test_several_accounts_are_read_from_one_state(rig: Rig, public: Caller) -> None:
    rig.commit()
    answer = public.ask("LedgerService/BatchGetAccounts", addresses=[BOB_TEXT, CAROL_TEXT, BOB_TEXT])
    assert [item.address for item in answer.accounts] == [BOB_TEXT, CAROL_TEXT, BOB_TEXT]
    assert answer.at.height == 1
    assert refusal(public, "LedgerService/BatchGetAccounts").metadata == {"field": "addresses"}
    many = refusal(public, "LedgerService/BatchGetAccounts", addresses=[BOB_TEXT] * 101)
    assert many.metadata == {"field": "addresses"}
    wrong = refusal(public, "LedgerService/BatchGetAccounts", addresses=[BOB_TEXT, "x"])
    assert wrong.metadata == {"field": "addresses[1]"}


def test_the_history_of_an_address_is_paged_both_ways(rig: Rig, public: Caller) -> None:
    for number in range(7):
        rig.commit(rig.tx(ALICE, pay(BOB, number + 1), nonce=number, carry_key=number == 0))
    rig.commit(rig.tx(BOB))
    name = "LedgerService/ListAccountTransactions"
    down = listed(public, name, "transactions", address=BOB_TEXT)
    assert [item.block.height for item in down] == [8, 7, 6, 5, 4, 3, 2, 1]
    up = listed(public, name, "transactions", address=BOB_TEXT, ascending=True, minHeight="2", maxHeight="6")
    assert [item.block.height for item in up] == [2, 3, 4, 5, 6]
    assert not up[0].HasField("transaction")
    whole = public.ask(name, address=ALICE_TEXT, includeTransactions=True)
    assert (whole.lowest_height, len(whole.transactions)) == (1, 7)
    assert whole.transactions[0].transaction.body
    assert public.ask(name, address=CAROL_TEXT).transactions == []
    assert refusal(public, name, address=BOB_TEXT, maxHeight="9").reason == "HEIGHT_FUTURE"


def test_the_pool_is_listed_by_what_it_pays(rig: Rig, public: Caller) -> None:
    put(
        public, *[rig.tx(ALICE, nonce=nonce, fee=60_000 - 1_000 * nonce) for nonce in range(8)], rig.tx(BOB, fee=99_000)
    )
    found = listed(public, "LedgerService/GetMempool", "transactions", includeTransactions=True)
    fees = [int(item.fee) for item in found]
    assert fees == sorted(fees, reverse=True)
    assert (len(fees), fees[0]) == (9, 99_000)
    assert found[0].transaction.body
    answer = public.ask("LedgerService/GetMempool", sender=BOB_TEXT)
    assert (answer.transaction_count, len(answer.transactions)) == (9, 1)
    assert answer.size_bytes > 9 * 3_000
    assert answer.capacity_count == 100_000


def test_supply_adds_up(rig: Rig, public: Caller) -> None:
    rig.commit(rig.tx(ALICE, bond(60, 500)))
    rig.commit_to(4)
    supply = public.ask("LedgerService/GetSupply")
    parts = sum(int(getattr(supply, name)) for name in ("balances", "bonded", "unbonding", "escrow", "pools"))
    assert int(supply.total) == parts == int(supply.genesis) + int(supply.emitted) - int(supply.burned)
    assert int(supply.emitted) > 0
    assert int(supply.burned) > 0


def test_the_parameters_hash_to_what_headers_commit_to(rig: Rig, public: Caller) -> None:
    rig.commit()
    answer = public.ask("LedgerService/GetParameters")
    assert [item.name for item in answer.parameters] == [item.name for item in fields(Parameters)]
    assert all(item.meaning for item in answer.parameters)
    assert answer.params_hash == public.ask("LedgerService/GetHeader").header.params_hash
    assert {item.name: item.attested for item in answer.verifiers} == {
        "lrat.v1": False,
        "sat-model.v1": False,
        "z3-attest.v1": True,
    }
    values = Parameters(**{item.name: item.value for item in answer.parameters})
    builds = {item.name: bytes.fromhex(item.build_hash) for item in answer.verifiers}
    assert values.hash_with(builds).hex() == answer.params_hash


CNF = canonical_cnf(b"p cnf 1 2\n1 0\n-1 0\n")


def test_statements_are_told_from_posting_to_expiry(rig: Rig, public: Caller) -> None:
    formulas = [canonical_cnf(b"p cnf %d 2\n%d 0\n-1 0\n" % (place, place)) for place in range(1, 5)]
    posts = [PostStatement("lrat.v1", formula, 77, Height(9)) for formula in formulas]
    for place, post in enumerate(posts):
        rig.commit(rig.tx(ALICE, post, nonce=place, carry_key=place == 0))
    found = public.ask("LedgerService/GetStatement", statementId=posts[1].statement_id.hex()).statement
    assert found.status == ledger_service_pb2.STATEMENT_STATUS_OPEN
    assert (found.bounty, found.posted_height, found.expiry_height) == ("77", 2, 9)
    assert (found.poster, found.statement, found.size_bytes) == (
        ALICE_TEXT,
        posts[1].statement,
        len(posts[1].statement),
    )
    name = "LedgerService/ListStatements"
    assert [item.posted_height for item in listed(public, name, "statements")] == [4, 3, 2, 1]
    assert not public.ask(name).statements[0].statement
    assert len(public.ask(name, poster=ALICE_TEXT, verifier="lrat.v1", status=1).statements) == 4
    for nothing in ({"poster": BOB_TEXT}, {"verifier": "other"}, {"status": 2}):
        assert public.ask(name, **nothing).statements == []
    rig.commit_to(10)
    ended = public.ask("LedgerService/GetStatement", statementId=posts[1].statement_id.hex()).statement
    assert ended.status == ledger_service_pb2.STATEMENT_STATUS_EXPIRED
    assert (ended.bounty, ended.settled_by_txid, ended.settled_height) == ("77", "", 9)
    assert refusal(public, "LedgerService/GetStatement", statementId="00" * 32).reason == "NOT_FOUND"
    assert refusal(public, name, status=99).metadata == {"field": "status"}


# FinalityService


def test_finality_is_told_of_blocks_and_transactions(rig: Rig, public: Caller) -> None:
    transaction = rig.tx(ALICE)
    name = transaction.txid(rig.genesis.hash).hex()
    put(public, transaction)
    pending = public.ask("FinalityService/GetFinality", txid=name)
    assert (pending.HasField("block"), pending.transaction.status) == (False, chain_pb2.TRANSACTION_STATUS_PENDING)
    rig.commit()
    rig.commit_to(4)
    final = public.ask("FinalityService/GetFinality", txid=name)
    assert (final.block.height, final.block.final, final.confirmations, final.at.height) == (1, True, 3, 4)
    assert (final.signer_count, final.signer_power, final.total_power) == (3, "3000", "4000")
    assert final.finality_time_ms == 12
    by_hash = public.ask("FinalityService/GetFinality", blockHash=final.block.block_hash)
    assert (by_hash.block, by_hash.HasField("transaction")) == (final.block, False)
    assert public.ask("FinalityService/GetFinality").block.height == 4
    assert refusal(public, "FinalityService/GetFinality", txid="00" * 32).reason == "TX_UNKNOWN"
    assert refusal(public, "FinalityService/GetFinality", height="5").reason == "HEIGHT_FUTURE"
    assert refusal(public, "FinalityService/GetFinality", blockHash="00" * 32).reason == "NOT_FOUND"


def test_a_certificate_is_the_one_that_the_next_block_carries(rig: Rig, public: Caller) -> None:
    rig.commit(signers=MEMBERS[:3])
    # This node kept another certificate than the one that block 2 carries.
    with rig.chain.read() as reader:
        header = reader.header(Height(1))
    assert header is not None
    vote = Vote(VoteKind.COMMIT, header.height, View(0), header.hash)
    other = certify(vote, MEMBERS, rig.genesis.hash, rig.genesis.validators)
    rig.on_node(lambda: rig.chain.put_certificate(Height(1), other.encode()))
    tip = public.ask("FinalityService/GetCertificate")
    assert (tip.carried, len(tip.signers)) == (False, 4)
    rig.commit()
    found = public.ask("FinalityService/GetCertificate", height="1")
    assert (found.carried, len(found.signers), found.signer_power) == (True, 3, "3000")
    certificate = decode_certificate(found.certificate)
    assert certificate.hash.hex() == found.certificate_hash
    assert found.certificate_hash == public.ask("LedgerService/GetHeader", height="2").header.parent_certificate_hash
    assert certified_fault(header, certificate, rig.genesis.validators, verify_all) is None
    assert found.validators_hash == rig.genesis.validators.hash.hex()
    assert len(set(found.signers)) == 3


def test_changes_of_the_set_are_listed_with_what_proves_them(rig: Rig, public: Caller) -> None:
    rig.commit(rig.tx(ALICE, bond(60)))
    rig.commit_to(11)
    rig.commit(rig.tx(BOB, bond(61)))
    rig.commit_to(70)
    name = "FinalityService/GetValidatorTransitions"
    found = listed(public, name, "transitions", size=1)
    assert [item.height for item in found] == [10, 20]
    validators = rig.genesis.validators
    for item in found:
        header = decode_header(item.header)
        assert certified_fault(header, decode_certificate(item.certificate), validators, verify_all) is None
        validators = decode_validator_set(item.next_validators)
        assert header.next_validators_hash == validators.hash
        assert item.next_validators_hash == validators.hash.hex()
    assert [item.height for item in public.ask(name, fromHeight="10").transitions] == [20]
    assert [item.height for item in public.ask(name, toHeight="19").transitions] == [10]
    assert refusal(public, name, toHeight="71").reason == "HEIGHT_FUTURE"
    with rig.client() as client:
        assert client.header(70, verify=True).height == 70


def test_entries_of_the_state_are_proven_by_address_statement_and_key(rig: Rig, public: Caller) -> None:
    post = PostStatement("lrat.v1", CNF, 7, Height(9))
    rig.commit(rig.tx(ALICE, post))
    subjects = [{"address": ALICE_TEXT}, {"statementId": post.statement_id.hex()}, {"key": "bWhlYWQ="}]
    answer = public.ask("FinalityService/GetStateProof", subjects=subjects)
    header = decode_header(answer.proof.header)
    assert header.state_root.hex() == answer.proof.state_root
    for entry in answer.proof.entries:
        proven, value = decode_state_proof(entry.proof).lookup(entry.key, header.state_root, 4)
        assert proven
        assert entry.present == (value is not None)
        assert entry.value == (value or b"")
    assert [entry.key[:1] for entry in answer.proof.entries] == [b"a", b"k", b"u", b"v", b"S", b"s", b"m"]
    assert refusal(public, "FinalityService/GetStateProof").metadata == {"field": "subjects"}
    empty = refusal(public, "FinalityService/GetStateProof", subjects=[{}])
    assert empty.metadata == {"field": "subjects[0]"}
    many = public.ask("FinalityService/GetStateProof", subjects=[{"address": BOB_TEXT}] * 100)
    assert len(many.proof.entries) == 400


# ConsensusService


def test_validators_are_listed_with_their_place_in_the_rotation(rig: Rig, public: Caller) -> None:
    rig.commit(rig.tx(ALICE, bond(60)))
    name = "ConsensusService/ListValidators"
    found = listed(public, name, "validators")
    assert [item.address for item in found] == [format_address(m.address) for m in rig.genesis.validators.members]
    assert [item.index for item in found] == [0, 1, 2, 3]
    assert all(item.active and item.power == item.bonded == "1000" for item in found)
    everyone = public.ask(name, includeInactive=True)
    waiting = [item for item in everyone.validators if not item.active]
    assert [(item.address, item.bonded, item.power) for item in waiting] == [(ALICE_TEXT, "100", "0")]
    key = real_signer(60)
    assert waiting[0].peer_id == peer_id_text(peer_id(key.alg_id, key.public_key))
    assert (everyone.total_power, everyone.epoch_end_height) == ("4000", 10)
    assert everyone.validators_hash == rig.genesis.validators.hash.hex()


def test_rewards_tell_what_each_validator_earned(rig: Rig, public: Caller) -> None:
    rig.commit_to(6)
    answer = public.ask("ConsensusService/GetRewards")
    by_address = {item.validator: item for item in answer.rewards}
    assert len(by_address) == 4
    earned = sum(int(item.earned) for item in answer.rewards)
    assert earned == int(public.ask("LedgerService/GetSupply").emitted)
    assert sum(item.proposed_blocks for item in answer.rewards) == 6
    assert [by_address[format_address(member.address)].signed_blocks for member in MEMBERS] == [5, 5, 5, 0]
    one = public.ask("ConsensusService/GetRewards", validator=format_address(MEMBERS[0].address))
    assert len(one.rewards) == 1
    assert refusal(public, "ConsensusService/GetRewards", validator=ALICE_TEXT).reason == "NOT_FOUND"


def test_accuracy_is_told_for_all_validators(rig: Rig, public: Caller) -> None:
    rig.commit_to(2)
    answer = public.ask("ConsensusService/GetVerificationAccuracy")
    assert (answer.window_blocks, len(answer.accuracies)) == (0, 4)
    assert {item.accuracy_permille for item in answer.accuracies} == {1_000}
    missing = refusal(public, "ConsensusService/GetVerificationAccuracy", validator=ALICE_TEXT)
    assert missing.reason == "NOT_FOUND"


def test_scores_are_listed_the_lowest_first(rig: Rig, public: Caller) -> None:
    name = "ConsensusService/GetReputation"
    assert [item.score_permille for item in listed(public, name, "reputations")] == [700, 800, 900, 1_000]
    one = public.ask(name, validator=format_address(MEMBERS[2].address)).reputations
    assert [(item.score_permille, item.violations[0].count) for item in one] == [(800, 2)]
    by_peer = public.ask(name, peerId=one[0].peer_id).reputations
    assert list(by_peer) == list(one)
    assert refusal(public, name, validator=ALICE_TEXT).reason == "NOT_FOUND"
    assert refusal(public, name, peerId="0OIl").metadata == {"field": "peer_id"}


def conflict(rig: Rig, height: int, member: int = 3) -> bytes:
    one, other = (
        MEMBERS[member].sign(
            Vote(VoteKind.PREPARE, Height(height), View(0), Hash(bytes([number]) * 32)), rig.genesis.hash
        )
        for number in (1, 2)
    )
    return encode_evidence(accuse_of_conflict(one, other, rig.genesis.hash))


def test_evidence_is_listed_with_its_explanation_and_its_cost(rig: Rig, public: Caller) -> None:
    rig.commit_to(3)
    data = conflict(rig, 2)
    transaction = rig.tx(ALICE, SubmitEvidence(data))
    rig.on_node(lambda: setattr(rig.port, "evidence_held", (conflict(rig, 3, member=2),)))
    rig.commit(transaction)
    name = "ConsensusService/ListEvidence"
    found = public.ask(name).evidence
    assert len(found) == 1
    record = found[0]
    accused = format_address(MEMBERS[3].address)
    assert (record.kind, record.accused, record.height) == (chain_pb2.EVIDENCE_KIND_EQUIVOCATION, accused, 2)
    assert (record.accepted_in.height, record.reporter, record.slashed) == (4, ALICE_TEXT, "200")
    assert record.txid == transaction.txid(rig.genesis.hash).hex()
    assert record.evidence == data
    assert f"{accused} signed a PREPARE of block" in record.explanation
    with_pending = public.ask(name, includePending=True).evidence
    assert [item.height for item in with_pending] == [3, 2]
    assert not with_pending[0].HasField("accepted_in")
    assert with_pending[0].slashed == "0"
    assert [item.height for item in listed(public, name, "evidence", size=1, includePending=True)] == [3, 2]
    for nothing in ({"accused": ALICE_TEXT}, {"kind": 2}, {"minHeight": "3"}):
        assert public.ask(name, **nothing).evidence == []
    assert len(public.ask(name, accused=accused, kind=1, minHeight="2").evidence) == 1
    jailed = [item for item in public.ask("ConsensusService/ListValidators").validators if item.jailed]
    assert [item.address for item in jailed] == [accused]
    rewards = public.ask("ConsensusService/GetRewards", validator=accused).rewards[0]
    assert rewards.slashed == "200"


def test_the_algorithm_policy_and_the_running_height_are_shown(rig: Rig, public: Caller) -> None:
    policy = public.ask("ConsensusService/GetAlgorithmPolicy")
    assert policy.policy_root == rig.genesis.policy.root().hex()
    assert "ML-DSA-65" in {rule.name for rule in policy.rules}
    state = public.ask("ConsensusService/GetConsensusState")
    assert (state.height, state.quorum_power, state.connected_power) == (1, "2667", "3000")
    assert state.step == consensus_service_pb2.CONSENSUS_STEP_IDLE
    assert state.lock.block_hash == "00" * 32


# NodeService


def test_a_node_tells_who_it_is_whom_it_knows_and_what_it_runs(rig: Rig, public: Caller) -> None:
    rig.commit()
    status = public.ask("NodeService/GetStatus")
    assert (status.at.height, status.serving, status.peer_count) == (1, True, 2)
    assert status.peer_id == peer_id_text(MEMBERS[0].validator.network_id)
    assert (status.role, status.moniker) == (node_service_pb2.NODE_ROLE_VALIDATOR, "rig")
    assert status.last_commit_ms > 1_700_000_000_000
    rig.stand(has_quorum=False, problems=("no quorum: look at the network",))
    ill = public.ask("NodeService/GetStatus")
    assert (ill.serving, list(ill.problems)) == (False, ["no quorum: look at the network"])
    assert len(listed(public, "NodeService/ListPeers", "peers", size=1)) == 2
    everyone = listed(public, "NodeService/ListPeers", "peers", size=1, includeDisconnected=True)
    assert [item.connected for item in everyone].count(False) == 1
    sync = public.ask("NodeService/GetSyncStatus")
    assert (sync.stage, sync.header_height, sync.lowest_height) == (node_service_pb2.SYNC_STAGE_SYNCED, 1, 1)
    version = public.ask("NodeService/GetVersion")
    assert {item.name: item.version for item in version.components} == {"cryptography": "50", "grpcio": "1.85"}


# Pruned, syncing, mined.


def test_what_was_pruned_is_told_with_the_lowest_height_that_is_left(
    rig: Rig, public: Caller, operator: Caller
) -> None:
    transaction = rig.tx(ALICE, pay(BOB, 5))
    rig.commit(transaction)
    rig.commit_to(45)
    done = operator.ask("AdminService/Prune", keepBlocks="30")
    assert done.lowest_height == 16
    for name, arguments in (
        ("LedgerService/GetBlock", {"height": "1"}),
        ("LedgerService/ListBlocks", {"minHeight": "3"}),
    ):
        gone = refusal(public, name, **arguments)
        assert (gone.reason, gone.code.name, gone.metadata) == (
            "HEIGHT_PRUNED",
            "OUT_OF_RANGE",
            {"lowest_height": "16"},
        )
    stream = public.stream("SubscriptionService/SubscribeBlocks", startHeight="2")
    with pytest.raises(Refusal) as caught:
        next(stream)
    assert caught.value.reason == "HEIGHT_PRUNED"
    assert public.ask("LedgerService/GetHeader", height="1").header.height == 1
    assert public.ask("FinalityService/GetCertificate", height="1").block.height == 1
    assert refusal(public, "TransactionService/GetTransaction", txid=transaction.txid(rig.genesis.hash).hex()).reason
    assert public.ask("LedgerService/GetServiceInfo").lowest_height == 16
    answer = public.ask("LedgerService/ListAccountTransactions", address=BOB_TEXT)
    assert (list(answer.transactions), answer.lowest_height) == ([], 16)
    assert len(public.ask("LedgerService/ListBlocks").blocks) == 30


def test_while_its_state_is_being_replaced_a_node_answers_about_itself_alone(rig: Rig, public: Caller) -> None:
    rig.stand(stage=SyncStage.SNAPSHOT, readable=False, target_height=900)
    gone = refusal(public, "LedgerService/GetSupply")
    assert (gone.reason, gone.metadata) == ("SYNCING", {"height": "0", "target_height": "900"})
    assert public.ask("NodeService/GetSyncStatus").stage == node_service_pb2.SYNC_STAGE_SNAPSHOT
    assert not public.ask("NodeService/GetStatus").serving
    assert Standing(stage=SyncStage.BLOCKS).serving is False


def test_a_mined_chain_has_no_certificates_and_is_final_some_blocks_deep(tmp_path: Path) -> None:
    genesis = make_genesis(replace(PARAMETERS, pow_confirmations=6), engine=EngineKind.POW)
    assert [final_height(genesis, tip) for tip in (0, 5, 6, 10)] == [0, 0, 0, 4]
    with Rig(tmp_path, genesis=genesis) as rig, Caller(rig.channel()) as public:
        info = public.ask("LedgerService/GetServiceInfo")
        assert info.engine == ledger_service_pb2.CONSENSUS_ENGINE_POW
        assert refusal(public, "TransactionService/GetReceipt", txid="00" * 32).reason == "NOT_FOUND"


def test_a_wallet_follows_blocks_and_proves_each(rig: Rig) -> None:
    rig.commit(rig.tx(ALICE))
    rig.commit_to(4)
    with Client([rig.address], trust=rig.genesis, retry=RetryPolicy(attempts=2, budget_s=10, attempt_s=5)) as client:
        blocks = client.follow(start_height=1, verify=True, include_transactions=True)
        assert [next(blocks).height for _ in range(4)] == [1, 2, 3, 4]
        blocks.close()
