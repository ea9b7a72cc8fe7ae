"""`trellis proof submit`: a bounty claimed, from checking the proof here to being paid; resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import Progress, TaskID

from node.cli.claim import Claim, ClaimFile, matching, new_claim, reveal_of
from node.cli.connection import client_of
from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.keyring import read_bytes
from node.cli.methods import GET_STATEMENT
from node.cli.output import emit_record
from node.cli.parsing import parsed_hash
from node.cli.progress import progress_bar
from node.cli.records import enum_name
from node.cli.signing import Paying, paying, proven, require_success, save_receipt
from state.proofs import MAX_PROOF_BYTES, VERIFIERS, Limits, Verdict, VerificationResult, difficulty_milli
from trellis.address import format_address
from trellis.client import Client, LocalSigner, TxExpired, WaitTimeout
from trellis.genesis import Genesis
from trellis.outcome import Outcome
from trellis.receipt import Finality
from trellis.transaction import CommitProof, Kind, PostStatement, Transaction
from trellis.types import Hash, Height
from trellis.v1 import ledger_service_pb2

_CLAIMS: Final = "~/.trellis/claims"
_POLL_S: Final = 0.2
_STEPS: Final = 3
_LOST: Final = (Outcome.STATEMENT_CLOSED, Outcome.STATEMENT_UNKNOWN)
"""Outcomes after which this claim can never succeed."""


@dataclass(frozen=True, slots=True)
class _Statement:
    id: Hash
    verifier: str
    content: bytes
    bounty: str


@click.command()
@click.argument("statement_id")
@click.argument("proof", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--claim",
    "claim_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Where the claim's secret is kept meanwhile.  [default: a file of its own in {_CLAIMS}]",
)
@output_option
@paying
@click.pass_context
def submit(ctx: click.Context, statement_id: str, proof: Path, claim_file: Path | None, paying: Paying) -> None:
    """Claim the bounty of STATEMENT_ID with the PROOF in a file.

    The proof is checked here first, as validators will check it: a wrong one costs nothing. Then a commitment goes to
    the chain, and once it is final the proof itself. If anything stops this in between, run the same command again: it
    goes on where it stopped, from a secret that it keeps in a private file. Fees are paid for both transactions, and
    for the checking.

    \b
    Examples:
      trellis proof submit 77ab… refutation.lrat --from bob
      trellis proof submit 77ab… model.sat --from bob --dry-run

    Exit codes: 0 the bounty was paid, 1 the proof is wrong or somebody was first, 6 not final in time: run it again.
    """
    wanted = parsed_hash(statement_id, "statement id", "see: trellis proof list")
    genesis = _genesis(paying)
    content = read_bytes(proof, "proof", MAX_PROOF_BYTES)
    fresh = new_claim(genesis.hash, paying.account.address, wanted, content)
    file = ClaimFile(claim_file or _default_file(wanted, paying))
    kept = file.read()
    claim = fresh if kept is None else matching(kept, fresh, file.path)
    with client_of(paying.connection) as client:
        statement = _fetched(client, wanted, resumed=claim.reveal is not None)
        checked = _check(statement, content, genesis)
        record = {
            "statement_id": wanted.hex(),
            "verifier": statement.verifier,
            "bounty": statement.bounty,
            "cost": checked.cost,
            "difficulty_milli": difficulty_milli(checked.cost, len(content)),
        }
        shown = record | {"bounty": paying.unit.show(statement.bounty)}
        if paying.dry_run:
            emit_record(ctx, record | {"status": "not sent"}, shown=shown | {"status": "not sent"})
            return
        signer = paying.signer()
        with progress_bar() as bar:
            run = _Run(client, paying, signer, file, claim, bar, bar.add_task("committing", total=_STEPS))
            finality = run.to_the_end(content, checked.cost, genesis.parameters.proof_commit_blocks)
        result: dict[str, Any] = {"commit_txid": run.commit_txid, "txid": finality.txid.hex()} | proven(finality)
        if paying.receipt_file is not None:
            save_receipt(client, finality.txid.hex(), paying.receipt_file)
            result["receipt"] = str(paying.receipt_file)
    emit_record(ctx, record | result, shown=shown | result)
    require_success(finality)


class _Run:
    """The steps on the chain. What was signed is in the file before it is sent, and found there by the next run."""

    def __init__(
        self,
        client: Client,
        paying: Paying,
        signer: LocalSigner,
        file: ClaimFile,
        claim: Claim,
        bar: Progress,
        task: TaskID,
    ) -> None:
        self.client = client
        self.paying = paying
        self.signer = signer
        self.file = file
        self.claim = claim
        self.bar = bar
        self.task = task
        self.commit_txid = ""

    def to_the_end(self, proof: bytes, cost_limit: int, delay: int) -> Finality:
        reveal = reveal_of(self.claim, proof, cost_limit)
        commitment = CommitProof(self.claim.statement_id, reveal.commitment(self.claim.sender))
        committed = self._final(self.claim.commit, commitment, lambda tx: replace(self.claim, commit=tx), 0)
        self.commit_txid = committed.txid.hex()
        if committed.outcome not in (Outcome.OK, Outcome.COMMITMENT_EXISTS):
            return self._closed(committed)
        self.bar.update(self.task, advance=1, description="letting the commitment ripen")
        self._ripen(Height(committed.height + delay - 1))
        self.bar.update(self.task, advance=1, description="revealing the proof")
        revealed = self._final(self.claim.reveal, reveal, lambda tx: replace(self.claim, reveal=tx), 1)
        self.bar.update(self.task, advance=1)
        return self._closed(revealed)

    def _final(
        self, kept: Transaction | None, kind: Kind, keep: Callable[[Transaction], Claim], place: int
    ) -> Finality:
        """One transaction, until it is final; what a run before signed is sent again, unless its time has passed."""
        transaction = kept or self._signed(kind, keep, place)
        try:
            sent = self.client.submit(transaction)
        except TxExpired:
            if kept is None:
                raise
            sent = self.client.submit(self._signed(kind, keep, place))
        try:
            return self.client.wait(sent.txid, self.paying.wait_s)
        except WaitTimeout as fault:
            raise self._later(f"transaction {sent.txid.hex()} is not final after {self.paying.wait_s:g} s") from fault

    def _signed(self, kind: Kind, keep: Callable[[Transaction], Claim], place: int) -> Transaction:
        terms = self.paying.terms
        if terms.nonce is not None:
            terms = replace(terms, nonce=terms.nonce + place)
        transaction = self.client.sign(self.client.build(kind, self.paying.account, terms), self.signer)
        self.claim = keep(transaction)
        self.file.write(self.claim)
        return transaction

    def _ripen(self, height: Height) -> None:
        """An idle chain makes a block now and then, so this ends."""
        until_s = time.monotonic() + self.paying.wait_s
        while self.client.header().height < height:
            if time.monotonic() > until_s:
                raise self._later(f"the chain has not reached height {height}, from which the proof may be revealed")
            time.sleep(_POLL_S)

    def _closed(self, last: Finality) -> Finality:
        """Forgets a claim that was paid or lost; one that can be made good by committing again starts over."""
        if last.outcome is Outcome.OK or last.outcome in _LOST:
            self.file.done()
        else:
            self.file.write(replace(self.claim, commit=None, reveal=None))
        return last

    def _later(self, what: str) -> CommandFailed:
        return CommandFailed(
            Exit.TIMEOUT,
            what,
            f"run the same command again: it goes on where it stopped. The claim is kept in {self.file.path}",
        )


def _genesis(paying: Paying) -> Genesis:
    if not paying.wait:
        raise CommandFailed(Exit.USAGE, "a claim takes two steps, and must wait for the first", "leave out --no-wait")
    if not isinstance(paying.trust, Genesis):
        raise CommandFailed(
            Exit.USAGE, "a claim needs the network's parameters", "name its genesis.json with --genesis, no checkpoint"
        )
    return paying.trust


def _default_file(statement: Hash, paying: Paying) -> Path:
    name = f"{statement.hex()[:32]}-{format_address(paying.account.address)[-16:]}.json"
    return Path(_CLAIMS).expanduser() / name


def _fetched(client: Client, wanted: Hash, *, resumed: bool) -> _Statement:
    """The statement, held against its id. One that this very claim may have closed is fetched whatever its status."""
    request = ledger_service_pb2.GetStatementRequest(statement_id=wanted.hex())
    found = client.call(GET_STATEMENT, request).statement
    if not resumed and found.status != ledger_service_pb2.STATEMENT_STATUS_OPEN:
        name = enum_name(ledger_service_pb2.StatementStatus.DESCRIPTOR, found.status)
        raise CommandFailed(
            Exit.NO,
            f"statement {wanted.hex()} is {name}: nothing is to be earned",
            "see: trellis proof list --status open",
        )
    if PostStatement(found.verifier, found.statement, 0, Height(0)).statement_id != wanted:
        raise CommandFailed(
            Exit.DISHONEST,
            f"the node sent another statement than {wanted.hex()}",
            "ask another node, and find out what is wrong with this one before you use it again",
        )
    if found.verifier not in VERIFIERS:
        raise CommandFailed(
            Exit.NO, f"statements of {found.verifier} take no proofs: validators decide them", "see: trellis proof list"
        )
    return _Statement(wanted, found.verifier, found.statement, str(int(found.bounty or "0")))


def _check(statement: _Statement, proof: bytes, genesis: Genesis) -> VerificationResult:
    most = genesis.parameters.max_block_proof_cost
    result = VERIFIERS[statement.verifier].verify(statement.content, proof, Limits(most))
    if result.verdict is Verdict.VALID:
        return result
    why = result.code.name.lower().replace("_", " ")
    if result.verdict is Verdict.INVALID:
        raise CommandFailed(
            Exit.NO, f"the proof does not prove statement {statement.id.hex()}: {why}", "mend it; nothing was sent"
        )
    raise CommandFailed(
        Exit.NO, f"checking the proof costs more than a block of this network may ({most}): {why}", "find a shorter one"
    )
