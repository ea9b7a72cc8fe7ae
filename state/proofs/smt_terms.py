"""Sorts and operators of the SMT-LIB subset that `z3-attest.v1` admits, and what each term can grow into.

A script of a few hundred bytes can ask a solver for gigabytes: widths that double with every `concat`, numbers that
double in length with every product, squares of squares of polynomials, wide multipliers. So each term carries its sort
with the exact width, its height, and bounds on its polynomial degree and on its coefficients; each operator adds the
size of its circuit to a total. All of it is integer arithmetic on the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final

MAX_WIDTH_BITS: Final = 256
"""Bounds every bit vector, computed ones too: `concat` and `repeat` in nested lets double a width at each level."""

MAX_CIRCUIT_GATES: Final = 200_000
"""Sum over the script: stops an 816-byte chain of wide `bvmul` that a solver's own limit let run for 13 s."""

MAX_HEIGHT: Final = 1_000
"""Chains of definitions nest without parentheses; solvers walk some terms recursively."""

MAX_DEGREE: Final = 8
"""Squares of squares in nested lets reach degree 2^n in n lines."""

MAX_COEFFICIENT_BITS: Final = 4_096
"""The same for numbers: n squarings of a constant make 2^n digits."""

MAX_ARRAY_NESTING: Final = 3
"""Arrays of arrays of arrays of … multiply a solver's extensionality lemmas."""


class GateReason(StrEnum):
    """Why a script was refused. Closed: names travel into logs and answers."""

    OK = "ok"
    TOO_LARGE = "too_large"
    BYTE = "byte"
    STRING = "string"
    QUOTED_SYMBOL = "quoted_symbol"
    KEYWORD = "keyword"
    NUMERAL = "numeral"
    SYMBOL_LENGTH = "symbol_length"
    TOO_MANY_TOKENS = "too_many_tokens"
    TOO_DEEP = "too_deep"
    PARENTHESES = "parentheses"
    COMMAND = "command"
    COMMAND_FORM = "command_form"
    COMMAND_ORDER = "command_order"
    LOGIC = "logic"
    TOO_MANY_SYMBOLS = "too_many_symbols"
    RESERVED_SYMBOL = "reserved_symbol"
    REDECLARED = "redeclared"
    UNKNOWN_SYMBOL = "unknown_symbol"
    QUANTIFIER = "quantifier"
    TERM_FORM = "term_form"
    NOT_IN_LOGIC = "not_in_logic"
    SORT = "sort"
    ARITY = "arity"
    INDEX = "index"
    WIDTH = "width"
    CIRCUIT = "circuit"
    HEIGHT = "height"
    NONLINEAR = "nonlinear"
    DEGREE = "degree"
    COEFFICIENT = "coefficient"


