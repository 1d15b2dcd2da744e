"""Personal data in free text: found by patterns, English and Chinese, and masked by its type.

The patterns and their checks are those that Presidio's recognizers have. Presidio itself brings
spaCy, thinc and some fifteen packages more, and would run these patterns alone: it is left out.
What has no pattern, such as names of people and postal addresses, is not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"


# Visa, Mastercard, American Express, Diners, UnionPay and Discover: how numbers begin, how long.
_CARD = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|6\d{15,18}", re.ASCII
)


def card_number(text: str) -> bool:
    """Whether it is the number of a payment card, with its check digit (Luhn; ISO/IEC 7812-1)."""
    number = re.sub(r"\D", "", text)
    if not _CARD.fullmatch(number):
        return False
    digits = [int(char) for char in number]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def cn_id(text: str) -> bool:
    """Whether an 18-digit number is that of a Chinese identity card (GB 11643-1999): a date of
    birth, and the check digit."""
    total = sum(int(char) * weight for char, weight in zip(text[:17], _WEIGHTS, strict=True))
    if _CHECKS[total % 11] != text[17].upper():
        return False
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    return born.year >= 1890


def _is_address(text: str) -> bool:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (found.is_unspecified or found.is_loopback)


def _always(text: str) -> bool:
    return True


def _is_phone(text: str) -> bool:
    """Ten to fifteen digits (E.164), and not one again and again."""
    digits = re.sub(r"\D", "", text)
    return 10 <= len(digits) <= 15 and len(set(digits)) > 2


# In this order: what stands earlier is not looked at again by what comes later.
PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("url_credentials", re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:]+:[^\s/@]+@\S+"), _always),
    (
        "email",
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}[@\uff20]"
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
        ),
        _always,
    ),
    ("cn_id_card", re.compile(r"(?<!\d)[1-9]\d{16}[\dXx](?![\dA-Za-z])", re.ASCII), cn_id),
    ("credit_card", re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])", re.ASCII), card_number),
    (
        "cn_mobile",
        re.compile(r"(?<![\d.])(?:(?:\+|00)86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?![\d])", re.ASCII),
        _always,
    ),
    (
        "phone",
        re.compile(
            r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
            r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}|0\d{2,3}-\d{7,8})(?![\w-])",
            re.ASCII,
        ),
        _is_phone,
    ),
    ("ip_address", re.compile(r"(?<![\w.:])(?:\d{1,3}\.){3}\d{1,3}(?![\w.:])", re.ASCII),
     _is_address),
    ("ip_address", re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:.])"),
     _is_address),
)  # fmt: skip
KINDS = tuple(dict.fromkeys(kind for kind, _, _ in PATTERNS))


def masked(text: str, counts: Counter[str]) -> str:
    """`text` with `<email>`, `<cn_mobile>` and so on in place of what was found; how many of each
    kind is added to `counts`."""
    if not _MAY_HOLD.search(text):  # most titles
        return text
    for kind, pattern, fits in PATTERNS:

        def mask(found: re.Match[str], kind: str = kind, fits: Callable = fits) -> str:
            if not fits(found[0]):
                return found[0]
            counts[kind] += 1
            return f"<{kind}>"

        text = pattern.sub(mask, text)
    return text


_MAY_HOLD = re.compile("[@\uff20]|://|[0-9][0-9 .-]{5}|(?::[0-9A-Fa-f]{0,4}){3}")


def mask_column(texts: pa.ChunkedArray | pa.Array, counts: Counter[str]) -> pa.Array:
    """The same of (N,) texts or nulls."""
    column = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    suspects = pc.fill_null(pc.match_substring_regex(column, _MAY_HOLD.pattern), False)
    if not pc.any(suspects).as_py():
        return column
    new = [masked(text, counts) for text in column.filter(suspects).to_pylist()]
    return pc.replace_with_mask(column, suspects, pa.array(new, column.type))
