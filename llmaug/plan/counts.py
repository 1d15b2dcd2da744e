"""The shape of what a plan counts: the counts of its manifest."""

from __future__ import annotations

from llmaug.core.contract import Tally


class PlanCounts(Tally):
    """Counts of stage `plan`. Beside the fields there are the units of each strategy (`continue`,
    `new_users`)."""

    units: int
    generator: str
    """Name and digest of the model that is asked."""
    max_output_tokens: int
    """If every answer were as long as it may be."""
    left_out_by_budget: int
    """Units that were wanted and not planned."""
