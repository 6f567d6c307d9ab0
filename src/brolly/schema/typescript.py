"""The tables as TypeScript types, in the form that the clients of PostgREST's query language are generic over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from brolly.pg.catalog import Column, ForeignKey, Function, Snapshot, Table

Use = Literal["Row", "Insert", "Update"]

_BOOL, _INT8, _NUMERIC = 16, 20, 1700
_JSON = (114, 3802)
_NUMBERS = (21, 23, 700, 701)
_FIRST_OF_USERS = 16384  # oids below belong to Postgres's own types

_HEAD = """\
export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]
"""

_TAIL = """
type Public = Database["public"]
type Relations = Public["Tables"] & Public["Views"]

export type Tables<Name extends keyof Relations> = Relations[Name] extends { Row: infer Row } ? Row : never
export type TablesInsert<Name extends keyof Public["Tables"]> = Public["Tables"][Name] extends { Insert: infer Row }
  ? Row
  : never
export type TablesUpdate<Name extends keyof Public["Tables"]> = Public["Tables"][Name] extends { Update: infer Row }
  ? Row
  : never
export type Enums<Name extends keyof Public["Enums"]> = Public["Enums"][Name]
"""

# An object type without keys: {} would take anything.
_NOTHING = "{ [_ in never]: never }"


def typescript(snapshot: Snapshot) -> str:
    """The module: ``Database``, short names for its parts, and the values of enumerated types."""
    tables = [line for table in snapshot.tables.values() for line in _table(snapshot, table)]
    enums = [
        f"{_key(e.name)}: {' | '.join(map(_text, e.values))}"
        for e in sorted(snapshot.enums.values(), key=lambda e: e.name)
    ]
    public = [
        *_object("Tables", tables),
        *_object("Views", [line for view in snapshot.views.values() for line in _view(snapshot, view)]),
        *_object("Functions", [line for found in snapshot.functions.values() for line in _function(snapshot, found)]),
        *_object("Enums", enums),
        *_object("CompositeTypes", []),
    ]
    # The version of PostgREST whose query language is spoken here, which decides what clients infer.
    body = ['__InternalSupabase: { PostgrestVersion: "12" }', *_object("public", public)]
    lines = ["export type Database = {", *_indented(body), "}"]
    return _HEAD + "\n" + "\n".join(lines) + "\n" + _TAIL + "\n" + "\n".join(_constants(snapshot)) + "\n"


def _constants(snapshot: Snapshot) -> Iterable[str]:
    values = [
        f"{_key(e.name)}: [{', '.join(map(_text, e.values))}],"
        for e in sorted(snapshot.enums.values(), key=lambda e: e.name)
    ]
    inner = ["Enums: {", *_indented(values), "},"] if values else ["Enums: {},"]
    yield "export const Constants = {"
    yield from _indented(["public: {", *_indented(inner), "},"])
    yield "} as const"


def _table(snapshot: Snapshot, table: Table) -> list[str]:
    columns = list(table.columns.values())
    body = [
        *_object("Row", [_property(snapshot, c, "Row") for c in columns]),
        *_object("Insert", [_property(snapshot, c, "Insert") for c in columns]),
        *_object("Update", [_property(snapshot, c, "Update") for c in columns]),
        *_relationships(snapshot, table),
    ]
    return _object(_key(table.name), body)


def _view(snapshot: Snapshot, table: Table) -> list[str]:
    """As a table; what cannot be written through it is left out."""
    columns, view = list(table.columns.values()), table.view
    body = _object("Row", [_property(snapshot, c, "Row") for c in columns])
    if view is not None and view.insertable:
        body += _object("Insert", [_property(snapshot, c, "Insert") for c in columns])
    if view is not None and view.updatable:
        body += _object("Update", [_property(snapshot, c, "Update") for c in columns])
    return _object(_key(table.name), [*body, *_relationships(snapshot, table)])


def _function(snapshot: Snapshot, found: Sequence[Function]) -> list[str]:
    """A function that can be called by the names of its arguments; several of one name are a choice."""
    forms = [_signature(snapshot, one) for one in found if one.plain and all(a.name for a in one.arguments)]
    return [f"{_key(found[0].name)}: {' | '.join(forms)}"] if forms else []


def _signature(snapshot: Snapshot, function: Function) -> str:
    arguments = "; ".join(
        f"{_key(a.name)}{'?' if a.default is not None else ''}: {_type(snapshot, a.value, 'Insert')}"
        for a in function.arguments
    )
    given = f"{{ {arguments} }}" if arguments else "Record<PropertyKey, never>"
    return f"{{ Args: {given}; Returns: {_returned(snapshot, function)}{'[]' if function.many else ''} }}"


def _returned(snapshot: Snapshot, function: Function) -> str:
    if function.relation is not None:
        kind = "Views" if function.relation in snapshot.views else "Tables"
        return f'Database["public"]["{kind}"][{_text(function.relation)}]["Row"]'
    if function.columns:
        inner = "; ".join(f"{_key(c.name)}: {_type(snapshot, c, 'Row')}" for c in function.columns.values())
        return f"{{ {inner} }}"
    if function.value is None:
        return "undefined"
    found = _type(snapshot, function.value, "Row")
    return f"({found})" if function.many and " | " in found else found


def _property(snapshot: Snapshot, column: Column, use: Use) -> str:
    if use != "Row" and not column.writable:
        return f"{_key(column.name)}?: never"
    kind = _type(snapshot, column, use) + (" | null" if column.nullable else "")
    has_default = column.nullable or column.default is not None or bool(column.identity)
    optional = use == "Update" or (use == "Insert" and has_default)
    return f"{_key(column.name)}{'?' if optional else ''}: {kind}"


def _type(snapshot: Snapshot, column: Column, use: Use) -> str:
    if column.category != "A":
        return _scalar(snapshot, column.base_oid, column.type, use)
    element = _scalar(snapshot, column.element_oid, column.type.removesuffix("[]"), use)
    return f"({element})[]" if " | " in element else f"{element}[]"


def _scalar(snapshot: Snapshot, oid: int, name: str, use: Use) -> str:
    """The type of the JSON that stands for a value: exact numbers come as texts, and may be sent as either."""
    if oid in snapshot.enums:
        return f'Database["public"]["Enums"][{_text(snapshot.enums[oid].name)}]'
    if oid in (_INT8, _NUMERIC):
        return "string" if use == "Row" else "number | string"
    if oid in _NUMBERS:
        return "number"
    if oid == _BOOL:
        return "boolean"
    if name.split("(")[0] in ("vector", "halfvec"):
        return "string" if use == "Row" else "number[] | string"
    return "Json" if oid in _JSON or oid >= _FIRST_OF_USERS else "string"


def _relationships(snapshot: Snapshot, table: Table) -> list[str]:
    parts = [
        line
        for key in table.foreign_keys
        for target, columns in _targets(snapshot, key)
        for line in _relationship(table, key, target, columns)
    ]
    return ["Relationships: [", *_indented(parts), "]"] if parts else ["Relationships: []"]


def _targets(snapshot: Snapshot, key: ForeignKey) -> Iterable[tuple[str, Sequence[str]]]:
    """What the foreign key leads to: its table, and the views that show the same rows and run as their caller."""
    if key.table in snapshot.tables:
        yield key.table, key.target
    for name, found in snapshot.views.items():
        if found.view is None or not (found.view.sealed and found.view.updatable):
            continue
        names = {source: own for own, source in found.view.sources.items()}
        if all((key.table, column) in names for column in key.target):
            yield name, [names[key.table, column] for column in key.target]


def _relationship(table: Table, key: ForeignKey, target: str, columns: Sequence[str]) -> list[str]:
    keys = [*table.uniques, *([table.primary] if table.primary else [])]
    one = any(set(k.columns) <= set(key.columns) for k in keys)
    body = [
        f"foreignKeyName: {_text(key.name)}",
        f"columns: {_texts(key.columns)}",
        f"isOneToOne: {'true' if one else 'false'}",
        f"referencedRelation: {_text(target)}",
        f"referencedColumns: {_texts(columns)}",
    ]
    return ["{", *_indented(body), "},"]


def _object(name: str, lines: Sequence[str]) -> list[str]:
    return [f"{name}: {{", *_indented(lines), "}"] if lines else [f"{name}: {_NOTHING}"]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _key(name: str) -> str:
    """A key as it is where the language allows it, else as a text; no name is reserved in this place."""
    return name if re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", name) else _text(name)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _texts(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"
