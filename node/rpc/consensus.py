"""ConsensusService: the running height, the validators, what they earn and how they behave."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from node.rpc.backend import Backend
from node.rpc.dispatch import Call
from node.rpc.errors import Reason, Refused
from node.rpc.evidence import LEDGER_KINDS, accepted_record, record
from node.rpc.fields import address_field, address_text, bounded, peer_field
from node.rpc.pages import Budget, cut
from node.rpc.port import ReputationView
from state.chain import read_network, read_schedule
from state.epoch import epoch_end
from state.results import accuracies, known_validators, read_incidents, read_judged, read_rewards
from state.stake import read_roster, read_stake
from state.store.reader import ChainReader
from state.validator_sets import require_set
from trellis.crypto.algorithms import AlgId
from trellis.peerid import peer_id_text
from trellis.schedule import Schedule
from trellis.types import U64_MAX, Address, Height
from trellis.v1 import chain_pb2, consensus_service_pb2
from trellis.validators import ValidatorSet

_C = consensus_service_pb2

MAX_EVIDENCE_A_PAGE: Final = 100


class ConsensusService:
    """Each method as its comment in the schema says."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get_consensus_state(
        self, request: _C.GetConsensusStateRequest, call: Call
    ) -> _C.GetConsensusStateResponse:
        backend, port = self._backend, self._backend.port
        tip, state = await backend.bridge.call(lambda: (port.tip(), port.consensus()))
        answer = _C.GetConsensusStateResponse(
            at=backend.tip_ref(tip),
            height=state.height,
            view=state.view,
            step=_C.ConsensusStep.ValueType(state.step),
            leader=_optional(state.leader),
            own_validator=_optional(state.own_validator),
            accepted_hash="" if state.accepted_hash is None else state.accepted_hash.hex(),
            prepare_power=str(state.prepare_power),
            commit_power=str(state.commit_power),
            view_power=str(state.view_power),
            connected_power=str(state.connected_power),
            quorum_power=str(state.quorum_power),
            total_power=str(state.total_power),
            base_timeout_ms=state.base_timeout_ms,
            view_timeout_ms=state.view_timeout_ms,
            timer_armed=state.timer_armed,
            view_changes=state.view_changes,
            observing_until_height=state.observing_until,
            halt_reason=state.halt_reason,
        )
        if state.lock is not None:
            answer.lock.CopyFrom(_C.PreparedBlock(view=state.lock[0], block_hash=state.lock[1].hex()))
        if state.work is not None:
            work = state.work
            answer.work.CopyFrom(
                _C.WorkState(
                    target=work.target.to_bytes(32, "big").hex(),
                    total_work=str(work.total_work),
                    reorganised_blocks=work.reorganised_blocks,
                )
            )
        return answer

    async def list_validators(self, request: _C.ListValidatorsRequest, call: Call) -> _C.ListValidatorsResponse:
        backend = self._backend
        size, after = backend.pager.size(request.page), backend.pager.position(request)

        def look(reader: ChainReader) -> _C.ListValidatorsResponse:
            height = Height(reader.tip.height + 1)
            active = require_set(reader, height)
            shown = sorted({*active.addresses, *(read_roster(reader) if request.include_inactive else ())})
            page = cut(shown, size, bytes, after)
            mined = backend.is_mined
            schedule = None if mined else read_schedule(reader)
            return _C.ListValidatorsResponse(
                at=backend.at(reader),
                validators=[_validator(reader, address, active, schedule) for address in page.items],
                page=backend.pager.response(request, page.position),
                total_power=str(active.total_power),
                epoch_end_height=epoch_end(height, read_network(reader).parameters),
                validators_hash=active.hash.hex(),
            )

        return await backend.reading.later(look)

    async def get_rewards(self, request: _C.GetRewardsRequest, call: Call) -> _C.GetRewardsResponse:
        backend = self._backend
        size, after = backend.pager.size(request.page), backend.pager.position(request)

        def look(reader: ChainReader) -> _C.GetRewardsResponse:
            page = cut(_asked(reader, request.validator), size, bytes, after)
            return _C.GetRewardsResponse(
                at=backend.at(reader),
                rewards=[_rewards(reader, address) for address in page.items],
                page=backend.pager.response(request, page.position),
            )

        return await backend.reading.later(look)

    async def get_verification_accuracy(
        self, request: _C.GetVerificationAccuracyRequest, call: Call
    ) -> _C.GetVerificationAccuracyResponse:
        backend = self._backend
        size, after = backend.pager.size(request.page), backend.pager.position(request)

        def look(reader: ChainReader) -> _C.GetVerificationAccuracyResponse:
            page = cut(_asked(reader, request.validator), size, bytes, after)
            found = zip(page.items, accuracies(reader, page.items), strict=True)
            return _C.GetVerificationAccuracyResponse(
                at=backend.at(reader),
                window_blocks=len(read_judged(reader)),
                accuracies=[
                    _C.VerificationAccuracy(
                        validator=address_text(address),
                        votes=accuracy.given,
                        correct_votes=accuracy.correct,
                        abstentions=accuracy.abstained,
                        accuracy_permille=accuracy.permille,
                    )
                    for address, accuracy in found
                ],
                page=backend.pager.response(request, page.position),
            )

        return await backend.reading.later(look)

    async def get_reputation(self, request: _C.GetReputationRequest, call: Call) -> _C.GetReputationResponse:
        backend = self._backend
        size, after = backend.pager.size(request.page), backend.pager.position(request)
        subject = request.WhichOneof("subject")
        validator = address_field(request.validator, "validator") if subject == "validator" else None
        peer = peer_field(request.peer_id, "peer_id") if subject == "peer_id" else None
        known = await backend.bridge.call(backend.port.reputations)
        wanted = [item for item in known if validator in (None, item.validator) and peer in (None, item.peer_id)]
        if subject is not None and not wanted:
            raise Refused(Reason.NOT_FOUND, "this node has no opinion of it")
        page = cut(sorted(wanted, key=_worst_first), size, _worst_first, after)
        return _C.GetReputationResponse(
            at=backend.latest(),
            reputations=[_reputation(item) for item in page.items],
            page=backend.pager.response(request, page.position),
        )

    async def list_evidence(self, request: _C.ListEvidenceRequest, call: Call) -> _C.ListEvidenceResponse:
        backend = self._backend
        size = min(backend.pager.size(request.page), MAX_EVIDENCE_A_PAGE)
        position = backend.pager.position(request)
        bounded(request.kind, 0, len(chain_pb2.EvidenceKind.keys()) - 1, "kind")
        accused = address_field(request.accused, "accused") if request.accused else None
        pending: Sequence[bytes] = ()
        if request.include_pending and position is None:
            pending = await backend.bridge.call(backend.port.pending_evidence)

        def wanted(message: chain_pb2.EvidenceRecord) -> bool:
            right_kind = request.kind in (chain_pb2.EVIDENCE_KIND_UNSPECIFIED, message.kind)
            right_one = accused is None or message.accused == address_text(accused)
            return right_kind and right_one and message.height >= request.min_height

        def look(reader: ChainReader) -> _C.ListEvidenceResponse:
            # What waits comes first, on the first page: it is newer than all that was accepted.
            waiting = (record(data, backend.genesis.hash) for data in pending)
            records = [message for message in waiting if wanted(message)]
            found = heapq.nlargest(size, records, key=lambda message: (message.height, message.evidence_id))
            going_on: tuple[int, int] | None = (U64_MAX, 0)
            if len(found) < size:
                before = None if position is None else (Height(int.from_bytes(position[:8], "big")), _index(position))
                going_on = accepted(reader, before, found)
            token = None if going_on is None else going_on[0].to_bytes(8, "big") + going_on[1].to_bytes(4, "big")
            page = backend.pager.response(request, token)
            return _C.ListEvidenceResponse(at=backend.at(reader), evidence=found, page=page)

        def accepted(
            reader: ChainReader, before: tuple[Height, int] | None, found: list[chain_pb2.EvidenceRecord]
        ) -> tuple[int, int] | None:
            """Fills the page with what the chain accepted; where the next page goes on."""
            kind = LEDGER_KINDS.get(request.kind)
            lowest = request.min_height
            page = reader.evidence(size - len(found), before, accused=accused, kind=kind, min_offence_height=lowest)
            budget = Budget()
            for item in page.found:
                ref = backend.ref(reader, item.height, reader.tip.height)
                message = accepted_record(item.evidence, ref, backend.genesis.hash)
                if not budget.fits(message):
                    return item.height, item.evidence.index + 1
                if wanted(message):
                    found.append(message)
            return page.before

        return await backend.reading.later(look)

    async def get_algorithm_policy(
        self, request: _C.GetAlgorithmPolicyRequest, call: Call
    ) -> _C.GetAlgorithmPolicyResponse:
        backend = self._backend
        policy = backend.genesis.policy
        return _C.GetAlgorithmPolicyResponse(
            at=backend.latest(),
            policy_root=policy.root().hex(),
            rules=[
                _C.AlgorithmRule(
                    role=_C.AlgorithmRole.ValueType(entry.role),
                    alg_id=entry.alg_id,
                    name=_NAMES[entry.alg_id],
                    activation_height=entry.activation,
                    sunset_height=entry.sunset or 0,
                )
                for entry in policy.entries
            ],
        )


