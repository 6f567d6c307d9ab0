"""The query parameters and headers of the rows' routes, as OpenAPI has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from brolly.core.openapi import Json, ref
from brolly.data.grammar import COMPARISONS, QUANTIFIED, WORDS, is_group
from brolly.data.openapi_columns import INTEGERS, component
from brolly.data.plan import BOOL, INT8, JSON, JSONB, NUMERIC, TSVECTOR, UUID
from brolly.data.query_string import MAX_ROWS, PARAMETERS
from brolly.pg.catalog import Column, Table

_PATTERNS = ("like", "ilike", "match", "imatch")
_SETS = ("cs", "cd", "ov")
_XML = 142
_MAX_NUMBER = 999_999_999_999_999

_COMPARED = tuple(operator for operator in COMPARISONS if operator not in _PATTERNS)
_ANY, _HEX = ".+", "[0-9a-fA-F]"


@dataclass(frozen=True, slots=True)
class _Kind:
    """The filters of a kind of column: operators, the form of a value, and what ``is`` compares with."""

    operators: tuple[str, ...] = ()
    value: str = _ANY
    known: str = "null"

    @property
    def pattern(self) -> str:
        """All of them as one pattern."""
        value, some = self.value, r"\{.*\}"
        several = ".*" if value == _ANY else rf"{value}(,{value})*"
        quantified = self._of(QUANTIFIED)
        plain = self._of((*COMPARISONS, *_SETS))
        choices = [
            rf"({'|'.join(plain)})\.{value}" if plain else "",
            rf"({'|'.join(quantified)})\((any|all)\)\.{some}" if quantified else "",
            rf"in\.\({several}\)" if "in" in self.operators else "",
            rf"({'|'.join(WORDS)})(\([a-z_]+\))?\..+" if self._of(WORDS) else "",
            rf"is\.({self.known})",
        ]
        return rf"^(not\.)?({'|'.join(filter(None, choices))})$"

    def _of(self, operators: Iterable[str]) -> list[str]:
        return [operator for operator in operators if operator in self.operators]


FILTERS = {
    "Text": _Kind((*COMPARISONS, "in", *WORDS)),
    "Integer": _Kind((*_COMPARED, "in"), "-?[0-9]{1,10}"),
    "Bigint": _Kind((*_COMPARED, "in"), "-?[0-9]{1,19}"),
    "Number": _Kind((*_COMPARED, "in"), r"-?[0-9]+(\.[0-9]+)?"),
    "Uuid": _Kind((*_COMPARED, "in"), f"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"),
    "Boolean": _Kind((*_COMPARED, "in"), "(true|false)", "null|true|false"),
    "Value": _Kind((*_COMPARED, "in")),
    "Set": _Kind((*_COMPARED, *_SETS)),
    "Jsonb": _Kind((*_COMPARED, "in", "cs", "cd")),
    "Words": _Kind(WORDS),
    "Presence": _Kind(),
}
_KINDS = {
    BOOL: "Boolean", JSON: "Presence", _XML: "Presence", JSONB: "Jsonb", TSVECTOR: "Words", UUID: "Uuid",
    NUMERIC: "Number", INT8: "Bigint", **dict.fromkeys(INTEGERS, "Integer"), **dict.fromkeys((700, 701), "Number"),
}  # fmt: skip


def _kind(column: Column) -> str:
    if column.base_oid in _KINDS:
        return _KINDS[column.base_oid]
    if column.category in ("A", "R"):
        return "Set"
    return "Text" if column.category == "S" else "Value"


def filter_schemas(tables: Iterable[Table]) -> dict[str, Json]:
    """A schema for each kind of filter that the tables' columns have. Several on one column all hold."""
    used = {_kind(column) for table in tables for column in table.columns.values()}
    return {
        f"Filter{name}": {"type": "array", "items": {"type": "string", "pattern": kind.pattern}, "minItems": 1}
        for name, kind in FILTERS.items()
        if name in used
    }


