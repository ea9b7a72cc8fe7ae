"""How much of what validators certified is checked again: everything, or, where the operator says so, a sample.

In certificate-trust mode certificates are verified, every block is executed and its roots compared, but of the
transactions' signatures only a sample is verified: quorum power has vouched for them. Which ones nobody can foresee.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha3_256
from typing import Final

from state.scope import SignatureClaim

SAMPLE_EVERY: Final = 16
"""One in so many transactions is verified in certificate-trust mode."""


class SyncMode(StrEnum):
    VERIFY = "verify"
    """Every signature of every block is verified: the default."""
    CERTIFICATE_TRUST = "certificate-trust"
    """Certificates, execution and roots are checked, and a sample of signatures."""


@dataclass(frozen=True, slots=True)
class Sampling:
    salt: bytes
    """Drawn by the runtime at start, and never told."""

    def wants(self, claim: SignatureClaim) -> bool:
        return sha3_256(self.salt + claim.key.subject).digest()[0] % SAMPLE_EVERY == 0
