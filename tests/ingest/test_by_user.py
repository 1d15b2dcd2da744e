"""Which part has whose events: the same one every night; with more parts, one of a few."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from llmaug.ingest.by_user import parts_of, parts_with_the_same_users


@pytest.mark.parametrize(("then", "now"), [(4, 4), (4, 6), (3, 5), (1, 7), (8, 4)])
def test_users_of_a_part_are_found_where_there_were_other_numbers_of_parts(
    then: int, now: int
) -> None:
    users = pa.array([f"user {number}" for number in range(2000)])
    before, after = (parts_of(users, count).to_numpy() for count in (then, now))
    for part in range(now):
        looked_at = parts_with_the_same_users(f"part-{part:05d}", now, then)
        found = np.unique(before[after == part]).tolist()
        assert found == list(looked_at)  # all of them, and no part in vain
