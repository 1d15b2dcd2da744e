"""Text task `custom` of section `text.tasks`: a question of the user's own, and a judge."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Name
from llmaug.config.plan import SamplingConfig
from llmaug.config.text_task import TextTaskConfig

_FIELD = re.compile(r"[A-Za-z_]\w*")


class JudgeConfig(SamplingConfig):
    """A second question, about an answer: a score from 1 to 5."""

    template: str
    """Jinja2 template of the question. It has the fields of the row, and `answer`."""
    min_score: int = Field(default=3, ge=1, le=5)
    """Answers with a lower score are rejected (`low_score`)."""
    temperature: float = Field(default=0.1, gt=0)
    """Below 1: closer to the likeliest score."""


class CustomConfig(TextTaskConfig):
    """A question of your own about each item or user: each property of the answer becomes a
    column."""

    implementation = "llmaug.text.custom:task"

    kind: Literal["custom"] = "custom"
    """The task."""
    name: Name
    """Its folder below `text/`."""
    table: Literal["items", "users"] = "items"
    """What is asked about. items: fields item_id, title, description, tags, price; users: user_id
    and attributes."""
    template: str
    """Jinja2 template of the question, with the fields of the table: `{{ title }}`."""
    json_schema: dict[str, Any]
    """JSON schema of the answer: an object, all of whose properties are required. Give strings a
    maxLength, or an enum: then an answer cannot be endless."""
    judge: JudgeConfig | None = None
    """Score each answer by a second question. None: all that pass the filters are kept."""

    @property
    def asks_about(self) -> tuple[Literal["items", "users"], ...]:
        return (self.table,)

    @property
    def asks(self) -> str:
        return "\n".join([self.template, str(self.json_schema), *self._of_judge])

    @property
    def _of_judge(self) -> list[str]:
        return [self.judge.template] if self.judge else []

    @model_validator(mode="after")
    def _schema_is_of_an_object(self) -> CustomConfig:
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(self.json_schema)
        except SchemaError as error:
            raise ValueError(f"json_schema: no JSON schema: {error.message}") from error
        properties = self.json_schema.get("properties")
        if self.json_schema.get("type") != "object" or not properties:
            raise ValueError("json_schema: the answer is an object: type: object, and properties")
        if "$ref" in str(self.json_schema):
            raise ValueError("json_schema: $ref is not followed: write the schema out")
        for column, own in properties.items():
            if not _FIELD.fullmatch(column) or column in ("item_id", "user_id", "origin"):
                raise ValueError(
                    f"json_schema: property {column!r} becomes a column: letters, digits and _, "
                    "and not item_id, user_id or origin"
                )
            if not isinstance(own, dict):
                raise ValueError(
                    f"json_schema: property {column!r} is {own!r}: say what it is, such as "
                    "`type: string`"
                )
        return self

    @model_validator(mode="after")
    def _templates_can_be_read(self) -> CustomConfig:
        from jinja2 import TemplateSyntaxError
        from jinja2.sandbox import SandboxedEnvironment

        judge = self.judge.template if self.judge else ""
        for field, text in (("template", self.template), ("judge.template", judge)):
            try:
                SandboxedEnvironment().parse(text)
            except TemplateSyntaxError as error:
                raise ValueError(f"{field}: line {error.lineno}: {error.message}") from error
        return self
