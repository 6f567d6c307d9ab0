"""JSON Schema for tools in the subset that every client accepts: one flat object, no combinators.

Limits, formats and defaults are not advertised: each costs every session tokens, and the
server's own answer names what was wrong.

Which constructs which client refuses is public record, for example
https://github.com/google-gemini/gemini-cli/issues/13326 ($ref) and
https://github.com/anthropics/claude-code/issues/40075 (root unions).
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = ("description", "type", "enum", "items", "properties", "required")


def _without_null(schema: Schema) -> Schema:
    """``X | None`` becomes ``X``: clients send objects as text when they meet a union."""
    real = [x for x in cast(list[Schema], schema["anyOf"]) if x != {"type": "null"}]
    rest = {k: v for k, v in schema.items() if k != "anyOf"}
    if len(real) == 1:
        return {**real[0], **rest}
    # A union that has no portable form is advertised by what it is mostly used as; validation stays exact.
    return {**_widest(real), **rest}


def _widest(options: list[Schema]) -> Schema:
    kinds = [str(option.get("type", "object")) for option in options]
    for kind in ("object", "string", "number"):
        if kind in kinds:
            return {"type": kind}
    return options[0]


def _portable(node: Schema, defs: Schema) -> Schema:
    if "$ref" in node:
        target = defs[str(node["$ref"]).rsplit("/", 1)[1]]
        # A model's docstring is written for its readers, not for callers.
        target = {k: v for k, v in target.items() if k != "description"}
        return _portable({**target, **{k: v for k, v in node.items() if k != "$ref"}}, defs)
    if "anyOf" in node:
        return _portable(_without_null(node), defs)
    if "const" in node:
        node = {**node, "enum": [node["const"]]}
    out: Schema = {key: node[key] for key in _KEPT if key in node}
    if not all(isinstance(value, str) for value in out.get("enum", ())):
        del out["enum"]
    if "properties" in out:
        out["properties"] = {name: _portable(prop, defs) for name, prop in out["properties"].items()}
    if "items" in out:
        out["items"] = _portable(out["items"], defs)
    return out


@cache
def properties_of(model: type[BaseModel]) -> tuple[dict[str, Schema], frozenset[str]]:
    """The model's fields as portable property schemas, and the names of the required ones."""
    raw = model.model_json_schema()
    defs: Schema = raw.get("$defs", {})
    schema = _portable(raw, defs)
    return schema.get("properties", {}), frozenset(schema.get("required", ()))


def flat_object(properties: dict[str, Schema], required: list[str]) -> Schema:
    """The root object of a tool's input schema."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    return schema