_NAMES: Final = {
    AlgId.ML_DSA_65: "ML-DSA-65",
    AlgId.ML_DSA_87: "ML-DSA-87",
    AlgId.SLH_DSA_SHAKE_128S: "SLH-DSA-SHAKE-128s",
    AlgId.MULTISIG: "multi-signature",
}


def _optional(address: Address | None) -> str:
    return "" if address is None else address_text(address)


def _index(position: bytes) -> int:
    return int.from_bytes(position[8:], "big")


def _asked(reader: ChainReader, validator: str) -> tuple[Address, ...]:
    """One validator, or everyone with a stake or a seat, or who ever earned as one."""
    known = known_validators(reader)
    if not validator:
        return known
    address = address_field(validator, "validator")
    if address not in known and read_rewards(reader, address).signed == 0:
        raise Refused(Reason.NOT_FOUND, "it is no validator, and never was one")
    return (address,)


def _rewards(reader: ChainReader, address: Address) -> _C.ValidatorRewards:
    earned = read_rewards(reader, address)
    return _C.ValidatorRewards(
        validator=address_text(address),
        earned=str(earned.units),
        earned_as_proposer=str(earned.as_proposer),
        slashed=str(read_incidents(reader, address).units),
        proposed_blocks=earned.proposed,
        signed_blocks=earned.signed,
    )


