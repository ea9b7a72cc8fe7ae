"""Transactions: what a wallet signs, what a block carries.

A transaction is the exact bytes of a `TransactionBody` and a signature over them. Its id hashes the body alone, so two
signatures over one body are one transaction; the witness-inclusive id tells the variants apart, and a verdict on one
never passes to another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, assert_never, cast

from trellis.address import account_checks, address_of, decode_policy
from trellis.constants import (
    MAX_PEER_ID_BYTES,
    MAX_PUBLIC_KEY_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_TX_BODY_BYTES,
    MAX_VALIDATORS,
    Context,
)
from trellis.crypto.algorithms import VOTE_ALGORITHMS, AlgId, SignatureCheck, check_key_size, single_alg
from trellis.encoding import DecodeError, Malformed, lp
from trellis.hashing import Tag, hash_tagged
from trellis.protowire import Field, FieldType, Message, Values, decode, encode, varint
from trellis.types import HASH_BYTES, U8_MAX, U64_MAX, Address, Hash, Height, PeerId

MAX_OUTPUTS: Final = 1_024
"""Bounds the state keys that one transaction can touch."""
MAX_REVEALED_PROOF_BYTES: Final = 896 << 10
"""Evidence of a PREPARE on an invalid proof carries the whole transaction that revealed it, and must fit one body: a
larger proof could be vouched for falsely without anyone being able to accuse."""
MAX_VERIFIER_NAME_BYTES: Final = 32
MAX_TX_BYTES: Final = MAX_TX_BODY_BYTES + MAX_PUBLIC_KEY_BYTES + MAX_SIGNATURE_BYTES + 64


@dataclass(frozen=True, slots=True)
class Output:
    recipient: Address
    amount: int


@dataclass(frozen=True, slots=True)
class Transfer:
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Data:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Bond:
    amount: int
    consensus_alg_id: int
    consensus_public_key: bytes
    network_id: PeerId


@dataclass(frozen=True, slots=True)
class Unbond:
    amount: int


@dataclass(frozen=True, slots=True)
class SubmitEvidence:
    evidence: bytes


@dataclass(frozen=True, slots=True)
class Unjail:
    pass


@dataclass(frozen=True, slots=True)
class PostStatement:
    verifier: str
    statement: bytes
    bounty: int
    expiry_height: Height

    @property
    def statement_id(self) -> Hash:
        """Names the statement in the registry: proofs are malleable, so duplicates are found by the statement."""
        return hash_tagged(Tag.STATEMENT, lp(self.verifier.encode()), self.statement)


@dataclass(frozen=True, slots=True)
class CommitProof:
    """First step of a claim: binds the sender to a proof that nobody has seen."""

    statement_id: Hash
    commitment: Hash


@dataclass(frozen=True, slots=True)
class RevealProof:
    """Second step: the proof that was committed to."""

    statement_id: Hash
    proof: bytes
    salt: bytes
    cost_limit: int

    def commitment(self, sender: Address) -> Hash:
        return hash_tagged(Tag.PROOF_COMMIT, sender, self.statement_id, self.salt, lp(self.proof))


@dataclass(frozen=True, slots=True)
class Attest:
    batch: bytes
    signers: bytes
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RotateKey:
    new_alg_id: int
    new_public_key: bytes
    proof_of_possession: bytes

    def checks(self, genesis_hash: Hash, sender: Address, nonce: int) -> tuple[SignatureCheck, ...]:
        """The new key signs that it is to serve this account, so nobody hands an account to a key they do not hold."""
        content = (genesis_hash, sender, nonce.to_bytes(8, "big"), bytes([self.new_alg_id]), self.new_public_key)
        message = Tag.KEY_POSSESSION.value + b"".join(content)
        return account_checks(self.new_alg_id, self.new_public_key, message, self.proof_of_possession, Context.TX.value)


Kind = (
    Transfer
    | Data
    | Bond
    | Unbond
    | SubmitEvidence
    | Unjail
    | PostStatement
    | CommitProof
    | RevealProof
    | Attest
    | RotateKey
)

KIND_NAMES: Final[dict[type[Kind], str]] = {
    Transfer: "transfer",
    Data: "data",
    Bond: "bond",
    Unbond: "unbond",
    SubmitEvidence: "evidence",
    Unjail: "unjail",
    PostStatement: "post_statement",
    CommitProof: "submit_proof",
    RevealProof: "submit_proof",
    Attest: "attest",
    RotateKey: "rotate_key",
}
"""The kind's field in TransactionBody, as metrics and answers name it."""

