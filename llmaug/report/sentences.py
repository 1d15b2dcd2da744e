"""What the figures say, in words: the same in the page and in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmaug.arms.arms import AUGMENTED, REAL, SHARDS
from llmaug.config import Config
from llmaug.evaluate.bootstrap import interval_text
from llmaug.evaluate.figures import candidate_of, private_text
from llmaug.evaluate.gate import membership_objections
from llmaug.publish.card import LEFT

GOOD, BAD, UNCLEAR = "good", "bad", "unclear"


def arm_in_question(gate: dict[str, Any], training: dict[str, Any]) -> str:
    """The arm that the gate decided on; `real`, which goes out then, where it was not trained."""
    candidate = candidate_of(gate)
    return candidate if candidate in training else REAL


def trained_text(metrics: dict[str, Any]) -> str:
    """What the arm in question learned from."""
    events, arm = metrics["events"], arm_in_question(metrics["gate"], metrics["training"])
    synthetic = f" and {events['synthetic']:,} synthetic" if events["synthetic"] else ""
    soft = f" ({events['soft']:,} real ones with soft targets)" if events["soft"] else ""
    return f"Arm {arm} was trained on {events['real']:,} real{synthetic} events{soft}"


def unfinished(training: dict[str, dict[str, Any]]) -> str | None:
    """That arm `real` might still have gained: then others gain by their training."""
    late = [
        seed["seed"]
        for seed in training["real"]["seeds"]
        if seed["steps"] and seed["best_step"] == seed["steps"]
    ]
    if not late:
        return None
    return (
        f"Arm real was best at its very last step (seed {', '.join(late)}): it might have gone on "
        "to gain. Raise train.num_steps until it does not, or a lift says only which arm learns "
        "faster."
    )


def generator_text(found: dict[str, Any]) -> str:
    """What to expect of such a generator."""
    ranks = (
        f"The generator itself ranks the next real event of validation users with NDCG@10 "
        f"{found['validation_ndcg']:.4f}, the recommender on real events alone with "
        f"{found['real_validation_ndcg']:.4f}."
    )
    if found["ahead"]:
        return f"{ranks} What it knows beyond the recommender, synthetic events can teach."
    return (
        f"{ranks} It knows no more than the recommender, so expect little of its events: train it "
        "longer, or give it what the recommender does not read (ingest.items with titles and "
        "tags, vocabulary.text_encoder, lm.user_attributes)."
    )


def covers(interval: dict[str, Any]) -> str:
    """What the intervals are about."""
    of_all = interval.get("sampled_from")
    sampled = of_all and (
        f" The users are a random sample of {of_all:,} (evaluate.max_users): the intervals cover "
        "that, too."
    )
    if interval["num_seeds"] > 1:
        return (
            "Intervals: paired bootstrap over users and over the "
            f"{interval['num_seeds']} seeds (train.seeds).{sampled or ''}"
        )
    return (
        "Intervals: paired bootstrap over users. They do not cover the choice of seed: there "
        f"is only one (train.seeds).{sampled or ''}"
    )


def verdict(metrics: dict[str, Any]) -> str:
    """What became of the run."""
    candidate, passed = candidate_of(metrics["gate"]), metrics["gate"]["passed"]
    said = f"Arm {candidate} passed the gate." if passed else f"The gate refused arm {candidate}."
    published = metrics["published"]
    if not published:
        return f"{said} Nothing was published."
    if published.get("outcome") == LEFT:
        kept = f"Arm {published['arm']} is kept as a version."
        return f"{said} Nothing was published: {published['why']}. {kept}"
    if passed:
        return f"Arm {candidate} passed the gate and is published."
    if force := published["forced"]:
        when = f"It was published by force at {force['forced_utc']}"
        return f"{said} {when}: {force['reason']}"
    return "The model trained on real events alone is published."


@dataclass(frozen=True)
class Answer:
    """To one question of the first screen."""

    question: str
    headline: str
    detail: str
    state: str = UNCLEAR


def answers(metrics: dict[str, Any], config: Config) -> list[Answer]:
    """Did it help, for whom, is it safe, what did it cost?"""
    return [_help(metrics, config), _whom(metrics, config), _safe(metrics, config), _cost(metrics)]


def main_metric(metrics: dict[str, Any]) -> str | None:
    """The one that gate and headline look at; None where nothing was measured."""
    return next(iter(metrics["arms"][REAL]), None)


def lift_over(metrics: dict[str, Any], arm: str, against: str = REAL) -> dict[str, Any] | None:
    name = main_metric(metrics)
    wanted = (arm, against, name)
    found = (e for e in metrics["lifts"] if (e["arm"], e["against"], e["metric"]) == wanted)
    return next(found, None)


def _help(metrics: dict[str, Any], config: Config) -> Answer:
    question, candidate = "Did it help?", candidate_of(metrics["gate"])
    lift = lift_over(metrics, candidate)
    if lift is None or lift["relative"] is None:
        return Answer(question, "Not measured", metrics["gate"]["reasons"][0])
    state = GOOD if lift["low"] > 0 else UNCLEAR
    if lift["high"] is not None and lift["high"] < 0:
        state = BAD
    if metrics["num_users"] < config.gate.min_users:
        state = UNCLEAR
    said = {GOOD: "a gain", BAD: "a loss", UNCLEAR: "this may be chance"}[state]
    detail = f"{lift['metric']} of arm {candidate} over real events alone, on held-out events of "
    detail += f"{metrics['num_users']:,} users. 95% interval {interval_text(lift)}: {said}."
    return Answer(question, f"{lift['relative']:+.1%}", detail, state)


def _whom(metrics: dict[str, Any], config: Config) -> Answer:
    question, candidate = "For whom?", candidate_of(metrics["gate"])
    found = [own for own in metrics["segments"] if own["arm"] == candidate and "difference" in own]
    if not found:
        return Answer(question, "Not measured", "No segments of users were compared.")
    least = config.gate.min_segment_users
    parts = [own for own in found if own["num_users"] >= least]
    small = f"Fewer than {least} users (gate.min_segment_users) and not counted: " \
            f"{', '.join(own['segment'] for own in found if own not in parts)}."  # fmt: skip
    if not parts:
        return Answer(question, "Too few users", small)
    better = [own["segment"] for own in parts if own["difference"]["low"] > 0]
    worse = [own["segment"] for own in parts if own["difference"]["high"] < 0]
    told = [f"{what}: {', '.join(own)}." for what, own in (("Better", better), ("Worse", worse))
            if own]  # fmt: skip
    rest = len(parts) - len(better) - len(worse)
    told.append(f"In {rest} of {len(parts)} segments the interval holds zero.")
    told += [small] if len(parts) < len(found) else []
    headline = f"Better in {len(better)} of {len(parts)}"
    headline += f", worse in {len(worse)}" if worse else ", worse in none"
    return Answer(question, headline, " ".join(told), BAD if worse else GOOD if better else UNCLEAR)


def _safe(metrics: dict[str, Any], config: Config) -> Answer:
    question, training = "Is it safe?", metrics["training"]
    arm = arm_in_question(metrics["gate"], training)
    if not any(_synthetic(own) for own in training.values()):
        return Answer(question, "Nothing generated", "No synthetic event was trained on.", GOOD)
    if not _synthetic(training[arm]):
        detail = f"Arm {arm} was trained on no synthetic event."
        return Answer(question, "Real events alone", detail, GOOD)
    audit = metrics["privacy"] if SHARDS[arm] == AUGMENTED else None
    if not audit:
        detail = f"The {training[arm]['synthetic']:,} synthetic events of arm {arm} were not "
        return Answer(question, "Not audited", f"{detail}looked through for copies.")
    allowed, limit = config.gate.max_identifying_share, config.gate.max_membership_auc
    told = membership_objections(audit, config.gate)
    passes = audit["identifying_share"] <= allowed and not told
    detail = (
        f"{audit['identifying']:,} of {audit['synthetic']:,} synthetic histories hold a run of "
    )
    detail += f"{audit['run_len']} events that fewer than {audit['min_run_users']} real users have "
    detail += f"(at most {allowed:.2%} may)."
    if found := audit.get("membership"):
        most = "" if limit is None else f"; its lower end may be {limit:.3f} at most"
        detail += f" Who was trained on is told with an AUC of {found['auc']:.3f} "
        detail += f"({found['low']:.3f} to {found['high']:.3f}; chance: 0.5{most})."
    elif told:
        detail += " Whether it can be told who was trained on was not measured, and "
        detail += "gate.max_membership_auc is set."
    if spent := metrics.get("private"):
        guarantee = private_text(spent)
        detail += f" {guarantee[0].upper()}{guarantee[1:]}."
    headline = f"{audit['identifying_share']:.2%} identify somebody"
    headline += ", members can be told" if told and found else ""
    return Answer(question, headline, detail, GOOD if passes else BAD)


def _synthetic(trained: dict[str, Any]) -> bool:
    """Soft targets are the generator's, too."""
    return bool(trained["synthetic"] or trained.get("soft"))


def _cost(metrics: dict[str, Any]) -> Answer:
    speed, stages = metrics["throughput"], metrics["stages"].values()
    arm = arm_in_question(metrics["gate"], metrics["training"])
    minutes = sum(own["seconds"] for own in stages if not own["skipped"]) / 60
    peak = max(own["peak_rss_mb"] for own in stages)
    hours = f"{speed['engine_hours']:.3f} engine hours"
    detail = "In the currency of budget.price_per_hour. " if speed["cost"] else ""
    detail += f"{hours}, {minutes:,.1f} minutes in all stages tonight, at most {peak:,.0f} MB of "
    detail += f"memory; {metrics['events']['synthetic']:,} synthetic events in arm {arm}."
    headline = f"{speed['cost']:,.2f}" if speed["cost"] else f"{minutes:,.1f} minutes"
    return Answer("What did it cost?", headline, detail)