class GateRefused(Exception):
    """Ends the gate from within; never leaves `state.proofs`."""

    def __init__(self, reason: GateReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Theory(Enum):
    """What a logic may be made of."""

    CORE = "core"
    FUNCTIONS = "functions"
    INTEGERS = "integers"
    REALS = "reals"
    BIT_VECTORS = "bit_vectors"
    ARRAYS = "arrays"


class SortKind(Enum):
    BOOL = "Bool"
    INT = "Int"
    REAL = "Real"
    BIT_VECTOR = "BitVec"
    ARRAY = "Array"
    DECLARED = "declared"


@dataclass(frozen=True, slots=True)
class Sort:
    """`width_bits` for bit vectors, `parameters` for arrays (index, element), `number` for declared sorts."""

    kind: SortKind
    width_bits: int = 0
    parameters: tuple[Sort, ...] = ()
    number: int = 0

    @property
    def nesting(self) -> int:
        return 1 + max((sort.nesting for sort in self.parameters), default=-1) if self.parameters else 0

    @property
    def is_arithmetic(self) -> bool:
        return self.kind in (SortKind.INT, SortKind.REAL)

    @property
    def size_bits(self) -> int:
        """What one value of it weighs in a circuit."""
        return max(1, self.width_bits)


BOOL: Final = Sort(SortKind.BOOL)
INT: Final = Sort(SortKind.INT)
REAL: Final = Sort(SortKind.REAL)


@dataclass(frozen=True, slots=True)
class Term:
    """A checked term: its sort, and bounds on what it expands to. Degree 0 is a constant."""

    sort: Sort
    height: int = 0
    degree: int = 1
    numerator_bits: int = 1
    denominator_bits: int = 0


@dataclass(frozen=True, slots=True)
class Logic:
    theories: frozenset[Theory]
    nonlinear: bool = False

    @property
    def numeral_sort(self) -> Sort | None:
        if Theory.REALS in self.theories:
            return REAL
        return INT if Theory.INTEGERS in self.theories else None


def _logic(*theories: Theory, nonlinear: bool = False) -> Logic:
    return Logic(frozenset({Theory.CORE, *theories}), nonlinear)


LOGICS: Final[Mapping[bytes, Logic]] = MappingProxyType(
    {
        b"QF_UF": _logic(Theory.FUNCTIONS),
        b"QF_LIA": _logic(Theory.INTEGERS),
        b"QF_UFLIA": _logic(Theory.INTEGERS, Theory.FUNCTIONS),
        b"QF_NIA": _logic(Theory.INTEGERS, nonlinear=True),
        b"QF_LRA": _logic(Theory.REALS),
        b"QF_UFLRA": _logic(Theory.REALS, Theory.FUNCTIONS),
        b"QF_NRA": _logic(Theory.REALS, nonlinear=True),
        b"QF_BV": _logic(Theory.BIT_VECTORS),
        b"QF_UFBV": _logic(Theory.BIT_VECTORS, Theory.FUNCTIONS),
        b"QF_AX": _logic(Theory.ARRAYS, Theory.FUNCTIONS),
        b"QF_ABV": _logic(Theory.ARRAYS, Theory.BIT_VECTORS),
        b"QF_AUFBV": _logic(Theory.ARRAYS, Theory.BIT_VECTORS, Theory.FUNCTIONS),
        b"QF_ALIA": _logic(Theory.ARRAYS, Theory.INTEGERS),
        b"QF_AUFLIA": _logic(Theory.ARRAYS, Theory.INTEGERS, Theory.FUNCTIONS),
    }
)
"""Quantifier-free: a quantifier's instances are bounded by nothing that the text shows."""


@dataclass(slots=True)
class Circuit:
    """The running total of a script."""

    gates: int = 0

    def add(self, gates: int) -> None:
        self.gates += gates
        if self.gates > MAX_CIRCUIT_GATES:
            raise GateRefused(GateReason.CIRCUIT)


@dataclass(frozen=True, slots=True)
class Application:
    """One use of an operator, as its rule sees it."""

    arguments: Sequence[Term]
    indices: Sequence[int]
    literal_divisor: bool
    logic: Logic
    circuit: Circuit

    @property
    def first(self) -> Term:
        return self.arguments[0]

    def same_sort(self) -> Sort:
        sort = self.first.sort
        if any(argument.sort != sort for argument in self.arguments):
            raise GateRefused(GateReason.SORT)
        return sort

    def same_width(self) -> int:
        sort = self.same_sort()
        if sort.kind is not SortKind.BIT_VECTOR:
            raise GateRefused(GateReason.SORT)
        return sort.width_bits


Rule = Callable[[Application], Term]


@dataclass(frozen=True, slots=True)
class Operator:
    """`most` arguments of 0 means any number from `least` on."""

    rule: Rule
    theory: Theory
    least: int
    most: int
    indices: int = 0


def bit_vector(width_bits: int) -> Sort:
    if not 1 <= width_bits <= MAX_WIDTH_BITS:
        raise GateRefused(GateReason.WIDTH)
    return Sort(SortKind.BIT_VECTOR, width_bits)


def array(index: Sort, element: Sort) -> Sort:
    sort = Sort(SortKind.ARRAY, parameters=(index, element))
    if sort.nesting > MAX_ARRAY_NESTING:
        raise GateRefused(GateReason.SORT)
    return sort


def bounded(sort: Sort, arguments: Sequence[Term], degree: int, numerator_bits: int, denominator_bits: int) -> Term:
    """A term over these arguments, refused if it can grow too far."""
    height = 1 + max((argument.height for argument in arguments), default=-1)
    if height > MAX_HEIGHT:
        raise GateRefused(GateReason.HEIGHT)
    if degree > MAX_DEGREE:
        raise GateRefused(GateReason.DEGREE)
    if numerator_bits + denominator_bits > MAX_COEFFICIENT_BITS:
        raise GateRefused(GateReason.COEFFICIENT)
    return Term(sort, height, degree, numerator_bits, denominator_bits)


def opaque(sort: Sort, arguments: Sequence[Term]) -> Term:
    """A term that arithmetic treats like a variable."""
    return bounded(sort, arguments, 1, 1, 0)


def _widest(sort: Sort, arguments: Sequence[Term], extra_bits: int = 0) -> Term:
    """Bounds of any one of these, or of their sum brought to one denominator."""
    denominator = sum(argument.denominator_bits for argument in arguments)
    numerator = max(argument.numerator_bits for argument in arguments) + denominator + extra_bits
    return bounded(sort, arguments, max(argument.degree for argument in arguments), numerator, denominator)


def _connective(use: Application) -> Term:
    if use.same_sort() != BOOL:
        raise GateRefused(GateReason.SORT)
    use.circuit.add(len(use.arguments))
    return opaque(BOOL, use.arguments)


def _equals(use: Application) -> Term:
    use.circuit.add(len(use.arguments) * use.same_sort().size_bits)
    return opaque(BOOL, use.arguments)


def _distinct(use: Application) -> Term:
    count = len(use.arguments)
    use.circuit.add(count * count * use.same_sort().size_bits)
    return opaque(BOOL, use.arguments)


def _if_then_else(use: Application) -> Term:
    condition, *branches = use.arguments
    if condition.sort != BOOL or branches[0].sort != branches[1].sort:
        raise GateRefused(GateReason.SORT)
    sort = branches[0].sort
    use.circuit.add(sort.size_bits)
    chosen = _widest(sort, branches)
    # A choice between constants is a variable to linear arithmetic: x·ite(p, 1, 2) is a product of two unknowns.
    return bounded(sort, use.arguments, max(1, chosen.degree), chosen.numerator_bits, chosen.denominator_bits)


def _arithmetic_sort(use: Application) -> Sort:
    sort = use.same_sort()
    if not sort.is_arithmetic:
        raise GateRefused(GateReason.SORT)
    use.circuit.add(len(use.arguments))
    return sort


def _sum(use: Application) -> Term:
    return _widest(_arithmetic_sort(use), use.arguments, len(use.arguments).bit_length())


def _product(use: Application) -> Term:
    sort = _arithmetic_sort(use)
    arguments = use.arguments
    if not use.logic.nonlinear and sum(argument.degree > 0 for argument in arguments) > 1:
        raise GateRefused(GateReason.NONLINEAR)
    return bounded(
        sort,
        arguments,
        sum(argument.degree for argument in arguments),
        sum(argument.numerator_bits for argument in arguments),
        sum(argument.denominator_bits for argument in arguments),
    )


def _order(use: Application) -> Term:
    _arithmetic_sort(use)
    return opaque(BOOL, use.arguments)


def _quotient(use: Application) -> Term:
    """`/`, `div` and `mod` by a literal other than zero: anything else is nonlinear, and x/0 is any value."""
    sort = _arithmetic_sort(use)
    if not use.literal_divisor:
        raise GateRefused(GateReason.NONLINEAR)
    dividend, divisor = use.arguments
    numerator = dividend.numerator_bits + divisor.denominator_bits
    denominator = dividend.denominator_bits + divisor.numerator_bits
    return bounded(sort, use.arguments, dividend.degree, numerator, denominator)


def _real_quotient(use: Application) -> Term:
    if use.first.sort != REAL:
        raise GateRefused(GateReason.SORT)
    return _quotient(use)


def _integer_quotient(use: Application) -> Term:
    if use.first.sort != INT:
        raise GateRefused(GateReason.SORT)
    return _quotient(use)


def _absolute(use: Application) -> Term:
    if use.first.sort != INT:
        raise GateRefused(GateReason.SORT)
    return _widest(INT, use.arguments)


def _bitwise(gates_per_bit: int) -> Rule:
    def rule(use: Application) -> Term:
        width = use.same_width()
        use.circuit.add(gates_per_bit * width * len(use.arguments))
        return opaque(bit_vector(width), use.arguments)

    return rule


def _bit_product(gates_per_cell: int) -> Rule:
    """Multipliers and dividers are arrays of width × width cells."""

    def rule(use: Application) -> Term:
        width = use.same_width()
        use.circuit.add(gates_per_cell * width * width * (len(use.arguments) - 1))
        return opaque(bit_vector(width), use.arguments)

    return rule


def _bit_order(use: Application) -> Term:
    use.circuit.add(use.same_width())
    return opaque(BOOL, use.arguments)


def _bit_compare(use: Application) -> Term:
    use.circuit.add(use.same_width())
    return opaque(bit_vector(1), use.arguments)


def _shift(use: Application) -> Term:
    width = use.same_width()
    use.circuit.add(width * width.bit_length())
    return opaque(bit_vector(width), use.arguments)


def _width_of(argument: Term) -> int:
    if argument.sort.kind is not SortKind.BIT_VECTOR:
        raise GateRefused(GateReason.SORT)
    return argument.sort.width_bits


def _concat(use: Application) -> Term:
    return opaque(bit_vector(sum(_width_of(argument) for argument in use.arguments)), use.arguments)


def _extract(use: Application) -> Term:
    high, low = use.indices
    if not low <= high < _width_of(use.first):
        raise GateRefused(GateReason.INDEX)
    return opaque(bit_vector(high - low + 1), use.arguments)


def _extend(use: Application) -> Term:
    return opaque(bit_vector(_width_of(use.first) + use.indices[0]), use.arguments)


def _repeat(use: Application) -> Term:
    return opaque(bit_vector(_width_of(use.first) * use.indices[0]), use.arguments)


def _rotate(use: Application) -> Term:
    width = _width_of(use.first)
    if use.indices[0] >= width:
        raise GateRefused(GateReason.INDEX)
    return opaque(bit_vector(width), use.arguments)


def _array_parts(argument: Term) -> tuple[Sort, Sort]:
    if argument.sort.kind is not SortKind.ARRAY:
        raise GateRefused(GateReason.SORT)
    index, element = argument.sort.parameters
    return index, element


def _select(use: Application) -> Term:
    index, element = _array_parts(use.first)
    if use.arguments[1].sort != index:
        raise GateRefused(GateReason.SORT)
    use.circuit.add(index.size_bits + element.size_bits)
    return opaque(element, use.arguments)


def _store(use: Application) -> Term:
    index, element = _array_parts(use.first)
    if (use.arguments[1].sort, use.arguments[2].sort) != (index, element):
        raise GateRefused(GateReason.SORT)
    use.circuit.add(index.size_bits + element.size_bits)
    return opaque(use.first.sort, use.arguments)


def _family(names: str, rule: Rule, theory: Theory, least: int, most: int, indices: int = 0) -> dict[bytes, Operator]:
    return {name.encode(): Operator(rule, theory, least, most, indices) for name in names.split()}


_BITS: Final = Theory.BIT_VECTORS

_ARITHMETIC: Final = Theory.INTEGERS
"""Stands for integers or reals: the sorts of the arguments decide, and a logic without numbers has none."""

OPERATORS: Final[Mapping[bytes, Operator]] = MappingProxyType(
    _family("not", _connective, Theory.CORE, 1, 1)
    | _family("and or xor =>", _connective, Theory.CORE, 2, 0)
    | _family("=", _equals, Theory.CORE, 2, 0)
    | _family("distinct", _distinct, Theory.CORE, 2, 0)
    | _family("ite", _if_then_else, Theory.CORE, 3, 3)
    | _family("+", _sum, _ARITHMETIC, 2, 0)
    | _family("-", _sum, _ARITHMETIC, 1, 0)
    | _family("*", _product, _ARITHMETIC, 2, 0)
    | _family("<= < >= >", _order, _ARITHMETIC, 2, 0)
    | _family("/", _real_quotient, _ARITHMETIC, 2, 2)
    | _family("div mod", _integer_quotient, _ARITHMETIC, 2, 2)
    | _family("abs", _absolute, _ARITHMETIC, 1, 1)
    | _family("bvnot bvneg", _bitwise(1), _BITS, 1, 1)
    | _family("bvand bvor bvxor bvadd", _bitwise(1), _BITS, 2, 0)
    | _family("bvnand bvnor bvxnor bvsub", _bitwise(1), _BITS, 2, 2)
    | _family("bvmul", _bit_product(1), _BITS, 2, 0)
    | _family("bvudiv bvurem", _bit_product(3), _BITS, 2, 2)
    | _family("bvsdiv bvsrem bvsmod", _bit_product(4), _BITS, 2, 2)
    | _family("bvshl bvlshr bvashr", _shift, _BITS, 2, 2)
    | _family("bvult bvule bvugt bvuge bvslt bvsle bvsgt bvsge", _bit_order, _BITS, 2, 2)
    | _family("bvcomp", _bit_compare, _BITS, 2, 2)
    | _family("concat", _concat, _BITS, 2, 2)
    | _family("extract", _extract, _BITS, 1, 1, indices=2)
    | _family("zero_extend sign_extend", _extend, _BITS, 1, 1, indices=1)
    | _family("repeat", _repeat, _BITS, 1, 1, indices=1)
    | _family("rotate_left rotate_right", _rotate, _BITS, 1, 1, indices=1)
    | _family("select", _select, Theory.ARRAYS, 2, 2)
    | _family("store", _store, Theory.ARRAYS, 3, 3)
)


def apply_operator(operator: Operator, use: Application) -> Term:
    """The term that this use makes, or the reason why it is not admitted."""
    if operator.theory is _ARITHMETIC:
        if use.logic.numeral_sort is None:
            raise GateRefused(GateReason.NOT_IN_LOGIC)
    elif operator.theory not in use.logic.theories:
        raise GateRefused(GateReason.NOT_IN_LOGIC)
    count = len(use.arguments)
    if count < operator.least or (operator.most and count > operator.most):
        raise GateRefused(GateReason.ARITY)
    if len(use.indices) != operator.indices:
        raise GateRefused(GateReason.INDEX)
    return operator.rule(use)
