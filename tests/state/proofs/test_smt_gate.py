"""The gate of `z3-attest.v1`."""

from __future__ import annotations

import re
import tracemalloc

import pytest
import z3
from hypothesis import given, settings
from hypothesis import strategies as st

from state.proofs import STATEMENTS, VERIFIERS, Code
from state.proofs.smt_gate import gate
from state.proofs.smt_terms import GateReason
from tests.state.proofs.smt_scripts import HONEST, SAT_CORE, Hostile, hostile_scripts

HOSTILE = hostile_scripts()


def solve(script: bytes) -> str:
    solver = z3.Solver(ctx=z3.Context())
    solver.from_string(script.decode("ascii"))
    return str(solver.check())


@pytest.mark.parametrize(("script", "answer"), [row[1:] for row in HONEST], ids=[row[0] for row in HONEST])
def test_an_honest_script_passes_and_its_copy_means_the_same(script: bytes, answer: str) -> None:
    result = gate(script)
    assert result.reason is GateReason.OK
    assert solve(result.script) == answer


def test_no_byte_of_a_users_names_or_comments_reaches_the_solver() -> None:
    script = (
        b"(set-logic QF_AUFBV) ; SECRET\n(declare-sort MySort 0)(declare-const my_const MySort)"
        b"(declare-fun my_fun (MySort (_ BitVec 8)) Bool)(define-fun my_def () Bool (my_fun my_const #xAB))"
        b"(assert (let ((my_let my_def)) (not my_let)))(check-sat)"
    )
    result = gate(script)
    assert result.reason is GateReason.OK
    assert not re.search(rb"my_|MySort|SECRET|;", result.script)
    assert solve(result.script) == "sat"


def test_layout_and_names_do_not_change_what_the_solver_reads() -> None:
    renamed = (
        SAT_CORE.replace(b"x", b"long_name").replace(b" ", b" \n\t ; c\n").replace(b"(check-sat)", b"( check-sat )")
    )
    assert gate(renamed) == gate(SAT_CORE)


def bits(assertion: str, declarations: str = "(declare-const x (_ BitVec 8))") -> bytes:
    return f"(set-logic QF_BV){declarations}(assert {assertion})(check-sat)".encode()


def functions(assertion: str, declarations: str = "") -> bytes:
    names = "(declare-sort U 0)(declare-const u U)(declare-const p Bool)(declare-fun f (Bool) Bool)"
    return f"(set-logic QF_UF){names}{declarations}(assert {assertion})(check-sat)".encode()


def integers(assertion: str, logic: str = "QF_LIA") -> bytes:
    return f"(set-logic {logic})(declare-const x Int)(assert {assertion})(check-sat)".encode()


