"""FinalityService: what is final, and what proves it, so that nobody has to take the node's word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.rpc.backend import Backend, account_keys, statement_keys, unknown_transaction
from node.rpc.dispatch import Call
from node.rpc.errors import Reason, Refused, invalid
from node.rpc.fields import address_field, address_text, bounded, hash_field, require_height
from node.rpc.pages import Budget
from node.rpc.receipts import Receipts
from state.store.reader import ChainReader
from trellis.certificate import Certificate
from trellis.statetree import MAX_KEY_BYTES
from trellis.types import Height
from trellis.v1 import finality_service_pb2
from trellis.validators import ValidatorSet

_F = finality_service_pb2

MAX_SUBJECTS: Final = 100
MAX_TRANSITIONS_A_PAGE: Final = 16
"""Each has 18 KB with 4 validators, 0.42 MB with 100."""


@dataclass(frozen=True, slots=True)
class _Votes:
    """Who made a block final."""

    certificate: Certificate | None
    validators: ValidatorSet | None

    @property
    def indices(self) -> tuple[int, ...]:
        return () if self.certificate is None else self.certificate.signer_indices()

    @property
    def signer_power(self) -> int:
        members = () if self.validators is None else self.validators.members
        return sum(members[index].power for index in self.indices if index < len(members))

    @property
    def total_power(self) -> int:
        return 0 if self.validators is None else self.validators.total_power


class FinalityService:
    """Each method as its comment in the schema says."""

    def __init__(self, backend: Backend, receipts: Receipts) -> None:
        self._backend = backend
        self._receipts = receipts

    async def get_finality(self, request: _F.GetFinalityRequest, call: Call) -> _F.GetFinalityResponse:
        backend = self._backend
        answer = _F.GetFinalityResponse(signer_power="0", total_power="0")
        match request.WhichOneof("subject"):
            case "txid":
                txid = hash_field(request.txid, "txid")
                fate = await backend.fate(txid)
                if fate is None:
                    raise unknown_transaction()
                answer.transaction.CopyFrom(await backend.info(txid, fate, include=False))
                height = None if fate.location is None else fate.location.height
            case "height":
                height = Height(bounded(request.height, 1, (1 << 64) - 1, "height"))
            case "block_hash":
                wanted = hash_field(request.block_hash, "block_hash")
                height = backend.reading.now(lambda reader: reader.height_of(wanted))
                if height is None:
                    raise Refused(Reason.NOT_FOUND, "no block with this hash stands in the chain of this node")
            case _:
                height = Height(backend.height())
        if height is None:
            answer.at.CopyFrom(backend.latest())
            return answer
        backend.reading.now(lambda reader: self._describe(reader, height, answer))
        return answer

    def _describe(self, reader: ChainReader, height: Height, answer: _F.GetFinalityResponse) -> None:
        backend, tip = self._backend, reader.tip.height
        require_height(height, tip)
        backend.check_kept(reader, height)
        answer.at.CopyFrom(backend.at(reader))
        answer.block.CopyFrom(backend.ref(reader, height, tip))
        answer.confirmations = tip - height
        if height == 0:
            return
        votes = self._votes(reader, height, reader.certificate(height))
        answer.decided_view = 0 if votes.certificate is None else votes.certificate.view
        answer.signer_count = len(votes.indices)
        answer.signer_power, answer.total_power = str(votes.signer_power), str(votes.total_power)
        answer.finality_time_ms = backend.port.finality_ms(height)

    def _votes(self, reader: ChainReader, height: Height, certificate: Certificate | None) -> _Votes:
        header = reader.header(height)
        if header is None or certificate is None:
            return _Votes(None, None)
        return _Votes(certificate, self._backend.validators(header.validators_hash))

    async def get_certificate(self, request: _F.GetCertificateRequest, call: Call) -> _F.GetCertificateResponse:
        backend = self._backend
        height = backend.reading.now(lambda reader: backend.named_block(request, reader))
        certificate, carried = await self._carried(height)
        if certificate is None:
            why = "a proof-of-work chain has none" if backend.is_mined else "this node holds none: ask another"
            raise Refused(Reason.NOT_FOUND, f"no certificate of block {height}: {why}")
        return backend.reading.now(lambda reader: self._certificate(reader, height, certificate, carried))

    def _certificate(
        self, reader: ChainReader, height: Height, certificate: Certificate, carried: bool
    ) -> _F.GetCertificateResponse:
        backend = self._backend
        header = reader.header(height)
        votes = self._votes(reader, height, certificate)
        members = () if votes.validators is None else votes.validators.members
        return _F.GetCertificateResponse(
            at=backend.at(reader),
            block=backend.ref(reader, height, reader.tip.height),
            certificate=certificate.encode(),
            certificate_hash=certificate.hash.hex(),
            view=certificate.view,
            signers=[address_text(members[index].address) for index in votes.indices if index < len(members)],
            signer_power=str(votes.signer_power),
            total_power=str(votes.total_power),
            validators_hash="" if header is None else header.validators_hash.hex(),
            carried=carried,
        )

    async def _carried(self, height: Height) -> tuple[Certificate | None, bool]:
        """The certificate that the next block carries, or the one that this node kept."""

        def look(reader: ChainReader) -> tuple[Certificate | None, bool, bool]:
            kept, following = reader.certificate(height), reader.header(Height(height + 1))
            same = kept is not None and following is not None and kept.hash == following.parent_certificate_hash
            body = following is not None and reader.bounds.first_body <= height + 1
            return kept, same, body

        kept, same, has_body = self._backend.reading.now(look)
        if same or not has_body or self._backend.is_mined:
            return kept, same
        following = (await self._backend.loaded(Height(height + 1))).block.parent_certificate
        return (kept, False) if following is None else (following, True)

    async def get_validator_transitions(
        self, request: _F.GetValidatorTransitionsRequest, call: Call
    ) -> _F.GetValidatorTransitionsResponse:
        backend = self._backend
        size = min(backend.pager.size(request.page), MAX_TRANSITIONS_A_PAGE)
        position = backend.pager.position(request)
        above = request.from_height if position is None else int.from_bytes(position, "big")

        def look(reader: ChainReader) -> _F.GetValidatorTransitionsResponse:
            tip = reader.tip.height
            require_height(max(request.from_height, request.to_height), tip)
            heights = self._receipts.transitions.heights(reader, above, request.to_height or tip)
            found: list[_F.ValidatorTransition] = []
            budget = Budget()
            for height in heights[:size]:
                message = self._transition(reader, height)
                if not budget.fits(message):
                    break
                found.append(message)
            more = len(found) < len(heights)
            after = heights[len(found) - 1].to_bytes(8, "big") if more and found else None
            page = backend.pager.response(request, after)
            return _F.GetValidatorTransitionsResponse(at=backend.at(reader), transitions=found, page=page)

        return await backend.reading.later(look)

    def _transition(self, reader: ChainReader, height: Height) -> _F.ValidatorTransition:
        change = self._receipts.transition(reader, height)
        return _F.ValidatorTransition(
            height=height,
            next_validators_hash=change.following.hash.hex(),
            header=change.header.encode(),
            certificate=change.certificate.encode(),
            next_validators=change.following.encode(),
        )

    async def get_state_proof(self, request: _F.GetStateProofRequest, call: Call) -> _F.GetStateProofResponse:
        backend = self._backend
        bounded(len(request.subjects), 1, MAX_SUBJECTS, "subjects")
        keys = [key for place, subject in enumerate(request.subjects) for key in _keys(subject, place)]
        backend.check_fresh(request.consistency, backend.height())
        call.charge(len(keys) // 4)
        proven = await backend.prove(keys)
        return _F.GetStateProofResponse(at=backend.tip_ref(proven.tip), proof=backend.proof_message(proven))


def _keys(subject: _F.StateSubject, place: int) -> tuple[bytes, ...]:
    field = f"subjects[{place}]"
    match subject.WhichOneof("subject"):
        case "address":
            return account_keys(address_field(subject.address, f"{field}.address"))
        case "statement_id":
            return statement_keys(hash_field(subject.statement_id, f"{field}.statement_id"))
        case "key":
            bounded(len(subject.key), 1, MAX_KEY_BYTES, f"{field}.key")
            return (subject.key,)
        case _:
            raise invalid(field, "it names nothing")
