"""Reading the chain: headers, accounts, parameters, validator sets; by a node's word, by agreement, or by proof."""

from __future__ import annotations

from dataclasses import replace

from trellis.address import format_address
from trellis.certificate import Certificate
from trellis.client.calls import Answered, Caller, Fact
from trellis.client.effects import Flow
from trellis.client.errors import NotFound, NotProvable, NoTrust, ProofInvalid
from trellis.client.methods import (
    GET_ACCOUNT,
    GET_CERTIFICATE,
    GET_HEADER,
    GET_PARAMETERS,
    GET_SERVICE_INFO,
    GET_TRANSITIONS,
)
from trellis.client.sealed import (
    Trust,
    TrustedSets,
    UnknownSet,
    Unproven,
    genesis_hash_of,
    read_certified,
    read_transition,
)
from trellis.client.state_rows import AccountRows, prove_account, prove_parameters
from trellis.client.values import Account, BlockAt, ServiceInfo, address_from
from trellis.crypto.algorithms import VerifyMany
from trellis.encoding import DecodeError
from trellis.genesis import EngineKind, Genesis
from trellis.header import Header, decode_header
from trellis.parameters import Parameters
from trellis.types import Address, Hash, Height
from trellis.v1 import finality_service_pb2, ledger_service_pb2


