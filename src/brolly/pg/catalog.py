"""What an app has, as frozen records: tables, views, functions. ``snapshot`` reads them, ``catalogs`` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    number: int = 0

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
class View:
    """What makes a relation a view. ``query`` is as Postgres prints it.

    ``invoker``: what it reads is read with the rights of who reads it. ``plain`` is False for one with options
    besides. ``reads`` maps the tables and views that it names to the columns it uses of them; ``bases`` are the
    tables below, through views in between; ``sources`` maps its columns to theirs. ``calls`` names the functions of
    the app that it calls. ``sealed``: the views in between are of its invoker too.
    """

    query: str
    invoker: bool
    plain: bool
    insertable: bool
    updatable: bool
    deletable: bool
    reads: Mapping[str, tuple[str, ...]]
    calls: tuple[str, ...] = ()
    bases: tuple[Table, ...] = ()
    sources: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view of schema public, its columns in order.

    ``estimated_rows`` is None before the first ANALYZE. ``foreign_keys`` are those of this
    table; ``Snapshot.referencing`` finds those that point to it. A view has the keys of the
    tables below as far as they hold for its rows, and counts as under row-level security when
    all of them are. ``transient``: the rows of one statement, with a name in it alone.
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
    view: View | None = None
    transient: bool = False

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
class Argument:
    """An argument of a function; ``value`` is its type as a column, ``default`` an expression as Postgres prints it."""

    name: str
    value: Column
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """A function of schema public.

    ``returns`` is Postgres's text for the result. Its values: ``value`` when it is one value, ``relation`` when it
    is a row of that table or view, else ``columns``; none of them for ``void``. ``many``: any number of them.
    ``roles`` may call it. ``plain`` is False for one that documents and callers have no words for.
    """

    name: str
    oid: int
    arguments: tuple[Argument, ...]
    returns: str
    language: str
    body: str
    volatility: str
    definer: bool
    plain: bool
    roles: frozenset[str]
    settings: tuple[str, ...] = ()
    many: bool = False
    value: Column | None = None
    relation: str | None = None
    columns: Mapping[str, Column] = field(default_factory=dict[str, Column])
    void: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one app has at one moment, by name. What belongs to the platform (``_…``) and to
    extensions is left out, so nothing built on a snapshot can reach it. Functions of one name
    may be several.

    ``enums`` are by the type's oid, which is ``Column.base_oid``, or ``element_oid`` of an array.
    """

    tables: Mapping[str, Table]
    enums: Mapping[int, Enumeration] = field(default_factory=dict[int, Enumeration])
    views: Mapping[str, Table] = field(default_factory=dict[str, Table])
    functions: Mapping[str, tuple[Function, ...]] = field(default_factory=dict[str, tuple[Function, ...]])

    def relation(self, name: str) -> Table | None:
        """The table or view of that name."""
        return self.tables.get(name) or self.views.get(name)

    def referencing(self, table: str) -> list[tuple[Table, ForeignKey]]:
        """The foreign keys, with the tables that hold them, that point to this table."""
        return [(t, fk) for t in self.tables.values() for fk in t.foreign_keys if fk.table == table]
