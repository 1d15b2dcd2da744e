"""A password in a URL is refused where it comes in, and shown nowhere."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llmaug.config import Config, IngestConfig, parse_config
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.urls import has_password, redacted

_SECRET = "wJalr/XUtn+FEMI"
_WITH = {
    f"s3://AKIAEXAMPLE:{_SECRET}@bucket/prefix": "s3://***@bucket/prefix",
    f"http://admin:{_SECRET}@minio:9000": "http://***@minio:9000",
    f"https://{_SECRET.replace('/', '')}@host/x": "https://***@host/x",
    "http://9000:9000@host": "http://***@host",
    f"https://b.s3.amazonaws.com/x?a=1&X-Amz-Signature={_SECRET}&b=2": (
        "https://b.s3.amazonaws.com/x?a=1&X-Amz-Signature=***&b=2"
    ),
    f"https://account.blob.core.windows.net/x?sig={_SECRET}": (
        "https://account.blob.core.windows.net/x?sig=***"
    ),
}
_WITHOUT = (
    "s3://bucket/dt=2026-01-01T00:00:00/user@example.com",
    "http://minio:9000/a@b",
    "http://[::1]:9000/a@b",
    "s3://bucket/prefix",
    "/data/user:name@host/logs",
    "C:\\logs@home",
    "",
)


@pytest.mark.parametrize("url", _WITH)
def test_a_password_is_seen_and_hidden_whatever_stands_around_it(url: str) -> None:
    assert has_password(url)
    assert redacted(url) == _WITH[url]
    sentence = f"could not connect to '{url}': refused (ask x@example.com)"
    assert redacted(sentence) == sentence.replace(url, _WITH[url])


@pytest.mark.parametrize("url", _WITHOUT)
def test_an_address_without_a_password_stays_as_it_is(url: str) -> None:
    assert redacted(url) == url


@pytest.mark.parametrize("url", _WITH)
@pytest.mark.parametrize(
    "field",
    ["storage.root", "storage.endpoint_url", "ingest.path", "ingest.items.path", "lm.folder",
     "vocabulary.text_encoder", "ingest.columns.user_id"],
)  # fmt: skip
def test_no_field_of_the_config_takes_a_password(field: str, url: str) -> None:
    raw: Any = url
    for name in reversed(field.split(".")):
        raw = {name: raw}
    with pytest.raises(UserError, match=f"^config: {field}: a URL with a password") as caught:
        parse_config(raw)
    assert _SECRET not in str(caught.value) and "AKIAEXAMPLE" not in str(caught.value)


def test_a_pattern_may_read_passwords_out_of_urls() -> None:
    pattern = r"https://(\S+):(\S+)@shop/\?token=(?P<user_id>\w+)&item=(?P<item_id>\d+)"
    config = parse_config({"ingest": {"format": "text", "pattern": pattern}})
    assert config.ingest.pattern == pattern


@pytest.mark.parametrize("url", _WITH)
def test_no_config_of_the_python_api_does_either(url: str) -> None:
    for make in (lambda: Config(ingest={"path": url}),
                 lambda: Config(ingest=IngestConfig(path=url))):  # fmt: skip
        with pytest.raises(ValidationError, match="ingest.path: a URL with a password") as caught:
            make()
        assert _SECRET not in str(caught.value)


@pytest.mark.parametrize("url", _WITH)
def test_no_option_takes_a_password(url: str) -> None:
    """`--root`, LLMAUG_ROOT and `--endpoint-url` come here, and so do paths of the logs."""
    for arguments in ((url,), ("s3://bucket", url)):
        with pytest.raises(UserError, match="a URL with a password") as caught:
            Storage(*arguments)
        assert _SECRET not in str(caught.value)


def test_every_error_for_the_user_is_redacted() -> None:
    """Whatever library the text came from: s3fs and Arrow repeat the URL that they were given."""
    error = UserError(f"no bucket at s3://AKIAEXAMPLE:{_SECRET}@bucket: 403")
    assert str(error) == error.message == "no bucket at s3://***@bucket: 403"


def test_a_secret_that_is_a_key_of_the_config_is_not_repeated() -> None:
    with pytest.raises(UserError) as caught:
        parse_config({"ingest": {"columns": {f"s3://a:{_SECRET}@b": "x"}}})
    assert _SECRET not in str(caught.value)


def test_the_default_config_holds_nothing_to_hide() -> None:
    text = Config().model_dump_json()
    assert redacted(text) == text
