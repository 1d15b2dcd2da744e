"""llmaug from Python: run the job, read what came of it, ask the published model.

Example: `python examples/api.py examples/text_logs/config.yaml text-demo`. The first time the run
takes a minute, then it is there and skipped.
"""

import sys

import llmaug


def main(config: str, root: str) -> None:
    run = llmaug.run(config, root=root)
    print({stage["name"]: stage["state"] for stage in run.status["stages"]})
    print(run.manifest("ingest")["counts"])
    if run.metrics["lift"]:
        print(run.metrics["lift"])

    # Tables are Arrow: whole, or part by part where they are large.
    events = run.table("ingest", columns=["user_id", "item_id", "timestamp"])
    print(events.to_pylist()[:3])
    print(sum(part.num_rows for part in run.parts("merged/real")), "events to train on")

    model = llmaug.load_published(root)
    print(model.card["version"], model.card["arm"])
    users = events["user_id"].unique().to_pylist()[:2]
    print(model.recommend(users, k=3).to_pylist())
    print(model.score([(users[0], "no such item")]).to_pylist())


if __name__ == "__main__":
    main(*sys.argv[1:])