REASONS = [
    ("a NUL", SAT_CORE + b"\x00", GateReason.BYTE),
    ("a lone carriage return", SAT_CORE.replace(b"(assert", b"; c\r(assert"), GateReason.BYTE),
    ("a lone carriage return between tokens", SAT_CORE.replace(b"(assert", b"\r(assert"), GateReason.BYTE),
    ("a string", SAT_CORE.replace(b"x", b'"x"', 1), GateReason.STRING),
    ("a quoted symbol", SAT_CORE.replace(b"x", b"|x|", 1), GateReason.QUOTED_SYMBOL),
    ("a keyword", SAT_CORE.replace(b"x", b":x", 1), GateReason.KEYWORD),
    ("an option", b"(set-option :a b)", GateReason.KEYWORD),
    ("too large", SAT_CORE + b" " * 65_536, GateReason.TOO_LARGE),
    ("too many tokens", b"()" * 10_001, GateReason.TOO_MANY_TOKENS),
    ("too deep", b"(" * 300, GateReason.TOO_DEEP),
    ("unbalanced", b"(set-logic QF_LIA", GateReason.PARENTHESES),
    ("overbalanced", b")", GateReason.PARENTHESES),
    ("a leading zero", SAT_CORE.replace(b"8", b"08"), GateReason.NUMERAL),
    ("a long numeral", SAT_CORE.replace(b"8", b"8" * 81), GateReason.NUMERAL),
    ("a long symbol", SAT_CORE.replace(b"x", b"x" * 65), GateReason.SYMBOL_LENGTH),
    ("nothing", b"", GateReason.COMMAND_ORDER),
    ("a logic of everything", SAT_CORE.replace(b"QF_LIA", b"ALL"), GateReason.LOGIC),
    ("an argument for the check", SAT_CORE.replace(b"(check-sat)", b"(check-sat 1)"), GateReason.COMMAND_ORDER),
    ("text after the check", SAT_CORE + b"x", GateReason.COMMAND_ORDER),
    ("a second check", SAT_CORE + SAT_CORE[-12:], GateReason.COMMAND_ORDER),
    ("push", SAT_CORE.replace(b"(assert", b"(push 1)(assert"), GateReason.COMMAND),
    ("exit", SAT_CORE.replace(b"(assert", b"(exit)(assert"), GateReason.COMMAND),
    ("no assertion", b"(set-logic QF_LIA)(check-sat)", GateReason.COMMAND_ORDER),
    ("a quantifier", SAT_CORE.replace(b"(= (* 2 x) 8)", b"(forall ((y Int)) true)"), GateReason.QUANTIFIER),
    ("a square", SAT_CORE.replace(b"(* 2 x)", b"(* x x)"), GateReason.NONLINEAR),
    ("an unknown symbol", SAT_CORE.replace(b"2 x", b"2 z"), GateReason.UNKNOWN_SYMBOL),
    ("an unknown operator", SAT_CORE.replace(b"(* 2", b"(^ 2"), GateReason.UNKNOWN_SYMBOL),
    ("the wrong sort", SAT_CORE.replace(b"(* 2 x)", b"true"), GateReason.SORT),
    ("the wrong theory", SAT_CORE.replace(b"(* 2 x)", b"#x01"), GateReason.NOT_IN_LOGIC),
    ("an operator's name", SAT_CORE.replace(b"const x", b"const bvadd"), GateReason.RESERVED_SYMBOL),
    ("a let that binds a name twice", functions("(let ((a p) (a true)) a)"), GateReason.REDECLARED),
    ("a let's name outside of it", functions("(and (let ((a p)) a) a)"), GateReason.UNKNOWN_SYMBOL),
    ("a let's name in its own value", functions("(let ((a a)) a)"), GateReason.UNKNOWN_SYMBOL),
    ("a let's name in the value beside it", functions("(let ((a p) (b a)) b)"), GateReason.UNKNOWN_SYMBOL),
    ("a let without bindings", functions("(let () p)"), GateReason.TERM_FORM),
    ("a let with a bare binding", functions("(let (a) p)"), GateReason.TERM_FORM),
    ("a let with two bodies", functions("(let ((a p)) a a)"), GateReason.TERM_FORM),
    ("a function behind a let's name", functions("(let ((f p)) (f f))"), GateReason.UNKNOWN_SYMBOL),
    ("a name declared twice", functions("p", "(declare-const p Bool)"), GateReason.REDECLARED),
    ("a name declared, then defined", functions("p", "(define-fun p () Bool true)"), GateReason.REDECLARED),
    ("a sort declared twice", functions("p", "(declare-sort U 0)"), GateReason.REDECLARED),
    ("a sort with parameters", functions("p", "(declare-sort V 1)"), GateReason.ARITY),
    ("an unknown sort", functions("p", "(declare-const v V)"), GateReason.UNKNOWN_SYMBOL),
    ("a sort that is a list", functions("p", "(declare-const v (V))"), GateReason.SORT),
    ("a definition of another sort", functions("p", "(define-fun d () Bool u)"), GateReason.SORT),
    ("a definition by itself", functions("p", "(define-fun d () Bool d)"), GateReason.UNKNOWN_SYMBOL),
    ("a definition with parameters", functions("p", "(define-fun d ((a Bool)) Bool a)"), GateReason.ARITY),
    ("a definition without a body", functions("p", "(define-fun d () Bool)"), GateReason.COMMAND_FORM),
    ("too many parameters", functions("p", f"(declare-fun g ({'Bool ' * 17}) Bool)"), GateReason.ARITY),
    ("parameters that are no list", functions("p", "(declare-fun g Bool Bool)"), GateReason.COMMAND_FORM),
    ("an argument of another sort", functions("(f u)"), GateReason.SORT),
    ("too many arguments", functions("(f p p)"), GateReason.ARITY),
    ("a function without arguments", functions("f"), GateReason.UNKNOWN_SYMBOL),
    ("a constant with arguments", functions("(p p)"), GateReason.ARITY),
    ("a term as an operator", functions("((not p) p)"), GateReason.TERM_FORM),
    ("an index on a function", functions("((_ f 1) p)"), GateReason.UNKNOWN_SYMBOL),
    ("an index on a plain operator", functions("((_ and 1) p p)"), GateReason.INDEX),
    ("an empty term", functions("()"), GateReason.TERM_FORM),
    ("a term in parentheses", functions("(p)"), GateReason.TERM_FORM),
    ("an assertion that is no truth", functions("u"), GateReason.SORT),
    ("two assertions in one", functions("p p"), GateReason.COMMAND_FORM),
    ("sorts that differ", functions("(= p u)"), GateReason.SORT),
    ("branches that differ", functions("(ite p p u)"), GateReason.SORT),
    ("a condition that is no truth", functions("(ite u p p)"), GateReason.SORT),
    ("one argument for two", functions("(and p)"), GateReason.ARITY),
    ("two arguments for one", functions("(not p p)"), GateReason.ARITY),
    ("arithmetic on what is no number", integers("(< true false)"), GateReason.SORT),
    ("arithmetic in a logic without", bits("(= (+ x x) x)"), GateReason.NOT_IN_LOGIC),
    ("bits in a logic without", integers("(= (bvadd x x) x)"), GateReason.NOT_IN_LOGIC),
    ("arrays in a logic without", integers("(= (select x x) x)"), GateReason.NOT_IN_LOGIC),
    ("a numeral in a logic without", bits("(= x 1)"), GateReason.NOT_IN_LOGIC),
    ("a decimal among integers", integers("(= x 1.0)"), GateReason.NOT_IN_LOGIC),
    ("a real quotient of integers", integers("(= (/ x 2) x)"), GateReason.SORT),
    ("a division by zero", integers("(= (div x 0) 1)"), GateReason.NONLINEAR),
    ("a division by an unknown", integers("(= (div 1 x) 1)", "QF_NIA"), GateReason.NONLINEAR),
    ("an unknown times a choice", integers("(= (* x (ite (= x 1) 2 3)) 4)"), GateReason.NONLINEAR),
    ("a length in more than four digits", bits("(= ((_ zero_extend 00001) x) x)"), GateReason.NUMERAL),
    ("a length of five digits", bits("(= ((_ zero_extend 10000) x) x)"), GateReason.INDEX),
    ("an extract upside down", bits("(= ((_ extract 1 3) x) #b000)"), GateReason.INDEX),
    ("an extract beyond the width", bits("(= ((_ extract 8 0) x) x)"), GateReason.INDEX),
    ("an extract with one index", bits("(= ((_ extract 3) x) x)"), GateReason.INDEX),
    ("a rotation by the width", bits("(= ((_ rotate_left 8) x) x)"), GateReason.INDEX),
    ("a repetition by nothing", bits("(= ((_ repeat 0) x) x)"), GateReason.WIDTH),
    ("a repetition beyond the widest", bits("(= ((_ repeat 33) x) x)"), GateReason.WIDTH),
    ("a width of zero", bits("true", "(declare-const y (_ BitVec 0))"), GateReason.WIDTH),
    ("a value that does not fit", bits("(= (_ bv256 8) x)"), GateReason.WIDTH),
    ("a value that is none", bits("(= (_ bvx 8) x)"), GateReason.TERM_FORM),
    ("a literal beyond the widest", bits("(= #x" + "0" * 65 + " x)"), GateReason.WIDTH),
    ("widths that differ", bits("(= (bvadd x #x1) x)"), GateReason.SORT),
    (
        "arrays nested too deep",
        (
            b"(set-logic QF_ALIA)(declare-const a (Array Int (Array Int (Array Int (Array Int Int)))))"
            b"(assert (= a a))(check-sat)"
        ),
        GateReason.SORT,
    ),
    (
        "arrays nested far too deep",
        b"(set-logic QF_ALIA)(declare-const a "
        + b"(Array Int " * 100
        + b"Int"
        + b")" * 100
        + b")(assert (= a a))(check-sat)",
        GateReason.SORT,
    ),
    (
        "an index of another sort",
        b"(set-logic QF_ALIA)(declare-const a (Array Int Int))(assert (= (select a true) 1))(check-sat)",
        GateReason.SORT,
    ),
    (
        "an element of another sort",
        b"(set-logic QF_ALIA)(declare-const a (Array Int Int))(assert (= (store a 1 true) a))(check-sat)",
        GateReason.SORT,
    ),
    ("a word of the language", SAT_CORE.replace(b"const x", b"const let"), GateReason.RESERVED_SYMBOL),
    (
        "a constant of the language",
        SAT_CORE.replace(b"(= (* 2 x) 8)", b"(let ((true false)) true)"),
        GateReason.RESERVED_SYMBOL,
    ),
    (
        "a degree",
        b"(set-logic QF_NIA)(declare-const x Int)(assert (= (* x x x x x x x x x) 1))(check-sat)",
        GateReason.DEGREE,
    ),
    (
        "a circuit",
        b"(set-logic QF_BV)(declare-const x (_ BitVec 256))(assert (= x (bvmul x x x x x x x x)))(check-sat)",
        GateReason.CIRCUIT,
    ),
    (
        "a width",
        b"(set-logic QF_BV)(declare-const x (_ BitVec 256))(assert (= #b0 (concat x x)))(check-sat)",
        GateReason.WIDTH,
    ),
    (
        "coefficients",
        b"(set-logic QF_LIA)(assert (let ((a (* " + b"9" * 80 + b" " + b"9" * 80 + b"))) (let ((b (* a a a))) "
        b"(= 0 (* b b b b b)))))(check-sat)",
        GateReason.COEFFICIENT,
    ),
    (
        "a tower of definitions",
        b"(set-logic QF_LIA)(define-fun d0 () Int 1)"
        + b"".join(b"(define-fun d%d () Int (- d%d))" % (i, i - 1) for i in range(1, 1_100))
        + b"(assert (= d0 1))(check-sat)",
        GateReason.HEIGHT,
    ),
    (
        "too many symbols",
        b"(set-logic QF_UF)(assert (let (" + b"".join(b"(a%d true)" % i for i in range(4_001)) + b") true))(check-sat)",
        GateReason.TOO_MANY_SYMBOLS,
    ),
]


