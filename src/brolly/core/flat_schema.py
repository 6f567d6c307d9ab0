"""JSON Schema for tools in the subset that every client accepts: one flat object, no combinators.

Which constructs which client refuses is public record, for example
https://github.com/google-gemini/gemini-cli/issues/13326 ($ref) and
https://github.com/anthropics/claude-code/issues/40075 (root unions).
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from pydantic import BaseModel

Schema = dict[str, Any]

_DROPPED = frozenset(
    {"title", "$defs", "additionalProperties", "propertyNames", "exclusiveMinimum", "exclusiveMaximum"}
)


def _without_null(schema: Schema) -> Schema:
    """``X | None`` becomes ``X``: clients send objects as text when they meet a union."""
    real = [x for x in cast(list[Schema], schema["anyOf"]) if x != {"type": "null"}]
    rest = {k: v for k, v in schema.items() if k != "anyOf"}
    if len(real) == 1:
        return {**real[0], **rest}
    # A union that has no portable form is advertised by what it is mostly used as; validation stays exact.
    return {**rest, "type": _widest(real)}


def _widest(options: list[Schema]) -> str:
    kinds = {str(option.get("type", "object")) for option in options}
    return "object" if "object" in kinds else "string" if "string" in kinds else kinds.pop()


def _portable(schema: Any, defs: Schema) -> Any:
    if not isinstance(schema, dict):
        return schema
    node = cast(Schema, schema)
    if "$ref" in node:
        target = defs[str(node["$ref"]).rsplit("/", 1)[1]]
        node = {**target, **{k: v for k, v in node.items() if k != "$ref"}}
    if "anyOf" in node:
        node = _without_null(node)
        return _portable(node, defs)
    out: Schema = {}
    for key, value in node.items():
        if key in _DROPPED or (key == "default" and value in (None, [], {}, "")):
            continue
        if key == "const":
            out["enum"] = [value]
        elif key == "properties":
            out[key] = {name: _portable(prop, defs) for name, prop in value.items()}
        elif key == "items":
            out[key] = _portable(value, defs)
        else:
            out[key] = value
    return out


@cache
def properties_of(model: type[BaseModel]) -> tuple[dict[str, Schema], frozenset[str]]:
    """The model's fields as portable property schemas, and the names of the required ones."""
    raw = model.model_json_schema()
    defs: Schema = raw.get("$defs", {})
    schema = _portable({k: v for k, v in raw.items() if k != "description"}, defs)
    return schema.get("properties", {}), frozenset(schema.get("required", ()))


def flat_object(properties: dict[str, Schema], required: list[str]) -> Schema:
    """The root object of a tool's input schema."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    return schema
