"""A claim of a bounty under way: what must not be lost between its commitment and its proof, in one private file.

The file is written before anything is sent. Who loses it after the commitment has only lost a fee; who shows it before
the proof is in a block gives the proof away.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from node.cli.exits import CommandFailed, Exit
from node.cli.keyring import read_bytes, write_file
from trellis.encoding import DecodeError
from trellis.hashing import Tag, hash_tagged
from trellis.transaction import MAX_TX_BYTES, RevealProof, Transaction, decode_transaction
from trellis.types import Address, Hash

SALT_BYTES: Final = 32
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """`commit` and `reveal` are there once they were signed: the very bytes, to be sent again after a crash."""

    statement_id: Hash
    sender: Address
    genesis_hash: Hash
    proof_hash: Hash
    salt: bytes
    commit: Transaction | None = None
    reveal: Transaction | None = None

    def __repr__(self) -> str:
        return f"Claim({self.statement_id.hex()})"


def proof_hash(proof: bytes) -> Hash:
    return hash_tagged(Tag.PROOF_ENTRY, proof)


def new_claim(genesis_hash: Hash, sender: Address, statement_id: Hash, proof: bytes) -> Claim:
    return Claim(statement_id, sender, genesis_hash, proof_hash(proof), secrets.token_bytes(SALT_BYTES))


class ClaimFile:
    """Where one claim is kept, between runs of the command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Claim | None:
        if not self.path.exists():
            return None
        try:
            document = json.loads(read_bytes(self.path, "claim", 4 * MAX_TX_BYTES + 4_096))
            _readable(document["version"])
            return Claim(
                statement_id=Hash(bytes.fromhex(document["statement_id"])),
                sender=Address(bytes.fromhex(document["sender"])),
                genesis_hash=Hash(bytes.fromhex(document["genesis_hash"])),
                proof_hash=Hash(bytes.fromhex(document["proof_hash"])),
                salt=bytes.fromhex(document["salt"]),
                commit=_transaction(document["commit"]),
                reveal=_transaction(document["reveal"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError, DecodeError) as fault:
            raise CommandFailed(
                Exit.LOCAL,
                f"{self.path} is no claim of ours",
                "restore it from a backup, or move it away to begin the claim anew (that costs another commitment)",
            ) from fault

    def write(self, claim: Claim) -> None:
        """Durable, and readable by its owner alone, when it returns."""
        document: dict[str, Any] = {
            "version": _VERSION,
            "statement_id": claim.statement_id.hex(),
            "sender": claim.sender.hex(),
            "genesis_hash": claim.genesis_hash.hex(),
            "proof_hash": claim.proof_hash.hex(),
            "salt": claim.salt.hex(),
            "commit": claim.commit and claim.commit.encode().hex(),
            "reveal": claim.reveal and claim.reveal.encode().hex(),
        }
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as fault:
            raise CommandFailed(
                Exit.LOCAL, f"cannot make {self.path.parent}: {fault.strerror}", "name another place with --claim"
            ) from fault
        write_file(self.path, json.dumps(document).encode() + b"\n", replace=True)

    def done(self) -> None:
        os.unlink(self.path)


def _readable(version: object) -> None:
    if version != _VERSION:
        raise ValueError(f"version {version}: this software knows {_VERSION}")


def _transaction(text: str | None) -> Transaction | None:
    return None if text is None else decode_transaction(bytes.fromhex(text))


def matching(claim: Claim, wanted: Claim, path: Path) -> Claim:
    """A claim file is only ever used for what it was made for."""
    same = replace(wanted, salt=claim.salt, commit=claim.commit, reveal=claim.reveal)
    if claim != same:
        raise CommandFailed(
            Exit.LOCAL,
            f"{path} holds a claim with another proof, account or network",
            "give the same proof and key as before; or name another file with --claim to begin anew",
        )
    return claim


def reveal_of(claim: Claim, proof: bytes, cost_limit: int) -> RevealProof:
    return RevealProof(claim.statement_id, proof, claim.salt, cost_limit)