@pytest.mark.parametrize(("script", "reason"), [row[1:] for row in REASONS], ids=[row[0] for row in REASONS])
def test_a_script_is_refused_with_its_reason(script: bytes, reason: GateReason) -> None:
    result = gate(script)
    assert (result.reason, result.script) == (reason, b"")


def test_there_are_more_than_two_hundred_hostile_scripts() -> None:
    assert len({hostile.script for hostile in HOSTILE}) > 250


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_script_is_refused_or_harmless_at_the_gate(hostile: Hostile) -> None:
    tracemalloc.start()
    try:
        result = gate(hostile.script)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * min(len(hostile.script), 65_536) + (256 << 10)
    if result.reason is GateReason.OK:
        assert set(result.script) <= set(range(0x20, 0x7F)) - set(b'":|;')
        commands = set(re.findall(rb"\((?:set|declare|define|assert|check|get|push|pop|echo)[a-z-]*", result.script))
        assert commands <= {b"(set-logic", b"(declare-fun", b"(declare-sort", b"(define-fun", b"(assert"}


def test_the_statement_kind_says_yes_or_no() -> None:
    kind = STATEMENTS["z3-attest.v1"]
    assert kind.check_statement(SAT_CORE) is Code.OK
    assert kind.check_statement(SAT_CORE + b"(exit)") is Code.STATEMENT_SCRIPT
    assert "z3-attest.v1" not in VERIFIERS


