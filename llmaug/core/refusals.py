"""What a filesystem raises, as a message with the place and the fix."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from llmaug.errors import UserError


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what a filesystem raises into a message with the place and the fix."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise UserError(
            f"{uri}: no permission: {error}. Check the folder's owner or the AWS credentials "
            "(AWS_ACCESS_KEY_ID, AWS_PROFILE) and their policy (infra/s3-policy.json)"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{uri}: the disk is full. Free space and run the same command again: "
                "finished parts are kept"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EROFS):
            raise UserError(f"{uri}: cannot write here: {error.strerror}") from error
        if error.errno == errno.EISDIR:
            raise UserError(f"{uri}: a folder lies where a file belongs; remove it") from error
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{uri}: a name is too long for this disk; shorten it") from error
        if error.errno == errno.ELOOP:
            raise UserError(f"{uri}: the links here lead round in a circle") from error
        if error.errno and not uri.startswith("s3://"):
            raise UserError(f"{uri}: the disk refused: {error.strerror}") from error
        if uri.startswith("s3://"):
            raise UserError(
                f"{uri}: storage refused: {error}. Check the bucket and the endpoint; "
                "`llmaug doctor` tests them"
            ) from error
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("botocore", "aiobotocore"):
            raise UserError(
                f"{uri}: cannot ask storage: {error}. Check the credentials, the region and the "
                "endpoint; `llmaug doctor` tests them"
            ) from error
        raise
