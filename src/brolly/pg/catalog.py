"""What tables an app has, as frozen records read from the system catalogs, and a cache of them."""

from __future__ import annotations

import json
import re
from asyncio import Lock
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from weakref import WeakValueDictionary

from brolly.pg.catalog_sql import SNAPSHOT
from brolly.pg.pool import Connection


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``type`` is Postgres's own name for it (``format_type``), fit for a cast.

    ``category`` is the letter of ``pg_type.typcategory`` (B boolean, N number, S text, D date
    or time, A array, E enum, U other) of ``base_oid``, the type below any domain. ``default``
    and ``generated`` are expressions as Postgres prints them. ``serial`` means that the default
    draws from a sequence which belongs to the column; ``identity`` is ``""``, ``always`` or
    ``by default``.
    """

    name: str
    type: str
    type_oid: int
    base_oid: int
    category: str
    element_oid: int
    nullable: bool
    default: str | None = None
    generated: str | None = None
    identity: str = ""
    serial: bool = False

    @property
    def writable(self) -> bool:
        """Whether a row that is written may bring a value for this column."""
        return self.generated is None and self.identity != "always"


@dataclass(frozen=True, slots=True)
class Key:
    """A primary key or unique constraint, by the columns it covers, in order."""

    name: str
    columns: tuple[str, ...]
    plain: bool = True
    """False for one that is deferrable or treats nulls as equal."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key to a table of schema public. Actions are words as in SQL: ``NO ACTION``, ``CASCADE``, …"""

    name: str
    columns: tuple[str, ...]
    table: str
    target: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    plain: bool = True
    """False for one that is deferrable, MATCH FULL or sets only some columns null."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check constraint and the columns it reads; ``expression`` as Postgres prints it."""

    name: str
    expression: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """An index. ``columns`` holds None where it indexes an expression; ``opclasses`` the operator
    class of each column, ``default_opclass`` whether these are all their types' defaults.
    ``constraint`` names the constraint that it backs; ``plain`` is False for a partial, covering,
    descending or collated index."""

    name: str
    columns: tuple[str | None, ...]
    opclasses: tuple[str, ...]
    default_opclass: bool
    method: str
    unique: bool
    definition: str
    constraint: str | None = None
    valid: bool = True
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """A row-level security policy. ``command`` is ALL, SELECT, INSERT, UPDATE or DELETE;
    ``roles`` is empty for everyone."""

    name: str
    command: str
    permissive: bool
    roles: tuple[str, ...]
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of schema public, its columns in order.

    ``estimated_rows`` is None before the first ANALYZE. ``foreign_keys`` are those of this
    table; ``Snapshot.referencing`` finds those that point to it.
    """

    name: str
    columns: Mapping[str, Column]
    primary: Key | None = None
    uniques: tuple[Key, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    checks: tuple[Check, ...] = ()
    indexes: tuple[Index, ...] = ()
    rls_enabled: bool = False
    rls_forced: bool = False
    policies: tuple[Policy, ...] = ()
    estimated_rows: int | None = None
    oid: int = 0

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The primary key's columns; empty when there is none."""
        return self.primary.columns if self.primary else ()


@dataclass(frozen=True, slots=True)
class Enumeration:
    """An enumerated type of schema public: its name and its values in order."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tables of one app at one moment, by name. Tables of the platform (``_…``) and of
    extensions are left out, so nothing built on a snapshot can reach them.

    ``enums`` are by the type's oid, which is ``Column.base_oid``, or ``element_oid`` of an array.
    """

    tables: Mapping[str, Table]
    enums: Mapping[int, Enumeration] = field(default_factory=dict[int, Enumeration])

    def referencing(self, table: str) -> list[tuple[Table, ForeignKey]]:
        """The foreign keys, with the tables that hold them, that point to this table."""
        return [(t, fk) for t in self.tables.values() for fk in t.foreign_keys if fk.table == table]


_ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
_IDENTITY = {"a": "always", "d": "by default"}


# A name is printed with its schema when the reader may not look into public, and without it when
# they may. The texts must not depend on who read them: the cache is shared.
_QUALIFIED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\bpublic\.""")


def _unqualified(text: str | None) -> str | None:
    return text and _QUALIFIED.sub(lambda found: "" if found.group() == "public." else found.group(), text)


async def read_snapshot(conn: Connection) -> Snapshot:
    """The tables as they are now, in one statement. Needs no privilege but to connect."""
    found = await conn.fetchrow(SNAPSHOT)
    assert found is not None  # noqa: S101 - a select without from answers one row
    tables: list[dict[str, Any]] = json.loads(found["tables"])
    enums: list[dict[str, Any]] = json.loads(found["enums"])
    return Snapshot(
        MappingProxyType({row["name"]: _table(row) for row in tables}),
        MappingProxyType({row["oid"]: Enumeration(row["name"], tuple(row["values"])) for row in enums}),
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


class AppLike(Protocol):
    """What the cache needs of an app."""

    @property
    def id(self) -> str: ...


class Catalogs:
    """The snapshots of the apps in use, read on demand and kept until a change is announced.

    At most ``LIMIT`` are kept; the one read longest ago makes room.
    """

    LIMIT = 1000

    def __init__(self, read: Callable[[Any], Awaitable[Snapshot]], announce: Callable[[str], Awaitable[None]]) -> None:
        self._read = read
        self._announce = announce
        self._kept: dict[str, Snapshot] = {}
        self._loading: dict[str, object] = {}
        self._locks: WeakValueDictionary[str, Lock] = WeakValueDictionary()

    async def get(self, app: AppLike) -> Snapshot:
        """The app's tables; callers at the same time share one read."""
        kept = self._kept.get(app.id)
        if kept is not None:
            return kept
        lock = self._locks.get(app.id)
        if lock is None:
            lock = self._locks[app.id] = Lock()
        async with lock:
            return self._kept.get(app.id) or await self._load(app)

    async def _load(self, app: AppLike) -> Snapshot:
        # forget() takes the mark away, so a result that began before a change is not kept.
        mark = self._loading[app.id] = object()
        try:
            snapshot = await self._read(app)
            if self._loading.get(app.id) is mark:
                self._kept[app.id] = snapshot
                if len(self._kept) > self.LIMIT:
                    del self._kept[next(iter(self._kept))]
        finally:
            if self._loading.get(app.id) is mark:
                del self._loading[app.id]
        return snapshot

    async def changed(self, app: AppLike) -> None:
        """Forget the app's tables here and, by an announcement, in every replica. Call after commit."""
        self.forget(app.id)
        await self._announce(app.id)

    def forget(self, app_id: str | None) -> None:
        """Drop what is kept of one app, or of all (None: after the listening connection was lost)."""
        if app_id is None:
            self._kept.clear()
            self._loading.clear()
        else:
            self._kept.pop(app_id, None)
            self._loading.pop(app_id, None)
