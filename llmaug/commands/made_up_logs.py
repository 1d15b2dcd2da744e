"""Small logs of a shop, a social network, a news site and a health portal, drawn from a model.

Nobody in them lives and nothing in them happened: they show a domain's config at work, and prove
nothing about lift. Users have interests (a Dirichlet mixture of topics that goes with an
attribute), items have a topic and a popularity (Zipf), and a visit is a few items of one topic; so
histories can be learnt from, by titles and attributes more than by ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.commands.datasets import Tables, write_logs
from llmaug.core.storage import Storage, digest

_START = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
_DAY_S, _LAYOUT = 86_400.0, 1
_USERS, _ITEMS, _DAYS, _VISITS = 400, 240, 28, 9


@dataclass(frozen=True)
class Domain:
    """What is particular to the logs of one."""

    topics: dict[str, tuple[str, ...]]
    """Of each the words that its items' titles are made of."""
    what: tuple[str, ...]
    """Kinds of items, the other half of a title."""
    chain: tuple[tuple[str, float], ...]
    """Actions, and how often each follows the one before it: a view, a cart, a purchase."""
    value: tuple[str, float, float]
    """What column `value` is of the last action: its name, median and sigma (log-normal)."""
    life_days: float | None = None
    """How long an item is read."""
    priced: bool = False
    festival_days: int = 0
    """The last so many days, with three times the visits."""


DOMAINS = {
    "ecommerce": Domain(
        topics={
            "kitchen": ("steel", "ceramic", "bamboo", "copper"),
            "camping": ("light", "waterproof", "folding", "thermal"),
            "audio": ("wireless", "studio", "compact", "bass"),
            "toys": ("wooden", "musical", "magnetic", "plush"),
            "garden": ("solar", "raised", "cordless", "ornamental"),
            "running": ("trail", "carbon", "cushioned", "reflective"),
        },
        what=("set", "kit", "bundle", "edition", "classic", "pro", "mini", "plus"),
        chain=(("view", 1.0), ("cart", 0.35), ("purchase", 0.6)),
        value=("amount", 25.0, 0.7),
        priced=True,
        festival_days=3,
    ),
    "social": Domain(
        topics={
            "climbing": ("granite", "boulder", "alpine", "crag"),
            "baking": ("sourdough", "rye", "brioche", "focaccia"),
            "synths": ("modular", "analog", "drone", "sequencer"),
            "cats": ("sleepy", "ginger", "rescued", "curious"),
            "cycling": ("gravel", "tandem", "cargo", "vintage"),
            "chess": ("endgame", "gambit", "blitz", "study"),
        },
        what=("photo", "question", "story", "guide", "clip", "poll", "thread", "meetup"),
        chain=(("view", 1.0), ("like", 0.45), ("comment", 0.3)),
        value=("seconds", 12.0, 0.8),
        life_days=10.0,
    ),
    "news": Domain(
        topics={
            "politics": ("senate", "treaty", "budget", "coalition"),
            "football": ("striker", "derby", "transfer", "cup"),
            "science": ("telescope", "enzyme", "fusion", "fossil"),
            "markets": ("bonds", "merger", "harvest", "tariff"),
            "culture": ("festival", "premiere", "gallery", "novel"),
            "weather": ("storm", "drought", "snow", "flood"),
        },
        what=("report", "analysis", "interview", "live", "opinion", "explained", "review", "brief"),
        chain=(("click", 1.0), ("read", 0.6)),
        value=("dwell_s", 45.0, 0.9),
        life_days=2.0,
    ),
    "health": Domain(
        topics={
            "sleep": ("rest", "routine", "light", "evening"),
            "nutrition": ("fibre", "breakfast", "vegetable", "salt"),
            "movement": ("walking", "balance", "strength", "stretching"),
            "skin": ("sun", "dryness", "care", "winter"),
            "mind": ("breathing", "stress", "focus", "mood"),
            "travel": ("vaccination", "altitude", "climate", "packing"),
        },
        what=("basics", "questions", "checklist", "facts", "myths", "seminar", "diary", "course"),
        chain=(("read", 1.0), ("save", 0.3), ("consult", 0.2)),
        value=("seconds", 60.0, 0.8),
    ),
}


def write_made_up(storage: Storage, name: str, seed: int = 7) -> dict[str, int]:
    """Logs of the domain `name` below `storage`, laid out as `llmaug datasets ml-100k` does.

    Returns counts of rows, days and files written; 0 files where they are there already.
    """
    wanted = digest([_LAYOUT, name, repr(DOMAINS[name]), seed])
    return write_logs(storage, f"made-up {name}", wanted, lambda: made_up(DOMAINS[name], seed))


