"""Kinds of recommender, behaviour model, strategy and filter: one class says all of a kind.

Such a class is a section of the config: its fields are the options of the kind, its class variables
say what it can do, and `implementation` where its code is, which is imported only where it is
used. Which kind a section is says its tag, `model` or `kind`: the name of one that comes with
llmaug, one that an installed package brings as an entry point, or the path of such a class in any
module that can be imported (`my_package.models:Mine`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


K = TypeVar("K", bound=BaseModel)


class Kinds(Generic[K]):
    """All kinds of one sort; as an annotation of a field, what makes its section of the right one.

    Mistakes of a section are told as of fields of its own. A field that only others have is
    refused with their names.
    """

    def __init__(
        self, sort: str, bases: tuple[type[K], ...], tag: str, group: str, *classes: type[K],
        default: str | None = None,
    ) -> None:  # fmt: skip
        """sort: what people call such a thing. bases: one of them is what a class inherits. group:
        of entry points. default: the kind of a section without a tag."""
        self.sort, self.tag, self._bases, self._group = sort, tag, bases, group
        self._own = {str(name_of(each, tag)): each for each in classes}
        self._default = default

    def __iter__(self) -> Iterator[type[K]]:
        """Those that come with llmaug."""
        return iter(self._own.values())

    @property
    def names(self) -> list[str]:
        """Of all that a config can name without a path."""
        return [*self._own, *_entry_points(self._group)]

    def find(self, name: str) -> type[K]:
        """The class of a kind. Raises ValueError that says which there are."""
        if name in self._own:
            return self._own[name]
        path = _entry_points(self._group).get(name, name)
        if not _DOTTED.fullmatch(path):
            close = difflib.get_close_matches(name, self.names, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ValueError(
                f"no {self.sort} is called {name!r}: {hint}there are {', '.join(self.names)}, and "
                "those of your own by their path, my_package.module:Class"
            )
        try:
            found = imported(path)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{self.sort} {path} cannot be imported: {error}. Install its package where the "
                "job runs, on all nodes"
            ) from error
        if not (isinstance(found, type) and issubclass(found, self._bases)):
            known = " or ".join(base.__name__ for base in self._bases)
            raise ValueError(
                f"{path} is no {self.sort}: a class that inherits {known} of llmaug.config is one"
            )
        return cast(type[K], found)

    def fields_of(self, raw: Any) -> set[str]:
        """Names of the fields that a section like `raw` may have; all where its kind is none."""
        try:
            return set(self._class_of(raw).model_fields)
        except ValueError:
            return {name for each in self for name in each.model_fields}

    def kept(self, base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """What stays of the section `base` where `changes` builds on it: for another kind, the
        fields that it has, too. Who builds on it cannot take back what stands there."""
        if self.tag not in changes or self.tag_of(base) == self.tag_of(changes):
            return dict(base)
        known = self.fields_of(changes)
        return {name: value for name, value in base.items() if name in known}

    def tag_of(self, raw: Mapping[str, Any]) -> Any:
        return raw.get(self.tag, self._default)

    def make(self, raw: Any) -> K:
        """The section `raw`, checked. Raises ValidationError or ValueError."""
        if isinstance(raw, self._bases):
            return raw
        found = self._class_of(raw)
        try:
            return found.model_validate({self.tag: self._default, **raw})
        except ValidationError as error:
            told = [self._told(problem, raw) for problem in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(found.__name__, told) from None

    def _class_of(self, raw: Any) -> type[K]:
        if not isinstance(raw, Mapping):
            raise ValueError(f"a mapping with `{self.tag}` and its fields is expected")
        name = self.tag_of(raw)
        if name is None:
            raise ValueError(f"`{self.tag}` is missing; there are {', '.join(self.names)}")
        if not isinstance(name, str):
            raise ValueError(f"{self.tag}: the name of a {self.sort} is expected")
        return self.find(name)

    def _told(self, problem: Any, raw: Mapping[str, Any]) -> InitErrorDetails:
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden" and len(problem["loc"]) == 1:
            field = str(problem["loc"][0])
            having = [name for name, each in self._own.items() if field in each.model_fields]
            kind, message = "unknown_key", unknown_key(field, sorted(self.fields_of(raw)))
            if having:
                message = (
                    f"a field of {self.tag} {' or '.join(having)}; {self.tag} "
                    f"{self.tag_of(raw)} has none of that name: leave it out"
                )
        text = message.replace("{", "{{").replace("}", "}}")
        return InitErrorDetails(
            type=PydanticCustomError(kind, text), loc=problem["loc"], input=problem["input"]
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        own: list[Any] = [handler.generate_schema(each) for each in self]
        dump: Callable[..., Any] = lambda value, info: value.model_dump(mode=info.mode)  # noqa: E731
        return core_schema.no_info_wrap_validator_function(
            lambda raw, _: self.make(raw),
            core_schema.union_schema(own),  # of the JSON schema alone
            serialization=core_schema.plain_serializer_function_ser_schema(dump, info_arg=True),
        )


def named_after(tag: str, cls: type[BaseModel], raw: Any) -> Any:
    """A section `raw` of `cls` that has a `name`: where it gives none, that of its kind."""
    if not isinstance(raw, dict) or raw.get("name"):
        return raw
    kind = str(raw.get(tag, name_of(cls, tag)))
    return {**raw, "name": kind.rpartition(":")[2]}


def imported(path: str) -> Any:
    """What `package.module:name` names. Raises ImportError or AttributeError."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def modules_of(*kinds: BaseModel, named: Sequence[str] = ("implementation",)) -> tuple[str, ...]:
    """Modules that decide what `kinds` do: those of the paths in the class variables `named`, and
    those of their classes. Of llmaug's classes only the values count: they are in fingerprints."""
    found = []
    for kind in kinds:
        found += [getattr(kind, name).partition(":")[0] for name in named]
        if type(kind).__module__.partition(".")[0] != "llmaug":
            found.append(type(kind).__module__)
    return tuple(dict.fromkeys(found))


def unknown_key(key: str, known: Sequence[str]) -> str:
    """What to say of a key that is none of the `known` ones."""
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"
    return f"unknown key; {hint}"


def name_of(kind: type[BaseModel], tag: str) -> str:
    """The name of a kind, as its class has it."""
    return str(kind.model_fields[tag].default)


@cache
def _entry_points(group: str) -> dict[str, str]:
    """{name: path} of what installed packages bring."""
    return {point.name: point.value for point in entry_points(group=group)}
