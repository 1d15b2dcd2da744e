"""Names that become folders: of runs, published models and their versions, behaviour models.

One rule for all of them, so that a name means one place, the same on a disk and on S3: it begins
with a letter or a digit, goes on with those and `.`, `_`, `-`, and fits beside a digest into a
file name. Letters of every script are welcome. They are kept in Unicode's composed form: a
decomposed e with an accent looks the same and is another key on S3.
"""

from __future__ import annotations

import unicodedata

from llmaug.errors import UserError

RUNS, PUBLISHED, LOGS, CLEAN_LOGS = "runs", "published", "logs", "clean_logs"
WRITTEN = (
    RUNS, PUBLISHED, "outcomes_cache", CLEAN_LOGS, "models", "datasets", "tune", "comparisons",
    "forgotten",
)  # fmt: skip
"""Folders of the root that llmaug writes to: a job needs rights on these, and no others (lists of
`llmaug recommend --to` go where one says)."""
_TAKEN = (*WRITTEN, LOGS)
"""Those that nothing else may be put into."""
_MAX_CHARACTERS = 128
_MAX_BYTES = 200  # disks take 255 of a file name, and a version has a digest behind its run


def check_name(name: str, what: str = "") -> str:
    """`name`, composed. Raises UserError unless it may be the name of a folder.

    what: the option that it came by, for the message.
    """
    composed = unicodedata.normalize("NFC", name)
    if not _is_name(composed):
        shown = repr(name if len(name) <= 60 else f"{name[:57]}...")
        raise UserError(
            f"{what} {shown}".lstrip() + " cannot be a folder's name: it begins with a letter or a "
            f"digit and has only letters, digits, '.', '_' and '-', at most {_MAX_CHARACTERS} "
            f"({_MAX_BYTES} bytes in UTF-8)"
        )
    return composed


def check_folder(path: str, what: str) -> str:
    """`path` of a folder below the root for somebody's own output: names with `/` between.
    Raises UserError for anything else, and for the folders that llmaug has a use for."""
    steps = [check_name(step, what) for step in path.split("/")]
    if steps[0].casefold() in _TAKEN:
        raise UserError(
            f"{what} {path!r}: {steps[0]} below the root is not for this; choose another folder"
        )
    return "/".join(steps)


def run_folder(run_id: str) -> str:
    """Folder of a run below the root. Raises UserError when that is no name."""
    return f"{RUNS}/{check_name(run_id, 'run id')}"


def _is_name(text: str) -> bool:
    if not 0 < len(text) <= _MAX_CHARACTERS or not _is_letter(text[0]):
        return False
    inner = all(_is_letter(c) or c in "._-" or unicodedata.category(c)[0] == "M" for c in text)
    return inner and len(text.encode()) <= _MAX_BYTES


def _is_letter(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] == "L" or kind == "Nd"
