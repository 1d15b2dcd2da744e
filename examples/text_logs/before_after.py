"""Lines of text, two language models that write more of them, and a linear model before and after.

    python examples/text_logs/before_after.py text-demo

Writes 300 users' lines (用户1浏览了商品1: user 1 viewed item 1) to text-demo/logs, lets a GPT-style
and a BERT-style model learn them and write new ones (`gpt.yaml`, `bert.yaml`), trains
r(u, i) = sigmoid(beta^T [u; i]) on the real lines and on real and synthetic ones, and says what two
pairs score before and after, and whether that means anything. Some minutes; the same command goes
on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import llmaug
from llmaug.recommenders import JudgesPairs, load_recommender

HERE = Path(__file__).parent
PAIRS = [("用户1", "商品4"), ("用户2", "商品25")]
NUM_USERS, NUM_ITEMS, GROUP = 300, 40, 10


def lines(seed: int = 7) -> list[str]:
    """Users like one of four groups of ten items, and view it in turn with some leaps: what comes
    next can be learnt. Nobody real is in them."""
    rng = np.random.default_rng(seed)
    found = []
    for user in range(1, NUM_USERS + 1):
        item = rng.integers(NUM_ITEMS)
        seen: set[int] = set()
        for _ in range(rng.integers(5, 9)):
            if item not in seen:
                found.append(f"用户{user}浏览了商品{item + 1}")
                seen.add(int(item))
            leap = rng.integers(GROUP) if rng.random() < 0.3 else item % GROUP + 1
            item = item // GROUP * GROUP + leap % GROUP
    return found


def main(root: str) -> None:
    logs = Path(root, "logs")
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "lines.txt").write_text("\n".join(lines()) + "\n", encoding="utf-8")
    for name in ("gpt", "bert"):
        run = llmaug.run(HERE / f"{name}.yaml", root=root)
        print(f"\n== {name}: what it wrote")
        print(*sentences(run, 5), sep="\n")
        print("== r(u, i) before and after")
        before, after = (scores(run, arm) for arm in ("real", "augmented"))
        for (user, item), old, new in zip(PAIRS, before, after, strict=True):
            print(f"{user}, {item}: {old:.4f} -> {new:.4f}")
        print(verdict(run))


def sentences(run: llmaug.Run, num: int) -> list[str]:
    """Synthetic events that were kept, as lines like those of the log."""
    rows = run.table("filtered", ["user_id", "unit_id", "events"]).to_pylist()
    kept = [
        f"{row['user_id'] or '新用户' + row['unit_id'][:4]}浏览了{event['item_id']}"
        for row in rows
        for event in row["events"] or []
        if event["keep"]
    ]
    return kept[:num]


def scores(run: llmaug.Run, arm: str) -> list[float]:
    """r(u, i) in (0, 1) of the pairs by the model of an arm."""
    model, vocabulary, _ = load_recommender(run.storage, f"runs/{run.run_id}/model/{arm}/seed-1")
    assert isinstance(model, JudgesPairs)
    users, items = zip(*PAIRS, strict=True)
    tokens = vocabulary.encode(list(items)).tolist()
    found: list[float] = model.probability(model.score_pairs(list(users), tokens)).tolist()
    return found


def verdict(run: llmaug.Run) -> str:
    """What held-out events say: two pairs say nothing by themselves."""
    lift = run.metrics["lift"]["ndcg@10"]
    interval = f"{lift['relative']:+.1%} ({lift['low']:+.1%} to {lift['high']:+.1%})"
    if lift["low"] > 0:
        means = "better on held-out lines of real users"
    elif lift["high"] < 0:
        means = "worse on held-out lines of real users"
    else:
        means = "no better and no worse, as far as the held-out lines can tell"
    return (
        f"NDCG@10 {interval}: the model is {means}. The two scores above are two numbers: beta^T "
        "[u; i] adds what is true of the user to what is true of the item, so all users agree on "
        "the order of the items, and a pair's score is the item's popularity and the user's "
        "activity, not taste. `interaction: hadamard` in gpt.yaml lets them differ."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
