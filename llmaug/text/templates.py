"""Templates of questions: Jinja2 in its sandbox, one a task, domain and language.

What is in a field is never read as a template: a template is rendered once, and what stands for a
field is put in as text. The sandbox keeps a template from whatever is no field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmaug.errors import UserError


def template_of(domain: str, kind: str, language: str) -> str:
    """Source of `templates/<domain>/<kind>.<language>.j2`. Raises UserError when there is none."""
    file = files("llmaug.text").joinpath("templates", domain, f"{kind}.{language}.j2")
    if not file.is_file():
        raise UserError(f"text.domain {domain}: it has no template for {kind} in {language}")
    return file.read_text(encoding="utf-8")


def render(source: str, fields: Mapping[str, Any], where: str) -> str:
    """The question. Raises UserError, naming `where`, for a field that there is not and for what
    the sandbox refuses."""
    try:
        return _ENVIRONMENT.from_string(source).render(**fields).strip()
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        known = ", ".join(sorted(fields))
        raise UserError(f"{where}: {error}; the fields are {known}") from error


def _as_json(value: Any) -> str:
    """Quoted, with the script of the text as it is: jinja's own escapes it all."""
    return json.dumps(value, ensure_ascii=False)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)
_ENVIRONMENT.filters["json"] = _as_json
