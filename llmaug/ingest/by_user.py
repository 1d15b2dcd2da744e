"""Which part a user's events are in: by a hash of the id, the same one every night."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from llmaug.ingest.cleaning import id_hash


def parts_of(user_ids: pa.Array, num_parts: int) -> pa.Array:
    """(N,) user ids to (N,) int32 numbers of parts, from 0."""
    return pa.array((id_hash(user_ids) % np.uint64(num_parts)).astype(np.int32))


def number_of(part: str) -> int:
    """From 0, of a part of events."""
    return int(part.rsplit("-", 1)[1])


def parts_with_the_same_users(part: str, num_parts: int, others: int) -> range:
    """Numbers of those among `others` parts that may have users of `part`, one of `num_parts`:
    hashes that agree modulo both agree modulo what divides both."""
    step = math.gcd(num_parts, others)
    return range(number_of(part) % step, others, step)