def made_up(domain: Domain, seed: int) -> Tables:
    rng = np.random.default_rng(seed)
    topics = list(domain.topics)
    topic = rng.integers(len(topics), size=_ITEMS)
    born = np.zeros(_ITEMS)
    if domain.life_days:  # the first ones are there when the logs begin
        born = np.sort(rng.uniform(-domain.life_days, _DAYS, _ITEMS))
    popularity = rng.permutation(1.0 / np.arange(1, _ITEMS + 1) ** 0.8)

    groups = rng.integers(len(topics), size=_USERS)  # the attribute that says what one likes
    taste = rng.dirichlet(np.full(len(topics), 0.25), _USERS)
    taste = 0.5 * taste + 0.5 * np.eye(len(topics))[groups]

    rows: list[tuple[str, str, str, float, float | None]] = []
    for user in range(_USERS):
        days = _visit_days(domain, rng)
        for day in days:
            mine = rng.choice(len(topics), p=taste[user])
            there = (topic == mine) & (born <= day)
            if domain.life_days:
                there &= day <= born + domain.life_days
            chance = np.where(there, popularity, 0.0)
            if not chance.any():
                continue
            size = min(int(rng.integers(1, 4)), int(there.sum()))
            for item in rng.choice(_ITEMS, size, replace=False, p=chance / chance.sum()):
                day = _visit(domain, rng, rows, f"user{user}", f"item{item}", day)
    columns = zip(*sorted(rows, key=lambda row: row[3]), strict=True)
    users, items, actions, times, values = (list(column) for column in columns)
    micros = pa.array([round(at * 1e6) for at in times], pa.int64())
    events = pa.table(
        {
            "user_id": users, "item_id": items, "action": actions,
            domain.value[0]: pa.array(values, pa.float32()),
            "timestamp": micros.cast(pa.timestamp("us", "UTC")),
        }
    )  # fmt: skip
    return Tables(events, _catalogue(domain, rng, topic, born), _people(topics, groups, rng))


def _visit_days(domain: Domain, rng: np.random.Generator) -> np.ndarray:
    """When somebody comes, in days since the beginning."""
    quiet = _DAYS - domain.festival_days
    days = rng.uniform(0, quiet, max(2, rng.poisson(_VISITS)))
    busy = rng.poisson(3 * _VISITS * domain.festival_days / _DAYS)
    return np.sort(np.concatenate([days, rng.uniform(quiet, _DAYS, busy)]))


def _visit(
    domain: Domain, rng: np.random.Generator, rows: list, user: str, item: str, day: float
) -> float:
    """The actions with one item, to `rows`; the time of the last, in days."""
    last = len(domain.chain) - 1
    for number, (action, chance) in enumerate(domain.chain):
        if rng.random() > chance:
            break
        day = min(day + rng.exponential(90.0) / _DAY_S, _DAYS - 1e-6)
        value = rng.lognormal(np.log(domain.value[1]), domain.value[2]) if number == last else None
        rows.append((user, item, action, _START + day * _DAY_S, value))
    return day


def _catalogue(
    domain: Domain, rng: np.random.Generator, topic: np.ndarray, born: np.ndarray
) -> pa.Table:
    names, rows = list(domain.topics), []
    for item, own in enumerate(topic):
        name = names[own]
        words = rng.choice(domain.topics[name], 2, replace=False)
        row: dict[str, Any] = {
            "item_id": f"item{item}",
            "title": f"{words[0].capitalize()} {words[1]} {name} {rng.choice(domain.what)}",
            "tags": [f"topic:{name}"],
        }
        if domain.priced:
            row["price"] = round(float(rng.lognormal(np.log(domain.value[1]), 0.7)), 2)
        if domain.life_days:
            begin = _START + float(born[item]) * _DAY_S
            for column, at in (("from", begin), ("until", begin + domain.life_days * _DAY_S)):
                row[f"available_{column}"] = datetime.fromtimestamp(at, UTC)
        rows.append(row)
    return pa.Table.from_pylist(rows)


def _people(topics: list[str], groups: np.ndarray, rng: np.random.Generator) -> pa.Table:
    ages = rng.choice(["18-24", "25-34", "35-49", "50+"], len(groups))
    return pa.table(
        {
            "user_id": [f"user{number}" for number in range(len(groups))],
            "group": [f"came for {topics[own]}" for own in groups],
            "age": pa.array(ages.tolist()),
        }
    )
