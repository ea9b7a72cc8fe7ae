"""The gate of `z3-attest.v1`: what a script must be before a solver may see anything of it.

The solver never reads a stranger's bytes. The gate reads the script with its own strict reader, checks every sort and
bounds what every term can grow into (`smt_terms`), and writes the script anew: symbols renamed, comments gone, one
space between tokens. So a difference between our reader and the solver's has nothing to live on, no user symbol can
meet a solver's own extensions, and there is no way to say an option, a file name, or a second query.

Admitted: `(set-logic L)` first, with L one of `LOGICS` (quantifier-free); `declare-sort` of arity 0, `declare-const`,
`declare-fun`, `define-fun` without parameters (with them, definitions that use each other twice expand to 2^n), at
least one `assert`, and one `(check-sat)` at the very end. Terms: the operators of `OPERATORS`, `let`, numerals,
decimals, `#x…`, `#b…`, `(_ bvN w)`. Bytes: printable ASCII, tab and line ends; comments; no strings, no quoted
symbols, no keywords, no annotations. A carriage return stands only before a line feed: some readers end a comment at
one that stands alone, and Z3 does not.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from state.proofs.smt_reader import (
    IS_SYMBOL,
    MAX_NUMERAL_DIGITS,
    MAX_SCRIPT_BYTES,
    MAX_SYMBOL_BYTES,
    Node,
    read_commands,
)
from state.proofs.smt_terms import (
    BOOL,
    INT,
    LOGICS,
    OPERATORS,
    REAL,
    Application,
    Circuit,
    GateReason,
    GateRefused,
    Logic,
    Sort,
    SortKind,
    Term,
    Theory,
    apply_operator,
    array,
    bit_vector,
    bounded,
    opaque,
)
from state.proofs.verifier import Code

MAX_SYMBOLS: Final = 4_000
MAX_ARITY: Final = 16

_NUMERAL: Final = re.compile(rb"0|[1-9][0-9]*")
_BIT_VALUE: Final = re.compile(rb"bv(0|[1-9][0-9]*)")
_RESERVED: Final = frozenset(
    {b"let", b"forall", b"exists", b"lambda", b"match", b"par", b"_", b"!", b"as", b"true", b"false", b"Bool", b"Int"}
    | {b"Real", b"BitVec", b"Array"}
)


@dataclass(frozen=True, slots=True)
class GateResult:
    """`script` is what the solver may be given: assertions over renamed symbols; empty unless the reason is OK."""

    reason: GateReason
    script: bytes = b""
    logic: str = ""


def gate(statement: bytes) -> GateResult:
    """Deterministic, bounded, and total: any bytes get a result."""
    try:
        return _Script().read(read_commands(statement))
    except GateRefused as refused:
        return GateResult(refused.reason)


class _Script:
    """Reads the commands in order and writes the solver's copy."""

    def __init__(self) -> None:
        self._logic = Logic(frozenset())
        self._sorts: dict[bytes, tuple[Sort, bytes]] = {}
        self._functions: dict[bytes, tuple[bytes, tuple[Sort, ...], Sort]] = {}
        self._scopes: dict[bytes, list[tuple[bytes, Term]]] = {}
        self._circuit = Circuit()
        self._names = 0
        self._out: list[bytes] = []

    def read(self, commands: list[Node]) -> GateResult:
        logic = self._read_logic(commands[0] if commands else b"")
        if len(commands) < 2 or commands[-1] != [b"check-sat"]:
            raise GateRefused(GateReason.COMMAND_ORDER)
        assertions = 0
        for command in commands[1:-1]:
            if not isinstance(command, list) or not command:
                raise GateRefused(GateReason.COMMAND_FORM)
            match command[0]:
                case b"declare-sort":
                    self._declare_sort(command)
                case b"declare-const":
                    self._declare(command, [], _argument(command, 2, 3))
                case b"declare-fun":
                    self._declare(command, _argument(command, 2, 4), command[3])
                case b"define-fun":
                    self._define(command)
                case b"assert":
                    self._assert(command)
                    assertions += 1
                case b"check-sat" | b"set-logic":
                    raise GateRefused(GateReason.COMMAND_ORDER)
                case _:
                    raise GateRefused(GateReason.COMMAND)
        if not assertions:
            raise GateRefused(GateReason.COMMAND_ORDER)
        return GateResult(GateReason.OK, b" ".join(self._out), logic)

    def _read_logic(self, command: Node) -> str:
        match command:
            case [b"set-logic", bytes(name)]:
                pass
            case _:
                raise GateRefused(GateReason.COMMAND_ORDER)
        logic = LOGICS.get(name)
        if logic is None:
            raise GateRefused(GateReason.LOGIC)
        self._logic = logic
        self._out += [b"(set-logic", name, b")"]
        return name.decode()

    def _new_name(self, old: Node, prefix: bytes) -> bytes:
        """Ours for theirs. Refuses what SMT-LIB reserves and what an operator is called."""
        if not isinstance(old, bytes) or IS_SYMBOL.fullmatch(old) is None:
            raise GateRefused(GateReason.COMMAND_FORM)
        if len(old) > MAX_SYMBOL_BYTES:
            raise GateRefused(GateReason.SYMBOL_LENGTH)
        if old in _RESERVED or old in OPERATORS:
            raise GateRefused(GateReason.RESERVED_SYMBOL)
        self._names += 1
        if self._names > MAX_SYMBOLS:
            raise GateRefused(GateReason.TOO_MANY_SYMBOLS)
        return prefix + b"%d" % self._names

    def _declare_sort(self, command: list[Node]) -> None:
        name = _argument(command, 1, 3)
        if command[2] != b"0":
            raise GateRefused(GateReason.ARITY)
        self._need(Theory.FUNCTIONS)
        new = self._new_name(name, b"S")
        if not isinstance(name, bytes) or name in self._sorts:
            raise GateRefused(GateReason.REDECLARED)
        self._sorts[name] = (Sort(SortKind.DECLARED, number=self._names), new)
        self._out += [b"(declare-sort", new, b"0 )"]

    def _declare(self, command: list[Node], domain: Node, codomain: Node) -> None:
        if not isinstance(domain, list):
            raise GateRefused(GateReason.COMMAND_FORM)
        if len(domain) > MAX_ARITY:
            raise GateRefused(GateReason.ARITY)
        if domain:
            self._need(Theory.FUNCTIONS)
        new = self._new_name(command[1], b"f")
        self._out += [b"(declare-fun", new, b"("]
        sorts = tuple([self._sort(sort) for sort in domain])
        self._out.append(b")")
        self._bind(command[1], new, sorts, self._sort(codomain))
        self._out.append(b")")

    def _define(self, command: list[Node]) -> None:
        body = _argument(command, 4, 5)
        if command[2] != []:
            raise GateRefused(GateReason.ARITY)
        new = self._new_name(command[1], b"d")
        self._out += [b"(define-fun", new, b"()"]
        sort = self._sort(command[3])
        term = self._check(body)
        if term.sort != sort:
            raise GateRefused(GateReason.SORT)
        self._out.append(b")")
        self._bind(command[1], new, (), sort)
        # A defined name stands for its term: it keeps the term's bounds, and is never shadowed by a later declaration.
        self._scopes[_symbol(command[1])] = [(new, term)]

    def _bind(self, name: Node, new: bytes, domain: tuple[Sort, ...], codomain: Sort) -> None:
        symbol = _symbol(name)
        if symbol in self._functions:
            raise GateRefused(GateReason.REDECLARED)
        self._functions[symbol] = (new, domain, codomain)

    def _assert(self, command: list[Node]) -> None:
        self._out.append(b"(assert")
        if self._check(_argument(command, 1, 2)).sort != BOOL:
            raise GateRefused(GateReason.SORT)
        self._out.append(b")")

    def _need(self, theory: Theory) -> None:
        if theory not in self._logic.theories:
            raise GateRefused(GateReason.NOT_IN_LOGIC)

    def _sort(self, node: Node) -> Sort:
        """Writes the sort, too. Its own nesting is bounded by the bound on arrays, so this may recurse."""
        match node:
            case b"Bool":
                self._out.append(node)
                return BOOL
            case b"Int" | b"Real":
                self._need(Theory.INTEGERS if node == b"Int" else Theory.REALS)
                self._out.append(node)
                return INT if node == b"Int" else REAL
            case [b"_", b"BitVec", bytes(width)]:
                self._need(Theory.BIT_VECTORS)
                sort = bit_vector(_index(width))
                self._out.append(b"(_ BitVec %d)" % sort.width_bits)
                return sort
            case [b"Array", index, element]:
                self._need(Theory.ARRAYS)
                return self._array(index, element)
            case bytes():
                known = self._sorts.get(node)
                if known is None:
                    raise GateRefused(GateReason.UNKNOWN_SYMBOL)
                self._out.append(known[1])
                return known[0]
            case _:
                raise GateRefused(GateReason.SORT)

    def _array(self, index: Node, element: Node) -> Sort:
        if _depth_exceeds(index, _MAX_SORT_DEPTH) or _depth_exceeds(element, _MAX_SORT_DEPTH):
            raise GateRefused(GateReason.SORT)
        self._out.append(b"(Array")
        sort = array(self._sort(index), self._sort(element))
        self._out.append(b")")
        return sort

    def _check(self, root: Node) -> Term:
        """Runs `_term` on a stack of our own: its `yield node` means "check this part and send me the result"."""
        running = [self._term(root)]
        result: Term | None = None
        while running:
            try:
                part = running[-1].send(result)
            except StopIteration as done:
                running.pop()
                result = done.value
            else:
                running.append(self._term(part))
                result = None
        if result is None:
            raise ValueError("a term has no result")
        return result

    def _term(self, node: Node) -> Generator[Node, Term | None, Term]:
        if isinstance(node, bytes):
            return self._atom(node)
        match node:
            case [b"let", list(bindings), body]:
                return (yield from self._let(bindings, body))
            case [b"_", bytes(value), bytes(width)]:
                return self._bit_literal(value, _index(width))
            case [b"forall" | b"exists" | b"lambda", *_]:
                raise GateRefused(GateReason.QUANTIFIER)
            case [b"let" | b"_", *_]:
                raise GateRefused(GateReason.TERM_FORM)
            case [head, _, *_]:
                name, indices = self._head(head)
            case _:
                raise GateRefused(GateReason.TERM_FORM)
        arguments: list[Term] = []
        for part in node[1:]:
            arguments.append(_sent((yield part)))
        self._out.append(b")")
        return self._apply(name, indices, arguments, node)

    def _let(self, bindings: list[Node], body: Node) -> Generator[Node, Term | None, Term]:
        if not bindings:
            raise GateRefused(GateReason.TERM_FORM)
        self._out.append(b"(let (")
        bound: dict[bytes, tuple[bytes, Term]] = {}
        for binding in bindings:
            match binding:
                case [bytes(name), value]:
                    pass
                case _:
                    raise GateRefused(GateReason.TERM_FORM)
            if name in bound:
                raise GateRefused(GateReason.REDECLARED)
            new = self._new_name(name, b"t")
            self._out += [b"(", new]
            bound[name] = (new, _sent((yield value)))
            self._out.append(b")")
        self._out.append(b")")
        for name, entry in bound.items():
            self._scopes.setdefault(name, []).append(entry)
        result = _sent((yield body))
        for name in bound:
            self._scopes[name].pop()
        self._out.append(b")")
        return result

    def _head(self, head: Node) -> tuple[bytes, list[int]]:
        match head:
            case bytes():
                name, indices = head, []
            case [b"_", bytes(name), _, *_]:
                indices = [_index(token) for token in head[2:]]
            case _:
                raise GateRefused(GateReason.TERM_FORM)
        if name in OPERATORS:
            written = name
        else:
            if indices or name not in self._functions or self._scopes.get(name):
                raise GateRefused(GateReason.UNKNOWN_SYMBOL)
            written = self._functions[name][0]
        if indices:
            written = b"(_ %b %b)" % (written, b" ".join(b"%d" % index for index in indices))
        self._out += [b"(", written]
        return name, indices

    def _apply(self, name: bytes, indices: list[int], arguments: list[Term], node: list[Node]) -> Term:
        operator = OPERATORS.get(name)
        if operator is None:
            _, domain, codomain = self._functions[name]
            if len(arguments) != len(domain):
                raise GateRefused(GateReason.ARITY)
            if any(argument.sort != sort for argument, sort in zip(arguments, domain, strict=True)):
                raise GateRefused(GateReason.SORT)
            self._circuit.add(sum(sort.size_bits for sort in domain))
            return opaque(codomain, arguments)
        literal_divisor = isinstance(node[-1], bytes) and _is_nonzero_literal(node[-1])
        return apply_operator(operator, Application(arguments, indices, literal_divisor, self._logic, self._circuit))

    def _atom(self, token: bytes) -> Term:
        if token in (b"true", b"false"):
            self._out.append(token)
            return opaque(BOOL, ())
        if token[:1] == b"#":
            self._need(Theory.BIT_VECTORS)
            self._out.append(token)
            return opaque(bit_vector((len(token) - 2) * (4 if token[1:2] == b"x" else 1)), ())
        if token[:1].isdigit():
            return self._number(token)
        scope = self._scopes.get(token)
        if scope:
            new, term = scope[-1]
            self._out.append(new)
            return term
        known = self._functions.get(token)
        if known is None or known[1]:
            raise GateRefused(GateReason.UNKNOWN_SYMBOL)
        self._out.append(known[0])
        return opaque(known[2], ())

    def _number(self, token: bytes) -> Term:
        sort = self._logic.numeral_sort
        if sort is None:
            raise GateRefused(GateReason.NOT_IN_LOGIC)
        whole, _, fraction = token.partition(b".")
        if fraction and sort != REAL:
            raise GateRefused(GateReason.NOT_IN_LOGIC)
        self._out.append(token if fraction or sort == INT else token + b".0")
        return bounded(sort, (), 0, int(whole + fraction).bit_length(), 4 * len(fraction))

    def _bit_literal(self, value: bytes, width_bits: int) -> Term:
        self._need(Theory.BIT_VECTORS)
        sort = bit_vector(width_bits)
        match = _BIT_VALUE.fullmatch(value)
        if match is None:
            raise GateRefused(GateReason.TERM_FORM)
        if len(match[1]) > MAX_NUMERAL_DIGITS or int(match[1]).bit_length() > width_bits:
            raise GateRefused(GateReason.WIDTH)
        self._out.append(b"(_ bv%d %d)" % (int(match[1]), width_bits))
        return opaque(sort, ())


