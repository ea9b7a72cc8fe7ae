"""Scripts for the gate's and the workers' tests: honest ones with known answers, and hostile ones by the hundred."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SAT, UNSAT = "sat", "unsat"

SAT_CORE = b"(set-logic QF_LIA)\n(declare-const x Int)\n(assert (= (* 2 x) 8))\n(check-sat)\n"
UNSAT_CORE = b"(set-logic QF_LIA)\n(declare-const x Int)\n(assert (= (* 2 x) 7))\n(check-sat)\n"

HONEST: list[tuple[str, bytes, str]] = [
    ("linear integers, sat", SAT_CORE, SAT),
    ("linear integers, unsat", UNSAT_CORE, UNSAT),
    (
        "propositional",
        (
            b"(set-logic QF_UF)(declare-const p Bool)(declare-fun q () Bool)(assert (and (or p q) (=> p q) (not q)))"
            b"(check-sat)"
        ),
        UNSAT,
    ),
    (
        "uninterpreted functions",
        (
            b"(set-logic QF_UF)(declare-sort U 0)(declare-fun f (U) U)(declare-const a U)"
            b"(assert (= (f (f (f a))) a))(assert (= (f (f (f (f (f a))))) a))(assert (distinct (f a) a))(check-sat)"
        ),
        UNSAT,
    ),
    (
        "linear reals",
        (
            b"(set-logic QF_LRA)(declare-const x Real)(declare-const y Real)"
            b"(assert (< (+ x y) 1.5))(assert (> (- x (/ y 2)) 1))(assert (> y 0.5))(check-sat)"
        ),
        UNSAT,
    ),
    (
        "linear reals, sat",
        b"(set-logic QF_LRA)(declare-const x Real)(assert (= (* 3 x) 1))(check-sat)",
        SAT,
    ),
    (
        "bit vectors: x and its negation sum to zero",
        b"(set-logic QF_BV)(declare-const x (_ BitVec 16))(assert (distinct (bvadd x (bvneg x)) #x0000))(check-sat)",
        UNSAT,
    ),
    (
        "bit vectors: every indexed operator",
        (
            b"(set-logic QF_BV)(declare-const x (_ BitVec 8))(assert (= ((_ zero_extend 8) x) (concat #x00 x)))"
            b"(assert (= ((_ sign_extend 1) x) (concat ((_ extract 7 7) x) x)))"
            b"(assert (= ((_ rotate_left 3) x) ((_ rotate_right 5) x)))(assert (= ((_ repeat 2) x) (concat x x)))"
            b"(assert (= (_ bv255 8) #b11111111))(check-sat)"
        ),
        SAT,
    ),
    (
        "bit vectors: division",
        (
            b"(set-logic QF_BV)(declare-const x (_ BitVec 8))(declare-const y (_ BitVec 8))"
            b"(assert (distinct y #x00))(assert (distinct x (bvadd (bvmul y (bvudiv x y)) (bvurem x y))))(check-sat)"
        ),
        UNSAT,
    ),
    (
        "arrays",
        (
            b"(set-logic QF_AX)(declare-sort I 0)(declare-sort E 0)(declare-const a (Array I E))(declare-const i I)"
            b"(declare-const e E)(assert (distinct (select (store a i e) i) e))(check-sat)"
        ),
        UNSAT,
    ),
    (
        "arrays of bit vectors",
        (
            b"(set-logic QF_ABV)(declare-const a (Array (_ BitVec 4) (_ BitVec 8)))"
            b"(assert (= (select (store a #x1 #xff) #x1) #xff))(check-sat)"
        ),
        SAT,
    ),
    (
        "nonlinear integers",
        b"(set-logic QF_NIA)(declare-const x Int)(assert (= (* x x) 49))(assert (< x 0))(check-sat)",
        SAT,
    ),
    (
        "nonlinear reals",
        b"(set-logic QF_NRA)(declare-const x Real)(assert (< (+ (* x x) 1) 0))(check-sat)",
        UNSAT,
    ),
    (
        "let binds in parallel and shadows",
        b"(set-logic QF_LIA)(declare-const x Int)(assert (let ((x 1) (y x)) (and (= x 1) (distinct y y))))(check-sat)",
        UNSAT,
    ),
    (
        "a let name that is also a declared one",
        b"(set-logic QF_LIA)(declare-const x Int)(assert (= x 5))(assert (let ((x (+ x 1))) (= x 6)))(check-sat)",
        SAT,
    ),
    (
        "definitions, comments, every white space",
        (
            b"; a comment (with ( parentheses\r\n(set-logic QF_LIA)\t(declare-const x Int);\n"
            b"(define-fun twice () Int (+ x x))(assert (= twice 3))(check-sat) ; done"
        ),
        UNSAT,
    ),
    (
        "integer division",
        (
            b"(set-logic QF_LIA)(declare-const x Int)(assert (= (mod x 7) 3))(assert (= (div x 7) (- 2)))"
            b"(assert (= (abs x) 11))(check-sat)"
        ),
        SAT,
    ),
    (
        "names that a solver knows as its own",
        (
            b"(set-logic QF_UF)(declare-const implies Bool)(declare-const seq.len Bool)(declare-const if Bool)"
            b"(declare-fun bv2int (Bool) Bool)(assert (and implies (not seq.len) if (bv2int implies)))(check-sat)"
        ),
        SAT,
    ),
]


@dataclass(frozen=True, slots=True)
class Hostile:
    """`truth` is the right answer where a gate that lets it through could still get one."""

    name: str
    script: bytes
    truth: str | None = None


def _wrapped(logic: str, declarations: str, *assertions: str) -> bytes:
    body = "".join(f"(assert {assertion})\n" for assertion in assertions)
    return f"(set-logic {logic})\n{declarations}\n{body}(check-sat)\n".encode()


def _forbidden_commands() -> Iterator[Hostile]:
    commands = [
        '(set-option :regular-output-channel "pwned")',
        '(set-option :diagnostic-output-channel "pwned")',
        "(set-option :regular-output-channel pwned)",
        "(set-option :timeout 1)",
        "(set-option :produce-proofs true)",
        "(set-option :rlimit 0)",
        "(set-info :status unsat)",
        '(include "/etc/passwd")',
        '(echo "hello")',
        '(eval "x")',
        "(push 1)",
        "(pop 1)",
        "(push 1000000000)",
        "(reset)",
        "(reset-assertions)",
        "(exit)",
        "(check-sat)",
        "(check-sat-assuming (x))",
        "(check-sat-using smt)",
        "(get-model)",
        "(get-value (x))",
        "(get-proof)",
        "(get-unsat-core)",
        "(get-info :version)",
        "(get-option :rlimit)",
        "(get-assertions)",
        "(apply skip)",
        "(simplify x)",
        "(eval x)",
        "(display x)",
        "(minimize x)",
        "(maximize x)",
        "(assert-soft (= x 1) :weight 1)",
        "(declare-datatypes ((T 0)) (((c (d T)))))",
        "(declare-datatype T ((c)))",
        "(declare-rel r (Int))",
        "(declare-var v Int)",
        "(rule (r 1))",
        "(query r)",
        "(declare-tactic t skip)",
        "(declare-map m (Int) Int)",
        "(define-sort S () Int)",
        "(define-fun-rec f ((n Int)) Int (f (+ n 1)))",
        "(define-funs-rec ((f ((n Int)) Int)) ((f n)))",
        "(define-const c Int 1)",
        "(define-fun f ((n Int)) Int (+ n n))",
        "(declare-sort S 1)",
        "(declare-sort S 1000000000)",
        "(labels)",
        "(help)",
        "(model-add x () Int 1)",
        "(poly/factor x)",
        "(dbg-set-cut-cube 1)",
        "(dbg-params)",
        "(set-logic QF_LIA)",
        "()",
        "(())",
        "assert",
        "(assert)",
        "(assert true true)",
        "(assert x)",
    ]
    for command in commands:
        for name, core, truth in (("sat", SAT_CORE, SAT), ("unsat", UNSAT_CORE, UNSAT)):
            middle = core.replace(b"(assert", command.encode() + b"\n(assert", 1)
            yield Hostile(f"{command} inside a script that is {name}", middle, truth)


def _lexical_tricks() -> Iterator[Hostile]:
    tricks = {
        "a NUL after the truth": SAT_CORE.replace(b"(check-sat)", b"\x00(assert false)(check-sat)"),
        "a NUL at the start": b"\x00" + UNSAT_CORE,
        "a NUL in a symbol": SAT_CORE.replace(b"x", b"x\x00y"),
        "a string that hides an assertion": SAT_CORE.replace(b"(check-sat)", b'"(check-sat)'),
        "a quoted symbol that hides an assertion": UNSAT_CORE.replace(b"(assert", b"|(assert").replace(b"7))", b"7))|"),
        "a quoted symbol": SAT_CORE.replace(b"x", b"|x|"),
        "a comment that ends at CR for some": SAT_CORE.replace(b"(check-sat)", b"; \r(assert false)\n(check-sat)"),
        "a comment that never ends": UNSAT_CORE.replace(b"(assert", b"; (assert", 1),
        "a comment with bytes": SAT_CORE.replace(b"(assert", b"; \xff\xfe\n(assert", 1),
        "a byte order mark": b"\xef\xbb\xbf" + SAT_CORE,
        "UTF-16": SAT_CORE.decode().encode("utf-16"),
        "non-ASCII digits": SAT_CORE.replace(b"8", "٨".encode()),
        "a no-break space": SAT_CORE.replace(b" x)", "\u00a0x)".encode()),
        "a vertical tab": SAT_CORE.replace(b"(assert", b"\x0b(assert"),
        "a form feed": SAT_CORE.replace(b"(assert", b"\x0c(assert"),
        "a backslash": SAT_CORE.replace(b"x", b"\\x"),
        "a keyword": SAT_CORE.replace(b"(= ", b"(! (= ").replace(b"8)", b"8) :named a)"),
        "a pattern": SAT_CORE.replace(b"(= (* 2 x) 8)", b"(! (= x 4) :pattern (x))"),
        "one parenthesis too few": SAT_CORE.replace(b"8))", b"8)"),
        "one parenthesis too many": SAT_CORE.replace(b"8))", b"8)))"),
        "no check-sat": SAT_CORE.replace(b"(check-sat)", b""),
        "check-sat with an argument": SAT_CORE.replace(b"(check-sat)", b"(check-sat 1)"),
        "text after check-sat": SAT_CORE + b"(assert false)",
        "an atom after check-sat": SAT_CORE + b"x",
        "no assertion": b"(set-logic QF_LIA)(check-sat)",
        "nothing": b"",
        "white space": b" \n" * 1000,
        "no logic": SAT_CORE.replace(b"(set-logic QF_LIA)", b""),
        "the logic of Horn clauses": SAT_CORE.replace(b"QF_LIA", b"HORN"),
        "the logic of everything": SAT_CORE.replace(b"QF_LIA", b"ALL"),
        "a quantified logic": SAT_CORE.replace(b"QF_LIA", b"LIA"),
        "a number with a leading zero": SAT_CORE.replace(b"8", b"08"),
        "a number with a letter": SAT_CORE.replace(b"8", b"8x"),
        "a hexadecimal without digits": SAT_CORE.replace(b"8", b"#x"),
        "a binary with a two": SAT_CORE.replace(b"8", b"#b2"),
        "a decimal without digits": SAT_CORE.replace(b"8", b"8."),
        "a million opening parentheses": b"(" * 1_000_000,
        "sixty thousand opening parentheses": b"(" * 60_000,
        "sixty thousand closing parentheses": b")" * 60_000,
        "random bytes": bytes(range(256)) * 200,
        "a script of a megabyte": SAT_CORE + b" " * 1_000_000,
        "thirty thousand tokens": b"(set-logic QF_LIA)" + b"() " * 15_000,
        "a symbol of sixty thousand letters": SAT_CORE.replace(b"x", b"x" * 20_000),
        "a negative literal": SAT_CORE.replace(b"8", b"-8"),
    }
    for name, script in tricks.items():
        yield Hostile(name, script, SAT if b"7))" not in script else UNSAT)


def _explosions() -> Iterator[Hostile]:
    for levels in (8, 16, 30, 60, 120):
        lets = "".join(f"(let ((a{i} (* a{i - 1} a{i - 1})))" for i in range(1, levels))
        for first in ("(+ x 1)", "3"):
            text = _wrapped(
                "QF_NIA", "(declare-const x Int)", f"(let ((a0 {first})) {lets} (= a{levels - 1} 7)" + ")" * levels
            )
            yield Hostile(f"{levels} squarings of {first}", text)
        doubled = "".join(f"(let ((a{i} (concat a{i - 1} a{i - 1})))" for i in range(1, levels))
        zero = f"(= ((_ extract 0 0) a{levels - 1}) #b0)"
        text = _wrapped("QF_BV", "(declare-const x (_ BitVec 8))", f"(let ((a0 x)) {doubled} {zero}" + ")" * levels)
        yield Hostile(f"{levels} doublings of a width", text)
        sums = "".join(f"(let ((a{i} (+ a{i - 1} a{i - 1})))" for i in range(1, levels))
        text = _wrapped("QF_LIA", "(declare-const x Int)", f"(let ((a0 x)) {sums} (= a{levels - 1} 0)" + ")" * levels)
        yield Hostile(f"{levels} doublings of a sum", text, SAT)
        defined = "(declare-const x Int)(define-fun d0 () Int x)" + "".join(
            f"(define-fun d{i} () Int (ite (= d{i - 1} 0) d{i - 1} (- d{i - 1} 1)))" for i in range(1, levels)
        )
        text = _wrapped("QF_LIA", defined, f"(= d{levels - 1} 0)")
        yield Hostile(f"{levels} definitions that use the last one three times", text, SAT)
        macros = "(declare-const x Int)(define-fun m0 ((n Int)) Int (+ n n))" + "".join(
            f"(define-fun m{i} ((n Int)) Int (m{i - 1} (m{i - 1} n)))" for i in range(1, levels)
        )
        yield Hostile(
            f"{levels} macros that apply the last one twice", _wrapped("QF_LIA", macros, f"(= (m{levels - 1} x) 1)")
        )
        nested = "(Array Int " * levels + "Int" + ")" * levels
        yield Hostile(
            f"arrays nested {levels} deep", _wrapped("QF_ALIA", f"(declare-const a {nested})", "(= a a)"), SAT
        )
    for count in (10, 20, 50, 100, 1000):
        chain = "(bvmul " + " ".join(f"x{i}" for i in range(count)) + ")"
        back = "(bvmul " + " ".join(f"x{i}" for i in reversed(range(count))) + ")"
        for width in (64, 256, 4096):
            names = "".join(f"(declare-const x{i} (_ BitVec {width}))" for i in range(count))
            yield Hostile(
                f"{count} factors of width {width}", _wrapped("QF_BV", names, f"(distinct {chain} {back})"), UNSAT
            )
    for width in (0, 257, 65_536, 4_294_967_296, 10**30):
        yield Hostile(f"a width of {width}", _wrapped("QF_BV", f"(declare-const x (_ BitVec {width}))", "(= x x)"), SAT)
        value = f"(= (_ bv1 {width}) (_ bv1 {width}))"
        yield Hostile(f"a value of width {width}", _wrapped("QF_BV", "", value), SAT)
        for operator in ("zero_extend", "sign_extend", "repeat", "rotate_left"):
            term = f"(= ((_ {operator} {width}) x) ((_ {operator} {width}) x))"
            yield Hostile(f"{operator} by {width}", _wrapped("QF_BV", "(declare-const x (_ BitVec 8))", term), SAT)
        term = f"(= ((_ extract {width} 0) x) x)"
        yield Hostile(f"extract up to {width}", _wrapped("QF_BV", "(declare-const x (_ BitVec 8))", term))
    for digits in (100, 1_000, 50_000):
        nines = "9" * digits
        yield Hostile(
            f"a numeral of {digits} digits", _wrapped("QF_LIA", "(declare-const x Int)", f"(= x {nines})"), SAT
        )
        yield Hostile(
            f"a decimal of {digits} digits", _wrapped("QF_LRA", "(declare-const x Real)", f"(= x 0.{nines})"), SAT
        )
        yield Hostile(f"a bit value of {digits} digits", _wrapped("QF_BV", "", f"(= (_ bv{nines} 8) #x00)"))
        yield Hostile(f"a hexadecimal of {digits} digits", _wrapped("QF_BV", "", f"(= #x{nines} #x{nines})"), SAT)
    for depth in (100, 255, 300, 20_000):
        nots = "(not " * depth + "true" + ")" * depth
        yield Hostile(f"{depth} negations", _wrapped("QF_UF", "", nots), UNSAT if depth % 2 else SAT)
    for power in (2, 8, 9, 64):
        text = _wrapped(
            "QF_NIA", "(declare-const x Int)(declare-const y Int)", f"(= (* {'(+ x y) ' * power}) 12345678901)"
        )
        yield Hostile(f"a sum to the power {power}", text)
    many = "".join(f"(declare-const x{i} Int)" for i in range(1_000))
    yield Hostile(
        "a thousand distinct integers",
        _wrapped("QF_LIA", many, "(distinct " + " ".join(f"x{i}" for i in range(1_000)) + ")"),
    )


def _beyond_the_subset() -> Iterator[Hostile]:
    x = "(declare-const x Int)"
    for name, text in {
        "forall": _wrapped("QF_LIA", x, "(forall ((y Int)) (= y x))"),
        "exists": _wrapped("QF_LIA", x, "(exists ((y Int)) (= y x))"),
        "lambda": _wrapped("QF_ALIA", x, "(= (select (lambda ((y Int)) y) 1) 1)"),
        "a constant array": _wrapped("QF_ALIA", x, "(= (select ((as const (Array Int Int)) 0) x) 0)"),
        "match": _wrapped("QF_UF", "", "(match true ((x x)))"),
        "a power": _wrapped("QF_NIA", x, "(= (^ x 1000000000) 1)"),
        "a power of two": _wrapped("QF_NIA", x, "(= (^ 2 1000000000) x)"),
        "a division by an unknown": _wrapped("QF_NIA", x, "(= (div 1 x) 1)"),
        "a division by zero": _wrapped("QF_LIA", x, "(= (div x 0) 1)"),
        "a division by a decimal zero": _wrapped("QF_LRA", "(declare-const x Real)", "(= (/ x 0.00) 1.0)"),
        "sine": _wrapped("QF_NRA", "(declare-const x Real)", "(= (sin x) 2.0)"),
        "int2bv": _wrapped("QF_BV", "", "(= ((_ int2bv 8) 1) #x01)"),
        "bv2nat": _wrapped("QF_BV", "", "(= (bv2nat #x01) 1)"),
        "at-most": _wrapped("QF_UF", "", "((_ at-most 1) true true)"),
        "a string's length": _wrapped("QF_UF", "", '(= (str.len "a") 1)'),
        "a regular expression": _wrapped("QF_UF", "", "(str.in_re x re.all)"),
        "a floating point number": _wrapped("QF_BV", "(declare-const f Float64)", "(= f f)"),
        "a sort of its own kind": _wrapped("QF_LIA", "(declare-const f (Seq Int))", "(= f f)"),
        "reals in an integer logic": _wrapped("QF_LIA", "(declare-const f Real)", "(= f f)"),
        "functions in a logic without": _wrapped("QF_LIA", "(declare-fun f (Int) Int)", "(= (f 1) 1)"),
        "an unknown times an unknown in a linear logic": _wrapped("QF_LIA", x, "(= (* x x) 4)"),
        "a choice times an unknown in a linear logic": _wrapped("QF_LIA", x, "(= (* x (ite (= x 1) 2 3)) 4)"),
        "an integer where truth belongs": _wrapped("QF_LIA", x, "x"),
        "widths that differ": _wrapped("QF_BV", "", "(= #x1 #x01)"),
        "too few arguments": _wrapped("QF_UF", "", "(= true)"),
        "an operator redeclared": _wrapped("QF_UF", "(declare-const and Bool)", "and"),
        "true redeclared": _wrapped("QF_UF", "(declare-const true Bool)", "true"),
        "let as a name": _wrapped("QF_UF", "(declare-const let Bool)", "let"),
        "let that binds an operator": _wrapped("QF_UF", "", "(let ((not true)) not)"),
        "let that binds one name twice": _wrapped("QF_UF", "", "(let ((a true) (a false)) a)"),
        "let that uses its own name": _wrapped("QF_UF", "", "(let ((a a)) a)"),
        "let without bindings": _wrapped("QF_UF", "", "(let () true)"),
        "let out of scope": _wrapped("QF_UF", "", "(and (let ((a true)) a) a)"),
        "a name declared twice": _wrapped("QF_UF", "(declare-const a Bool)(declare-const a Bool)", "a"),
        "a definition of itself": _wrapped("QF_UF", "(define-fun a () Bool a)", "a"),
        "an unknown name": _wrapped("QF_UF", "", "nobody"),
        "an unknown function": _wrapped("QF_UF", "", "(nobody true)"),
        "a constant applied": _wrapped("QF_UF", "(declare-const a Bool)", "(a true)"),
        "a function bare": _wrapped("QF_UF", "(declare-fun f (Bool) Bool)", "f"),
        "an empty application": _wrapped("QF_UF", "", "()"),
        "a head that is a term": _wrapped("QF_UF", "", "((not true) false)"),
        "an index on a plain operator": _wrapped("QF_UF", "", "((_ and 1) true true)"),
        "an extract upside down": _wrapped("QF_BV", "", "(= ((_ extract 0 3) #xff) #xf)"),
    }.items():
        yield Hostile(name, text)


def hostile_scripts() -> list[Hostile]:
    return [*_forbidden_commands(), *_lexical_tricks(), *_explosions(), *_beyond_the_subset()]
