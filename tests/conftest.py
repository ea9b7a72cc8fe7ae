"""Hypothesis profiles: the suite draws the same examples on every run and keeps no database.

`HYPOTHESIS_PROFILE=deep pytest …` draws fresh examples, ten times as many: for campaigns by hand.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    print_blob=True,
    suppress_health_check=_QUIET,
)
settings.register_profile(
    "deep", deadline=None, database=None, max_examples=1_000, print_blob=True, suppress_health_check=_QUIET
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
