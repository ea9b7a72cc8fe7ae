"""What each method costs its caller, and what the node must be able to do for it: one line a method."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Need(IntEnum):
    """What the node must be, each including the one before, but for STREAM and SERVING, which stand side by side."""

    NOTHING = 0
    READABLE = 1
    STREAM = 2
    """Readable, and not on its way out."""
    SERVING = 3
    """Able to bring a transaction to its end."""


@dataclass(frozen=True, slots=True)
class Policy:
    need: Need
    cost: int = 1
    """In units of the caller's quota: about a millisecond of the node each."""
    long: bool = False
    """Stays open, and takes one of the places for open calls."""
    admin: bool = False


_NOTHING, _READ = Policy(Need.NOTHING), Policy(Need.READABLE)
_ADMIN: Final = Policy(Need.NOTHING, admin=True)

POLICIES: Final[dict[str, Policy]] = {
    "TransactionService/SubmitTransaction": Policy(Need.SERVING),
    "TransactionService/SubmitTransactions": Policy(Need.SERVING),
    "TransactionService/SubmitStream": Policy(Need.SERVING, long=True),
    "TransactionService/SimulateTransaction": Policy(Need.READABLE, cost=10),
    "TransactionService/EstimateFee": _READ,
    "TransactionService/GetTransaction": _READ,
    "TransactionService/WaitForFinality": Policy(Need.READABLE, long=True),
    "TransactionService/GetReceipt": Policy(Need.READABLE, cost=4),
    "LedgerService/GetServiceInfo": _NOTHING,
    "LedgerService/GetBlock": Policy(Need.READABLE, cost=4),
    "LedgerService/GetHeader": _READ,
    "LedgerService/ListBlocks": Policy(Need.READABLE, cost=10),
    "LedgerService/GetAccount": _READ,
    "LedgerService/BatchGetAccounts": Policy(Need.READABLE, cost=4),
    "LedgerService/ListAccountTransactions": Policy(Need.READABLE, cost=20),
    "LedgerService/GetMempool": Policy(Need.NOTHING, cost=40),
    "LedgerService/GetSupply": _READ,
    "LedgerService/GetParameters": _READ,
    "LedgerService/GetStatement": Policy(Need.READABLE, cost=4),
    "LedgerService/ListStatements": Policy(Need.READABLE, cost=40),
    "FinalityService/GetFinality": _READ,
    "FinalityService/GetCertificate": _READ,
    "FinalityService/GetValidatorTransitions": Policy(Need.READABLE, cost=10),
    "FinalityService/GetStateProof": Policy(Need.READABLE, cost=4),
    "ConsensusService/GetConsensusState": _NOTHING,
    "ConsensusService/ListValidators": Policy(Need.READABLE, cost=4),
    "ConsensusService/GetRewards": Policy(Need.READABLE, cost=4),
    "ConsensusService/GetReputation": Policy(Need.NOTHING, cost=4),
    "ConsensusService/GetVerificationAccuracy": Policy(Need.READABLE, cost=4),
    "ConsensusService/ListEvidence": Policy(Need.READABLE, cost=20),
    "ConsensusService/GetAlgorithmPolicy": _NOTHING,
    "SubscriptionService/SubscribeBlocks": Policy(Need.STREAM, cost=4, long=True),
    "SubscriptionService/SubscribeTransactions": Policy(Need.STREAM, cost=4, long=True),
    "SubscriptionService/SubscribeEvidence": Policy(Need.STREAM, cost=4, long=True),
    "NodeService/GetStatus": _NOTHING,
    "NodeService/ListPeers": Policy(Need.NOTHING, cost=4),
    "NodeService/GetSyncStatus": _NOTHING,
    "NodeService/GetVersion": _NOTHING,
    "AdminService/AddPeer": _ADMIN,
    "AdminService/RemovePeer": _ADMIN,
    "AdminService/BanPeer": _ADMIN,
    "AdminService/UnbanPeer": _ADMIN,
    "AdminService/ListBans": _ADMIN,
    "AdminService/SetLogLevel": _ADMIN,
    "AdminService/CreateSnapshot": Policy(Need.READABLE, admin=True),
    "AdminService/Prune": Policy(Need.READABLE, admin=True),
    "AdminService/Drain": _ADMIN,
    "Health/Check": _NOTHING,
    "Health/List": _NOTHING,
    "Health/Watch": Policy(Need.NOTHING, long=True),
    "ServerReflection/ServerReflectionInfo": Policy(Need.NOTHING, cost=4, long=True),
}


def policy_of(method: str) -> Policy:
    """A method without a line here is a mistake of ours, found when the server starts."""
    return POLICIES[method]
