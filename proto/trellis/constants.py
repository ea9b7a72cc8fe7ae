"""Constants of the protocol that no genesis can change: versions, contexts, sizes, caps.

What a network may choose for itself is a genesis parameter: `trellis.parameters`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

HEADER_VERSION: Final = 1
PROOF_COMMITMENT_BYTES: Final = 48


class Context(bytes, Enum):
    """FIPS 204 / 205 contexts: one purpose each, so that a signature for one can never serve another."""

    TX = b"trellis/tx/1"
    VOTE = b"trellis/vote/1"
    ADDRESS_RECORD = b"trellis/addr/1"
    SNAPSHOT = b"trellis/snapshot/1"
    ATTEST = b"trellis/attest/1"
    CERT = b"trellis/cert/1"
    HANDSHAKE_LISTENER = b"trellis/hs/1/R"
    HANDSHAKE_DIALER = b"trellis/hs/1/I"


MAX_VALIDATORS: Final = 10_000
"""Stops a set, a bitmap or a certificate from promising memory without end; the simulator runs at this size."""

MAX_TX_BODY_BYTES: Final = 1 << 20
"""Stops one transaction from filling more than a quarter of the default block."""

MAX_SIGNATURE_BYTES: Final = 64 << 10
"""Room for the largest multi-signature (8 SLH-DSA members); a larger claim is refused before it is read."""

MAX_PUBLIC_KEY_BYTES: Final = 32 << 10
"""Room for the largest multi-signature policy (MAX_MULTISIG_KEYS keys of ML-DSA-87 size)."""

MAX_MULTISIG_KEYS: Final = 8
"""Bounds what one transaction's signature costs to check."""

MAX_BLOCK_BYTES: Final = 16 << 20
"""No genesis may allow larger blocks: one yamux stream must carry a body well within a view."""

MAX_BLOCK_TRANSACTIONS: Final = 65_536

MAX_PEER_ID_BYTES: Final = 64
MAX_ADDRESSES_PER_RECORD: Final = 16
MAX_MULTIADDR_BYTES: Final = 256