class ChainReader:
    """The reading flows of one client."""

    def __init__(self, caller: Caller, trust: Trust | None, verify: VerifyMany) -> None:
        self._caller = caller
        self._trust = trust
        self._sets = None if trust is None else TrustedSets(trust, verify)
        self._parameters: dict[Hash, Parameters] = {}
        self.verify = verify
        if isinstance(trust, Genesis):
            self._parameters[trust.params_hash] = trust.parameters

    @property
    def genesis_hash(self) -> Hash | None:
        return None if self._trust is None else genesis_hash_of(self._trust)

    def require_trust(self, what: str) -> Trust:
        if self._trust is None:
            raise NoTrust(what)
        return self._trust

    def require_sets(self, what: str) -> TrustedSets:
        if self._sets is None:
            raise NoTrust(what)
        return self._sets

    def _require_certificates(self, what: str) -> TrustedSets:
        if isinstance(self._trust, Genesis) and self._trust.engine is EngineKind.POW:
            raise NotProvable(
                f"{what}: a proof-of-work chain has no certificates; read with several endpoints and agree="
            )
        return self.require_sets(what)

    def info(self) -> Flow[ServiceInfo]:
        request = ledger_service_pb2.GetServiceInfoRequest()
        answered = yield from self._caller.agreed(
            GET_SERVICE_INFO,
            request,
            lambda given: Fact(0, f"{given.message.genesis_hash} with exponent {given.message.unit_exponent}"),
            "the chain",
        )
        return answered.reader.service_info(answered.message)

    def header(self, height: int | None = None, *, verify: bool = False) -> Flow[Header]:
        """The latest, or the one of a height; with `verify` under a certificate that is checked here."""
        request = ledger_service_pb2.GetHeaderRequest()
        if height is not None:
            request.height = height
        if not verify:
            what = "the latest header" if height is None else f"the header at height {height}"
            answered = yield from self._caller.agreed(
                GET_HEADER, request, lambda given: _header_fact(self._read_header(given, height)), what
            )
            return self._read_header(answered, height)
        self._require_certificates("a proven header")
        return (yield from self._caller.proven(GET_HEADER, request, lambda given: self._certified(given, height)))

    def _read_header(self, answered: Answered[ledger_service_pb2.GetHeaderResponse], height: int | None) -> Header:
        message = answered.message.header
        try:
            header = decode_header(message.raw)
        except DecodeError as fault:
            raise answered.reader.bad(f"a header that is none: {fault}") from fault
        if header.hash.hex() != message.block_hash:
            raise answered.reader.bad(f"a header that hashes to {header.hash.hex()}, not to {message.block_hash[:64]}")
        if height is not None and header.height != height:
            raise answered.reader.bad(f"a header of height {header.height}, asked for {height}")
        if self.genesis_hash is not None and header.genesis_hash != self.genesis_hash:
            raise answered.reader.bad(f"a header of chain {header.genesis_hash.hex()}")
        self._caller.note_block(answered.endpoint, BlockAt(header.height, header.hash, answered.message.final))
        return header

    def _certified(self, answered: Answered[ledger_service_pb2.GetHeaderResponse], height: int | None) -> Flow[Header]:
        header = self._read_header(answered, height)
        yield from self.certify(header, answered.endpoint)
        return header

    def certify(self, header: Header, endpoint: str) -> Flow[None]:
        """Who sent a header must have a certificate of this very header."""
        self._require_certificates("certifying a header")
        others = {seat.name for seat in self._caller.roster.seats} - {endpoint}
        request = finality_service_pb2.GetCertificateRequest(block_hash=header.hash.hex())
        try:
            answered = yield from self._caller.call(GET_CERTIFICATE, request, exclude=others)
            _, certificate = read_certified(header.encode(), answered.message.certificate)
        except NotFound as unknown:
            raise ProofInvalid(endpoint, "header", "it has no certificate of it") from unknown
        except Unproven as fault:
            raise ProofInvalid(endpoint, "certificate", str(fault)) from fault
        yield from self.check_certificate(endpoint, header, certificate)

    def check_certificate(self, endpoint: str, header: Header, certificate: Certificate) -> Flow[None]:
        """Raises `ProofInvalid`, naming the endpoint, unless the set in force made this header final."""
        sets = self._require_certificates("checking a certificate")
        try:
            try:
                sets.certify(header, certificate)
            except UnknownSet:
                yield from self._fetch_transitions(sets, header.height)
                sets.certify(header, certificate)
        except UnknownSet as unknown:
            told = "it names a validator set that no certified change leads to"
            raise ProofInvalid(endpoint, "header", told) from unknown
        except Unproven as fault:
            raise ProofInvalid(endpoint, "certificate", str(fault)) from fault
        self._caller.note_block(endpoint, BlockAt(header.height, header.hash, final=True))

    def _fetch_transitions(self, sets: TrustedSets, height: Height) -> Flow[None]:
        """Learns the changes of the set below a height, page by page, each proven by the set before it."""
        while True:
            known = sets.newest_change
            request = finality_service_pb2.GetValidatorTransitionsRequest(from_height=known, to_height=height)
            more = yield from self._caller.proven(
                GET_TRANSITIONS, request, lambda answered: self._adopt(sets, answered)
            )
            # The next page is asked for from the newest proven change: a node's page tokens could lead in circles.
            if not more or sets.newest_change == known:
                return

    def _adopt(
        self, sets: TrustedSets, answered: Answered[finality_service_pb2.GetValidatorTransitionsResponse]
    ) -> Flow[bool]:
        try:
            for message in answered.message.transitions:
                sets.adopt(read_transition(message))
        except Unproven as fault:
            raise ProofInvalid(answered.endpoint, "change of the validator set", str(fault)) from fault
        yield from ()  # a flow that asks for nothing
        return answered.message.page.next_page_token != ""

    def parameters(self, header: Header | None = None) -> Flow[Parameters]:
        """The parameters in force: genesis' own, or those that hash to a certified header's params_hash."""
        if header is None:
            if isinstance(self._trust, Genesis):
                return self._trust.parameters
            self.require_trust("the chain's parameters")
            header = yield from self.header(verify=True)
        params_hash = header.params_hash
        if params_hash not in self._parameters:

            def check(answered: Answered[ledger_service_pb2.GetParametersResponse]) -> Flow[Parameters]:
                yield from ()  # a flow that asks for nothing
                try:
                    return prove_parameters(answered.message, params_hash)
                except Unproven as fault:
                    raise ProofInvalid(answered.endpoint, "list of parameters", str(fault)) from fault

            request = ledger_service_pb2.GetParametersRequest()
            self._parameters[params_hash] = yield from self._caller.proven(GET_PARAMETERS, request, check)
        return self._parameters[params_hash]

    def account(self, address: Address | bytes | str, *, verify: bool = False) -> Flow[Account]:
        """An account at the latest block; with `verify` proven under a certified state root, and never older than what
        was proven before."""
        wanted = address_from(address)
        request = ledger_service_pb2.GetAccountRequest(address=format_address(wanted), include_proof=verify)
        if not verify:
            answered = yield from self._caller.agreed(
                GET_ACCOUNT,
                request,
                lambda given: _account_fact(given.reader.account(given.message, wanted)),
                f"account {format_address(wanted)}",
            )
            return answered.reader.account(answered.message, wanted)
        sets = self._require_certificates("a proven account")
        oldest = sets.highest
        request.consistency.min_height = oldest
        return (
            yield from self._caller.proven(
                GET_ACCOUNT, request, lambda given: self._proven_account(given, wanted, oldest)
            )
        )

    def _proven_account(
        self, answered: Answered[ledger_service_pb2.GetAccountResponse], address: Address, oldest: Height
    ) -> Flow[Account]:
        told = answered.reader.account(answered.message, address)
        proof = answered.message.proof
        try:
            header, certificate = read_certified(proof.header, proof.certificate)
            yield from self.check_certificate(answered.endpoint, header, certificate)
            _check_place(header, told, oldest)
            parameters = yield from self.parameters(header)
            _check_rows(prove_account(proof, header, address, parameters.state_buckets_log2), told)
        except Unproven as fault:
            raise ProofInvalid(answered.endpoint, "account proof", str(fault)) from fault
        return replace(told, proven_by=header)


def _check_place(header: Header, told: Account, oldest: Height) -> None:
    """An old state, honestly certified, would show money that is spent."""
    if header.height < oldest:
        raise Unproven(f"it is of height {header.height}, older than {oldest}, which was proven before")
    if (header.height, header.hash) != (told.at.height, told.at.hash):
        raise Unproven("it is of another block than the answer")


def _check_rows(rows: AccountRows, told: Account) -> None:
    spoken = AccountRows(told.balance, told.nonce, told.alg_id, told.public_key, told.bonded, told.unbondings)
    if rows != spoken:
        raise Unproven("the answer is not what its own proof shows")


def _header_fact(header: Header) -> Fact:
    return Fact(header.height, header.hash.hex())


def _account_fact(account: Account) -> Fact:
    stake = f"bonded {account.bonded}, unbonding {sum(item.amount for item in account.unbondings)}"
    key = f"key {account.alg_id}:{account.public_key[:8].hex()}"
    return Fact(account.at.height, f"balance {account.balance}, nonce {account.nonce}, {stake}, {key} at {account.at}")
