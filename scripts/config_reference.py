"""The page `reference/config.md`: every field of the config, from the schema that checks it.

MkDocs calls `on_files` (`hooks` in mkdocs.yml). `python scripts/config_reference.py` prints the
page.
"""

from __future__ import annotations

import json
from typing import Any

from llmaug.config import Config

PAGE = "reference/config.md"
INTRODUCTION = """# Config

Every section and field of the YAML, made from the schema that `llmaug run` checks it with
(`llmaug config schema` prints that as JSON). Only what differs from a default needs to stand in a
config; `llmaug config check --config FILE` prints it whole. An unknown key is an error.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the page to the files that MkDocs builds."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=reference()))
    return files


def reference() -> str:
    """The page as Markdown: a table for each model, sections in the order of `Config`."""
    schema = Config.model_json_schema()
    models: dict[str, Any] = schema["$defs"]
    sections = {name: models_in(field) for name, field in schema["properties"].items()}
    plain = {name: schema["properties"][name] for name, found in sections.items() if not found}
    page = [INTRODUCTION, "## Top level\n", _table(plain)]
    for section, found in sections.items():
        if not found:
            continue
        told: set[str] = set()
        if len(found) == 1:
            told.add(found[0])
            page += _chapter(f"## {section}", models[found[0]])
            found = _below(models[found[0]])
        else:  # a kind of its own for each model
            page.append(f"## {section}\n")
        while found:  # what the section is made of, such as the strategies of `plan`
            name = found.pop(0)
            if name not in told:
                told.add(name)
                page += _chapter(f"### {section}: {name}", models[name])
                found += _below(models[name])
    return "\n".join(page)


def _chapter(heading: str, model: dict[str, Any]) -> list[str]:
    return [f"{heading}\n", model.get("description", "") + "\n", _table(model["properties"])]


def _table(fields: dict[str, Any]) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "required"
        cells = [f"`{name}`", f"`{_type(field)}`", default, field.get("description", "")]
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(field: dict[str, Any]) -> str:
    """A field's type and limits in a few words: `integer, >= 1`, `a or b`, `list of string`."""
    if "$ref" in field:
        return _name(field["$ref"])
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(_type(each) for each in field[union])
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    kind = field.get("format") or field.get("type", "any")
    if kind == "array":
        kind = f"list of {_type(field.get('items', {}))}"
    elif kind == "object" and isinstance(field.get("additionalProperties"), dict):
        kind = f"map to {_type(field['additionalProperties'])}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[name]:g}" for name, sign in signs.items() if name in field]
    return ", ".join([kind, *limits])


def models_in(field: Any) -> list[str]:
    """Names of the models that `field` refers to, wherever in it."""
    if isinstance(field, dict):
        own = [_name(field["$ref"])] if "$ref" in field else []
        return own + [name for each in field.values() for name in models_in(each)]
    if isinstance(field, list):
        return [name for each in field for name in models_in(each)]
    return []


def _below(model: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(models_in(list(model["properties"].values()))))


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[-1]


if __name__ == "__main__":
    print(reference())