@given(st.binary(max_size=200) | st.text(alphabet='()_ abx018#=*+letsorndc-\n;|:"', max_size=200).map(str.encode))
@settings(max_examples=1_000, deadline=None)
def test_no_bytes_make_the_gate_raise(script: bytes) -> None:
    for text in (script, b"(set-logic QF_LIA)(declare-const x Int)(assert " + script + b")(check-sat)"):
        result = gate(text)
        assert (result.reason is GateReason.OK) == bool(result.script)


TOKENS = (
    b"( ( ( ) ) ) x y p b 1 2 0 #x0f #b1 true + - * = distinct ite and not let _ bv1 8 BitVec extract concat bvmul Int "
    b"Bool assert declare-const define-fun check-sat set-logic QF_LIA QF_BV f"
).split()


@given(st.sampled_from([row[1] for row in HONEST]), st.data())
@settings(max_examples=1_000, deadline=None)
def test_a_mutated_script_is_refused_or_understood_by_the_solver(script: bytes, data: st.DataObject) -> None:
    words = re.findall(rb"[()]|[^\s()]+", script.split(b"\n", 1)[-1] if script.startswith(b";") else script)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                words[at] = data.draw(st.sampled_from(TOKENS))
            case 1:
                words.insert(at, data.draw(st.sampled_from(TOKENS)))
            case 2 if len(words) > 1:
                del words[at]
            case _:
                other = data.draw(st.integers(0, len(words) - 1))
                words[at], words[other] = words[other], words[at]
    result = gate(b" ".join(words))
    if result.reason is GateReason.OK:
        z3.Solver(ctx=z3.Context()).from_string(result.script.decode("ascii"))