def parameter(name: str) -> str:
    """The column's name as the grammar reads it: in quotes where it would mean something else."""
    if re.fullmatch(r"[^\W\d]\w*", name) and name not in PARAMETERS and not is_group(name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def column_parameters(table: Table) -> dict[str, Json]:
    """The filter of each column, as components."""
    return {
        f"{component(table.name)}.{component(column.name)}": {
            "name": parameter(column.name),
            "in": "query",
            "description": f"Filter: op.value, {column.type}.",
            "schema": ref("schemas", f"Filter{_kind(column)}"),
        }
        for column in table.columns.values()
    }


def filters(table: Table) -> list[Json]:
    """References to the filters of every column, and the groups."""
    found = [ref("parameters", name) for name in column_parameters(table)]
    return [*found, *(ref("parameters", name) for name in GROUPS)]


GROUPS = ("and", "or", "not.and", "not.or")


def _list(name: str, items: Json, description: str) -> Json:
    schema: Json = {"type": "array", "items": items, "minItems": 1}
    return {
        "name": name,
        "in": "query",
        "style": "form",
        "explode": False,
        "description": description,
        "schema": schema,
    }


def _columns(name: str, columns: Iterable[str], description: str) -> Json:
    found = _list(name, {"type": "string", "enum": [parameter(column) for column in columns]}, description)
    found["schema"]["uniqueItems"] = True
    return found


def table_parameters(table: Table) -> dict[str, Json]:
    """The parameters that name a table's columns, as components."""
    base, columns = component(table.name), table.columns
    said = (
        "Which columns are answered; all, when left out. It also takes new names (name:title), casts (price::text), "
        "places in JSON (doc->>key), aggregates (count()) and related tables (author_id(name)); rows then have "
        "what was asked for."
    )
    ordered = [_plain(parameter(c.name)) for c in columns.values() if not _is_unordered(c)]
    order = {"type": "string", "pattern": rf"^({'|'.join(ordered)})(\.(asc|desc))?(\.(nullsfirst|nullslast))?$"}
    written = [c.name for c in columns.values() if c.writable]
    keys = {c for key in (*table.uniques, *([table.primary] if table.primary else [])) for c in key.columns}
    found = {f"{base}-select": _columns("select", columns, said)} if columns else {}
    if ordered:
        found[f"{base}-order"] = _list("order", order, "The order of the rows.")
    if written:
        found[f"{base}-columns"] = _columns("columns", written, "Keys of the body that count; others are left out.")
    if keys:
        said = "The unique columns by which a row is there already; with Prefer: resolution=…"
        found[f"{base}-on_conflict"] = _columns("on_conflict", [c for c in columns if c in keys], said)
    return found


def _is_unordered(column: Column) -> bool:
    return column.base_oid in (JSON, _XML) or column.category == "G"


def _plain(text: str) -> str:
    """The text as a pattern."""
    return re.sub(r"[\\^$.*+?()\[\]{}|/]", lambda found: "\\" + found.group(), text)


def row_id(column: Column) -> Json:
    """The primary key in the path."""
    schema: Json = {"type": "string", "minLength": 1}
    if column.base_oid in INTEGERS or column.base_oid == INT8:
        top = 2 ** (INTEGERS.get(column.base_oid, 64) - 1)
        schema = {"type": "integer", "minimum": -top, "maximum": top - 1}
    elif column.type == "uuid":
        schema = {"type": "string", "format": "uuid"}
    return {"name": "id", "in": "path", "required": True, "description": "The row's primary key.", "schema": schema}


def _prefer(description: str, *values: str) -> Json:
    schema = {"type": "array", "items": {"type": "string", "enum": list(values)}, "minItems": 1, "uniqueItems": True}
    return {"name": "Prefer", "in": "header", "description": description, "schema": schema}


_RETURN = ("return=representation", "return=minimal", "return=headers-only")
_COUNT = "Whether Content-Range counts all rows; planned and estimated are Postgres's guess, for service keys."
_STORE = (
    "Which rows are answered (return=minimal: none, and an empty body), and what becomes of rows that are there already"
)


def _query(name: str, description: str, **schema: object) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def shared_parameters() -> dict[str, Json]:
    """The parameters that are the same for every table."""
    group = r"^\(.+\..+\..+\)$"
    meanings = ("all hold", "one of them holds", "not all of them hold", "none of them holds")
    ranged: Json = {"type": "string", "pattern": "^(items=)?[0-9]{1,15}-([0-9]{1,15})?$"}
    return {
        **{
            name: _query(name, f"Conditions, of which {said}: (a.eq.1,b.gt.2).", type="string", pattern=group)
            for name, said in zip(GROUPS, meanings, strict=True)
        },
        "limit": _query("limit", "The most rows.", type="integer", minimum=0, maximum=MAX_ROWS, default=MAX_ROWS),
        "offset": _query("offset", "How many rows are passed over.", type="integer", minimum=0, maximum=_MAX_NUMBER),
        "cursor": _query("cursor", "X-Next-Cursor of the page before, in the same order.", type="string", minLength=1),
        "Range": {"name": "Range", "in": "header", "description": "The rows from which to which.", "schema": ranged},
        "If-None-Match": {
            "name": "If-None-Match",
            "in": "header",
            "description": "The ETag of the row that is known.",
            "schema": {"type": "string"},
        },
        "Prefer-count": _prefer(_COUNT, "count=exact", "count=planned", "count=estimated"),
        "Prefer-return": _prefer("Which rows are answered.", *_RETURN),
        "Prefer-store": _prefer(_STORE, *_RETURN, "resolution=merge-duplicates", "resolution=ignore-duplicates"),
        "As-Role": {
            "name": "X-Butterbase-As-Role",
            "in": "header",
            "description": "With a service key: the role to act as.",
            "schema": {"type": "string", "enum": ["anon", "user"]},
        },
        "As-User": {
            "name": "X-Butterbase-As-User",
            "in": "header",
            "description": "With a service key that acts as the role user: the user's id.",
            "schema": {"type": "string", "minLength": 1},
        },
    }
