"""Random transactions of every kind through four real nodes, against a model of what must come of them."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from state.proofs import difficulty_milli
from tests.e2e.model import Model
from tests.e2e.nets import Net, running
from tests.e2e.network import wait_for
from tests.e2e.workload import Wallet, Workload
from trellis.address import format_address, parse_address
from trellis.client import Client, Status, Submitted
from trellis.client.methods import GET_CERTIFICATE, unary
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.transaction import Transaction
from trellis.v1 import common_pb2, finality_service_pb2, ledger_service_pb2

pytestmark = pytest.mark.e2e

SEED: Final = int(os.environ.get("E2E_SEED", "1"))
WANTED: Final = int(os.environ.get("E2E_TRANSACTIONS", "1000"))
WALLETS: Final = 40
ROUND_S: Final = 60
PARAMETERS: Final = Parameters(
    heartbeat_ms=500,
    epoch_blocks=20,
    evidence_window_blocks=30,
    unbonding_blocks=40,
    jail_blocks=15,
    attestation_expiry_blocks=2_000,
)
_L = ledger_service_pb2
GET_BLOCK: Final = unary("LedgerService", "GetBlock", _L.GetBlockRequest, _L.GetBlockResponse)
GET_SUPPLY: Final = unary("LedgerService", "GetSupply", _L.GetSupplyRequest, _L.GetSupplyResponse)
BATCH_GET: Final = unary("LedgerService", "BatchGetAccounts", _L.BatchGetAccountsRequest, _L.BatchGetAccountsResponse)


class Reader:
    """Feeds the model with blocks, as a node tells them."""

    def __init__(self, net: Net, model: Model) -> None:
        self._net = net
        self.model = model
        self.mismatches: list[str] = []

    def up_to(self, height: int) -> None:
        while self.model.height < height:
            self._next(self.model.height + 1)

    def _next(self, height: int) -> None:
        name = self._net.names[height % len(self._net.names)]
        self._net.reach(height, name)
        request = ledger_service_pb2.GetBlockRequest(height=height, include_transactions=True)
        block = self._net.call(name, GET_BLOCK, request).block
        signers: list[bytes] = []
        if height > 1:
            asked = finality_service_pb2.GetCertificateRequest(height=height - 1)
            certificate = self._net.call(name, GET_CERTIFICATE, asked)
            assert certificate.carried
            signers = [parse_address(text) for text in certificate.signers]
        taken = []
        for info in block.transactions:
            told = info.transaction
            taken.append((Transaction(told.body, told.alg_id, told.public_key, told.signature), int(info.fee)))
        outcomes = self.model.block(parse_address(block.header.proposer), signers, taken)
        for info, outcome in zip(block.transactions, outcomes, strict=True):
            if info.outcome.name != outcome.name:
                self.mismatches.append(
                    f"block {height}, {info.txid}: {info.kind} is {info.outcome.name}, the model says {outcome.name}"
                )
        assert not self.mismatches, "\n".join(self.mismatches)


def compare(net: Net, reader: Reader, addresses: list[bytes]) -> None:
    """Every account, and the sums, at every node."""
    model = reader.model
    for name in net.names:
        for start in range(0, len(addresses), 50):
            asked = addresses[start : start + 50]
            request = _L.BatchGetAccountsRequest(
                addresses=[format_address(a) for a in asked],  # type: ignore[arg-type]
                consistency=common_pb2.Consistency(min_height=model.height),
            )
            answer = net.call(name, BATCH_GET, request)
            reader.up_to(answer.at.height)
            for address, account in zip(asked, answer.accounts, strict=True):
                told = (
                    int(account.balance or 0),
                    account.nonce,
                    int(account.bonded or 0),
                    sum(int(entry.amount) for entry in account.unbondings),
                )
                expected = (
                    model.balances[address],
                    model.nonces[address],
                    model.bonded_of(address),
                    model.unbonding_of(address),
                )
                assert told == expected, f"{account.address} at {name}, height {answer.at.height}"
        net.reach(model.height, name)
        supply = net.call(name, GET_SUPPLY, _L.GetSupplyRequest())
        reader.up_to(supply.at.height)
        genesis = sum(account.balance for account in net.genesis.accounts)
        genesis += sum(member.power for member in net.genesis.validators.members)
        assert int(supply.genesis) == genesis
        assert int(supply.emitted) == model.emitted
        assert int(supply.burned) == model.burned
        assert int(supply.balances) == sum(model.balances.values())
        assert int(supply.bonded) == model.bonded
        assert int(supply.unbonding) == model.unbonding
        assert int(supply.escrow) == model.escrow
        assert int(supply.total) == genesis + model.emitted - model.burned
        held = model.bonded + model.unbonding + model.escrow + sum(model.balances.values())
        assert int(supply.total) == held + int(supply.pools)


def play(net: Net, workload: Workload, clients: list[Client], wanted: int) -> Counter[str]:
    """Rounds of transactions, each through a node of the wallet's choice, until so many are final."""
    chance = random.Random(SEED)
    seen: Counter[str] = Counter()
    while seen["sent"] < wanted:
        waiting: list[Wallet] = []
        for wallet, transactions in workload.round(max(net.heights())):
            node = chance.randrange(len(clients))
            answers = clients[node].submit_many(transactions)
            for transaction, answer in zip(transactions, answers, strict=True):
                told = f"{transaction.parsed.kind_name} through {net.names[node]}: {answer}"
                assert isinstance(answer, Submitted), told
                assert answer.status is Status.PENDING or answer.status is Status.FINAL, told
            seen["sent"] += len(transactions)
            waiting.append(wallet)
        watched = clients[chance.randrange(len(clients))]

        def done() -> bool:
            while waiting and watched.account(waiting[-1].address).nonce == waiting[-1].nonce:  # noqa: B023
                waiting.pop()  # noqa: B023
            return not waiting  # noqa: B023

        wait_for(done, ROUND_S, "every transaction of a round in a block")
    return seen


def test_random_transactions_of_every_kind_leave_what_a_model_says(tmp_path: Path) -> None:
    with running(tmp_path / "net", parameters=PARAMETERS, accounts=WALLETS) as net:
        workload = Workload(SEED, net.genesis, net.accounts(WALLETS))
        model = Model(net.genesis, workload.proofs, {}, difficulty_milli)
        reader = Reader(net, model)
        clients = [net.client(name) for name in net.names]
        try:
            play(net, workload, clients, WANTED)
        finally:
            for client in clients:
                client.close()

        def attested() -> bool:
            reader.up_to(min(net.heights()))
            return not any(each.open for each in model.statements.values() if each.verifier == "z3-attest.v1")

        wait_for(attested, 60, "every attested statement closed")
        addresses = sorted({*model.balances, *model.stakes})
        compare(net, reader, addresses)
        assert sum(model.seen.values()) >= WANTED
        kinds = {name.split()[0] for name, number in model.seen.items() if number and name.endswith(Outcome.OK.name)}
        assert kinds >= {
            "transfer",
            "data",
            "bond",
            "unbond",
            "post_statement",
            "submit_proof",
            "attest",
            "rotate_key",
        }, model.seen
        print(dict(model.seen))