_U32, _U64, _BYTES = FieldType.UINT32, FieldType.UINT64, FieldType.BYTES
_OUTPUT: Final = Message("Output", (Field(1, "recipient", _BYTES), Field(2, "amount", _U64)))
_KINDS: Final = (
    (10, "transfer", Message("Transfer", (Field(1, "outputs", FieldType.REPEATED_MESSAGE, _OUTPUT, MAX_OUTPUTS),))),
    (11, "data", Message("Data", (Field(1, "payload", _BYTES),))),
    (
        12,
        "bond",
        Message(
            "Bond",
            (
                Field(1, "amount", _U64),
                Field(2, "consensus_alg_id", _U32),
                Field(3, "consensus_public_key", _BYTES),
                Field(4, "network_id", _BYTES),
            ),
        ),
    ),
    (13, "unbond", Message("Unbond", (Field(1, "amount", _U64),))),
    (14, "evidence", Message("SubmitEvidence", (Field(1, "evidence", _BYTES),))),
    (15, "unjail", Message("Unjail", ())),
    (
        16,
        "post_statement",
        Message(
            "PostStatement",
            (
                Field(1, "verifier", FieldType.STRING),
                Field(2, "statement", _BYTES),
                Field(3, "bounty", _U64),
                Field(4, "expiry_height", _U64),
            ),
        ),
    ),
    (
        17,
        "submit_proof",
        Message(
            "SubmitProof",
            (
                Field(1, "statement_id", _BYTES),
                Field(2, "commitment", _BYTES),
                Field(3, "proof", _BYTES),
                Field(4, "salt", _BYTES),
                Field(5, "cost_limit", _U64),
            ),
        ),
    ),
    (
        18,
        "attest",
        Message(
            "Attest",
            (
                Field(1, "batch", _BYTES),
                Field(2, "signers", _BYTES),
                Field(3, "signatures", FieldType.REPEATED_BYTES, most=MAX_VALIDATORS),
            ),
        ),
    ),
    (
        19,
        "rotate_key",
        Message(
            "RotateKey",
            (
                Field(1, "new_alg_id", _U32),
                Field(2, "new_public_key", _BYTES),
                Field(3, "proof_of_possession", _BYTES),
            ),
        ),
    ),
)

BODY_MESSAGE: Final = Message(
    "TransactionBody",
    (
        Field(1, "sender", _BYTES),
        Field(2, "nonce", _U64),
        Field(3, "valid_until_height", _U64),
        Field(4, "fee", _U64),
        *(Field(number, name, FieldType.MESSAGE, message) for number, name, message in _KINDS),
    ),
)
_KIND_FIELDS: Final = tuple(name for _, name, _ in _KINDS)

TRANSACTION_MESSAGE: Final = Message(
    "Transaction",
    (Field(1, "body", _BYTES), Field(2, "alg_id", _U32), Field(3, "public_key", _BYTES), Field(4, "signature", _BYTES)),
)


@dataclass(frozen=True, slots=True)
class TransactionBody:
    sender: Address
    nonce: int
    valid_until_height: Height
    fee: int
    kind: Kind

    def encode(self) -> bytes:
        name, content = _kind_values(self.kind)
        values: Values = {
            "sender": self.sender,
            "nonce": self.nonce,
            "valid_until_height": self.valid_until_height,
            "fee": self.fee,
            name: content,
        }
        return encode(BODY_MESSAGE, values)

    @property
    def kind_name(self) -> str:
        return KIND_NAMES[type(self.kind)]


