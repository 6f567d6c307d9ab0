"""Columns as JSON Schema: what their values look like when they are answered, and when they are written."""

from __future__ import annotations

import re
from typing import Any, Literal

from brolly.core.openapi import Json, either, ref
from brolly.data.constraint import must_be_sent
from brolly.data.plan import BOOL, BPCHAR, INT8, JSON, JSONB, NUMERIC, TIMESTAMPTZ, UUID, VARCHAR
from brolly.pg.catalog import Column, Enumeration, Snapshot, Table

Use = Literal["Row", "Insert", "Update"]

INTEGERS = {21: 16, 23: 32}
_DATE, _BYTEA, _REAL, _DOUBLE = 1082, 17, 700, 701
_FIRST_OF_USERS = 16384  # oids below belong to Postgres's own types
_VECTORS = ("vector", "halfvec")

_WHOLE = {"type": "string", "pattern": "^-?[0-9]{1,19}$"}
_EXACT = {"type": "string", "pattern": r"^(-?[0-9]+(\.[0-9]+)?|NaN|-?Infinity)$"}
_NOT_FINITE = {"enum": ["NaN", "Infinity", "-Infinity"]}
_BYTES = {"type": "string", "pattern": r"^\\x([0-9a-fA-F]{2})*$", "description": "Bytes in hexadecimal: \\x…"}
_NULL = {"type": "null"}


def component(name: str) -> str:
    """The name as one that a component may have; different names stay different."""
    return re.sub(r"[^A-Za-z0-9_]", lambda found: f"-{ord(found.group()):x}-", name)


def enumeration(found: Enumeration) -> Json:
    """The component of an enumerated type."""
    return {"type": "string", "enum": list(found.values)}


def record(snapshot: Snapshot, table: Table, use: Use, told: bool, seen: frozenset[str]) -> Json:
    """The object that a row is. ``told``: whether definitions are told; ``seen`` are the tables whose names are."""
    columns = [c for c in table.columns.values() if use == "Row" or c.writable]
    properties = {c.name: value(snapshot, c, use) for c in columns}
    for column in columns:
        if note := _note(table, column, told, seen):
            properties[column.name] = _noted(properties[column.name], note)
        if use == "Row" and not column.writable:
            properties[column.name] = {**properties[column.name], "readOnly": True}
    found: Json = {"type": "object", "properties": properties}
    required = [c.name for c in columns if use == "Row" or (use == "Insert" and must_be_sent(c))]
    if required:
        found["required"] = required
    if use != "Row":
        found |= {"additionalProperties": False, "minProperties": 1}
    return found


def _noted(schema: Json, note: str) -> Json:
    said = schema.get("description")
    return {**schema, "description": f"{said} {note}" if said else note}


def _note(table: Table, column: Column, told: bool, seen: frozenset[str]) -> str:
    said = ["Primary key."] if column.name in table.primary_key else []
    for key in table.foreign_keys:
        if column.name in key.columns and key.table in seen:
            said.append(f"Refers to {key.table}.{key.target[key.columns.index(column.name)]}.")
    if told and column.default is not None:
        said.append(f"Default: {column.default}.")
    return " ".join(said)


def value(snapshot: Snapshot, column: Column, use: Use) -> Json:
    """The value of a column."""
    found = _any_value(snapshot, column, use)
    return _nullable(found) if column.nullable else found


def _any_value(snapshot: Snapshot, column: Column, use: Use) -> Json:
    if column.category == "A":
        element = _scalar(snapshot, column.element_oid, column.type.removesuffix("[]"), use)
        return {"type": "array", "items": _nullable(element)}
    return _scalar(snapshot, column.base_oid, column.type, use)


def _nullable(schema: Json) -> Json:
    if not schema:
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], _NULL]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, _NULL]}


def _scalar(snapshot: Snapshot, oid: int, name: str, use: Use) -> Json:
    """A value by its type. Exact numbers are answered as texts, since a JSON number may lose digits."""
    if oid in snapshot.enums:
        return ref("schemas", f"{component(snapshot.enums[oid].name)}.Enum")
    if oid in INTEGERS:
        top = 2 ** (INTEGERS[oid] - 1)
        return {"type": "integer", "format": f"int{INTEGERS[oid]}", "minimum": -top, "maximum": top - 1}
    if oid == INT8:
        number = {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
        return _WHOLE if use == "Row" else either(number, _WHOLE)
    if oid == NUMERIC:
        return _EXACT if use == "Row" else either({"type": "number"}, _EXACT)
    if oid in (_REAL, _DOUBLE):
        number = {"type": "number", "format": "float" if oid == _REAL else "double"}
        return either(number, _NOT_FINITE)
    return _text(oid, name, use)


_FORMATS = {UUID: "uuid", _DATE: "date", TIMESTAMPTZ: "date-time"}


def _text(oid: int, name: str, use: Use) -> Json:
    if oid == BOOL:
        return {"type": "boolean"}
    if oid in (JSON, JSONB):
        return {}
    if oid in _FORMATS:
        return {"type": "string", "format": _FORMATS[oid]}
    if oid == _BYTEA:
        return _BYTES
    if oid in (VARCHAR, BPCHAR) and (length := _numbers(name)):
        return {"type": "string", "maxLength": length[0]}
    if name.split("(")[0] in _VECTORS:
        return _vector(name, use)
    return {"type": "string"} if oid < _FIRST_OF_USERS else {}


def _vector(name: str, use: Use) -> Json:
    text: Json = {"type": "string", "pattern": r"^\[.*\]$", "description": f"{name}, as [1,2,3]."}
    if use == "Row":
        return text
    numbers: Json = {"type": "array", "items": {"type": "number"}}
    if length := _numbers(name):
        numbers |= {"minItems": length[0], "maxItems": length[0]}
    return either(numbers, text)


def _numbers(name: str) -> list[int]:
    """The numbers in brackets after a type."""
    found: Any = re.search(r"\((\d+)(?:,\d+)?\)", name)
    return [int(found.group(1))] if found else []
