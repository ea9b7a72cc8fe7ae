"""A validator whose key signed two votes that contradict each other, from the accusation to its return."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.nets import Net, running
from tests.e2e.network import wait_for
from trellis.address import format_address
from trellis.client import LocalSigner
from trellis.client.methods import unary
from trellis.constants import Context
from trellis.evidence import ConflictingVotes, encode_evidence
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.transaction import Kind, SubmitEvidence, Unjail
from trellis.types import Hash, Height, View
from trellis.v1 import consensus_service_pb2
from trellis.votes import SignedVote, Vote, VoteKind

pytestmark = pytest.mark.e2e

OFFENDER: Final = "node3"
STEP_S: Final = 90
PARAMETERS: Final = Parameters(
    heartbeat_ms=300, epoch_blocks=20, evidence_window_blocks=200, unbonding_blocks=300, jail_blocks=30
)
_C = consensus_service_pb2
LIST_VALIDATORS: Final = unary(
    "ConsensusService", "ListValidators", _C.ListValidatorsRequest, _C.ListValidatorsResponse
)


def equivocation(net: Net, height: int) -> bytes:
    key, account = net.key_of(OFFENDER, "consensus"), LocalSigner(net.key_of(OFFENDER, "account"))
    signed = []
    for filling in (b"\x01", b"\x02"):
        vote = Vote(VoteKind.PREPARE, Height(height), View(9), Hash(filling * 32))
        signature = key.sign(vote.signing_bytes(net.genesis.hash), Context.VOTE.value)
        signed.append(SignedVote(vote, account.address, signature))
    found = ConflictingVotes(signed[0], signed[1])
    if found.fault(net.genesis.hash) is not None:
        found = ConflictingVotes(signed[1], signed[0])
    assert found.fault(net.genesis.hash) is None
    return encode_evidence(found)


def outcome_of(net: Net, kind: Kind, signer: LocalSigner) -> Outcome:
    with net.client("node0") as client:
        return client.wait(client.execute(kind, signer).txid, STEP_S).outcome


def standing(net: Net) -> consensus_service_pb2.Validator:
    address = LocalSigner(net.key_of(OFFENDER, "account")).address
    request = _C.ListValidatorsRequest(include_inactive=True)
    validators = net.call("node0", LIST_VALIDATORS, request).validators
    return next(member for member in validators if member.address == format_address(address))


def test_a_double_signer_is_slashed_leaves_at_the_epochs_end_and_may_come_back(tmp_path: Path) -> None:
    with running(tmp_path / "net", parameters=PARAMETERS, accounts=2) as net:
        accuser, offender = LocalSigner(net.accounts(1)[0]), LocalSigner(net.key_of(OFFENDER, "account"))
        net.reach(3)
        proof = equivocation(net, 2)
        assert outcome_of(net, SubmitEvidence(proof), accuser) is Outcome.OK
        assert outcome_of(net, SubmitEvidence(proof), accuser) is Outcome.ALREADY_PUNISHED
        punished = standing(net)
        assert punished.jailed
        assert int(punished.bonded) == 8_000_000
        assert outcome_of(net, Unjail(), offender) is Outcome.STILL_JAILED

        wait_for(lambda: not standing(net).active, STEP_S, "the offender out of the set")
        out_at = net.height("node0")
        net.reach(out_at + 5, "node0", "node1", "node2")
        net.reach(punished.jailed_until_height, "node0")
        assert outcome_of(net, Unjail(), offender) is Outcome.OK
        wait_for(lambda: standing(net).active, STEP_S, "the offender back in the set")
        assert int(standing(net).power) == 8_000_000

        back_at, started = net.height("node0"), time.monotonic()
        net.reach(back_at + 5)
        print(f"at the tip {time.monotonic() - started:.1f} s after its return")
        # It is needed again: without another one, it makes the quorum.
        net.kill("node1")
        net.reach(net.height("node0") + 5, "node0", OFFENDER)
