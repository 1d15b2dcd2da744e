"""Passwords in URLs: refused where one comes in, hidden wherever a URL is shown.

A URL is printed in errors, kept in run.json and shown by other programs' logs; a password in it
is no secret for long.
"""

from __future__ import annotations

import re

# What stands before the @ of scheme://user:password@host. AWS secrets hold / and +, so the
# password ends at the @, not at the first slash; a port and a path (host:9000/a@b) are none.
_USER = (
    r"(?P<scheme>\b[a-zA-Z][\w+.-]{0,20}://)"
    r"(?:[^/\s:@\[]{0,200}:(?!\d+(?:[/?#\s]|$))[^\s'\"]{0,500}|[^/\s@'\"\[]{1,500})@"
)
# Parameters by which signed URLs are opened (S3, GCS, Azure), and what people name so.
_PARAMETER = (
    r"(?P<name>[?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|"
    r"awsaccesskeyid|access_?key(?:_?id)?|secret(?:_?(?:access_?)?key)?|api_?key|key|"
    r"(?:access_?|session_?)?token|password|passwd|pwd)=)[^&\s'\"]+"
)
_USER_OF_URL = re.compile(_USER)
_PARAMETER_OF_URL = re.compile(r"(?<=\S)" + _PARAMETER, re.IGNORECASE)
ADVICE = (
    "a URL with a password in it; leave the password out and give it by the environment "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or the standard AWS files"
)


def has_password(text: str) -> bool:
    """Whether a URL in the text holds a user, a password or a signature."""
    return redacted(text) != text


def redacted(text: str) -> str:
    """The text, each password in its URLs replaced by ***."""
    if "://" not in text:
        return text
    return _PARAMETER_OF_URL.sub(r"\g<name>***", _USER_OF_URL.sub(r"\g<scheme>***@", text))