def _kind_values(kind: Kind) -> tuple[str, Values]:
    name = KIND_NAMES[type(kind)]
    match kind:
        case Transfer():
            outputs: list[Values] = [{"recipient": o.recipient, "amount": o.amount} for o in kind.outputs]
            return name, {"outputs": outputs}
        case Data():
            return name, {"payload": kind.payload}
        case Bond():
            return name, {
                "amount": kind.amount,
                "consensus_alg_id": kind.consensus_alg_id,
                "consensus_public_key": kind.consensus_public_key,
                "network_id": kind.network_id,
            }
        case Unbond():
            return name, {"amount": kind.amount}
        case SubmitEvidence():
            return name, {"evidence": kind.evidence}
        case Unjail():
            return name, {}
        case PostStatement():
            return name, {
                "verifier": kind.verifier,
                "statement": kind.statement,
                "bounty": kind.bounty,
                "expiry_height": kind.expiry_height,
            }
        case CommitProof():
            return name, {"statement_id": kind.statement_id, "commitment": kind.commitment}
        case RevealProof():
            return name, {
                "statement_id": kind.statement_id,
                "proof": kind.proof,
                "salt": kind.salt,
                "cost_limit": kind.cost_limit,
            }
        case Attest():
            return name, {"batch": kind.batch, "signers": kind.signers, "signatures": list(kind.signatures)}
        case RotateKey():
            return name, {
                "new_alg_id": kind.new_alg_id,
                "new_public_key": kind.new_public_key,
                "proof_of_possession": kind.proof_of_possession,
            }
        case _:
            assert_never(kind)


def _int(values: Values, name: str) -> int:
    return cast(int, values.get(name, 0))


def _raw(values: Values, name: str) -> bytes:
    return cast(bytes, values.get(name, b""))


def _positive(values: Values, name: str) -> int:
    value = _int(values, name)
    if value == 0:
        raise DecodeError(Malformed.MISSING_FIELD, f"{name} must be above zero")
    return value


def _filled(values: Values, name: str) -> bytes:
    value = _raw(values, name)
    if not value:
        raise DecodeError(Malformed.MISSING_FIELD, f"{name} must not be empty")
    return value


def _hash(values: Values, name: str) -> Hash:
    value = _raw(values, name)
    if len(value) != HASH_BYTES:
        raise DecodeError(Malformed.WRONG_SIZE, f"{name} has {len(value)} bytes, not {HASH_BYTES}")
    return Hash(value)


def _transfer(values: Values) -> Kind:
    items = cast(list[Values], values.get("outputs", []))
    if not items:
        raise DecodeError(Malformed.MISSING_FIELD, "a transfer has at least one output")
    return Transfer(tuple(Output(Address(_hash(item, "recipient")), _positive(item, "amount")) for item in items))


def _bond(values: Values) -> Kind:
    alg = single_alg(_int(values, "consensus_alg_id"), "consensus key")
    if alg not in VOTE_ALGORITHMS:
        raise DecodeError(Malformed.UNKNOWN_ALGORITHM, f"{alg.name} is too slow to sign votes")
    public_key = _raw(values, "consensus_public_key")
    check_key_size(alg, public_key, "consensus key")
    network_id = PeerId(_filled(values, "network_id"))
    if len(network_id) > MAX_PEER_ID_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, f"a peer id of {len(network_id)} bytes, the most is {MAX_PEER_ID_BYTES}")
    return Bond(_positive(values, "amount"), alg, public_key, network_id)


def _post_statement(values: Values) -> Kind:
    verifier = cast(str, values.get("verifier", ""))
    if not 1 <= len(verifier.encode()) <= MAX_VERIFIER_NAME_BYTES:
        raise DecodeError(Malformed.WRONG_SIZE, f"a verifier's name has 1 to {MAX_VERIFIER_NAME_BYTES} bytes")
    statement = _filled(values, "statement")
    return PostStatement(verifier, statement, _int(values, "bounty"), Height(_positive(values, "expiry_height")))


def _submit_proof(values: Values) -> Kind:
    statement_id = _hash(values, "statement_id")
    if "commitment" in values:
        if len(values) > 2:
            raise DecodeError(Malformed.INCONSISTENT, "a commitment comes without proof, salt and cost limit")
        return CommitProof(statement_id, _hash(values, "commitment"))
    proof = _filled(values, "proof")
    if len(proof) > MAX_REVEALED_PROOF_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, f"a proof of {len(proof)} bytes, the most is {MAX_REVEALED_PROOF_BYTES}")
    return RevealProof(statement_id, proof, _hash(values, "salt"), _positive(values, "cost_limit"))


