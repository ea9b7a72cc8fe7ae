"""Reads a script strictly: bytes to nested lists of tokens, with a stack of its own and caps on everything."""

from __future__ import annotations

import re
from typing import Final

from state.proofs.smt_terms import MAX_WIDTH_BITS, GateReason, GateRefused

MAX_SCRIPT_BYTES: Final = 64 << 10
"""A solver's memory grows with the script; larger ones are refused before a byte is read."""

MAX_TOKENS: Final = 20_000
"""Each token becomes an object here and several in the solver; the gate needs up to 0.1 s for so many."""

MAX_DEPTH: Final = 256
"""Nesting of parentheses, here and in every reader that is not as careful with its stack."""

MAX_SYMBOL_BYTES: Final = 64
MAX_NUMERAL_DIGITS: Final = 80
"""Decimal conversion is quadratic in the digits; 80 hold 256 bits."""

Node = bytes | list["Node"]
"""A token, or what stood between two parentheses."""

_SYMBOL: Final = rb"[A-Za-z~!@$%^&*_+=<>.?/\-][A-Za-z0-9~!@$%^&*_+=<>.?/\-]*"
_TOKEN: Final = re.compile(
    rb"(?P<space>(?:[ \t\n]|\r\n)+|;[\t -~]*(?=\r?\n|\Z))|(?P<paren>[()])|(?P<atom>"
    + _SYMBOL
    + rb"|#x[0-9a-fA-F]+|#b[01]+|(?:0|[1-9][0-9]*)(?:\.[0-9]+)?)(?=[ \t\r\n();]|\Z)"
)
IS_SYMBOL: Final = re.compile(_SYMBOL)
_REFUSED_BYTE: Final = {
    ord('"'): GateReason.STRING,
    ord("|"): GateReason.QUOTED_SYMBOL,
    ord(":"): GateReason.KEYWORD,
}


def read_commands(statement: bytes) -> list[Node]:
    """The commands, as nested lists of tokens. A stack of our own: no nesting can exhaust the interpreter's."""
    if len(statement) > MAX_SCRIPT_BYTES:
        raise GateRefused(GateReason.TOO_LARGE)
    top: list[Node] = []
    open_lists = [top]
    at = tokens = 0
    while at < len(statement):
        match = _TOKEN.match(statement, at)
        if match is None:
            raise GateRefused(_why_not_a_token(statement, at))
        at = match.end()
        if match.lastgroup == "space":
            continue
        tokens += 1
        if tokens > MAX_TOKENS:
            raise GateRefused(GateReason.TOO_MANY_TOKENS)
        token = match.group()
        if token == b"(":
            inner: list[Node] = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
            if len(open_lists) > MAX_DEPTH:
                raise GateRefused(GateReason.TOO_DEEP)
        elif token == b")":
            open_lists.pop()
            if not open_lists:
                raise GateRefused(GateReason.PARENTHESES)
        else:
            _check_length(token)
            open_lists[-1].append(token)
    if len(open_lists) != 1:
        raise GateRefused(GateReason.PARENTHESES)
    return top


def _why_not_a_token(statement: bytes, at: int) -> GateReason:
    if statement[at : at + 1].isdigit() or statement[at : at + 1] == b"#":
        return GateReason.NUMERAL
    found = IS_SYMBOL.match(statement, at)
    end = found.end() if found else at
    # A symbol runs into something that may not follow it: name that byte, not the symbol.
    return _REFUSED_BYTE.get(statement[end] if end < len(statement) else 0, GateReason.BYTE)


def _check_length(token: bytes) -> None:
    if token[:1] == b"#":
        if (len(token) - 2) * (4 if token[1:2] == b"x" else 1) > MAX_WIDTH_BITS:
            raise GateRefused(GateReason.WIDTH)
    elif token[:1].isdigit():
        if len(token) > MAX_NUMERAL_DIGITS:
            raise GateRefused(GateReason.NUMERAL)
    elif len(token) > MAX_SYMBOL_BYTES + MAX_NUMERAL_DIGITS:
        raise GateRefused(GateReason.SYMBOL_LENGTH)
