"""The client that wallets embed: build, sign, submit, wait for finality, keep a receipt that proves it offline.

    from trellis.client import Client, LocalSigner

    signer = LocalSigner.generate()
    with Client(["127.0.0.1:9090", "node-b.example:9090"], trust="genesis.json") as client:
        sent = client.send(to="trl1…", amount=client.amount("12.5"), signer=signer)
        finality = client.wait(sent.txid)
        client.receipt(sent.txid).save("payment.receipt")

What it never does: sign for a chain whose id came from a node, believe a node about finality, pay more than the fee
limit, or sign a payment a second time because a node says that the first was refused.

Where to start reading: `effects` (the core is generators that ask a driver for calls, pauses and signatures), `calls`
(endpoints, retries, agreement), `wallet`, `chain` and `follow` (the flows), `blocking` and `aio` (their drivers).
`AsyncClient` is `Client` with `await`.
"""

from __future__ import annotations

from trellis.client.aio import AsyncBlockStream, AsyncClient
from trellis.client.amounts import Amount
from trellis.client.blocking import BlockStream, Client
from trellis.client.building import UnsignedTransaction, build_transaction
from trellis.client.endpoints import Endpoint, RetryPolicy, Tls
from trellis.client.errors import (
    AlgorithmNotAllowed,
    BadAnswer,
    BadSignature,
    ClientClosed,
    ClientError,
    DishonestAnswer,
    Draining,
    EndpointsDisagree,
    FeeTooHigh,
    FeeTooLow,
    HeightFuture,
    HeightPruned,
    InsufficientFunds,
    InvalidField,
    KeyNotInForce,
    MalformedTx,
    MempoolFull,
    NonceGap,
    NonceTooLow,
    NoQuorum,
    NotEnoughAnswers,
    NotFinal,
    NotFound,
    NotIncluded,
    NotProvable,
    NoTrust,
    ProofInvalid,
    RateLimited,
    Reason,
    RoleRequired,
    ServiceError,
    SignerFault,
    SubscriptionGap,
    Syncing,
    TimedOut,
    TxExpired,
    TxUnknown,
    Unexpected,
    Unreachable,
    WaitTimeout,
    WrongChain,
    WrongChainRefused,
)
from trellis.client.sealed import Trust, load_trust
from trellis.client.signers import (
    AsyncSigner,
    LocalSigner,
    MultisigSigner,
    SignaturePart,
    Signer,
    combine_parts,
    member_part,
)
from trellis.client.values import (
    Account,
    BlockAt,
    ChainBlock,
    FeeEstimate,
    ProvenReceipt,
    ServiceInfo,
    Status,
    Submitted,
    TransactionInfo,
)
from trellis.client.wallet import Terms, transfer
from trellis.receipt import Finality

__all__ = [
    "Account",
    "AlgorithmNotAllowed",
    "Amount",
    "AsyncBlockStream",
    "AsyncClient",
    "AsyncSigner",
    "BadAnswer",
    "BadSignature",
    "BlockAt",
    "BlockStream",
    "ChainBlock",
    "Client",
    "ClientClosed",
    "ClientError",
    "DishonestAnswer",
    "Draining",
    "Endpoint",
    "EndpointsDisagree",
    "FeeEstimate",
    "FeeTooHigh",
    "FeeTooLow",
    "Finality",
    "HeightFuture",
    "HeightPruned",
    "InsufficientFunds",
    "InvalidField",
    "KeyNotInForce",
    "LocalSigner",
    "MalformedTx",
    "MempoolFull",
    "MultisigSigner",
    "NoQuorum",
    "NoTrust",
    "NonceGap",
    "NonceTooLow",
    "NotEnoughAnswers",
    "NotFinal",
    "NotFound",
    "NotIncluded",
    "NotProvable",
    "ProofInvalid",
    "ProvenReceipt",
    "RateLimited",
    "Reason",
    "RetryPolicy",
    "RoleRequired",
    "ServiceError",
    "ServiceInfo",
    "SignaturePart",
    "Signer",
    "SignerFault",
    "Status",
    "Submitted",
    "SubscriptionGap",
    "Syncing",
    "Terms",
    "TimedOut",
    "Tls",
    "TransactionInfo",
    "Trust",
    "TxExpired",
    "TxUnknown",
    "Unexpected",
    "Unreachable",
    "UnsignedTransaction",
    "WaitTimeout",
    "WrongChain",
    "WrongChainRefused",
    "build_transaction",
    "combine_parts",
    "load_trust",
    "member_part",
    "transfer",
]
