"""`published/<name>/CURRENT`: the version that serving follows, and what may move it.

It holds the card of one version below `published/<name>/versions/`, and moves by compare-and-swap
once that version is written whole. Readers look at it once and read on from that one folder, which
never changes.

By itself it only moves on: to the same run again, or to a later night. Nights are ordered by how
far their logs reach and when those were read, not by when they come to publish: one that is
resumed late is still the night that it was. A person may move it back (`roll_back`, or a force).
It then stays, whatever older nights are resumed, until a night comes that is later than all that
were current before.
"""

from __future__ import annotations

import contextlib
from typing import Any

from llmaug.config.names import PUBLISHED, check_name
from llmaug.core import formats
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.publish.card import LEFT

CARD = "published.json"
"""In a version's folder, written last: what it is, and that it is whole."""
PUBLISHED_NOW, ALREADY_CURRENT = "published", "already current"
_NEEDED = ("run_id", "version", "model_digest", "arm")  # by who reads a card
_TRIES = 5
_REMEMBERED = 20


def versions_folder(name: str) -> str:
    return f"{PUBLISHED}/{name}/versions"


def current(storage: Storage, name: str) -> dict[str, Any]:
    """The card of the published model. Raises UserError when there is none, or CURRENT is damaged
    or points to anything but a version of its own."""
    card, version = _look(storage, check_name(name, "--name"))
    if version is None:
        raise _nothing(storage, name)
    return card


def in_the_way(storage: Storage, name: str, card: dict[str, Any]) -> str:
    """Why CURRENT may not move to `card` by itself; empty when it may."""
    seen, version = _look(storage, name)
    return _objection(card, seen) if version is not None else ""


def run_before(storage: Storage, name: str, run_id: str) -> str | None:
    """The run whose model is current, or was before that of `run_id`; None where there is none."""
    seen, _ = _look(storage, check_name(name, "--name"))
    runs = [version.rpartition("/")[2].rpartition("-")[0] for version in pointed_to(seen)]
    if run_id in runs:
        runs = runs[len(runs) - runs[::-1].index(run_id) :]
    return runs[0] if runs else None


def advance(
    storage: Storage,
    name: str,
    card: dict[str, Any],
    by_force: str | None = None,
    objection: str = "",
) -> dict[str, str]:
    """Move CURRENT of model `name` to `card`, unless that would be a step back, or there is an
    `objection` and a model that can stay.

    by_force: the reason for which a person moves it all the same. Returns {outcome: published,
    already current or left, current: the version that is current now, why: it was left}. Raises
    UserError when others keep moving it at the same time.
    """
    for _ in range(_TRIES):
        seen, version = _look(storage, name)
        behind = _objection(card, seen) if seen else ""
        if seen and seen["version"] == card["version"]:
            return _done(ALREADY_CURRENT, seen)
        if seen and by_force is None and (why := behind or objection):
            return _done(LEFT, seen, why)
        held = {"held": _held(card, seen, by_force)} if behind else {}
        if _put(storage, name, _pointing(card, pointed_to(seen)) | held, version):
            return _done(PUBLISHED_NOW, card)
    raise _crowded(storage, name)


def roll_back(storage: Storage, name: str, to: str | None = None) -> dict[str, Any]:
    """Point CURRENT of model `name` to the version before, or to version `to`, and hold it there
    until a later night; returns what CURRENT holds then.

    Raises UserError when there is no such version, or it is not whole.
    """
    name, to = check_name(name, "--name"), None if to is None else check_name(to, "--to")
    for _ in range(_TRIES):
        try:
            seen, version = _look(storage, name)
        except UserError:
            if to is None:
                raise
            seen, version = {}, storage.read_any(*_place(name))[1]
        if not seen and to is None:
            raise _nothing(storage, name)
        if not seen:  # damaged or gone: what it held was no later than the latest version
            seen = {"night": max((_night(card) for card in cards(storage, name)), default=())}
        to = to or _before(storage, name, seen)  # once: a repeated try goes no further back
        card = read_version(storage, name, to)
        past = pointed_to(seen)
        if card["version"] in past:  # what was current after it is not to come back
            past = past[past.index(card["version"]) :]
        moved = _pointing(card, past) | {"held": _held(card, seen, "rolled back")}
        if _put(storage, name, moved, version):
            return moved
    raise _crowded(storage, name)


def read_version(storage: Storage, name: str, version: str) -> dict[str, Any]:
    """The card of a version that is whole. Raises UserError when there is none."""
    folder = f"{versions_folder(name)}/{version}"
    there = storage.names(folder)
    card = _card(storage, storage.read_any(folder, CARD)[0], folder, CARD)
    missing = [file for file in (card or {}).get("files", ()) if file not in there]
    if card is None or missing:
        what = f"{', '.join(missing)} is missing" if missing else f"no whole version ({CARD})"
        raise UserError(f"{storage.uri(folder)}: {what}; versions here: {_known(storage, name)}")
    return {**card, "version": folder}


