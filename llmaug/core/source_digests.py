"""What files from outside hold: not where they lie, nor when they were written.

Logs that are moved, copied or touched are the same logs. On S3 the ETag says so; a local file is
read once for its digest, which is remembered beside the run while its size and time stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmaug.core.contents import read_object
from llmaug.core.sources import Source
from llmaug.core.storage import Storage

_WORTH_A_NOTE = 2**30


def identities(
    storage: Storage,
    memory: tuple[str, ...],
    place: Storage,
    sources: Iterable[Source],
    note: Callable[[str], None] = lambda text: None,
) -> list[list[Any]]:
    """[name below the configured folder, size, digest or ETag, hive folders] of each source.

    memory: names of the JSON object in `storage` that keeps the digests of local files.
    """
    sources = list(sources)
    digests = {source.path: source.version for source in sources}
    if place.is_local:
        kept = read_object(storage, *memory)
        known = {path: facts for path, facts in kept.items() if isinstance(facts, list)}
        new = [s for s in sources if known.get(s.path, [])[:2] != [s.size, s.version]]
        num_bytes = sum(source.size for source in new)
        if num_bytes > _WORTH_A_NOTE:
            note(f"{len(new):,} files ({num_bytes / 1e9:,.1f} GB) are read for their digests")
        with ThreadPoolExecutor(8) as pool:
            for source, found in zip(new, pool.map(_digest_of, new), strict=True):
                known[source.path] = [source.size, source.version, found]
        if new:
            storage.write_json(known, *memory)
        digests = {source.path: known[source.path][2] for source in sources}
    return [[s.name, s.size, digests[s.path], s.partition] for s in sources]


def _digest_of(source: Source) -> str:
    """Of a file that cannot be read its time: ingest says what is wrong with it."""
    try:
        with open(source.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return source.version
