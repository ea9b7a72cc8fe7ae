"""A node's folder with a real store in it: one validator, real keys, blocks executed and committed by the ledger."""

from __future__ import annotations

from pathlib import Path

from node.config import load_config
from node.home import CONFIG_NAME, open_home
from node.testnet import generate
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.store.chain import create_chain
from state.store.lmdb_store import LmdbStore
from state.store.rows import ChainIdentity
from state.transition import Proposal
from trellis.certificate import Certificate, make_certificate
from trellis.constants import Context
from trellis.crypto.keystore import read_keystore
from trellis.parameters import Parameters
from trellis.transaction import Data, Transaction, TransactionBody, signing_bytes
from trellis.types import Height, View
from trellis.votes import SignedVote, Vote, VoteKind

BLOCKS = 5


def make_home(folder: Path, blocks: int = BLOCKS) -> Path:
    """The folder of `node0`; each block holds one transaction of its account."""
    parameters = Parameters(state_buckets_log2=4)
    genesis = generate(folder, name="orchard", ports=[26_600], time_ms=1_700_000_000_000, parameters=parameters)
    directory = folder / "node0"
    home = open_home(directory, {})
    account = read_keystore(directory / "keys" / "account.json").unlock("localnet")
    chain = create_chain(LmdbStore(home.store_directory), ChainIdentity(genesis.hash, 4), genesis_changes(genesis))
    ledger = Ledger(genesis, chain)
    certificate: Certificate | None = None
    for place in range(blocks):
        body = TransactionBody(home.account, place, Height(1_000), 50_000, Data(f"note {place}".encode()))
        raw = body.encode()
        signature = account.sign(signing_bytes(genesis.hash, raw), Context.TX.value)
        transaction = Transaction(raw, account.alg_id, account.public_key if place == 0 else b"", signature)
        proposal = Proposal(home.account, View(0), genesis.time_ms + 100 * (place + 1), certificate)
        header = ledger.propose(proposal, [transaction], lambda key: True, ledger.tip.block_hash).applied.block.header
        vote = Vote(VoteKind.COMMIT, header.height, header.view, header.hash)
        signed = SignedVote(
            vote, home.account, home.consensus_key.sign(vote.signing_bytes(genesis.hash), Context.VOTE.value)
        )
        certificate = make_certificate([signed], genesis.validators)
        ledger.commit(header.hash, certificate)
    chain.close()
    return directory


def store_of(directory: Path) -> Path:
    return directory / load_config(directory / CONFIG_NAME, {}).config.node.data_dir / "store"