def _attest(values: Values) -> Kind:
    signatures = tuple(cast(list[bytes], values.get("signatures", [])))
    signers = _filled(values, "signers")
    if len(signers) > (MAX_VALIDATORS + 7) // 8:
        raise DecodeError(Malformed.TOO_LARGE, f"{len(signers)} bytes name the signers of a batch")
    return Attest(_filled(values, "batch"), signers, signatures)


def _rotate_key(values: Values) -> Kind:
    alg_id, public_key = _int(values, "new_alg_id"), _filled(values, "new_public_key")
    check_account_key(alg_id, public_key)
    return RotateKey(alg_id, public_key, _filled(values, "proof_of_possession"))


def _unjail(values: Values) -> Kind:
    return Unjail()


_PARSERS: Final[dict[str, Callable[[Values], Kind]]] = {
    "transfer": _transfer,
    "data": lambda values: Data(_filled(values, "payload")),
    "bond": _bond,
    "unbond": lambda values: Unbond(_positive(values, "amount")),
    "evidence": lambda values: SubmitEvidence(_filled(values, "evidence")),
    "unjail": _unjail,
    "post_statement": _post_statement,
    "submit_proof": _submit_proof,
    "attest": _attest,
    "rotate_key": _rotate_key,
}


def check_account_key(alg_id: int, public_key: bytes) -> None:
    """An account's key has the form of its algorithm, or it is a `DecodeError`."""
    if alg_id == AlgId.MULTISIG:
        decode_policy(public_key)
    else:
        check_key_size(single_alg(alg_id, "account key"), public_key, "account key")


_VARINT: Final = rb"([\x80-\xff]{0,9}[\x01-\x7f])"
"""Minimal, and not zero: the last byte of a longer one has no high bit and is not zero."""

_PAYMENT: Final = re.compile(
    rb"\x0a\x20(.{32})(?:\x10%b)?\x18%b(?:\x20%b)?\x52(.)\x0a(.)\x0a\x20(.{32})\x10%b" % ((_VARINT,) * 4), re.DOTALL
)
"""The canonical bytes of a transfer with one output, but for its two lengths and the size of its integers."""


def _payment(data: bytes) -> TransactionBody | None:
    """Nearly every body is this one: read in one pass, a third of the time. Whatever does not fit, or is out of range,
    is None, for the general reader to read or to refuse: both must agree on every body."""
    found = _PAYMENT.fullmatch(data)
    if found is None:
        return None
    sender, nonce, valid_until, fee, outer, inner, recipient, amount = found.groups()
    if outer[0] != len(amount) + 37 or inner[0] != len(amount) + 35:
        return None
    integers = (_integer(nonce or b"\0"), _integer(valid_until), _integer(fee or b"\0"), _integer(amount))
    if max(integers) > U64_MAX:
        return None
    kind = Transfer((Output(Address(recipient), integers[3]),))
    return TransactionBody(Address(sender), integers[0], Height(integers[1]), integers[2], kind)


def _integer(varint: bytes) -> int:
    value = 0
    for byte in reversed(varint):
        value = value << 7 | byte & 0x7F
    return value


def decode_body(data: bytes) -> TransactionBody:
    """Consensus' own strict reading of a body; anything else is MALFORMED_TX."""
    return _payment(data) or _decode_body(data)


def _decode_body(data: bytes) -> TransactionBody:
    if len(data) > MAX_TX_BODY_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, f"a body of {len(data)} bytes, the most is {MAX_TX_BODY_BYTES}")
    values = decode(BODY_MESSAGE, data)
    names = [name for name in _KIND_FIELDS if name in values]
    if len(names) != 1:
        raise DecodeError(Malformed.INCONSISTENT, f"a body has exactly one kind, this one {len(names)}")
    return TransactionBody(
        sender=Address(_hash(values, "sender")),
        nonce=_int(values, "nonce"),
        valid_until_height=Height(_positive(values, "valid_until_height")),
        fee=_int(values, "fee"),
        kind=_PARSERS[names[0]](cast(Values, values[names[0]])),
    )


