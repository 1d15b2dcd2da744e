"""s3fs with one layer of retries, a bound on every wait, and conditional puts that tell the truth.

As it comes, s3fs repeats what botocore has repeated already, and aiohttp waits without end for a
server that takes no bytes of an upload. Here a request is tried TRIES times, with pauses of up to
1, 2, 4, 8 and 16 s, and a try ends after LLMAUG_S3_READ_TIMEOUT_S (15) seconds without an answer.
So storage that refuses connections is given up after 16 to 31 s and storage that never answers
after about 2 minutes. Where one request in ten fails, one in a million fails TRIES times.
An upload gets as much time again for every 8 MiB: on a link slower than that, set the variable.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from typing import Any

import aiohttp
import botocore.exceptions
import botocore.parsers
from botocore.exceptions import ClientError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from llmaug.errors import UserError

TRIES = 6
FIRST_PAUSE_S = 1.0
CONNECT_TIMEOUT_S = 5.0
_UPLOAD_STEP = 8 * 2**20
_WRITER = "llmaug-writer"

_UNANSWERED = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.parsers.ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
)
_TRANSIENT_STATUSES = (429, 500, 502, 503, 504)  # not 501: such a server will never do it
_TRANSIENT_CODES = (
    "ConditionalRequestConflict",  # another conditional write at this moment
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
)


def connect(endpoint_url: str | None) -> S3:
    """The filesystem at `endpoint_url` (None: AWS), shared by all who ask for the same."""
    return S3(
        endpoint_url=endpoint_url,
        use_listings_cache=False,
        config_kwargs={
            "retries": {"total_max_attempts": 1, "mode": "standard"},  # `_call_s3` repeats
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": float(os.environ.get("LLMAUG_S3_READ_TIMEOUT_S", 15)),
            "max_pool_connections": 64,  # a request that waits for its turn is on the clock too
        },
    )


class S3(S3FileSystem):
    """S3FileSystem whose requests all go through the `_call_s3` below.

    Raises UserError when storage does not answer; else what s3fs raises (FileNotFoundError,
    PermissionError, OSError).
    """

    retries = TRIES
    """How often s3fs asks again for the rest of an open file whose body broke off."""

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        await self.set_session()
        function = getattr(await self.get_s3(kwargs.get("Bucket")), method)
        arguments = self._get_s3_method_kwargs(function, *akwarglist, **kwargs)
        limit_s = self._limit_s(len(kwargs.get("Body") or b""))
        failure: Exception | None = None
        for number in range(TRIES):
            await _pause(number)
            try:
                async with asyncio.timeout(limit_s):
                    answer = await function(**arguments)
                if answer.get("Errors"):  # delete_objects answers 200 and lists what is left
                    raise ClientError({"Error": answer["Errors"][0]}, method)
                return answer
            except ClientError as error:
                ended = method == "complete_multipart_upload" and _code(error) == "NoSuchUpload"
                if failure and ended:
                    return {}  # a try before went through and its answer was lost
                if not _is_transient(error):
                    raise translate_boto_error(error) from error
                failure = error
            except _UNANSWERED as error:
                failure = error
        assert failure
        where = f"{kwargs.get('Bucket', '')}/{kwargs.get('Key', kwargs.get('Prefix', ''))}"
        raise self._silent(where, failure) from failure

    call_s3 = sync_wrapper(_call_s3)

    async def _read_object(self, path: str) -> tuple[bytes, str]:
        bucket, _, key = path.partition("/")
        failure: Exception | None = None
        for number in range(TRIES):
            await _pause(number)
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key)
            try:
                async with answer["Body"] as body:
                    return await body.read(), answer["ETag"]
            except _UNANSWERED as error:
                failure = error
        assert failure
        raise self._silent(path, failure) from failure

    read_object = sync_wrapper(_read_object)
    """(bytes, ETag) of an object by a single GET: s3fs would read a large one in pieces, which
    another writer may change in between, and gives no ETag."""

    async def _isfile(self, path: str) -> bool:
        # s3fs says no to storage that does not answer, and pyarrow asks before it opens a file.
        try:
            return bool((await self._info(path))["type"] == "file")
        except FileNotFoundError:
            return False

    def put_if(self, path: str, data: bytes, **condition: str) -> bool:
        """Put if `condition` (IfNoneMatch="*" or IfMatch=ETag) holds; False when it does not."""
        bucket, _, key = path.partition("/")
        place, writer = {"Bucket": bucket, "Key": key}, uuid.uuid4().hex
        try:
            self.call_s3("put_object", Body=data, Metadata={_WRITER: writer}, **place, **condition)
            return True
        except OSError as error:
            if _code(error.__cause__) not in ("PreconditionFailed", "NoSuchKey"):
                raise
        # A put whose answer was lost is put again and meets its own object: ours bears our mark.
        try:
            there = self.call_s3("head_object", **place)
        except FileNotFoundError:
            return False
        return bool(there["Metadata"].get(_WRITER) == writer)

    def _limit_s(self, num_bytes: int) -> float:
        """Seconds for one try: the read time-out, and as much for every 8 MiB of an upload."""
        return float(self.config_kwargs["read_timeout"] * (1 + num_bytes / _UPLOAD_STEP))

    def _silent(self, path: str, failure: Exception) -> UserError:
        return UserError(
            f"s3://{path}: storage does not answer: {str(failure) or 'no answer in time'} "
            f"({TRIES} tries). Check the endpoint ({self.endpoint_url or 'AWS'}), the network and "
            "the server; `llmaug doctor` tests them. Then run the same command again: finished "
            "parts are kept"
        )


async def _pause(number: int) -> None:
    """Before try `number`: twice as long each time, and at random so that workers spread out."""
    if number:
        await asyncio.sleep(FIRST_PAUSE_S * 2 ** (number - 1) * random.uniform(0.5, 1))


def _code(error: BaseException | None) -> str:
    return str(error.response["Error"].get("Code")) if isinstance(error, ClientError) else ""


def _is_transient(error: ClientError) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in _TRANSIENT_STATUSES or _code(error) in _TRANSIENT_CODES
