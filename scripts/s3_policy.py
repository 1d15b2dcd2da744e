"""The rights of a job on its bucket, from the list of folders that llmaug writes to.

    python scripts/s3_policy.py my-bucket/llmaug > policy.json

`infra/s3-policy.json` is what this prints for example-bucket/llmaug, and a test compares both.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from llmaug.config.names import LOGS, WRITTEN

_WRITING = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]


def policy(place: str) -> dict[str, Any]:
    """place: `bucket/prefix` of the root, or a bucket that is one."""
    place = place.removeprefix("s3://").strip("/")
    bucket, _, prefix = place.partition("/")
    bucket_arn, root = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{place}"
    below = {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"] if prefix else ["*"]}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ListBelowTheRoot",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": bucket_arn,
                "Condition": below,
            },
            {
                "Sid": "ReadTheLogs",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": f"{root}/{LOGS}/*",
            },
            {
                "Sid": "ReadAndWriteWhatRunsMake",
                "Effect": "Allow",
                "Action": _WRITING,
                "Resource": [f"{root}/{name}/*" for name in WRITTEN],
            },
        ],
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/s3_policy.py BUCKET/PREFIX")
    print(json.dumps(policy(sys.argv[1]), indent=2))
