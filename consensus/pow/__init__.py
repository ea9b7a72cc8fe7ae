"""Proof of work: the fallback engine for a network without a validator set that everybody trusts to be there.

A genesis chooses it. It is pure like the PBFT core, and decides the same blocks under the same validation; what differs
is who may make one (whoever finds a nonce) and when it is final (`pow_confirmations` deep, which is a bet, not a proof:
receipts are of certified chains only).

    engine = PowEngine(genesis_hash)
    run(engine.step(ChainStarted(...)))       # the committed tip and the headers behind it
    run(engine.step(SealedBlockHeard(...)))   # from gossip, or mined here

The host checks a body when asked (`CheckSealed`), searches nonces when asked (`Mine`), and moves its ledger when told
(`Adopt`): roll back to the fork, then commit the path. Start reading at `work`, then `tree`, then `engine`.
"""

from consensus.pow.engine import (
    Adopt,
    Announce,
    ChainStarted,
    CheckSealed,
    Confirmed,
    Mine,
    MiningWanted,
    PowEffect,
    PowEngine,
    PowEvent,
    PowObserved,
    PowRule,
    RequestAncestors,
    SealedBlockChecked,
    SealedBlockHeard,
)
from consensus.pow.tree import SealedHeader
from consensus.pow.work import meets_target, next_target, work_hash, work_of

__all__ = [
    "Adopt",
    "Announce",
    "ChainStarted",
    "CheckSealed",
    "Confirmed",
    "Mine",
    "MiningWanted",
    "PowEffect",
    "PowEngine",
    "PowEvent",
    "PowObserved",
    "PowRule",
    "RequestAncestors",
    "SealedBlockChecked",
    "SealedBlockHeard",
    "SealedHeader",
    "meets_target",
    "next_target",
    "work_hash",
    "work_of",
]
