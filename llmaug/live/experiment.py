"""Logs of a live experiment to sums of each user: who saw which variant, what came of it.

Feedback counts for the exposure that it follows most closely, within a window. A user who saw
several variants is in none: such users are quarantined. Every row of both tables is in exactly
one line of the ledger. The logs come in parts, each with all rows of its users: what is held in
memory is one part, and the sums of all users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

ATTRIBUTED = "attributed"
EXPOSURE_FATES = ("analysed", "quarantined_users", "other_variants")
FEEDBACK_FATES = (
    ATTRIBUTED,
    "quarantined_users",
    "users_without_exposure",
    "other_variants",
    "other_actions",
    "score_without_value",
    "no_exposure_before",
    "outside_window",
)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is compared, and what feedback means. Without actions of a kind, no such metric."""

    control: str
    treatment: str | None = None
    """None: the one other variant in the exposures."""
    clicks: tuple[str, ...] = ()
    """Actions that count as a click."""
    conversions: tuple[str, ...] = ()
    """Actions that count as a conversion."""
    scores: tuple[str, ...] = ()
    """Actions whose `value` is a satisfaction score."""
    window_hours: float = 24.0
    """Feedback counts up to this long after the exposure."""
    treatment_share: float = 0.5
    """Share of the users that was to get the treatment."""
    expected_lift: float | None = None
    """Relative lift to state the power for."""

    def __post_init__(self) -> None:
        if not (self.clicks or self.conversions or self.scores):
            raise UserError("nothing to measure; name actions with --click, --conversion, --score")
        if not 0 < self.treatment_share < 1:
            raise UserError(f"--treatment-share {self.treatment_share} is not between 0 and 1")
        if not self.window_hours > 0:
            raise UserError(f"--window-hours {self.window_hours} is not above 0")
        if self.treatment == self.control:
            raise UserError(f"control and treatment are both '{self.control}'")


class UserSums(NamedTuple):
    """What is left of the logs."""

    users: pd.DataFrame
    """By user id: variant, users (1), exposures, clicked_exposures, converted (0 or 1), scores
    (their number), score_sum."""
    treatment: str
    num_quarantined: int
    exposures: dict[str, int]
    """EXPOSURE_FATES: rows; and, as a part of the analysed ones, `window_open`: those whose
    window was not over when the logs end."""
    feedback: dict[str, int]
    """FEEDBACK_FATES, the first that is true: rows."""


def user_sums(logs: Iterable[tuple[pa.Table, pa.Table]], experiment: Experiment) -> UserSums:
    """logs: exposures (schema EXPOSURE) and feedback (schema FEEDBACK) in parts, each with all
    rows of its users; they are gone through twice.

    Feedback with an item is matched to exposures of that item; without one, or where no
    exposure names an item, to any exposure of the user.
    Raises UserError for variants and actions that are not in the logs.
    """
    import pandas as pd

    whole = _overview(logs)
    treatment = _treatment(whole.variants, experiment)
    _check_actions(whole.actions, experiment)
    parts = [_of_part(*part, experiment, treatment, whole) for part in logs]
    return UserSums(
        pd.concat([part.users for part in parts]).sort_index(),
        treatment,
        sum(part.num_quarantined for part in parts),
        _added([part.exposures for part in parts]),
        _added([part.feedback for part in parts]),
    )


class _Overview(NamedTuple):
    """What no part knows by itself."""

    variants: list[str]
    actions: list[str]
    have_items: bool
    """Whether any exposure names an item."""
    ends: pd.Timestamp | None
    """The latest row."""


def _overview(logs: Iterable[tuple[pa.Table, pa.Table]]) -> _Overview:
    import pandas as pd

    variants, actions, have_items, times = set[str](), set[str](), False, []
    for shown, said in logs:
        variants.update(pc.unique(shown["variant"]).to_pylist())
        actions.update(pc.unique(said["action"]).to_pylist())
        have_items |= shown["item_id"].null_count < len(shown)
        times += [pc.max(table["timestamp"]).as_py() for table in (shown, said) if len(table)]
    ends = pd.Timestamp(max(times)) if times else None
    return _Overview(sorted(variants), sorted(actions), have_items, ends)


