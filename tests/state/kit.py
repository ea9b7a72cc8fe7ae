"""A small chain that rules can be tried on: accounts that can sign, blocks built, certified and applied by one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from state.accounts import Account, read_account, read_key
from state.chain import Totals, read_head, read_network, read_schedule, read_totals
from state.claims import known_verdicts, required_claims, verify_claims
from state.commitment.versions import MemoryState, SpeculativeState
from state.conservation import ConservationValidator
from state.errors import InvalidBlock
from state.execution import BlockContext
from state.genesis_state import genesis_changes
from state.scope import ClaimKey, ProofCheck, Verdicts, check_proof
from state.transactions import Candidate, terms_of
from state.transition import Applied, Built, Proposal, apply_block, build_block
from state.validator_sets import require_set
from state.view import Changes
from tests.chains import Member, certify, fake_members, signed_transaction, small_genesis
from tests.signing import FakeSigner, Signer, fake_verify_all
from trellis.address import address_of
from trellis.block import Block
from trellis.certificate import Certificate
from trellis.crypto.algorithms import SignatureCheck
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.transaction import Kind, Output, Transaction, TransactionBody, Transfer
from trellis.types import Address, Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import Vote, VoteKind

PARAMETERS = Parameters(
    epoch_blocks=10,
    evidence_window_blocks=30,
    unbonding_blocks=40,
    jail_blocks=15,
    attestation_expiry_blocks=5,
    state_buckets_log2=4,
    min_stake=100,
    max_validators=8,
    emission_per_block=1_000,
    halving_blocks=50,
    emission_cap=1_000_000,
    proof_commit_blocks=1,
)
RICH = 10_000_000


def accounts(count: int, first_seed: int = 100) -> tuple[FakeSigner, ...]:
    return tuple(FakeSigner(first_seed + place) for place in range(count))


def address(signer: Signer) -> Address:
    return address_of(signer.alg_id, signer.public_key)


def make_genesis(
    members: Sequence[Member],
    rich: Sequence[FakeSigner],
    parameters: Parameters = PARAMETERS,
    balance: int = RICH,
    engine: EngineKind = EngineKind.PBFT,
    verifiers: tuple[str, ...] = ("lrat.v1", "sat-model.v1", "z3-attest.v1"),
) -> Genesis:
    funded = [GenesisAccount(address(signer), balance) for signer in rich]
    funded += [GenesisAccount(member.address, balance) for member in members]
    plain = small_genesis(members, accounts=funded, parameters=parameters)
    return replace(plain, engine=engine, verifiers=tuple((name, b"") for name in verifiers))


def pay(recipient: Address, amount: int) -> Transfer:
    return Transfer((Output(recipient, amount),))


@dataclass
class Chain:
    """The committed end of a chain, and whoever can sign on it."""

    genesis: Genesis
    members: tuple[Member, ...]
    rich: tuple[FakeSigner, ...]
    state: MemoryState = field(init=False)
    tip: Hash = field(init=False)
    timestamp_ms: int = field(init=False)
    certificate: Certificate | None = None
    blocks: list[Block] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    audit: ConservationValidator = field(init=False)
    check_proof: ProofCheck = check_proof

    def __post_init__(self) -> None:
        self.state = MemoryState(self.genesis.parameters.state_buckets_log2)
        self.state.apply(genesis_changes(self.genesis))
        self.tip = self.genesis.hash
        self.timestamp_ms = self.genesis.time_ms
        self.audit = ConservationValidator(self.state.items())

    @property
    def height(self) -> Height:
        """Of the last block."""
        return read_head(self.state).height

    @property
    def totals(self) -> Totals:
        return read_totals(self.state)

    @property
    def validators(self) -> ValidatorSet:
        """V of the next height."""
        return require_set(self.state, self.height + 1)

    def account(self, of: FakeSigner | Address) -> Account:
        return read_account(self.state, address(of) if isinstance(of, FakeSigner) else of)

    def member(self, of: Address) -> Member:
        return next(member for member in self.members if member.address == of)

    def leader(self, view: int = 0) -> Member:
        return self.member(read_schedule(self.state).leader_of(View(view), self.validators))

    def tx(
        self,
        signer: Signer,
        kind: Kind,
        *,
        nonce: int | None = None,
        fee: int = 20_000,
        valid_until: int | None = None,
        after: int = 0,
    ) -> Transaction:
        """`after` counts the signer's transactions before this one that are not in the chain yet."""
        sender = address(signer)
        body = TransactionBody(
            sender,
            read_account(self.state, sender).nonce + after if nonce is None else nonce,
            Height(self.height + 20 if valid_until is None else valid_until),
            fee,
            kind,
        )
        return signed_transaction(body, signer, self.genesis.hash, carry_key=read_key(self.state, sender) is None)

    def context(self, verdicts: Verdicts, keep: list[SpeculativeState] | None = None) -> BlockContext:
        def root_of(changes: Changes) -> Hash:
            version = self.state.extend(changes)
            if keep is not None:
                keep.append(version)
            return version.root

        return BlockContext(self.genesis.hash, self.tip, verdicts, root_of, self.check_proof)

    def verdicts_for(self, block: Block) -> Verdicts:
        return known_verdicts(verify_claims(required_claims(self.state, self.genesis.hash, block), fake_verify_all))

    def build(
        self, transactions: Iterable[Transaction] = (), view: int = 0, certificate: Certificate | None = None
    ) -> Built:
        """What the leader of that view would propose."""
        offered = tuple(transactions)
        probe: dict[ClaimKey, bool] = {}

        def verdict(key: ClaimKey) -> bool:
            return probe[key]

        for claim in _all_claims(self, offered):
            probe[claim[0]] = all(fake_verify_all(claim[1]))
        proposal = Proposal(
            self.leader(view).address, View(view), self.timestamp_ms + 100, certificate or self.certificate
        )
        return build_block(self.state, proposal, offered, self.context(verdict))

    def certify(self, block: Block, signers: Sequence[Member] | None = None, view: int | None = None) -> Certificate:
        header = block.header
        at = header.view if view is None else View(view)
        vote = Vote(VoteKind.COMMIT, header.height, at, header.hash)
        chosen = [member for member in (signers or self.members) if member.address in self.validators]
        return certify(vote, chosen, self.genesis.hash, self.validators)

    def apply(self, block: Block) -> Applied | InvalidBlock:
        return apply_block(self.state, block, self.context(self.verdicts_for(block)))

    def accept(self, block: Block, signers: Sequence[Member] | None = None, view: int | None = None) -> Applied:
        """Applies, certifies and commits; value must be conserved, counted both ways."""
        kept: list[SpeculativeState] = []
        done = apply_block(self.state, block, self.context(self.verdicts_for(block), kept))
        assert isinstance(done, Applied), done
        certificate = self.certify(block, signers, view) if self.genesis.engine is EngineKind.PBFT else None
        self.audit.apply(done.executed.changes, self.state)
        self.state.commit(kept[-1])
        self.tip, self.timestamp_ms, self.certificate = block.hash, block.header.timestamp_ms, certificate
        self.blocks.append(block)
        self.applied.append(done)
        whole = ConservationValidator(self.state.items())
        assert whole.validate()
        assert self.audit.validate()
        assert whole.calculate_total_value() == self.audit.calculate_total_value() == self.totals.owed
        return done

    def step(
        self,
        *transactions: Transaction,
        view: int = 0,
        signers: Sequence[Member] | None = None,
        decided_in: int | None = None,
    ) -> Applied:
        """Builds, applies and commits one block with exactly these transactions."""
        built = self.build(transactions, view)
        assert not built.dropped, built.dropped
        return self.accept(built.applied.block, signers, decided_in)

    def run_to(self, height: int) -> None:
        while self.height < height:
            self.step()

    def outcome(self, signer: Signer, kind: Kind, fee: int = 20_000) -> Outcome:
        """Of one transaction in a block of its own."""
        return self.step(self.tx(signer, kind, fee=fee)).executed.receipts[0].outcome


def _all_claims(chain: Chain, offered: tuple[Transaction, ...]) -> list[tuple[ClaimKey, tuple[SignatureCheck, ...]]]:
    terms = terms_of(read_network(chain.state), chain.genesis.hash, Height(chain.height + 1))
    found: list[tuple[ClaimKey, tuple[SignatureCheck, ...]]] = []
    for transaction in offered:
        candidate = Candidate(transaction, chain.state, terms)
        found += [(claim.key, claim.checks) for claim in candidate.claims(chain.state)]
    return found


def make_chain(
    powers: Sequence[int] = (1_000, 1_000, 1_000, 1_000),
    rich: int = 4,
    parameters: Parameters = PARAMETERS,
    engine: EngineKind = EngineKind.PBFT,
) -> Chain:
    members, signers = fake_members(powers), accounts(rich)
    return Chain(make_genesis(members, signers, parameters, engine=engine), members, signers)
