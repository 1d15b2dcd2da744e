"""infra/terraform: the bucket is closed, and the roles may do what s3-policy.json says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest

INFRA = Path(__file__).parents[2] / "infra"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """{block: {type: {name: body}}} of main.tf, strings without their quotes."""
    parsed = hcl2.loads((INFRA / "terraform" / "main.tf").read_text())
    out: dict[str, Any] = {}
    for block in ("resource", "data", "variable", "output"):
        for entry in parsed[block]:
            for kind, body in _plain(entry).items():
                out.setdefault(block, {}).setdefault(kind, {}).update(body)
    out["locals"] = _plain(parsed["locals"][0])
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    quoted = isinstance(value, str) and value[:1] == value[-1:] == '"'
    return value[1:-1] if quoted else value


def only(blocks: Any) -> Any:
    (block,) = blocks if isinstance(blocks, list) else [blocks]
    return block


def replaced_in(expression: str) -> list[tuple[str, str]]:
    """(substring, replacement) of each replace() of two strings, the innermost first."""
    text = r'"((?:\\"|[^"])*)"'
    pairs = re.findall(rf", {text}, {text}\)", expression)
    assert len(pairs) == expression.count("replace(")
    return [(old.replace('\\"', '"'), new.replace('\\"', '"')) for old, new in pairs]


def replace(text: str, old: str, new: str) -> str:
    """As Terraform's function does it: a substring between slashes is a regular expression."""
    if len(old) > 1 and old[0] == old[-1] == "/":
        return re.sub(old[1:-1], lambda found: new, text)
    return text.replace(old, new)


def test_nobody_from_outside_reads_the_bucket(found: dict[str, Any]) -> None:
    block = found["resource"]["aws_s3_bucket_public_access_block"]["root"]
    for way in ("block_public_acls", "block_public_policy", "ignore_public_acls",
                "restrict_public_buckets"):  # fmt: skip
        assert block[way] is True
    policy = str(found["resource"]["aws_s3_bucket_policy"]["root"]["policy"])
    assert "aws:SecureTransport" in policy and "Deny" in policy and "s3:*" in policy


def test_what_is_written_is_encrypted_and_can_be_had_back(found: dict[str, Any]) -> None:
    resources = found["resource"]
    versioning = resources["aws_s3_bucket_versioning"]["root"]
    assert only(versioning["versioning_configuration"])["status"] == "Enabled"
    encryption = resources["aws_s3_bucket_server_side_encryption_configuration"]["root"]
    default = only(only(encryption["rule"])["apply_server_side_encryption_by_default"])
    assert default["sse_algorithm"] == "AES256"
    rules = resources["aws_s3_bucket_lifecycle_configuration"]["root"]["rule"]
    everything, runs = rules
    assert only(everything["noncurrent_version_expiration"])["noncurrent_days"] == 7
    assert only(everything["abort_incomplete_multipart_upload"])["days_after_initiation"] == 2
    # What is published, and the answers of all nights, stay.
    assert only(runs["filter"])["prefix"] == "${var.prefix}/runs/"
    assert "expiration" in runs and "expiration" not in everything


def test_a_job_has_the_rights_of_the_policy_for_its_own_bucket(found: dict[str, Any]) -> None:
    """The policy stands in s3-policy.json alone; terraform writes another root into it."""
    assert found["resource"]["aws_iam_role_policy"]["job"]["policy"] == "${local.job_policy}"
    values = found["locals"]
    assert values["shipped"] == '${file("${path.module}/../s3-policy.json")}'
    text = (INFRA / "s3-policy.json").read_text()
    for old, new in replaced_in(values["of_prefix"]):
        text = replace(text, old, new)
    assert values["job_policy"] == '${replace(local.of_prefix, "example-bucket", var.bucket)}'
    text = replace(text, "example-bucket", "my-data").replace("${var.prefix}", "shops/logs")
    listed, logs, made = json.loads(text)["Statement"]
    assert listed["Resource"] == "arn:aws:s3:::my-data"
    assert listed["Condition"]["StringLike"]["s3:prefix"] == ["shops/logs", "shops/logs/*"]
    assert logs["Resource"] == "arn:aws:s3:::my-data/shops/logs/logs/*"
    assert {arn.rpartition("/")[0] for arn in made["Resource"]} == {
        f"arn:aws:s3:::my-data/shops/logs/{folder}"
        for folder in ("runs", "published", "outcomes_cache", "clean_logs", "models", "datasets",
                       "tune", "comparisons", "forgotten")
    }  # fmt: skip


def test_the_reader_writes_nothing(found: dict[str, Any]) -> None:
    assert set(found["resource"]["aws_iam_role"]) == {"job", "reader"}
    policy = str(found["resource"]["aws_iam_role_policy"]["reader"]["policy"])
    assert set(re.findall(r"s3:\w+", policy)) - {"s3:prefix"} == {"s3:ListBucket", "s3:GetObject"}
    assert "/runs" not in policy and "/published/*" in policy


def test_pods_take_a_role_by_their_service_account_and_nobody_by_a_key(
    found: dict[str, Any],
) -> None:
    trust = str(found["data"]["aws_iam_policy_document"]["trust"])
    assert "sts:AssumeRoleWithWebIdentity" in trust and "system:serviceaccount:" in trust
    assert "StringEquals" in trust
    assert "aws_iam_access_key" not in found["resource"]
