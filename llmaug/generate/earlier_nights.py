"""What the outcomes cache answers of a plan, before any engine starts."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.formats import UNITS
from llmaug.core.stage import Context, map_parts
from llmaug.generate.outcome_cache import cache_folder, file_of, recall
from llmaug.generate.part_answer import OutcomeFolders, commit, in_order, keep, kept_of
from llmaug.plan.parts import PlanPart


def answer_from_cache(context: Context, folders: OutcomeFolders, parts: list[PlanPart]) -> None:
    """Of all parts that have no outcomes yet."""
    storage, folder = context.storage, f"{folders.outcomes}/_cache"
    known = storage.names(cache_folder(folders.generator))
    if not known:
        return
    done = set(storage.parts(folders.outcomes))
    by_source: dict[str, list[str]] = {}
    for part in parts:
        if part.name not in done:
            by_source.setdefault(part.source, []).append(part.name)
    work = partial(_answer_source, folders, by_source, known)
    hits = map_parts(context, folder, list(by_source), work, unit="sources looked up")
    context.progress.note(f"outcomes cache: {hits['cache_hits']:,} units answered")


def _answer_source(
    folders: OutcomeFolders, by_source: dict[str, list[str]], known: list[str], source: str
) -> dict[str, int]:
    """Commit the parts that the cache answers whole; keep what it has of the others, beside what
    was put aside of them: a part that is asked for some units alone (`retry-failed`) stays one, and
    what this run itself remembered of it is no answer to them."""
    storage, hits = folders.storage, 0
    parts = by_source[source]
    asked = {part: _unit_ids(folders, part) for part in parts}
    everything = pa.concat_arrays(list(asked.values()))
    aside = {part: kept_of(folders, part) for part in parts}
    own = {file_of(folders.run_id, part) for part, (*_, only) in aside.items() if only is not None}
    recalled = recall(storage, folders.generator, source, known, everything, own)
    for part in parts if recalled.num_rows else []:
        kept, counts, only = aside[part]
        open_ids = asked[part] if only is None else pa.array(only, pa.string())
        open_ids = open_ids.filter(pc.invert(pc.is_in(open_ids, kept["unit_id"].combine_chunks())))
        found = recalled.filter(pc.is_in(recalled["unit_id"], open_ids))
        if not found.num_rows:
            continue
        hits += found.num_rows
        answered = in_order(pa.concat_tables([kept, found]), asked[part])
        counts = {**counts, "cache_hits": counts.get("cache_hits", 0) + found.num_rows}
        rest = counts.get("left_out", 0) + counts.get("not_needed", 0)
        if answered.num_rows + rest == len(asked[part]):
            commit(folders, source, part, answered, counts)
        else:
            keep(folders, part, answered, counts, only)
    counts = {"cache_hits": hits}
    storage.write_part(pa.table({"source": [source]}), counts, f"{folders.outcomes}/_cache", source)
    return counts


def _unit_ids(folders: OutcomeFolders, part: str) -> pa.Array:
    units = folders.storage.read_part(folders.plan, part, ["unit_id"], UNITS)
    return units["unit_id"].combine_chunks()
