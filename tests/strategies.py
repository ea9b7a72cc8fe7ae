"""Hypothesis strategies for the protocol's objects, for every room's tests.

What these draw is well formed, and signed by the deterministic stand-ins of `tests.signing` unless it says otherwise:
check it with `fake_verify_all`. Draws are small on purpose: keys come from a handful of seeds, so that examples are
fast and shrink to something a person can read. Objects that only make sense together are drawn together: `certificates`
gives the set that signed, `receipts` the genesis that they are checked from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.chains import (
    Member,
    ReceiptStory,
    certify,
    fake_members,
    header_of,
    receipt_story,
    set_of,
    signed_transaction,
    small_genesis,
    some_hash,
)
from tests.signing import FakeSigner, fake_signature
from trellis.address import MultisigPolicy, address_of, encode_member_signatures, make_policy
from trellis.block import Block, certificate_hash, transaction_leaf, witness_root
from trellis.certificate import Certificate
from trellis.constants import MAX_ADDRESSES_PER_RECORD, Context
from trellis.crypto.algorithms import VOTE_ALGORITHMS, AlgId
from trellis.crypto.policy import AlgorithmPolicy, PolicyEntry, Role
from trellis.evidence import (
    ConflictingVotes,
    Evidence,
    InvalidProofPrepare,
    LockLie,
    accuse_of_conflict,
    encode_evidence,
)
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.header import Header, Seal
from trellis.merkle import merkle_root, proof_commitment, prove_inclusion
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, Proposal, ViewChange
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.peerid import peer_id
from trellis.records import (
    AddressRecord,
    AttestedVerdict,
    SignedAddressRecord,
    SignedManifest,
    SnapshotManifest,
    VerdictBatch,
)
from trellis.schedule import Decided
from trellis.transaction import (
    Attest,
    Bond,
    CommitProof,
    Data,
    Kind,
    Output,
    PostStatement,
    RevealProof,
    RotateKey,
    SubmitEvidence,
    Transaction,
    TransactionBody,
    Transfer,
    Unbond,
    Unjail,
    signing_bytes,
)
from trellis.types import U32_MAX, U64_MAX, Address, Hash, Height, View
from trellis.validators import ValidatorSet, is_allowed_transition
from trellis.votes import Prepared, SignedVote, Vote, VoteKind
from trellis.wire import Flags, Frame, MessageId

if TYPE_CHECKING:
    from state.proofs.verifier import VerificationResult

GENESIS_HASH = some_hash("genesis of the strategies")
"""The chain that strategies sign for where none is passed."""

# Numbers


def u64s(low: int = 0) -> SearchStrategy[int]:
    """Mostly small, with the edges of each varint size and of 64 bits."""
    edges = [value for value in (0, 1, 127, 128, 16_383, 16_384, U32_MAX, U32_MAX + 1, U64_MAX) if value >= low]
    return st.one_of(st.integers(low, low + 1_000), st.sampled_from(edges), st.integers(low, U64_MAX))


def hashes() -> SearchStrategy[Hash]:
    return st.binary(min_size=32, max_size=32).map(Hash)


def addresses() -> SearchStrategy[Address]:
    return hashes().map(Address)


def heights(low: int = 1, high: int = U64_MAX) -> SearchStrategy[Height]:
    return st.integers(low, high).map(Height)


def views(high: int = 50) -> SearchStrategy[View]:
    return st.integers(0, high).map(View)


# Keys and accounts


def signers(algorithms: Sequence[AlgId] = VOTE_ALGORITHMS) -> SearchStrategy[FakeSigner]:
    return st.builds(FakeSigner, st.integers(0, 63), st.sampled_from(list(algorithms)))


def account_signers() -> SearchStrategy[FakeSigner]:
    return signers((AlgId.ML_DSA_65, AlgId.ML_DSA_87, AlgId.SLH_DSA_SHAKE_128S))


@st.composite
def multisig_accounts(draw: DrawFn) -> tuple[MultisigPolicy, tuple[FakeSigner, ...]]:
    """A policy and the signers of its keys, in the policy's order."""
    members = draw(st.lists(account_signers(), min_size=1, max_size=4, unique=True))
    members.sort(key=lambda signer: (signer.alg_id, signer.public_key))
    threshold = draw(st.integers(1, len(members)))
    return make_policy(threshold, [(s.alg_id, s.public_key) for s in members]), tuple(members)


