"""The catalog as it is now, read from Postgres's own in one statement."""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import Any

from brolly.pg.catalog import Check, Column, Enumeration, ForeignKey, Index, Key, Policy, Snapshot, Table
from brolly.pg.catalog_sql import SNAPSHOT
from brolly.pg.pool import Connection
from brolly.pg.routines import read_functions, read_views

_ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
_IDENTITY = {"a": "always", "d": "by default"}


# A name is printed with its schema when the reader may not look into public, and without it when
# they may. The texts must not depend on who read them: the cache is shared.
_QUALIFIED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\bpublic\.""")


def _unqualified(text: str | None) -> str | None:
    return text and _QUALIFIED.sub(lambda found: "" if found.group() == "public." else found.group(), text)


async def read_snapshot(conn: Connection) -> Snapshot:
    """What there is now, in one statement. Needs no privilege but to connect."""
    found = await conn.fetchrow(SNAPSHOT)
    enums: list[dict[str, Any]] = json.loads(found["enums"])
    rows: list[dict[str, Any]] = json.loads(found["tables"])
    tables = MappingProxyType({row["name"]: _table(row) for row in rows})
    views = read_views(json.loads(found["views"]), tables, _column, _unqualified)
    return Snapshot(
        tables,
        MappingProxyType({row["oid"]: Enumeration(row["name"], tuple(row["values"])) for row in enums}),
        views,
        read_functions(json.loads(found["functions"]), _column, _unqualified),
    )


def _table(row: dict[str, Any]) -> Table:
    keys = [(k["kind"], _key(k)) for k in row["keys"]]
    return Table(
        name=row["name"],
        columns=MappingProxyType({c["name"]: _column(c) for c in row["columns"]}),
        primary=next((key for kind, key in keys if kind == "p"), None),
        uniques=tuple(key for kind, key in keys if kind == "u"),
        foreign_keys=tuple(_foreign_key(f) for f in row["foreign_keys"]),
        checks=tuple(Check(c["name"], _unqualified(c["expression"]) or "", tuple(c["columns"])) for c in row["checks"]),
        indexes=tuple(_index(i) for i in row["indexes"]),
        rls_enabled=row["rls_enabled"],
        rls_forced=row["rls_forced"],
        policies=tuple(_policy(p) for p in row["policies"]),
        estimated_rows=row["estimated_rows"],
        oid=row["oid"],
    )


def _column(row: dict[str, Any]) -> Column:
    row["identity"] = _IDENTITY.get(row["identity"], "")
    for text in ("type", "default", "generated"):
        row[text] = _unqualified(row[text])
    return Column(**row)


def _key(row: dict[str, Any]) -> Key:
    return Key(row["name"], tuple(row["columns"]), row["plain"])


def _foreign_key(row: dict[str, Any]) -> ForeignKey:
    row["columns"], row["target"] = tuple(row["columns"]), tuple(row["target"])
    row["on_delete"], row["on_update"] = _ACTIONS[row["on_delete"]], _ACTIONS[row["on_update"]]
    return ForeignKey(**row)


def _index(row: dict[str, Any]) -> Index:
    row["columns"], row["opclasses"] = tuple(row["columns"]), tuple(row["opclasses"])
    return Index(**row)


def _policy(row: dict[str, Any]) -> Policy:
    row["using"], row["check"] = _unqualified(row["using"]), _unqualified(row["check"])
    row["command"], row["roles"] = _COMMANDS[row["command"]], tuple(row["roles"])
    return Policy(**row)
