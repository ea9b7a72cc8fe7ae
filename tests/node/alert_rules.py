"""Reads the alert rules that operators load, and evaluates them over scrapes: a strict subset of Prometheus.

Expressions are `function(...) OPERATOR number` or `selector OPERATOR number`, with rate, increase and
histogram_quantile(…, rate(…)). Whatever else a rule contains is an error, so that no rule goes untested because this
reader did not understand it. Counters must not be reset between the scrapes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from node.localnet.samples import Scrape, quantile

RULES = Path(__file__).parents[2] / "deploy" / "alerts" / "trellis.yml"
_SECONDS = {"s": 1, "m": 60, "h": 3_600}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Rule:
    name: str
    expression: str
    for_s: int
    severity: str
    summary: str
    action: str

    @property
    def metric(self) -> str:
        """The family that the rule looks at."""
        found = re.search(r"([a-z][a-z0-9_]+)(\{[^}]*\})?(\[\w+\])?\)* (==|!=|>=|<=|>|<)", self.expression)
        assert found is not None, f"{self.name}: {self.expression}"
        return found[1].removesuffix("_bucket")


def seconds(text: str) -> int:
    return int(text[:-1]) * _SECONDS[text[-1]]


def read_rules(path: Path = RULES) -> list[Rule]:
    """The file's own form, line by line: PyYAML is no dependency, and a stray line shall not pass."""
    fields: list[dict[str, str]] = []
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = raw.rstrip()
        if not line or line.lstrip().startswith("#") or line in {"groups:", "  - name: trellis", "    rules:"}:
            continue
        if line in {"        labels:", "        annotations:"}:
            continue
        found = re.fullmatch(r"(      - |        |          )([a-z]+): (.+)", line)
        if found is None:
            raise ValueError(f"{path}:{number}: {line}")
        indent, key, value = found.groups()
        if indent == "      - ":
            fields.append({})
        if key in fields[-1]:
            raise ValueError(f"{path}:{number}: {key} is given twice")
        fields[-1][key] = value[1:-1] if value.startswith('"') and value.endswith('"') else value
    return [_rule(each) for each in fields]


def _rule(fields: dict[str, str]) -> Rule:
    if set(fields) != {"alert", "expr", "for", "severity", "summary", "action"}:
        raise ValueError(f"a rule has {sorted(fields)}")
    waits_s = seconds(fields["for"])
    return Rule(fields["alert"], fields["expr"], waits_s, fields["severity"], fields["summary"], fields["action"])


@dataclass
class History:
    """Scrapes of one node, with their times."""

    scrapes: list[tuple[float, Scrape]] = field(default_factory=list)

    def add(self, at_s: float, scrape: Scrape) -> None:
        self.scrapes.append((at_s, scrape))


def _matches(labels: dict[str, str], matchers: list[tuple[str, str, str]]) -> bool:
    for name, how, wanted in matchers:
        value = labels.get(name, "")
        if how == "=" and value != wanted:
            return False
        if how == "=~" and not re.fullmatch(wanted, value):
            return False
    return True


def _select(scrape: Scrape, selector: str) -> dict[Labels, float]:
    found = re.fullmatch(r"([a-z][a-z0-9_]*)(?:\{(.*)\})?", selector)
    if found is None:
        raise ValueError(f"no selector: {selector}")
    matchers = re.findall(r'([a-z]+)(=~|=)"([^"]*)"', found[2] or "")
    return {
        tuple(sorted(labels.items())): value for labels, value in scrape.get(found[1], ()) if _matches(labels, matchers)
    }


def _over(history: History, at_s: float, argument: str) -> tuple[dict[Labels, float], float]:
    """How much each series grew in the range, and in how many seconds. One that begins inside it began at zero."""
    found = re.fullmatch(r"(.+)\[(\d+[smh])\]", argument)
    if found is None:
        raise ValueError(f"no range: {argument}")
    inside = [(time, scrape) for time, scrape in history.scrapes if at_s - seconds(found[2]) <= time <= at_s]
    if len(inside) < 2:
        return {}, 1.0
    first, last = _select(inside[0][1], found[1]), _select(inside[-1][1], found[1])
    return {labels: value - first.get(labels, 0.0) for labels, value in last.items()}, inside[-1][0] - inside[0][0]


def evaluate(expression: str, history: History, at_s: float) -> dict[Labels, float]:
    """The series for which the comparison holds."""
    found = re.fullmatch(r"(.+) (==|!=|>=|<=|>|<) ([0-9.]+)", expression)
    if found is None:
        raise ValueError(f"no comparison: {expression}")
    compare, bound = _OPERATORS[found[2]], float(found[3])
    return {labels: value for labels, value in _value(found[1], history, at_s).items() if compare(value, bound)}


def _value(term: str, history: History, at_s: float) -> dict[Labels, float]:
    if (found := re.fullmatch(r"histogram_quantile\(([0-9.]+), rate\((.+)\)\)", term)) is not None:
        return _quantiles(float(found[1]), _over(history, at_s, found[2])[0])
    if (found := re.fullmatch(r"(rate|increase)\((.+)\)", term)) is not None:
        grown, spent_s = _over(history, at_s, found[2])
        divisor = spent_s if found[1] == "rate" else 1.0
        return {labels: value / divisor for labels, value in grown.items()}
    current = [scrape for time, scrape in history.scrapes if time <= at_s]
    return _select(current[-1], term) if current else {}


def _quantiles(share: float, buckets: dict[Labels, float]) -> dict[Labels, float]:
    def rest(item: tuple[Labels, float]) -> Labels:
        return tuple(label for label in item[0] if label[0] != "le")

    found = {}
    for labels, group in groupby(sorted(buckets.items(), key=rest), key=rest):
        bounds = sorted((float(dict(each)["le"]), value) for each, value in group)
        value = quantile(bounds, share)
        if value is not None:
            found[labels] = value
    return found


def firing(rule: Rule, history: History) -> dict[Labels, float]:
    """At the last scrape: what held there, and at every scrape since `for` ago."""
    now_s = history.scrapes[-1][0]
    times = [time for time, _ in history.scrapes]
    if now_s - times[0] < rule.for_s:
        return {}
    since = max(time for time in times if time <= now_s - rule.for_s)
    held = [evaluate(rule.expression, history, time) for time in times if time >= since]
    return {labels: value for labels, value in held[-1].items() if all(labels in each for each in held)}