# Validator sets


@st.composite
def members(draw: DrawFn, min_size: int = 1, max_size: int = 7, max_power: int = 1_000) -> tuple[Member, ...]:
    """Validators that can sign, in no particular order."""
    powers = draw(st.lists(st.integers(1, max_power), min_size=min_size, max_size=max_size))
    return fake_members(powers, first_seed=draw(st.integers(0, 3)) * 100)


def validator_sets(min_size: int = 1, max_size: int = 7, max_power: int = 1_000) -> SearchStrategy[ValidatorSet]:
    return members(min_size, max_size, max_power).map(set_of)


@st.composite
def set_transitions(draw: DrawFn, max_size: int = 7) -> tuple[ValidatorSet, ValidatorSet]:
    """Two sets between which at most a third of power changes, as the ledger allows at an epoch's end."""
    powers = draw(st.lists(st.integers(1, 1_000), min_size=1, max_size=max_size))
    before = fake_members(powers)
    after = list(before)
    for _ in range(draw(st.integers(0, 3))):
        changed = list(after)
        place = draw(st.integers(0, len(changed)))
        power = draw(st.integers(0, 1_000))
        seed = 50 + len(changed) if place == len(changed) else None
        if seed is not None and power:
            changed.append(Member(FakeSigner(seed), power))
        elif place < len(changed) and power:
            changed[place] = Member(changed[place].signer, power)
        elif place < len(changed) and len(changed) > 1:
            del changed[place]
        distinct = {member.address for member in changed}
        if len(distinct) == len(changed) and is_allowed_transition(set_of(before), set_of(changed)):
            after = changed
    return set_of(before), set_of(after)


# Transactions


def transfers() -> SearchStrategy[Transfer]:
    outputs = st.builds(Output, addresses(), u64s(low=1))
    return st.lists(outputs, min_size=1, max_size=4).map(lambda items: Transfer(tuple(items)))


def bonds() -> SearchStrategy[Bond]:
    return st.builds(
        lambda amount, signer: Bond(
            amount, signer.alg_id, signer.public_key, peer_id(signer.alg_id, signer.public_key)
        ),
        u64s(low=1),
        signers(),
    )


def statements() -> SearchStrategy[PostStatement]:
    names = st.sampled_from(["lrat.v1", "sat-model.v1", "z3-attest.v1", "x" * 32, "ß"])
    return st.builds(PostStatement, names, st.binary(min_size=1, max_size=64), u64s(), heights())


def reveals() -> SearchStrategy[RevealProof]:
    return st.builds(RevealProof, hashes(), st.binary(min_size=1, max_size=64), hashes(), u64s(low=1))


