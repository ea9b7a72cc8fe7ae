"""All signatures that a block needs verified, named from the state before it, before anything executes.

The host verifies those whose verdict it does not know, in batches, and hands the verdicts to `apply_block`. Purity is
kept on both sides: which signatures count is decided here, whether they verify is mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from state.chain import read_head, read_network
from state.rules.reveal_proof import ProofWork, proof_work
from state.scope import ClaimKey, SignatureClaim, Verdicts
from state.transactions import Candidate, terms_of
from state.validator_sets import set_at
from state.view import StateView
from trellis.block import Block
from trellis.certificate import Certificate
from trellis.crypto.algorithms import VerifyMany
from trellis.encoding import DecodeError
from trellis.transaction import RevealProof
from trellis.types import Hash, Height
from trellis.validators import ValidatorSet


def certificate_claim_key(certificate: Certificate, validators: ValidatorSet) -> ClaimKey:
    return ClaimKey(certificate.hash, 0, validators.hash, certificate.hash)


def certificate_claims(
    certificate: Certificate, genesis_hash: Hash, validators: ValidatorSet | None
) -> tuple[SignatureClaim, ...]:
    if validators is None or certificate.shape_fault(validators) is not None:
        return ()
    key = certificate_claim_key(certificate, validators)
    return (SignatureClaim(key, certificate.checks(genesis_hash, validators)),)


def required_claims(
    view: StateView, genesis_hash: Hash, block: Block, known: Callable[[ClaimKey], bool] = lambda key: False
) -> tuple[SignatureClaim, ...]:
    """Everything that `apply_block` may ask its `Verdicts` about, but for transactions whose signatures are `known` to
    be valid and which carry no others. Total: hostile blocks name fewer, and are refused."""
    height = Height(read_head(view).height + 1)
    terms = terms_of(read_network(view), genesis_hash, height)
    claims: list[SignatureClaim] = []
    certificate = block.parent_certificate
    if certificate is not None and certificate.height == height - 1:
        claims += certificate_claims(certificate, genesis_hash, set_at(view, height - 1))
    for transaction in block.transactions:
        candidate = Candidate(transaction, view, terms)
        if candidate.is_plain and known(candidate.claim_key()):
            continue
        claims += candidate.claims(view)
    return tuple(claims)


def required_proofs(view: StateView, block: Block) -> tuple[ProofWork, ...]:
    """The proofs that applying the block will check, for workers to check in parallel first.

    A reveal's statement and commitment are older than its block, so none is missed but one whose statement an earlier
    reveal of the same block closes. Blocks with more declared cost than the cap never get here: check that first.
    """
    network, height = read_network(view), read_head(view).height + 1
    work: list[ProofWork] = []
    for transaction in block.transactions:
        try:
            body = transaction.parsed
        except DecodeError:
            return ()
        if isinstance(body.kind, RevealProof):
            found = proof_work(view, height, network.parameters.proof_commit_blocks, body.sender, body.kind)
            if found is not None:
                work.append(found)
    return tuple(work)


class VerdictMissing(LookupError):
    """The host applied a block without the verdicts that `required_claims` asked for."""


def known_verdicts(known: Mapping[ClaimKey, bool]) -> Verdicts:
    """Serves from what the host verified. A missing verdict is the host's mistake, never a False."""

    def verdict(key: ClaimKey) -> bool:
        found = known.get(key)
        if found is None:
            raise VerdictMissing(f"no verdict for transaction or certificate {key.subject.hex()}")
        return found

    return verdict


def verify_claims(claims: tuple[SignatureClaim, ...], verify: VerifyMany) -> dict[ClaimKey, bool]:
    """All claims in one batch: what a host without a cache does."""
    answers = verify([check for claim in claims for check in claim.checks])
    verdicts: dict[ClaimKey, bool] = {}
    at = 0
    for claim in claims:
        verdicts[claim.key] = all(answers[at : at + len(claim.checks)])
        at += len(claim.checks)
    return verdicts
