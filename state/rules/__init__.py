"""The rules of every transaction kind, one module each. Adding a kind touches its own module and this table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from state.rules.attest import ATTEST
from state.rules.bond import BOND
from state.rules.commit_proof import COMMIT_PROOF
from state.rules.data import DATA
from state.rules.evidence import EVIDENCE
from state.rules.post_statement import POST_STATEMENT
from state.rules.reveal_proof import REVEAL_PROOF
from state.rules.rotate_key import ROTATE_KEY
from state.rules.rule import Rule, Source
from state.rules.transfer import TRANSFER
from state.rules.unbond import UNBOND
from state.rules.unjail import UNJAIL
from trellis.transaction import Kind

_ALL: Final[tuple[Rule[Any], ...]] = (
    TRANSFER,
    DATA,
    BOND,
    UNBOND,
    EVIDENCE,
    UNJAIL,
    POST_STATEMENT,
    COMMIT_PROOF,
    REVEAL_PROOF,
    ATTEST,
    ROTATE_KEY,
)
RULES: Final[Mapping[type[Kind], Rule[Any]]] = MappingProxyType({rule.kind: rule for rule in _ALL})

__all__ = ["RULES", "Rule", "Source"]