@st.composite
def attestations(draw: DrawFn) -> Attest:
    """A verdict batch signed by some validators of a set, as a block carries it."""
    batch = draw(verdict_batches())
    voters = draw(members(max_size=4))
    chosen = draw(st.lists(st.sampled_from(voters), min_size=1, unique=True))
    validators, bitmap, signatures = set_of(voters), bytearray((len(voters) + 7) // 8), {}
    for member in chosen:
        index = validators.index(member.address)
        if index is None:
            raise AssertionError("a member of the set it was built from")
        bitmap[index // 8] |= 1 << index % 8
        signatures[index] = member.signer.sign(batch.encode(), Context.ATTEST.value)
    return Attest(batch.encode(), bytes(bitmap), tuple(signatures[index] for index in sorted(signatures)))


@st.composite
def rotations(draw: DrawFn, sender: Address, nonce: int, genesis_hash: Hash) -> RotateKey:
    """A new key with its proof of possession."""
    if draw(st.booleans()):
        signer = draw(account_signers())
        alg_id, key = signer.alg_id, signer.public_key
        content = possession_bytes(genesis_hash, sender, nonce, alg_id, key)
        return RotateKey(alg_id, key, signer.sign(content, Context.TX.value))
    policy, holders = draw(multisig_accounts())
    content = possession_bytes(genesis_hash, sender, nonce, AlgId.MULTISIG, policy.encode())
    signed = [(i, s.sign(content, Context.TX.value)) for i, s in enumerate(holders[: policy.threshold])]
    return RotateKey(AlgId.MULTISIG, policy.encode(), encode_member_signatures(signed))


def possession_bytes(genesis_hash: Hash, sender: Address, nonce: int, alg_id: int, public_key: bytes) -> bytes:
    """What the new key of a rotation signs."""
    return b"trellis/possession/1" + genesis_hash + sender + nonce.to_bytes(8, "big") + bytes([alg_id]) + public_key


def kinds(sender: Address | None = None, nonce: int = 0, genesis_hash: Hash = GENESIS_HASH) -> SearchStrategy[Kind]:
    """Every kind of transaction."""
    who = Address(some_hash("sender")) if sender is None else sender
    return st.one_of(
        transfers(),
        st.builds(Data, st.binary(min_size=1, max_size=100)),
        bonds(),
        st.builds(Unbond, u64s(low=1)),
        evidence().map(lambda item: SubmitEvidence(encode_evidence(item))),
        st.just(Unjail()),
        statements(),
        st.builds(CommitProof, hashes(), hashes()),
        reveals(),
        attestations(),
        rotations(who, nonce, genesis_hash),
    )


@st.composite
def transaction_bodies(
    draw: DrawFn,
    sender: Address | None = None,
    kind: SearchStrategy[Kind] | None = None,
    genesis_hash: Hash = GENESIS_HASH,
) -> TransactionBody:
    who = draw(addresses()) if sender is None else sender
    nonce = draw(u64s())
    content = draw(kinds(who, nonce, genesis_hash) if kind is None else kind)
    return TransactionBody(who, nonce, draw(heights()), draw(u64s()), content)


@st.composite
def transactions(
    draw: DrawFn, genesis_hash: Hash = GENESIS_HASH, kind: SearchStrategy[Kind] | None = None
) -> Transaction:
    """Signed by the key its sender's address names; with that key, or without as for a known account."""
    carry_key = draw(st.booleans())
    if draw(st.integers(0, 3)):
        signer = draw(account_signers())
        sender = address_of(signer.alg_id, signer.public_key)
        body = draw(transaction_bodies(sender, kind, genesis_hash))
        return signed_transaction(body, signer, genesis_hash, carry_key)
    policy, holders = draw(multisig_accounts())
    raw = draw(transaction_bodies(policy.address, kind, genesis_hash)).encode()
    message = signing_bytes(genesis_hash, raw)
    chosen = sorted(draw(st.permutations(range(len(holders))))[: policy.threshold])
    signed = [(index, holders[index].sign(message, Context.TX.value)) for index in chosen]
    return Transaction(raw, AlgId.MULTISIG, policy.encode() if carry_key else b"", encode_member_signatures(signed))


# Headers, votes, certificates


def headers(genesis_hash: Hash | None = None) -> SearchStrategy[Header]:
    chain = hashes() if genesis_hash is None else st.just(genesis_hash)
    return st.builds(
        Header,
        genesis_hash=chain,
        height=heights(),
        view=u64s().map(View),
        timestamp_ms=u64s(),
        parent_hash=hashes(),
        parent_certificate_hash=hashes(),
        tx_root=hashes(),
        witness_root=hashes(),
        state_root=hashes(),
        note_root=hashes(),
        proof_commitment=st.binary(min_size=48, max_size=48),
        validators_hash=hashes(),
        next_validators_hash=hashes(),
        params_hash=hashes(),
        engine_seal_hash=hashes(),
        proposer=addresses(),
    )


def prepared_marks(below: int | None = None) -> SearchStrategy[Prepared | None]:
    view = u64s().map(View) if below is None else st.integers(0, below - 1).map(View) if below else st.nothing()
    return st.none() | st.builds(Prepared, view, hashes())


@st.composite
def votes(draw: DrawFn, kind: VoteKind | None = None) -> Vote:
    of = draw(st.sampled_from(list(VoteKind))) if kind is None else kind
    height, view = draw(heights()), draw(views())
    if of is VoteKind.VIEW_CHANGE:
        return Vote(of, height, view, prepared=draw(prepared_marks(below=view)))
    return Vote(of, height, view, block_hash=draw(hashes()))


@st.composite
def signed_votes(
    draw: DrawFn, kind: VoteKind | None = None, member: Member | None = None, genesis_hash: Hash = GENESIS_HASH
) -> SignedVote:
    who = draw(members(max_size=1))[0] if member is None else member
    return who.sign(draw(votes(kind)), genesis_hash)


@st.composite
def quorums(draw: DrawFn, voters: Sequence[Member]) -> tuple[Member, ...]:
    """Members with quorum power, in any order; sometimes more than are needed."""
    validators, order = set_of(voters), draw(st.permutations(list(voters)))
    most = draw(st.integers(1, len(order)))
    chosen: list[Member] = []
    for member in order:
        if len(chosen) >= most and validators.is_quorum(sum(m.power for m in chosen)):
            break
        chosen.append(member)
    return tuple(chosen)


@st.composite
def certificates(
    draw: DrawFn, kind: VoteKind = VoteKind.COMMIT, max_size: int = 7, genesis_hash: Hash = GENESIS_HASH
) -> tuple[Certificate, ValidatorSet]:
    """A certificate, and the set that it holds in."""
    voters = draw(members(max_size=max_size))
    validators = set_of(voters)
    return certify(draw(votes(kind)), draw(quorums(voters)), genesis_hash, validators), validators


# Blocks


@st.composite
def blocks(draw: DrawFn, kind: SearchStrategy[Kind] | None = None, min_transactions: int = 0) -> Block:
    """A block whose header names its own transactions, witnesses, proofs and parent certificate."""
    bodies = st.lists(transactions(kind=kind), min_size=min_transactions, max_size=3, unique_by=lambda item: item.body)
    content = tuple(draw(bodies))
    parent = draw(st.none() | certificates(max_size=4).map(lambda drawn: drawn[0]))
    outcomes = [draw(st.sampled_from(list(Outcome))) for _ in content]
    leaves = [
        transaction_leaf(t.txid(GENESIS_HASH), outcome, t.parsed.fee)
        for t, outcome in zip(content, outcomes, strict=True)
    ]
    proofs = [t.txid(GENESIS_HASH) for t in content if isinstance(t.parsed.kind, RevealProof)]
    seal = draw(st.none() | st.builds(Seal, st.integers(0, 2**256 - 1), u64s()))
    header = header_of(
        small_genesis(draw(members(max_size=2))),
        1 if parent is None else draw(st.integers(2, 10_000)),
        draw(addresses()),
        genesis_hash=GENESIS_HASH,
        tx_root=merkle_root(leaves),
        witness_root=witness_root(content),
        parent_certificate_hash=certificate_hash(parent),
        proof_commitment=proof_commitment(proofs),
        **({} if seal is None else {"engine_seal_hash": seal.hash}),
    )
    return Block(header, parent, content, seal)


def proof_blocks() -> SearchStrategy[Block]:
    """Blocks of which every transaction reveals a proof."""
    return blocks(kind=reveals(), min_transactions=1)


# Evidence


@st.composite
def conflicting_votes(
    draw: DrawFn, member: Member | None = None, genesis_hash: Hash = GENESIS_HASH
) -> ConflictingVotes:
    who = draw(members(max_size=1))[0] if member is None else member
    first = draw(votes())
    if first.kind is VoteKind.VIEW_CHANGE:
        marks = prepared_marks(below=first.view).filter(lambda mark: mark != first.prepared)
        if first.view == 0:
            marks = st.builds(Prepared, views(), hashes())
        second = Vote(first.kind, first.height, first.view, prepared=draw(marks))
    else:
        pair = (VoteKind.PREPARE, VoteKind.COMMIT)
        kind = draw(st.sampled_from(pair)) if first.kind in pair else first.kind
        other = draw(hashes().filter(lambda value: value != first.block_hash))
        second = Vote(kind, first.height, first.view, block_hash=other)
    return accuse_of_conflict(who.sign(first, genesis_hash), who.sign(second, genesis_hash), genesis_hash)


@st.composite
def lock_lies(draw: DrawFn, member: Member | None = None, genesis_hash: Hash = GENESIS_HASH) -> LockLie:
    who = draw(members(max_size=1))[0] if member is None else member
    commit_vote = draw(votes(VoteKind.COMMIT))
    later = View(commit_vote.view + draw(st.integers(1, 5)))
    mark = draw(prepared_marks(below=commit_vote.view))
    lie = Vote(VoteKind.VIEW_CHANGE, commit_vote.height, later, prepared=mark)
    return LockLie(who.sign(commit_vote, genesis_hash), who.sign(lie, genesis_hash))


@st.composite
def invalid_proof_prepares(
    draw: DrawFn, member: Member | None = None, genesis_hash: Hash = GENESIS_HASH
) -> InvalidProofPrepare:
    who = draw(members(max_size=1))[0] if member is None else member
    signer = draw(signers())
    body = draw(transaction_bodies(address_of(signer.alg_id, signer.public_key), reveals()))
    transaction = signed_transaction(body, signer, genesis_hash, carry_key=False)
    leaves = draw(st.lists(hashes(), max_size=4))
    place = draw(st.integers(0, len(leaves)))
    leaves.insert(place, transaction_leaf(transaction.txid(genesis_hash), Outcome.OK, body.fee))
    header = header_of(
        small_genesis([who]),
        draw(st.integers(1, 99)),
        who.address,
        genesis_hash=genesis_hash,
        tx_root=merkle_root(leaves),
    )
    prepare = Vote(VoteKind.PREPARE, header.height, draw(views()), header.hash)
    path = prove_inclusion(leaves, [place])
    return InvalidProofPrepare(who.sign(prepare, genesis_hash), header, path, transaction, body.fee)


def evidence(member: Member | None = None, genesis_hash: Hash = GENESIS_HASH) -> SearchStrategy[Evidence]:
    """Every kind of evidence, each of it true."""
    return st.one_of(
        conflicting_votes(member, genesis_hash),
        lock_lies(member, genesis_hash),
        invalid_proof_prepares(member, genesis_hash),
    )


# Consensus messages and frames


@st.composite
def proposals(draw: DrawFn) -> Proposal:
    header = draw(headers(GENESIS_HASH))
    vote = Vote(VoteKind.PRE_PREPARE, header.height, draw(views()), header.hash)
    someone = draw(members(max_size=1))[0]
    some_certificate = certificates(max_size=3).map(lambda drawn: drawn[0])
    justification = draw(st.lists(signed_votes(VoteKind.VIEW_CHANGE), max_size=2))
    prepared = draw(st.none() | certificates(VoteKind.PREPARE, max_size=3).map(lambda drawn: drawn[0]))
    parent = draw(st.none() | some_certificate)
    body = draw(st.binary(max_size=64))
    return Proposal(someone.sign(vote, GENESIS_HASH), header, parent, tuple(justification), prepared, body)


def messages() -> SearchStrategy[Message]:
    prepared = st.none() | certificates(VoteKind.PREPARE, max_size=3).map(lambda drawn: drawn[0])
    return st.one_of(
        proposals(),
        st.builds(Ballot, signed_votes(VoteKind.PREPARE) | signed_votes(VoteKind.COMMIT)),
        st.builds(ViewChange, signed_votes(VoteKind.VIEW_CHANGE), prepared),
        st.builds(DecidedNotice, certificates(max_size=3).map(lambda drawn: drawn[0])),
        st.builds(HeightNotice, u64s().map(Height)),
    )


def frames() -> SearchStrategy[Frame]:
    ids = st.sampled_from(list(MessageId)).map(int) | st.integers(0, 2**16 - 1)
    flags = st.integers(0, 7).map(Flags)
    return st.builds(Frame, ids, st.integers(0, U32_MAX), flags, st.binary(max_size=200))


# Schedule


@dataclass(frozen=True)
class Turn:
    """What happens at one height: in which view its block is made, and how late the parent's certificate was."""

    view: int
    parent_late: bool


def turns(size: int) -> SearchStrategy[Turn]:
    """Mostly view 0, sometimes a few, seldom past a whole round of the validators."""
    late = st.integers(0, 9).map(lambda drawn: drawn == 0)
    return st.builds(Turn, st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1, 2, size, size + 1]), late)