def _look(storage: Storage, name: str) -> tuple[dict[str, Any], str | None]:
    """(what CURRENT holds, its version for `swap`); ({}, None) where there is none."""
    found, version = storage.read_any(*_place(name))
    if version is None:
        return {}, None
    card, damage = _card(storage, found, *_place(name)), "is damaged"
    if card is not None:
        folder, _, step = card["version"].rpartition("/")
        if folder == versions_folder(name) and step not in ("", ".", ".."):
            return card, version
        damage = f"points to {card['version']!r}, no version of its own"
    raise UserError(
        f"{storage.uri(*_place(name))} {damage}. Point it to a version: `llmaug publish "
        f"--rollback --to VERSION --name {name}`; versions here: {_known(storage, name)}"
    )


def _card(storage: Storage, found: Any, *names: str) -> dict[str, Any] | None:
    """`found` at `names` if it is a card; None where it is damaged. Raises UserError for one of
    a later llmaug."""
    card = found if isinstance(found, dict) else {}
    if not all(isinstance(card.get(field), str) for field in _NEEDED):
        return None
    card = formats.CARD.upgraded(card, storage.uri(*names))
    return card if isinstance(card.get("night"), list) else None


def _objection(card: dict[str, Any], seen: dict[str, Any]) -> str:
    held = seen.get("held")
    if held and _night(card) <= tuple(held["night"]):
        return (
            f"{_short(seen)} was made current by hand ({held['reason']}, {held['since_utc']}), and "
            "this night is no later than those that were current before"
        )
    if held or card.get("run_id") == seen.get("run_id") or _night(card) >= _night(seen):
        return ""
    if _night(seen) > (formats.utc_now(),):  # a clock was wrong: nothing would be newer for long
        return ""
    return f"{_short(seen)} is newer"


def _night(card: dict[str, Any]) -> tuple[str, ...]:
    return tuple(card["night"])


def _held(card: dict[str, Any], seen: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """Why and since when CURRENT stays: until a night comes that is later than `night`."""
    now = formats.utc_now()
    nights = [_night(card), _night(seen), tuple(seen.get("held", {}).get("night", ()))]
    return {
        "reason": reason,
        "since_utc": now,
        "from": seen.get("version"),
        "night": list(min(max(nights), (now,))),  # none was read later than now
    }


def pointed_to(seen: dict[str, Any]) -> list[str]:
    """The versions that CURRENT pointed to, the last one first."""
    found = [seen.get("version"), seen.get("previous"), *seen.get("earlier", [])]
    return [version for version in found if version]


def _pointing(card: dict[str, Any], versions: list[str]) -> dict[str, Any]:
    """What CURRENT holds when it moves to `card` after `versions`."""
    past = [version for version in versions if version != card["version"]]
    return {**card, "previous": past[0], "earlier": past[1:_REMEMBERED]} if past else card


def _put(storage: Storage, name: str, value: dict[str, Any], version: str | None) -> bool:
    if version is None:
        return storage.create(value, *_place(name))
    return storage.swap(value, version, *_place(name))


def _before(storage: Storage, name: str, seen: dict[str, Any]) -> str:
    if before := pointed_to(seen)[1:]:
        return before[0].rpartition("/")[2]
    raise UserError(
        f"{storage.uri(PUBLISHED, name)}: no version was current before; name one with --to. "
        f"Versions here: {_known(storage, name)}"
    )


def _known(storage: Storage, name: str) -> str:
    names = storage.names(versions_folder(name))
    shown = ", ".join(names[-_REMEMBERED:]) or "none"
    return f"... {shown}" if len(names) > _REMEMBERED else shown


def cards(storage: Storage, name: str) -> list[dict[str, Any]]:
    """Those of all whole versions that can be read."""
    folder, found = versions_folder(name), []
    for version in storage.names(folder):
        place = folder, version, CARD
        with contextlib.suppress(UserError):  # of a later llmaug
            found.append(_card(storage, storage.read_any(*place)[0], *place))
    return [card for card in found if card]


def _done(outcome: str, card: dict[str, Any], why: str = "") -> dict[str, str]:
    return {"outcome": outcome, "current": card["version"], "why": why}


def _short(card: dict[str, Any]) -> str:
    return str(card["version"]).rpartition("/")[2]


def _place(name: str) -> tuple[str, str, str]:
    return PUBLISHED, name, "CURRENT"


def _nothing(storage: Storage, name: str) -> UserError:
    return UserError(
        f"{storage.uri(PUBLISHED, name)}: no published model here. Run the job first "
        "(`llmaug run --config ... --root ...`), or give the right --root and --name"
    )


def _crowded(storage: Storage, name: str) -> UserError:
    place = storage.uri(*_place(name))
    return UserError(f"{place}: others are publishing at the same time; try again")
