"""Where the data of a night came from and went, as OpenLineage events (openlineage.io). They never
fail a night.

A job is a night, and each of its stages; a dataset is what a stage wrote, the logs that were read
and the model that was published. Ids follow from place and content, so an event that is sent twice
is the same event. Sent are names, counts of rows and bytes, and times; no row, no id of a user.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from llmaug.config import Config
from llmaug.config.names import run_folder
from llmaug.core.contents import read_manifest, read_object
from llmaug.core.formats import utc_now
from llmaug.core.sources import resolve_uri
from llmaug.core.storage import Storage
from llmaug.errors import UserError

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

KEY_ENV = "OPENLINEAGE_API_KEY"
_PRODUCER = "llmaug"
_TIMEOUT_S, _TRIES = 10.0, 3


def send_lineage(
    config: Config, storage: Storage, run_id: str, error: str | None, say: Callable[[str], None]
) -> bool:
    """Post the events of a run to `tracking.openlineage_url`, if there is one; whether all arrived.

    error: what ended the night; None where it came to its end. say: called with what went wrong.
    """
    url = config.tracking.openlineage_url
    if url is None:
        return False
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.transport.http import (
            ApiKeyTokenProvider,
            HttpConfig,
            HttpTransport,
            TokenProvider,
        )
    except ImportError:
        say("tracking: OpenLineage is not installed: pip install 'llmaug[openlineage]'")
        return False
    key = os.environ.get(KEY_ENV)
    auth = ApiKeyTokenProvider({"api_key": key}) if key else TokenProvider({})
    http = HttpConfig(url=url, timeout=_TIMEOUT_S, auth=auth, retry={"total": _TRIES - 1})
    client = OpenLineageClient(transport=HttpTransport(http))
    try:
        for event in events(config, storage, run_id, error):
            client.emit(event)
    except (OSError, RuntimeError, ValueError, UserError) as failure:
        say(f"tracking: {url} did not take the lineage: {type(failure).__name__}")
        return False
    return True


def events(
    config: Config, storage: Storage, run_id: str, error: str | None = None
) -> Iterator[RunEvent]:
    """START and COMPLETE of every finished stage of a run in order, then of the night itself
    (FAIL, with an `error`)."""
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import error_message_run, parent_run

    namespace, folder = config.tracking.openlineage_namespace, run_folder(run_id)
    night = _uuid(storage.uri(folder))
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(night), job=parent_run.Job(namespace, config.name)
    )
    begun, ended = [], []
    names = read_object(storage, folder, "run.json").get("stages", [])
    for name in names:
        manifest = read_manifest(storage, f"{folder}/{name}")
        if manifest is None:
            continue
        end = datetime.fromisoformat(manifest["finished_utc"])
        start = end - timedelta(seconds=manifest["seconds"])
        own = _uuid(storage.uri(folder), name, manifest["fingerprint"])
        run, job = Run(own, {"parent": parent}), Job(namespace, f"{config.name}.{name}")
        read = _read(config, storage, run_id, manifest)
        written = _written(storage, run_id, manifest)
        for state, when in ((RunState.START, start), (RunState.COMPLETE, end)):
            yield RunEvent(
                eventType=state, eventTime=when.isoformat(), run=run, job=job, inputs=read,
                outputs=written, producer=_PRODUCER,
            )  # fmt: skip
        begun.append(start)
        ended.append(end)
    now = datetime.fromisoformat(utc_now())
    states = [(RunState.START, min(begun, default=now))]
    facets: dict[str, Any] = {}
    if error:
        states.append((RunState.FAIL, now))
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "Python")
    else:
        states.append((RunState.COMPLETE, max(ended, default=now)))
    for state, when in states:
        yield RunEvent(
            eventType=state, eventTime=when.isoformat(), run=Run(night, facets),
            job=Job(namespace, config.name), producer=_PRODUCER,
        )  # fmt: skip


def _read(config: Config, storage: Storage, run_id: str, manifest: Mapping[str, Any]) -> list[Any]:
    """Datasets that a stage read."""
    from openlineage.client.event_v2 import InputDataset

    uris = [storage.uri(run_folder(run_id), name) for name in manifest["inputs"]]
    if manifest["stage"] == "ingest":
        own = config.ingest
        tables = [own.path, *(table.path for table in (own.items, own.users) if table)]
        uris += [resolve_uri(path, storage).root for path in tables]
    return [InputDataset(*_named(uri)) for uri in uris]


def _written(storage: Storage, run_id: str, manifest: Mapping[str, Any]) -> list[Any]:
    """Datasets that a stage wrote: its folder, and the model that it published."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    rows = sum(part["rows"] for part in manifest["parts"])
    size = sum(file["bytes"] for file in manifest.get("files", {}).values())
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rows, size)
    place = storage.uri(run_folder(run_id), manifest["stage"])
    found = [OutputDataset(*_named(place), outputFacets={"outputStatistics": statistics})]
    if published := manifest["counts"].get("uri"):
        found.append(OutputDataset(*_named(published)))
    return found


def _named(uri: str) -> tuple[str, str]:
    """(namespace, name) of a dataset, as OpenLineage names what lies in S3 and in folders."""
    scheme, _, rest = uri.rpartition("://")
    if scheme != "s3":
        return "file", rest
    bucket, _, key = rest.partition("/")
    return f"s3://{bucket}", key or "/"


def _uuid(*names: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(names)))