def decided(turn: Turn, order: Sequence[Address], height: int, last_view: int) -> Decided:
    """The block that `turn` makes where `order` are the leaders."""
    late = View(last_view + 1) if turn.parent_late else View(last_view)
    return Decided(View(turn.view), order[turn.view % len(order)], None if height == 1 else late)


# Records


@st.composite
def address_records(draw: DrawFn, genesis_hash: Hash = GENESIS_HASH) -> AddressRecord:
    signer = draw(signers())
    ports = draw(st.lists(st.integers(1, 65_535), max_size=MAX_ADDRESSES_PER_RECORD, unique=True))
    where = tuple(sorted(f"/ip4/10.0.0.{port % 250}/tcp/{port}" for port in ports))
    certificate = draw(st.binary(max_size=64))
    return AddressRecord(genesis_hash, signer.alg_id, signer.public_key, certificate, draw(u64s()), where)


@st.composite
def peer_infos(draw: DrawFn, genesis_hash: Hash = GENESIS_HASH) -> tuple[AddressRecord, SignedAddressRecord]:
    """What one peer says of itself: the record, and the record as it is signed and travels."""
    record = draw(address_records(genesis_hash))
    body = record.encode()
    signature = fake_signature(record.alg_id, record.public_key, body, Context.ADDRESS_RECORD.value)
    return record, SignedAddressRecord(body, signature)