@dataclass(frozen=True)
class Transaction:
    """A body and its witness. `parsed` raises `DecodeError` on a body that is not canonical."""

    body: bytes
    alg_id: int
    public_key: bytes
    """Empty where the chain knows the sender's key."""
    signature: bytes

    @cached_property
    def parsed(self) -> TransactionBody:
        return decode_body(self.body)

    def encode(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        # What `encode(TRANSACTION_MESSAGE, …)` gives, written out: every body of a block passes here.
        parts: list[bytes] = []
        for tag, content in ((b"\x0a", self.body), (b"\x1a", self.public_key), (b"\x22", self.signature)):
            if content:
                parts += (tag, varint(len(content)), content)
            if tag == b"\x0a" and self.alg_id:
                parts += (b"\x10", varint(self.alg_id))
        return b"".join(parts)

    def txid(self, genesis_hash: Hash) -> Hash:
        return self._ids(genesis_hash)[1]

    def _ids(self, genesis_hash: Hash) -> tuple[Hash, Hash]:
        """(chain, id), kept: a node asks a dozen times, always for its own chain."""
        known: tuple[Hash, Hash] | None = self.__dict__.get("_known_ids")
        if known is None or known[0] != genesis_hash:
            known = self.__dict__["_known_ids"] = (genesis_hash, txid_of(genesis_hash, self.body))
        return known

    @cached_property
    def witness_leaf(self) -> Hash:
        # Built as one preimage: this runs for every transaction that a node hears of.
        key, signature = self.public_key, self.signature
        head = b"\0\0\0\1%c%b" % (self.alg_id, len(key).to_bytes(4, "big"))
        return hash_tagged(Tag.WITNESS, b"".join((head, key, len(signature).to_bytes(4, "big"), signature)))

    def witness_id(self, genesis_hash: Hash) -> Hash:
        """The witness-inclusive id: one for each variant of signature and key. Kept, like the id."""
        known: tuple[Hash, Hash] | None = self.__dict__.get("_known_witness_id")
        if known is None or known[0] != genesis_hash:
            witness_id = hash_tagged(Tag.WITNESS_TX_ID, self.txid(genesis_hash), self.witness_leaf)
            known = self.__dict__["_known_witness_id"] = (genesis_hash, witness_id)
        return known[1]

    def checks(self, genesis_hash: Hash, public_key: bytes) -> tuple[SignatureCheck, ...]:
        """The signatures that must verify under `public_key`: the one in force at the transaction's place."""
        message = signing_bytes(genesis_hash, self.body)
        return account_checks(self.alg_id, public_key, message, self.signature, Context.TX.value)

    def carried_key_is_senders(self) -> bool:
        """A carried key must hash to the sender's address."""
        return address_of(self.alg_id, self.public_key) == self.parsed.sender


def signing_bytes(genesis_hash: Hash, body: bytes) -> bytes:
    return Tag.TX.value + genesis_hash + body


def txid_of(genesis_hash: Hash, body: bytes) -> Hash:
    return hash_tagged(Tag.TX, genesis_hash, body)


def decode_transaction(data: bytes) -> Transaction:
    """Strict on the envelope; the body is parsed, strictly too, at first use of `parsed`."""
    if len(data) > MAX_TX_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, f"a transaction of {len(data)} bytes, the most is {MAX_TX_BYTES}")
    values = decode(TRANSACTION_MESSAGE, data)
    body, public_key, signature = _filled(values, "body"), _raw(values, "public_key"), _filled(values, "signature")
    if len(body) > MAX_TX_BODY_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, f"a body of {len(body)} bytes, the most is {MAX_TX_BODY_BYTES}")
    if len(public_key) > MAX_PUBLIC_KEY_BYTES or len(signature) > MAX_SIGNATURE_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, "the key or signature is larger than any algorithm's")
    alg_id = _positive(values, "alg_id")
    if alg_id > U8_MAX:
        raise DecodeError(Malformed.UNKNOWN_ALGORITHM, f"algorithm {alg_id}")
    return Transaction(body, alg_id, public_key, signature)
