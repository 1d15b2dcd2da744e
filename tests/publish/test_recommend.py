"""Recommendations of a published model, for one user."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmaug.core.storage import Storage
from llmaug.publish.recommend import for_user
from tests.nights import make_night, without_ray
from tests.tables import histories


@pytest.mark.parametrize("include_seen", [False, True])
def test_one_user_gets_what_the_batch_would_give(
    include_seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """u1 had a and b of the three items."""
    without_ray(monkeypatch)
    root = tmp_path / "root"
    rows = histories(u1="ab", u2="bca", u3="cab", u4="abc")
    make_night(root, tmp_path, rows, recommend={"include_seen": include_seen, "k": 4})
    storage, folder = Storage(str(root)), "runs/night/recommendations"
    batch = [
        row["item_id"]
        for part in storage.parts(folder)
        for row in storage.read_part(folder, part).to_pylist()
        if row["user_id"] == "u1"
    ]
    one = [row["item_id"] for row in for_user(storage, "recommender", "u1", 4)["items"]]
    assert one == batch
    assert set(one) == ({"a", "b", "c"} if include_seen else {"c"})