_MAX_SORT_DEPTH: Final = 8


def _depth_exceeds(node: Node, most: int) -> bool:
    level: list[Node] = [node]
    for _ in range(most):
        level = [part for parent in level if isinstance(parent, list) for part in parent]
        if not level:
            return False
    return True


def _argument(command: list[Node], place: int, length: int) -> Node:
    if len(command) != length:
        raise GateRefused(GateReason.COMMAND_FORM)
    return command[place]


def _symbol(node: Node) -> bytes:
    if not isinstance(node, bytes):
        raise GateRefused(GateReason.COMMAND_FORM)
    return node


def _sent(term: Term | None) -> Term:
    if term is None:
        raise ValueError("a part was resumed without its result")
    return term


def _index(token: Node) -> int:
    """An index or a width: small, so that nothing is computed with a stranger's huge number."""
    if not isinstance(token, bytes) or _NUMERAL.fullmatch(token) is None or len(token) > 4:
        raise GateRefused(GateReason.INDEX)
    return int(token)


def _is_nonzero_literal(token: bytes) -> bool:
    return token[:1].isdigit() and bool(token.strip(b"0."))


class Z3Attest:
    """The statement kind `z3-attest.v1`. There is no proof to verify: validators attest what the solver said."""

    name: Final = "z3-attest.v1"
    version: Final = 1

    def check_statement(self, statement: bytes) -> Code:
        return Code.OK if gate(statement).reason is GateReason.OK else Code.STATEMENT_SCRIPT

    def statement_cost(self, size_bytes: int) -> int:
        """Larger scripts than the gate reads cost nothing more. 2.2 µs a byte were measured, where tokens are short."""
        return 16 * min(size_bytes, MAX_SCRIPT_BYTES)


Z3_ATTEST: Final = Z3Attest()