@st.composite
def snapshot_manifests(draw: DrawFn) -> SignedManifest:
    signer = draw(signers())
    manifest = SnapshotManifest(
        draw(hashes()),
        draw(heights()),
        draw(hashes()),
        draw(hashes()),
        draw(u64s()),
        draw(u64s()),
        draw(st.integers(4, 20)),
        draw(st.integers(1, U32_MAX)),
        draw(st.integers(0, U32_MAX)),
    )
    signature = signer.sign(manifest.encode(), Context.SNAPSHOT.value)
    return SignedManifest(manifest, signer.alg_id, signer.public_key, signature)


@st.composite
def verdict_batches(draw: DrawFn, genesis_hash: Hash = GENESIS_HASH) -> VerdictBatch:
    statement_ids = sorted(draw(st.lists(hashes(), min_size=1, max_size=5, unique=True)))
    entries = tuple((item, draw(st.sampled_from(list(AttestedVerdict)))) for item in statement_ids)
    return VerdictBatch(genesis_hash, draw(heights()), entries)


def verification_results() -> SearchStrategy[VerificationResult]:
    """What a proof checker answers."""
    # Imported here: tests of the protocol layer run where the ledger is not installed.
    from state.proofs.verifier import LIMIT_CODES, Code, Verdict, VerificationResult

    of_verdict: dict[Verdict, list[Code]] = {
        Verdict.VALID: [Code.OK],
        Verdict.LIMIT: sorted(LIMIT_CODES),
        Verdict.INVALID: [code for code in Code if code not in LIMIT_CODES and code is not Code.OK],
    }
    return st.one_of(
        *(st.builds(VerificationResult, st.just(v), u64s(), st.sampled_from(codes)) for v, codes in of_verdict.items())
    )