def _of_part(
    exposures: pa.Table,
    feedback: pa.Table,
    experiment: Experiment,
    treatment: str,
    whole: _Overview,
) -> UserSums:
    shown, said = exposures.to_pandas(), feedback.to_pandas()
    pairs = shown[["user_id", "variant"]].drop_duplicates()
    crossed = pairs["user_id"].duplicated(keep=False)
    quarantined = pairs["user_id"][crossed].unique()
    variant_of = pairs[~crossed].set_index("user_id")["variant"].sort_index()
    users = variant_of[variant_of.isin([experiment.control, treatment])]

    fates = np.select(
        [shown["user_id"].isin(quarantined), ~shown["user_id"].isin(users.index)],
        ["quarantined_users", "other_variants"],
        "analysed",
    )
    exposure_ledger = _counts(fates, EXPOSURE_FATES)
    shown = shown[fates == "analysed"].reset_index(drop=True)
    open_window = _hours(whole.ends - shown["timestamp"]) < experiment.window_hours

    said["exposure"] = _last_exposures(said, shown, whole.have_items)
    exposed = shown["timestamp"].reindex(said["exposure"]).set_axis(said.index)
    done = said["action"].isin([*experiment.clicks, *experiment.conversions])
    scored = said["action"].isin(experiment.scores)
    fates = np.select(
        [
            said["user_id"].isin(quarantined),
            ~said["user_id"].isin(variant_of.index),
            ~said["user_id"].isin(users.index),
            ~(done | scored),
            ~done & said["value"].isna(),
            said["exposure"] < 0,
            _hours(said["timestamp"] - exposed) > experiment.window_hours,
        ],
        FEEDBACK_FATES[1:],
        ATTRIBUTED,
    )
    return UserSums(
        _sums(shown, said[fates == ATTRIBUTED], users, experiment),
        treatment,
        len(quarantined),
        {**exposure_ledger, "window_open": int(open_window.sum())},
        _counts(fates, FEEDBACK_FATES),
    )


def _treatment(found: list[str], experiment: Experiment) -> str:
    for name in (experiment.control, experiment.treatment):
        if name is not None and name not in found:
            listed = ", ".join(found) or "no exposures at all"
            raise UserError(f"no exposure of variant '{name}'; there are {listed}")
    if experiment.treatment is not None:
        return experiment.treatment
    others = [name for name in found if name != experiment.control]
    if len(others) != 1:
        listed = f": {', '.join(others)}; choose one with --treatment" if others else ""
        raise UserError(f"{len(others)} variants beside control '{experiment.control}'{listed}")
    return str(others[0])


def _check_actions(found: list[str], experiment: Experiment) -> None:
    """A misspelt action would be a metric of zeros."""
    named = {
        "--click": experiment.clicks,
        "--conversion": experiment.conversions,
        "--score": experiment.scores,
    }
    for option, names in named.items():
        for name in names:
            if name not in found:
                listed = ", ".join(found) or "no feedback at all"
                raise UserError(f"{option} {name}: no such feedback; there are {listed}")


def _last_exposures(said: pd.DataFrame, shown: pd.DataFrame, have_items: bool) -> np.ndarray:
    """For each row of `said` the row of `shown` that it follows most closely, or -1."""
    import pandas as pd

    out = np.full(len(said), -1)
    by_item = said["item_id"].notna().to_numpy() & have_items
    for rows, keys in ((by_item, ["user_id", "item_id"]), (~by_item, ["user_id"])):
        if not rows.any():
            continue
        left = said.loc[rows, [*keys, "timestamp"]].reset_index(names="row")
        right = shown[[*keys, "timestamp"]].reset_index(names="exposure").dropna()
        found = pd.merge_asof(
            left.sort_values("timestamp", kind="stable"),
            right.sort_values("timestamp", kind="stable"),
            on="timestamp",
            by=keys,
        )
        out[found["row"]] = found["exposure"].fillna(-1).astype(int)
    return out


def _sums(
    shown: pd.DataFrame, said: pd.DataFrame, users: pd.Series, experiment: Experiment
) -> pd.DataFrame:
    """said: attributed feedback."""
    clicked = said[said["action"].isin(experiment.clicks)].drop_duplicates("exposure")
    converted = said["user_id"][said["action"].isin(experiment.conversions)].unique()
    scored = said[said["action"].isin(experiment.scores)].groupby("user_id")["value"]
    sums = users.to_frame("variant").assign(users=1)
    sums["exposures"] = shown.groupby("user_id").size()
    sums["clicked_exposures"] = clicked.groupby("user_id").size()
    sums["converted"] = sums.index.isin(converted).astype(int)
    sums["scores"] = scored.count()
    sums["score_sum"] = scored.sum()
    return sums.fillna(0)


def _counts(fates: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    counts = {name: int((fates == name).sum()) for name in names}
    assert sum(counts.values()) == len(fates), "rows got lost"
    return counts


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for own in counts:
        total.update(own)  # keeps zeros, which + would drop
    return dict(total)


def _hours(waited: pd.Series) -> pd.Series:
    return waited.dt.total_seconds() / 3600
