"""The shape of JSON that other programs read: what is written is checked against it first."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class Contract(BaseModel):
    """An object with exactly these fields, of these types."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True,
        protected_namespaces=(),  # `model_digest` is a field of ours
    )  # fmt: skip

    @classmethod
    def keeps(cls, value: dict[str, Any]) -> dict[str, Any]:
        """`value`, as it is. Raises TypeError, naming the field, when it is not of this shape:
        then whoever made it, and not a user, is to mend it."""
        try:
            cls.model_validate(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, (cls.__name__, *problem["loc"])))
            raise TypeError(f"{where}: {problem['msg']} ({problem['input']!r})") from error
        return value


class Tally(Contract):
    """An object with these fields and, beside them, counts that what is counted gives a name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]

    prefixes: ClassVar[tuple[str, ...]] = ("",)
    """What such names begin with."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in self.__pydantic_extra__:
            if not name.startswith(self.prefixes):
                raise ValueError(f"{name} is neither a field nor a count of one of {self.prefixes}")
        return self