# State


@dataclass(frozen=True)
class StateTransition:
    """A state, what a block changes in it (None deletes), and the state after."""

    before: dict[bytes, bytes]
    changes: dict[bytes, bytes | None]
    after: dict[bytes, bytes]


@st.composite
def state_transitions(draw: DrawFn, max_keys: int = 12) -> StateTransition:
    keys = st.binary(min_size=1, max_size=8)
    before = draw(st.dictionaries(keys, st.binary(max_size=16), max_size=max_keys))
    touched = keys if not before else keys | st.sampled_from(sorted(before))
    changes = draw(st.dictionaries(touched, st.none() | st.binary(max_size=16), max_size=max_keys))
    after = {**before, **{key: value for key, value in changes.items() if value is not None}}
    for key in (key for key, value in changes.items() if value is None):
        after.pop(key, None)
    return StateTransition(before, changes, after)


# Networks


@st.composite
def parameter_sets(draw: DrawFn) -> Parameters:
    """Any values within the bounds that the protocol sets."""
    values = {
        item.name: draw(st.sampled_from([item.metadata["low"], item.default, item.metadata["high"]]))
        for item in fields(Parameters)
    }
    if values["evidence_window_blocks"] >= values["unbonding_blocks"]:
        values["evidence_window_blocks"], values["unbonding_blocks"] = 1, max(2, values["unbonding_blocks"])
    return Parameters(**values)


