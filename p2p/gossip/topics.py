"""The topics, their names on the wire, and what each may carry: all derived from what a block can hold.

A peer can never have a reason to announce faster than blocks can take. Twice that, and a short burst, is allowed: what
a fork, a view change or a replacement by fee adds. Proofs cost their checkers far more than a signature does, so their
limits are stricter by orders of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from trellis.header import HEADER_BYTES
from trellis.messages import MAX_MESSAGE_BYTES
from trellis.parameters import Parameters
from trellis.transaction import MAX_TX_BYTES
from trellis.types import Hash

MAX_ANNOUNCED_IDS: Final = 256
"""Of one announcement of transactions: 8 KiB of ids, one lookup each, before anybody has shown that it has any."""
MAX_ANNOUNCED_PROOFS: Final = 32
"""Of one announcement of proofs, each of which may cost milliseconds to check."""
MAX_RIDING_BYTES: Final = 64 << 10
"""Payloads that ride along with one announcement: received unasked, so kept far below what is asked for."""

SLACK: Final = 2
"""How much faster than blocks can take a peer may announce."""
BURST_S: Final = 2
"""Of its rate: what a peer that stood still may catch up with at once."""
AGED_BATCHES_PER_S: Final = 20
"""Batches are announced when they are 50 ms old, full or not."""
MIN_TX_BYTES: Final = 3_400
"""An ML-DSA-65 signature, a small body and the envelope."""
PROOFS_PER_BLOCK: Final = 8
"""More do not fit below a block's cap on checking costs in practice; a network that proves more raises the interval."""
CERTIFICATE_BYTES_PER_VALIDATOR: Final = 3_500
COMPACT_ENTRY_BYTES: Final = 44
ENVELOPE_BYTES: Final = 4_096
"""What a topic's payload may have besides the parts that are counted."""


class Topic(StrEnum):
    """Short names: they label metrics."""

    BLOCKS = "blocks"
    HEADERS = "headers"
    TXS = "txs"
    PROOFS = "proofs"
    BLOBS = "blobs"


ONE_HOP: Final = frozenset({Topic.TXS, Topic.PROOFS})
"""Announcements on these are about their sender: that it has something, and serves it. They are not sent on, and the
same words from two peers are two messages: else a peer that repeats another's makes us overlook who really has it."""


def topic_name(genesis_hash: Hash, topic: Topic) -> str:
    return f"/trellis/{genesis_hash[:4].hex()}/{topic}/1"


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """One topic, one connection. What is over is dropped, counted and held against the peer."""

    message_bytes: int
    """Checked before a message is hashed or kept: a flood of large messages."""
    messages_per_s: int
    bytes_per_s: int
    ids_per_s: int = 0
    """For announcements. Of ids, that is of lookups and table entries: a flood of ids that do not exist."""

    @property
    def burst_messages(self) -> int:
        return self.messages_per_s * BURST_S

    @property
    def burst_bytes(self) -> int:
        return max(self.bytes_per_s * BURST_S, self.message_bytes)


def topic_limits(parameters: Parameters) -> dict[Topic, TopicLimits]:
    """What a block can hold, how often, and the slack above."""

    def a_second(in_a_block: int) -> int:
        return max(SLACK * in_a_block * 1_000 // parameters.block_interval_ms, SLACK)

    transactions = a_second(min(parameters.max_block_transactions, parameters.max_block_bytes // MIN_TX_BYTES + 1))
    proofs = a_second(PROOFS_PER_BLOCK)
    blocks = max(a_second(1), 4)
    certificate_bytes = CERTIFICATE_BYTES_PER_VALIDATOR * parameters.max_validators
    header_bytes = min(HEADER_BYTES + certificate_bytes + ENVELOPE_BYTES, MAX_MESSAGE_BYTES)
    block_bytes = min(header_bytes + COMPACT_ENTRY_BYTES * parameters.max_block_transactions, MAX_MESSAGE_BYTES)
    announcement_bytes = 32 * MAX_ANNOUNCED_IDS + MAX_RIDING_BYTES + ENVELOPE_BYTES
    batches = SLACK * AGED_BATCHES_PER_S
    return {
        Topic.BLOCKS: TopicLimits(block_bytes, blocks, blocks * block_bytes // SLACK),
        Topic.HEADERS: TopicLimits(header_bytes, blocks, blocks * header_bytes // SLACK),
        Topic.TXS: TopicLimits(
            announcement_bytes,
            transactions // MAX_ANNOUNCED_IDS + batches,
            a_second(parameters.max_block_bytes),
            transactions,
        ),
        Topic.PROOFS: TopicLimits(
            32 * MAX_ANNOUNCED_PROOFS + ENVELOPE_BYTES, min(proofs, batches), proofs * ENVELOPE_BYTES, proofs
        ),
        Topic.BLOBS: TopicLimits(MAX_RIDING_BYTES, SLACK, SLACK * MAX_RIDING_BYTES),
    }


def served_bytes_per_s(parameters: Parameters) -> int:
    """What one peer may pull: as fast as blocks can take it, with the slack, and never less than one transaction."""
    return max(SLACK * parameters.max_block_bytes * 1_000 // parameters.block_interval_ms, MAX_TX_BYTES)
