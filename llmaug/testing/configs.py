"""What the config class of every kind must be."""

from __future__ import annotations

import pickle
from typing import Any

from llmaug.config import Kinds, Section, imported


def check_config(kinds: Kinds[Any], config: Section, *paths: str) -> None:
    """`paths`: names of the class variables that say where its code is."""
    kind = type(config)
    where = f"{kind.__module__}.{kind.__qualname__}"
    name = getattr(config, kinds.tag)
    try:
        found = kinds.find(name)
    except ValueError as error:
        raise AssertionError(
            f"{where}: a config that says `{kinds.tag}: {name}` must find this class: install its "
            f"package, entry point and all, or name it by its path: {error}"
        ) from error
    assert found is kind, f"{where}: `{kinds.tag}: {name}` is another class, {found}"
    stored = kinds.make(config.model_dump(mode="json"))
    assert stored == config, f"{where}: written as JSON and read again it is {stored}, not {config}"
    try:
        sent = pickle.loads(pickle.dumps(config))
    except Exception as error:
        raise AssertionError(f"{where}: it cannot be sent to workers: {error}") from error
    assert sent == config, f"{where}: workers are sent {sent}, not {config}"
    undescribed = [name for name, field in kind.model_fields.items() if not field.description]
    assert not undescribed, f"{where}: a docstring is missing under {', '.join(undescribed)}"
    for variable in paths:
        path = getattr(kind, variable, None)
        assert path, f"{where}: the class variable `{variable}` is missing: package.module:name"
        try:
            code = imported(path)
        except (ImportError, AttributeError, ValueError) as error:
            raise AssertionError(
                f"{where}: {variable} {path!r} cannot be imported: {error}"
            ) from error
        assert callable(code), f"{where}: {variable} {path} must be callable, and is {code!r}"
