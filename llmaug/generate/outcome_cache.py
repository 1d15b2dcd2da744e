"""Answers of earlier nights, by unit id: the same question to the same model is never paid
for twice.

`outcomes_cache/<generator>/<source>/<run>-<part>.parquet`. A source is what a part of the plan
was made from (one part of the users, or one range of sample numbers): tonight's units of a
source are looked up in the files of the same source, so a lookup reads little. When the number
of parts has changed since, all sources of the kind are read instead, a file at a time. Entries
that are used are written again with tonight's run, so old ones can be expired by a storage rule.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.formats import OUTCOMES
from llmaug.core.storage import Storage
from llmaug.schema import GENERATED, OUTCOME

FOLDER = "outcomes_cache"


def cache_folder(generator: str) -> str:
    return f"{FOLDER}/{re.sub('[^A-Za-z0-9._@-]', '_', generator)}"


def file_of(run_id: str, part: str) -> str:
    return f"{run_id}-{part}.parquet"


def remember(
    storage: Storage, generator: str, source: str, run_id: str, part: str, outcomes: pa.Table
) -> None:
    """Keep the generated ones among `outcomes` for other nights; failures may be tried again."""
    generated = outcomes.filter(pc.equal(outcomes["status"], GENERATED))
    if generated.num_rows:
        folder = f"{cache_folder(generator)}/{source}"
        storage.write_table(OUTCOMES.stamped(generated), folder, file_of(run_id, part))


def recall(
    storage: Storage,
    generator: str,
    source: str,
    sources: list[str],
    unit_ids: pa.Array,
    without: Collection[str] = (),
) -> pa.Table:
    """The first answer of each of `unit_ids`, units of `source`, that there is one of; `sources`
    are those that the cache has (`storage.names(cache_folder(generator))`), `without` files that
    are not looked at."""
    kind = _kind(source)
    found = [OUTCOME.empty_table()]
    for name in [source] if source in sources else [s for s in sources if _kind(s) == kind]:
        for file in storage.names(cache_folder(generator), name):
            if file.endswith(".parquet") and file not in without:
                answers = storage.read_table(
                    cache_folder(generator), name, file, stored=OUTCOMES
                ).select(OUTCOME.names)
                found.append(answers.filter(pc.is_in(answers["unit_id"], value_set=unit_ids)))
    return first_of_each(pa.concat_tables(found, promote_options="permissive"))


def first_of_each(outcomes: pa.Table) -> pa.Table:
    """`outcomes` without rows whose unit_id stood in an earlier row."""
    row = pa.array(range(outcomes.num_rows), pa.int64())
    keyed = pa.table({"unit_id": outcomes["unit_id"], "row": row})
    first = keyed.group_by("unit_id").aggregate([("row", "min")])["row_min"]
    return outcomes.take(first.take(pc.sort_indices(first)))


def _kind(source: str) -> str:
    return source.split(".")[0]