BIT_OPERATORS = ("bvadd", "bvsub", "bvmul", "bvand", "bvxor", "bvnand", "bvudiv", "bvsrem", "bvshl", "bvlshr")


@st.composite
def bit_terms(draw: st.DrawFn, width: int, depth: int) -> str:
    """Terms of one width over a and b, built from operators that change widths on the way."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from([f"a{width}", f"b{width}", f"(_ bv{draw(st.integers(0, 2**width - 1))} {width})"]))
    two = draw(bit_terms(width, depth - 1)), draw(bit_terms(width, depth - 1))
    options = [
        (f"({draw(st.sampled_from(BIT_OPERATORS))} {two[0]} {two[1]})"),
        f"({draw(st.sampled_from(['bvnot', 'bvneg']))} {two[0]})",
        f"(ite ({draw(st.sampled_from(['=', 'bvult', 'bvsle', 'distinct']))} {two[0]} {two[1]}) {two[1]} {two[0]})",
        f"(let ((t {two[0]})) (bvadd t t))",
    ]
    if width > 1:
        low = draw(st.integers(1, width - 1))
        options.append(f"(concat {draw(bit_terms(width - low, depth - 1))} {draw(bit_terms(low, depth - 1))})")
        options.append(f"((_ zero_extend {low}) {draw(bit_terms(width - low, depth - 1))})")
    if width < 4:
        options.append(f"((_ extract {width} 1) {draw(bit_terms(width + 1, depth - 1))})")
    return draw(st.sampled_from(options))


@given(bit_terms(3, 2), bit_terms(3, 2), st.sampled_from(["=", "distinct", "bvult"]))
@settings(max_examples=120, deadline=None)
def test_well_sorted_terms_pass_and_the_copy_has_the_originals_answer(left: str, right: str, relation: str) -> None:
    names = "".join(f"(declare-const {name}{width} (_ BitVec {width}))" for name in "ab" for width in range(1, 5))
    script = f"(set-logic QF_BV){names}(assert ({relation} {left} {right}))(check-sat)".encode()
    result = gate(script)
    assert result.reason is GateReason.OK
    assert solve(result.script) == solve(script)