def _validator(reader: ChainReader, address: Address, active: ValidatorSet, schedule: Schedule | None) -> _C.Validator:
    stake, seat = read_stake(reader, address), active.get(address)
    keys = seat if seat is not None else None if stake is None else stake.as_validator(address, 0)
    message = _C.Validator(address=address_text(address), active=seat is not None, power="0", bonded="0", priority="0")
    if keys is not None:
        message.peer_id = peer_id_text(keys.network_id)
        message.consensus_alg_id = keys.alg_id
        message.consensus_public_key = keys.public_key
    if seat is not None:
        message.power = str(seat.power)
        message.index = active.index(address) or 0
    if stake is not None:
        message.bonded = str(stake.bonded)
        message.jailed = stake.jailed_until > 0
        message.jailed_until_height = stake.jailed_until
    if schedule is not None:
        for standing in schedule.standings:
            if standing.address == address:
                message.priority, message.strikes = str(standing.priority), standing.strikes
        for demotion in schedule.demotions:
            if demotion.address == address:
                message.demoted_until_height = demotion.until
    return message


def _worst_first(item: ReputationView) -> bytes:
    return item.score_permille.to_bytes(4, "big") + item.peer_id


def _reputation(item: ReputationView) -> _C.Reputation:
    return _C.Reputation(
        peer_id=peer_id_text(item.peer_id),
        validator=_optional(item.validator),
        score_permille=item.score_permille,
        banned=item.banned,
        violations=[
            _C.ViolationCount(kind=_C.ViolationKind.ValueType(kind), count=count) for kind, count in item.violations
        ],
    )
