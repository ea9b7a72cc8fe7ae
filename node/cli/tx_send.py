"""`trellis tx send`, `data`, `rotate-key`: what accounts do with each other and with themselves."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from node.cli.connection import client_of
from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.keyring import key_path, read_key, unlock
from node.cli.parsing import parsed_address
from node.cli.signing import Paying, carry_out, finish, paying, show_unsigned
from trellis.address import format_address
from trellis.client import transfer
from trellis.crypto.algorithms import SIZES
from trellis.crypto.policy import Role
from trellis.transaction import MAX_OUTPUTS, MAX_TX_BYTES, Data, RotateKey

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_READ_BYTES: Final = 1 << 20


@click.command()
@click.argument("payments", nargs=-1, required=True, metavar="ADDRESS AMOUNT [ADDRESS AMOUNT]...")
@output_option
@paying
@click.pass_context
def send(ctx: click.Context, payments: tuple[str, ...], paying: Paying) -> None:
    """Pay AMOUNT to ADDRESS; several accounts in one transaction.

    Amounts are in the chain's unit. The answer is proven: final, and by the certificate of a quorum of validators, not
    by a node's word.

    \b
    Examples:
      trellis tx send trl1qq… 12.5 --from alice
      trellis tx send trl1qq… 12.5 trl1pp… 0.25 --from alice --receipt wages.receipt
      trellis tx send trl1qq… 12.5 --from alice --dry-run
      trellis --output json tx send trl1qq… 1500 --base-units --from alice --password-file pw --no-wait

    Exit codes: 0 final and executed, 1 final and failed or never included, 5 refused, 6 not final in time.
    """
    if len(payments) % 2:
        raise CommandFailed(
            Exit.USAGE, "addresses and amounts come in pairs", "for example: trellis tx send trl1… 12.5 --from alice"
        )
    pairs = list(zip(payments[::2], payments[1::2], strict=True))
    if len(pairs) > MAX_OUTPUTS:
        raise CommandFailed(Exit.USAGE, f"one transaction pays {MAX_OUTPUTS} accounts at most", "send several")
    outputs = [(parsed_address(to), paying.units(amount, f"the amount for {to}")) for to, amount in pairs]
    details: dict[str, Any] = {
        "payments": [{"to": format_address(to), "amount": str(units)} for to, units in outputs],
        "total": str(sum(units for _, units in outputs)),
    }
    carry_out(ctx, paying, transfer(outputs), details)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--digest", is_flag=True, help="Only the SHA3-256 of the file goes on the chain: the file stays yours.")
@output_option
@paying
@click.pass_context
def data(ctx: click.Context, file: Path, digest: bool, paying: Paying) -> None:
    """Put the bytes of FILE on the chain (- reads standard input). The receipt proves that they existed by then.

    Everybody can read what is on a chain, for ever: use --digest for anything that is private or large.

    \b
    Examples:
      trellis tx data contract.pdf --digest --from alice --receipt contract.receipt
      echo "we were here" | trellis tx data - --from alice --password-file pw
    """
    payload, size = _digest(file) if digest else _payload(file)
    found = payload if digest else hashlib.sha3_256(payload).digest()
    details = {"file_bytes": size, "file_sha3_256": found.hex(), "digest_only": digest}
    carry_out(ctx, paying, Data(payload), details)


def _payload(file: Path) -> tuple[bytes, int]:
    try:
        if str(file) == "-":
            payload = sys.stdin.buffer.read(MAX_TX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                payload = opened.read(MAX_TX_BYTES + 1)
    except OSError as fault:
        raise _unreadable(file, fault) from fault
    if not payload:
        raise CommandFailed(Exit.LOCAL, f"{file} is empty", "there is nothing to put on the chain: name another file")
    if len(payload) > MAX_TX_BYTES:
        raise CommandFailed(
            Exit.LOCAL, f"{file} is larger than a transaction ({MAX_TX_BYTES} bytes)", "put its hash there: --digest"
        )
    return payload, len(payload)


def _digest(file: Path) -> tuple[bytes, int]:
    """A file of any size, piece by piece."""
    hasher, size = hashlib.sha3_256(), 0
    try:
        opened = sys.stdin.buffer if str(file) == "-" else file.open("rb")
        with opened:
            while piece := opened.read(_READ_BYTES):
                hasher.update(piece)
                size += len(piece)
    except OSError as fault:
        raise _unreadable(file, fault) from fault
    return hasher.digest(), size


def _unreadable(file: Path, fault: OSError) -> CommandFailed:
    return CommandFailed(Exit.LOCAL, f"cannot read {file}: {fault.strerror}", "check its name and your permissions")


@click.command(name="rotate-key")
@click.argument("new_key", metavar="NEW")
@click.option(
    "--new-password-file",
    type=_FILE,
    help="The new key's password. [default: as --password-file, or asked for]",
)
@output_option
@paying
@click.pass_context
def rotate_key(ctx: click.Context, new_key: str, new_password_file: Path | None, paying: Paying) -> None:
    """Replace the key of an account by NEW, a key of yours. The address stays what it was.

    From the next block on only NEW can sign for the account. Keep both key files: NEW signs from now on, and the old
    one's public key is what the address was made from.

    \b
    Examples:
      trellis keys new alice-2027
      trellis tx rotate-key alice-2027 --from alice
      trellis tx send trl1… 5 --from alice-2027 --account trl1…   (the old address)
    """
    new_path = key_path(paying.path.parent, new_key)
    new_store = read_key(new_path)
    if new_store.role is not Role.ACCOUNT:
        raise CommandFailed(Exit.LOCAL, f"{new_key} is no account's key", "make one: trellis keys new NAME")
    if new_store.public_key == paying.store.public_key:
        raise CommandFailed(Exit.USAGE, f"{new_key} is the key that is to be replaced", "name another key")
    details = {"new_key": new_key, "new_public_key": new_store.public_key.hex()}
    after = {"sign_with": f"--from {new_key} --account {format_address(paying.account.address)}"}
    with client_of(paying.connection) as client:
        # The new key signs over the nonce, which is known once the transaction is built. Until then zeros stand for
        # that signature: a fee is for bytes, whatever they say.
        empty = bytes(SIZES[new_store.alg_id].signature_bytes)
        unproven = RotateKey(new_store.alg_id, new_store.public_key, empty)
        unsigned = client.build(unproven, paying.account, paying.terms)
        if paying.dry_run:
            show_unsigned(ctx, paying, paying.summary(unsigned, details))
            return
        new = unlock(new_store, new_path, new_password_file or paying.password_file)
        (possession,) = unproven.checks(unsigned.genesis_hash, unsigned.body.sender, unsigned.body.nonce)
        kind = replace(unproven, proof_of_possession=new.sign(possession.message, possession.context))
        unsigned = replace(unsigned, body=replace(unsigned.body, kind=kind))
        finish(ctx, client, paying, unsigned, paying.summary(unsigned, details), after)
