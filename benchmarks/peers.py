"""SASRec of other libraries on the events of benchmarks/train.py; runs in their environments.

    python benchmarks/peers.py NAME TASK.json     # prints one line of JSON, writes scores.npy

TASK.json: {events: npz of user (N,), item (N,) (both from 0) and fold (N,) 0 train, 1 validation,
2 test, all sorted by user and time; scores: where to write the (users, items) scores after
training and validation events; seed, max_seconds, and the sizes}. All are trained on the training
events, stopped early by NDCG@10 on the validation events (seen items left out), and timed without
their validation. Needs numpy, and what the peer itself needs.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2


class Clock:
    """Times epochs (seconds of the CPU), validates after some of them, and says when to stop."""

    def __init__(self, task: dict[str, Any], events: Any, epochs_between: int) -> None:
        self._task, self._events, self._every = task, events, epochs_between
        self.seconds, self.epochs, self.best, self.best_epoch = 0.0, 0, -1.0, 0
        self.stopped, self.score_s = "patience", 0.0
        self._stale, self._begin = 0, 0.0

    def start(self) -> None:
        self._begin = time.process_time()

    def stop(self, scores_after: Callable[[list[int]], np.ndarray]) -> bool:
        """End of an epoch; True when training is over. The best scores are on disk."""
        self.seconds += time.process_time() - self._begin
        self.epochs += 1
        late = self.seconds > self._task["max_seconds"]
        if self.epochs % self._every and not late:
            return False
        found = ndcg_at_10(scores_after([TRAIN]), self._events)
        self._stale += 1
        if found > self.best:
            self.best, self.best_epoch, self._stale = found, self.epochs, 0
            begin = time.process_time()
            scores = scores_after([TRAIN, VALIDATION])
            self.score_s = time.process_time() - begin
            np.save(self._task["scores"], scores)
        if late:
            self.stopped = "time"
        return late or self._stale >= self._task["patience"]

    def report(self, targets_per_epoch: int, version: str) -> None:
        figures = {
            "version": version,
            "targets_per_s": round(self.epochs * targets_per_epoch / self.seconds, 1),
            "train_s": round(self.seconds, 1),
            "targets_per_epoch": targets_per_epoch,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "score_s": round(self.score_s, 2),
            "validation_ndcg": self.best,
            "stopped": self.stopped,
        }
        print(json.dumps(figures), flush=True)


def ndcg_at_10(scores: np.ndarray, events: Any) -> float:
    """Of the validation events, items of training left out; ties count against the target."""
    scores = scores.copy()
    seen, held = events["fold"] == TRAIN, events["fold"] == VALIDATION
    scores[events["user"][seen], events["item"][seen]] = -np.inf
    user, item = events["user"][held], events["item"][held]
    own = scores[user, item][:, None]
    rank = (~(scores[user] < own)).sum(1) - 1
    return float(np.where(rank < 10, 1 / np.log2(rank + 2.0), 0.0).mean())


# -- RecTools -------------------------------------------------------------------------------------

CLOCK: Any = None  # the trainer is deep-copied with its callbacks: what they share stands here
SCORES_AFTER: Any = None


def rectools(task: dict[str, Any], events: Any) -> None:
    from importlib.metadata import version

    import pandas as pd
    import pytorch_lightning as pl
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    global CLOCK, SCORES_AFTER
    CLOCK = Clock(task, events, epochs_between=5)
    num_users, num_items = int(events["user"].max()) + 1, task["num_items"]
    frame = pd.DataFrame(
        {
            Columns.User: events["user"],
            Columns.Item: events["item"].astype(str),
            Columns.Weight: 1.0,
            # The order of rows is the order of events.
            Columns.Datetime: pd.Timestamp("2020-01-01")
            + pd.to_timedelta(np.arange(len(events["user"])), unit="s"),
        }
    )

    def dataset(folds: list[int]) -> Any:
        return Dataset.construct(frame[np.isin(events["fold"], folds)])

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            CLOCK.start()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            trainer.should_stop = CLOCK.stop(lambda folds: SCORES_AFTER(module, folds))
            module.train()

    def make_trainer(**_: Any) -> Any:
        return pl.Trainer(
            max_epochs=1000, min_epochs=1, accelerator="cpu", devices=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            deterministic=True, callbacks=[Watch()],
        )  # fmt: skip

    pl.seed_everything(task["seed"], verbose=False)
    model = SASRecModel(
        n_blocks=task["num_layers"], n_heads=task["num_heads"], n_factors=task["dim"],
        session_max_len=task["history_len"], dropout_rate=task["dropout"], loss="softmax",
        lr=task["learning_rate"], batch_size=task["batch_size"], deterministic=True,
        get_trainer_func=make_trainer,
    )  # fmt: skip

    def scores_after(module: Any, folds: list[int]) -> np.ndarray:
        prepare = model.data_preparator
        data = prepare.transform_dataset_u2i(dataset(folds), np.arange(num_users))
        loader = prepare.get_dataloader_recommend(data, 256)
        users, items = module._get_user_item_embeddings(loader, "cpu")
        found = (users @ items.T).numpy()
        known = prepare.get_known_items_sorted_internal_ids()
        scores = np.full((num_users, num_items), -np.inf, np.float32)
        rows = data.user_id_map.external_ids.astype(int)
        columns = prepare.get_known_item_ids().astype(int)
        scores[np.ix_(rows, columns)] = found[:, known]
        return scores

    SCORES_AFTER = scores_after
    model.fit(dataset([TRAIN]))
    lengths = np.bincount(events["user"][events["fold"] == TRAIN])
    lengths = lengths[lengths >= 2]
    targets = int((np.minimum(lengths, task["history_len"] + 1) - 1).sum())
    CLOCK.report(targets, version("rectools"))


# -- RecBole --------------------------------------------------------------------------------------


def recbole(task: dict[str, Any], events: Any) -> None:
    from importlib.metadata import version

    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    clock = Clock(task, events, epochs_between=1)
    num_users, num_items = int(events["user"].max()) + 1, task["num_items"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it writes logs and models where it stands
        Path("logs").mkdir()
        Path("logs/logs.inter").write_text(
            "user_id:token\titem_id:token\ttimestamp:float\n"
            + "".join(
                f"{user}\t{item}\t{number}\n"
                for number, (user, item) in enumerate(
                    zip(events["user"].tolist(), events["item"].tolist(), strict=True)
                )
            )
        )
        settings = {
            "data_path": folder, "use_gpu": False, "seed": task["seed"], "reproducibility": True,
            "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": task["history_len"],
            "n_layers": task["num_layers"], "n_heads": task["num_heads"],
            "hidden_size": task["dim"], "inner_size": task["dim"],
            "hidden_dropout_prob": task["dropout"], "attn_dropout_prob": task["dropout"],
            "loss_type": "CE", "train_neg_sample_args": None,
            "learning_rate": task["learning_rate"], "train_batch_size": 2048,
            # The last event of a user is test, the one before validation: our split.
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO",
                          "mode": "full"},
            "show_progress": False, "state": "ERROR",
        }  # fmt: skip
        # Config reads the command line, too.
        sys.argv = sys.argv[:1]
        config = Config(model="SASRec", dataset="logs", config_dict=settings)
        init_seed(task["seed"], True)
        data = create_dataset(config)
        train_data, _, _ = data_preparation(config, data)
        model = SASRec(config, train_data.dataset)
        trainer = Trainer(config, model)
        tokens = [str(item) for item in range(num_items)]
        known = [token in data.field2token_id["item_id"] for token in tokens]
        columns = data.token2id("item_id", [t for t, k in zip(tokens, known, strict=True) if k])

        def scores_after(folds: list[int]) -> np.ndarray:
            chosen = np.isin(events["fold"], folds)
            user, item = events["user"][chosen], events["item"][chosen]
            scores = np.full((num_users, num_items), -np.inf, np.float32)
            model.eval()
            with torch.no_grad():
                for start in range(0, num_users, 256):
                    rows = range(start, min(start + 256, num_users))
                    own = [item[user == row][-task["history_len"] :] for row in rows]
                    history = torch.zeros(len(own), task["history_len"], dtype=torch.long)
                    for row, items in enumerate(own):
                        ids = data.token2id("item_id", [str(i) for i in items])
                        history[row, : len(items)] = torch.as_tensor(np.asarray(ids))
                    lengths = torch.tensor([max(1, len(items)) for items in own])
                    batch = {model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: lengths}
                    found = model.full_sort_predict(batch).numpy()
                    scores[np.ix_(list(rows), np.flatnonzero(known))] = found[:, columns]
            model.train()
            return scores

        over = False
        while not over:
            clock.start()
            trainer._train_epoch(train_data, clock.epochs, show_progress=False)
            over = clock.stop(scores_after)
        clock.report(len(train_data.dataset), version("recbole"))


PEERS = {"rectools": rectools, "recbole": recbole}

if __name__ == "__main__" and len(sys.argv) == 3:
    name, path = sys.argv[1:]
    given = json.loads(Path(path).read_text())
    with np.load(given["events"]) as arrays:
        loaded = {key: arrays[key] for key in arrays.files}
    PEERS[name](copy.deepcopy(given), loaded)
