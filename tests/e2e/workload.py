"""Transactions of every kind, drawn from a seed: what a few dozen wallets, provers and would-be validators might send.

Wallets act in rounds. Within a round a wallet sends a few transactions in a row through one node; a round is over when
all of them are final, so nonces are known and what a later round builds on is there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from state.proofs import VERIFIERS, Limits, Verdict
from tests.e2e.model import Judged
from tests.state.proofs.honest_prover import cnf_bytes, lrat_proof, pigeonhole
from trellis.address import address_of
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import SigningKey, scheme
from trellis.fees import minimum_fee
from trellis.genesis import Genesis
from trellis.hashing import Tag
from trellis.peerid import peer_id
from trellis.transaction import (
    Bond,
    CommitProof,
    Data,
    Kind,
    Output,
    PostStatement,
    RevealProof,
    RotateKey,
    Transaction,
    TransactionBody,
    Transfer,
    Unbond,
    Unjail,
    signing_bytes,
)
from trellis.types import Address, Hash, Height

KEYS: Final = scheme(AlgId.ML_DSA_65)
VALID_BLOCKS: Final = 5_000
COST: Final = Limits(1 << 20)


@dataclass
class Wallet:
    key: SigningKey
    address: Address
    nonce: int = 0
    known: bool = False
    """The chain knows its key."""
    identity: tuple[bytes, bytes] | None = None
    """With which it bonds."""


@dataclass
class Problem:
    """A posted statement, and proofs of it that somebody has in mind."""

    posted: PostStatement
    good: bytes
    bad: bytes
    committed: list[tuple[Wallet, RevealProof]] = field(default_factory=list)


class Workload:
    def __init__(self, seed: int, genesis: Genesis, keys: list[SigningKey], bonders: int = 3) -> None:
        self._random = random.Random(seed)
        self._genesis = genesis
        self.wallets = [Wallet(key, address_of(key.alg_id, key.public_key)) for key in keys]
        self._bonders = self.wallets[:bonders]
        self.proofs: dict[bytes, Judged] = {}
        self.attested: list[PostStatement] = []
        self._problems: list[Problem] = []
        self._fresh: list[Problem] = []
        self._number = 0

    # Rounds.

    def round(self, height: int) -> Iterator[tuple[Wallet, list[Transaction]]]:
        """What each wallet sends now, in order."""
        # What one round posts, the next one works on: it is final then.
        self._problems += self._fresh
        self._fresh = []
        for wallet in self._random.sample(self.wallets, len(self.wallets)):
            kinds = [self._kind(wallet, height) for _ in range(self._random.randint(1, 4))]
            signed = [self._signed(wallet, kind, place, height) for place, kind in enumerate(kinds)]
            if self._random.random() < 0.04:
                signed.append(self._rotation(wallet, len(kinds), height))
            wallet.nonce += len(signed)
            wallet.known = True
            yield wallet, signed

    def _signed(self, wallet: Wallet, kind: Kind, place: int, height: int) -> Transaction:
        key = wallet.key
        body = TransactionBody(wallet.address, wallet.nonce + place, Height(height + VALID_BLOCKS), 1 << 30, kind)
        carried = b"" if wallet.known else key.public_key
        draft = Transaction(body.encode(), key.alg_id, carried, b"\0")
        tip = self._random.choice((0, 0, 1, 77))
        fee = minimum_fee(self._genesis.parameters, draft, key.public_key) + tip
        raw = TransactionBody(body.sender, body.nonce, body.valid_until_height, fee, kind).encode()
        signature = key.sign(signing_bytes(self._genesis.hash, raw), Context.TX.value)
        return Transaction(raw, key.alg_id, carried, signature)

    def _rotation(self, wallet: Wallet, place: int, height: int) -> Transaction:
        """Last of its round: the old key signs it, the new one all that follows."""
        new = KEYS.generate()
        content = (
            self._genesis.hash,
            wallet.address,
            (wallet.nonce + place).to_bytes(8, "big"),
            bytes([new.alg_id]),
            new.public_key,
        )
        proof = new.sign(Tag.KEY_POSSESSION.value + b"".join(content), Context.TX.value)
        done = self._signed(wallet, RotateKey(new.alg_id, new.public_key, proof), place, height)
        wallet.key = new
        return done

    # Kinds.

    def _kind(self, wallet: Wallet, height: int) -> Kind:
        drawn = self._random.random()
        if wallet in self._bonders and drawn < 0.25:
            return self._stake(wallet)
        if drawn < 0.35:
            return Transfer((self._output(),))
        if drawn < 0.50:
            return Transfer(tuple(self._output() for _ in range(self._random.randint(2, 12))))
        if drawn < 0.62:
            return Data(self._random.randbytes(self._random.randint(1, 700)))
        if drawn < 0.74:
            return self._post(height)
        if drawn < 0.76:
            return self._odd(wallet, height)
        return self._claim(wallet)

    def _output(self) -> Output:
        anybody = Address(self._random.randbytes(32))
        to = self._random.choice(self.wallets).address if self._random.random() < 0.9 else anybody
        return Output(to, self._random.randint(1, 10**7))

    def _stake(self, wallet: Wallet) -> Kind:
        """All of them together stay far below a third of all stake: they sign nothing, the others must be a quorum."""
        if wallet.identity is None:
            vote, network = KEYS.generate(), KEYS.generate()
            wallet.identity = (vote.public_key, peer_id(network.alg_id, network.public_key))
            amount = 2_000_000
        elif self._random.random() < 0.5:
            return Unbond(self._random.randint(1, 900_000))
        else:
            amount = self._random.choice((1_000, 300_000, 1_000_000))
        key, network_id = wallet.identity
        return Bond(amount, AlgId.ML_DSA_65, key, network_id)  # type: ignore[arg-type]

    def _odd(self, wallet: Wallet, height: int) -> Kind:
        """What must fail, and cost its fee."""
        member = self._random.choice(self._genesis.validators.members)
        return self._random.choice(
            (
                Unjail(),
                Unbond(1),
                PostStatement("sat-model.v9", b"p cnf 1 1\n1 0\n", 5, Height(height + 900)),
                PostStatement("sat-model.v1", b"no formula", 5, Height(height + 900)),
                Bond(2_000_000, AlgId.ML_DSA_65, member.public_key, member.network_id),
                CommitProof(Hash(bytes(32)), Hash(self._random.randbytes(32))),
            )
        )

    # Proofs.

    def _post(self, height: int) -> Kind:
        bounty = self._random.randint(0, 10**6)
        # Some expire soon, and give their bounty back.
        expiry = Height(height + self._random.choice((30, VALID_BLOCKS, VALID_BLOCKS)))
        drawn = self._random.random()
        if drawn < 0.15:
            self._number += 1
            right = 1_000 + self._number
            script = f"(set-logic QF_LIA)\n(declare-const x Int)\n(assert (= (* 2 x) {right}))\n(check-sat)\n"
            posted = PostStatement("z3-attest.v1", script.encode(), bounty, Height(height + VALID_BLOCKS))
            self.attested.append(posted)
            return posted
        if drawn < 0.3 and self._problems:
            return self._random.choice(self._problems).posted  # again
        problem = self._satisfiable(bounty, expiry) if drawn < 0.7 else self._refutable(bounty, expiry)
        self._fresh.append(problem)
        return problem.posted

    def _satisfiable(self, bounty: int, expiry: Height) -> Problem:
        model = [self._random.choice((-1, 1)) * variable for variable in range(1, 21)]
        clauses = []
        for _ in range(40):
            chosen = self._random.sample(model, 3)
            signs = (1, self._random.choice((-1, 1)), self._random.choice((-1, 1)))
            clauses.append([sign * literal for sign, literal in zip(signs, chosen, strict=True)])
        named = {abs(literal) for clause in clauses for literal in clause}
        good = [literal for literal in model if abs(literal) in named]
        bad = [-literal for literal in good]
        unmet = any(not set(bad) & set(clause) for clause in clauses)
        problem = Problem(PostStatement("sat-model.v1", cnf_bytes(clauses), bounty, expiry), _model(good), _model(bad))
        self._judge(problem, "sat-model.v1", bad_is_bad=unmet)
        return problem

    def _refutable(self, bounty: int, expiry: Height) -> Problem:
        clauses = pigeonhole(3)
        for _ in range(6):
            chosen = self._random.sample(range(13, 20), 3)
            clauses.append([self._random.choice((-1, 1)) * variable for variable in sorted(chosen)])
        proof = lrat_proof(clauses)
        assert proof is not None
        without_end = b"".join(line + b"\n" for line in proof.splitlines()[:-1])
        problem = Problem(PostStatement("lrat.v1", cnf_bytes(clauses), bounty, expiry), proof, without_end)
        self._judge(problem, "lrat.v1", bad_is_bad=True)
        return problem

    def _judge(self, problem: Problem, verifier: str, *, bad_is_bad: bool) -> None:
        checked = VERIFIERS[verifier].verify(problem.posted.statement, problem.good, COST)
        assert checked.verdict is Verdict.VALID
        self.proofs[problem.good] = Judged(True, checked.cost)
        checked = VERIFIERS[verifier].verify(problem.posted.statement, problem.bad, COST)
        assert (checked.verdict is Verdict.INVALID) == bad_is_bad
        self.proofs[problem.bad] = Judged(not bad_is_bad, checked.cost)

    def _claim(self, wallet: Wallet) -> Kind:
        """A commitment, or the proof of one that was made in an earlier round; sometimes a wrong one, or a thief's."""
        if not self._problems:
            return Data(b"nothing to prove")
        problem = self._random.choice(self._problems[-12:])
        mine = [reveal for prover, reveal in problem.committed if prover is wallet]
        drawn = self._random.random()
        if mine and drawn < 0.8:
            return mine[-1]
        if problem.committed and drawn < 0.1:
            return self._random.choice(problem.committed)[1]
        proof = problem.bad if drawn > 0.85 else problem.good
        limit = 2_000 + self.proofs[proof].cost
        reveal = RevealProof(problem.posted.statement_id, proof, self._random.randbytes(32), limit)
        problem.committed.append((wallet, reveal))
        return CommitProof(problem.posted.statement_id, reveal.commitment(wallet.address))


def _model(literals: list[int]) -> bytes:
    return b"v " + " ".join(map(str, sorted(literals, key=abs))).encode() + b" 0\n"