@st.composite
def policies(draw: DrawFn) -> AlgorithmPolicy:
    """Any entries that make sense; both vote algorithms serve from the first height, so that every set may vote."""
    entries: list[PolicyEntry] = []
    of_role = {
        Role.NETWORK_IDENTITY: VOTE_ALGORITHMS,
        Role.CONSENSUS_VOTE: VOTE_ALGORITHMS,
        Role.ACCOUNT: tuple(AlgId),
        Role.COLD_CERTIFICATION: (AlgId.SLH_DSA_SHAKE_128S,),
    }
    for role, algorithms in of_role.items():
        votes_now = role is Role.CONSENSUS_VOTE
        for alg in algorithms:
            if votes_now or draw(st.booleans()):
                activation = 0 if votes_now else draw(st.integers(0, 1_000))
                entries.append(PolicyEntry(role, alg, activation, draw(st.none() | st.integers(1_001, 10**6))))
    return AlgorithmPolicy(tuple(entries))


@st.composite
def network_configurations(draw: DrawFn) -> Genesis:
    """Genesis documents."""
    voters = draw(members())
    funded = draw(st.dictionaries(addresses(), st.integers(0, 10**12), max_size=4))
    parameters = Parameters(
        min_stake=draw(st.integers(1, min(member.power for member in voters))),
        epoch_blocks=draw(st.integers(1, 10_000)),
        rotation_blocks=draw(st.integers(1, 64)),
        state_buckets_log2=draw(st.integers(4, 20)),
    )
    names = draw(st.lists(st.sampled_from(["lrat.v1", "sat-model.v1", "z3-attest.v1"]), unique=True))
    return Genesis(
        chain_name=draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=16)),
        time_ms=draw(u64s()),
        engine=draw(st.sampled_from(EngineKind)),
        parameters=parameters,
        policy=draw(policies()),
        validators=set_of(voters),
        accounts=tuple(GenesisAccount(address, funded[address]) for address in sorted(funded)),
        verifiers=tuple((name, draw(st.binary(max_size=32))) for name in sorted(names)),
    )


@st.composite
def receipts(draw: DrawFn, max_changes: int = 3, max_size: int = 4) -> ReceiptStory:
    """A receipt that holds, its genesis, and all the validators that signed on the way."""
    changes = draw(st.integers(0, max_changes))
    sets = [
        fake_members(draw(st.lists(st.integers(1, 100), min_size=1, max_size=max_size)), first_seed=1_000 * epoch)
        for epoch in range(changes + 1)
    ]
    return receipt_story(sets, draw(transaction_bodies()), neighbours=draw(st.integers(0, 5)))
