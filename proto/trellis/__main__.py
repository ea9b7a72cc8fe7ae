"""`python -m trellis verify RECEIPT (--genesis FILE | --checkpoint FILE)`: checks a finality receipt, with no network.

Exit codes: 0 the receipt holds, 1 it does not, 2 the command or a file given to it makes no sense.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from trellis.address import format_address
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.genesis import Genesis, GenesisInvalid, genesis_from_json
from trellis.receipt import (
    MAX_RECEIPT_BYTES,
    Checkpoint,
    Finality,
    ReceiptFault,
    ReceiptInvalid,
    checkpoint_from_json,
    decode_receipt,
    verify_receipt,
)

VALID: Final = 0
INVALID: Final = 1
USAGE: Final = 2

CAVEAT_GENESIS: Final = (
    "assumes that no validator set since genesis was more than a third compromised, even after its members left; "
    "against stolen old keys use --checkpoint with a block younger than the unbonding delay"
)
CAVEAT_CHECKPOINT: Final = "assumes that the checkpoint file is right: it is trusted as it stands"


class _Unusable(Exception):
    """A file that cannot be used; the message says which and what to do."""


def _read(path: Path, what: str, most_bytes: int) -> bytes:
    try:
        if path.stat().st_size > most_bytes:
            raise _Unusable(f"{what} {path} is larger than {most_bytes} bytes: is it the right file?")
        return path.read_bytes()
    except OSError as fault:
        raise _Unusable(f"cannot read {what} {path}: {fault.strerror}") from fault


def _read_json(path: Path, what: str) -> Any:
    try:
        return json.loads(_read(path, what, MAX_RECEIPT_BYTES))
    except (ValueError, RecursionError) as fault:
        raise _Unusable(f"{what} {path} is not JSON: {fault}") from fault


def _trust(arguments: argparse.Namespace) -> Genesis | Checkpoint:
    try:
        if arguments.genesis is not None:
            return genesis_from_json(_read_json(arguments.genesis, "genesis"))
        document = _read_json(arguments.checkpoint, "checkpoint")
        if not isinstance(document, dict):
            raise _Unusable(f"checkpoint {arguments.checkpoint} is not a JSON object")
        return checkpoint_from_json(document)
    except GenesisInvalid as fault:
        raise _Unusable(f"genesis {arguments.genesis}: {fault}") from fault
    except ValueError as fault:
        raise _Unusable(f"checkpoint {arguments.checkpoint}: {fault}") from fault


def _caveat(trust: Genesis | Checkpoint) -> str:
    return CAVEAT_GENESIS if isinstance(trust, Genesis) else CAVEAT_CHECKPOINT


def _report(finality: Finality, trust: Genesis | Checkpoint) -> dict[str, object]:
    chain = trust.hash if isinstance(trust, Genesis) else trust.genesis_hash
    return {
        "valid": True,
        "txid": finality.txid.hex(),
        "outcome": finality.outcome.name,
        "kind": finality.body.kind_name,
        "sender": format_address(finality.body.sender),
        "fee": str(finality.fee),
        "height": finality.height,
        "block_hash": finality.block_hash.hex(),
        "timestamp_ms": finality.timestamp_ms,
        "genesis_hash": chain.hex(),
        "signed_power": str(finality.signed_power),
        "total_power": str(finality.total_power),
        "trusted": finality.trusted,
        "caveat": _caveat(trust),
    }


def _time(timestamp_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(timestamp_ms // 1_000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{timestamp_ms} ms since 1970"
    return moment.isoformat().replace("+00:00", "Z")


def _as_text(finality: Finality, report: dict[str, object]) -> str:
    happened = "executed" if finality.outcome.name == "OK" else f"FAILED with {finality.outcome.name}, its fee was kept"
    return "\n".join(
        (
            f"VALID: transaction {report['txid']} is final",
            f"  what      {report['kind']} by {report['sender']}, {happened}; fee {report['fee']} base units",
            f"  where     block {report['height']}, {report['block_hash']}, {_time(finality.timestamp_ms)}",
            f"  chain     {report['genesis_hash']}",
            f"  signed    by {report['signed_power']} of {report['total_power']} voting power",
            f"  trusted   {report['trusted']}: {report['caveat']}",
        )
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _verify(arguments: argparse.Namespace) -> int:
    as_json = arguments.output == "json"
    trust = _trust(arguments)
    try:
        receipt = decode_receipt(_read(arguments.receipt, "receipt", MAX_RECEIPT_BYTES))
        finality = verify_receipt(receipt, trust, verify_all)
    except (ReceiptInvalid, DecodeError) as fault:
        reason = fault.fault if isinstance(fault, ReceiptInvalid) else ReceiptFault.MALFORMED
        if as_json:
            _say(json.dumps({"valid": False, "fault": str(reason), "detail": fault.detail}, indent=2))
        else:
            _say(f"INVALID ({reason}): {fault.detail}")
        return INVALID
    report = _report(finality, trust)
    _say(json.dumps(report, indent=2) if as_json else _as_text(finality, report))
    return VALID


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trellis", description="Trellis without a node.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser(
        "verify",
        help="check a finality receipt, with no network",
        description="Checks that a finality receipt proves its transaction final. Uses no network.",
        epilog="Exit codes: 0 the receipt holds, 1 it does not, 2 the command or a file makes no sense.",
    )
    verify.add_argument("receipt", type=Path, metavar="RECEIPT", help="the receipt file")
    trust = verify.add_mutually_exclusive_group(required=True)
    trust.add_argument("--genesis", type=Path, metavar="FILE", help="the chain's genesis.json: the start of trust")
    trust.add_argument("--checkpoint", type=Path, metavar="FILE", help="a block you trust by other means, as JSON")
    verify.add_argument("--output", choices=("text", "json"), default="text", help="how to answer (default: text)")
    verify.set_defaults(run=_verify)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except _Unusable as fault:
        sys.stderr.write(f"error: {fault}\n")
        return USAGE
    return code


if __name__ == "__main__":
    sys.exit(main())
