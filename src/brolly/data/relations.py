"""How one table leads to another: by a foreign key, against one, or by way of a table between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from brolly.core.errors import AppError
from brolly.data.request import Embed, shown
from brolly.data.tables import nearest
from brolly.pg.catalog import ForeignKey, Snapshot, Table

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """The way from a row to related rows.

    ``pairs`` are (column here, column there). By way of a ``junction``, ``pairs`` lead from
    here to it and ``onward`` from it to there. ``words`` are the hints that choose this way.
    """

    table: Table
    many: bool
    pairs: Pairs
    words: tuple[str, ...]
    says: str
    junction: Table | None = None
    onward: Pairs = ()


def find_relation(snapshot: Snapshot, table: Table, embed: Embed) -> Relation:
    """The one way that is meant; an error lists the ways when there are several, or none."""
    asked, hint = embed.request.table, embed.hint
    every = list(_relations(snapshot, table))
    found = [r for r in every if r.table.name == asked] or [
        r for r in every if not r.many and r.table.view is None and asked in r.words
    ]
    if hint is not None:
        found = [r for r in found if hint in r.words]
        if len(found) > 1 and embed.request.table == table.name:
            # A table that refers to itself: the column's own name goes up, the table's name with it goes down.
            found = [r for r in found if r.many] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise _none(snapshot, table, embed, every)
    raise AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"{table.name} leads to {shown(asked, 63)} in {len(found)} ways; say which with {shown(asked, 63)}!hint.",
        remediation="Write it as one of details.choices; manage_schema get shows the foreign keys.",
        details={"choices": [{"embed": f"{r.table.name}!{r.words[0]}", "relation": r.says} for r in found]},
    )


def _none(snapshot: Snapshot, table: Table, embed: Embed, every: list[Relation]) -> AppError:
    asked = embed.request.table
    choices = sorted({r.table.name for r in every})
    meant = nearest(asked, choices)
    known = snapshot.relation(asked) is not None and any(r.table.name == asked for r in every)
    what = (
        f"No way from {table.name} to {shown(asked, 63)} is called {shown(embed.hint or '', 63)}."
        if known
        else f"{table.name} has no foreign key to or from {shown(asked, 63)!r}."
    )
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        what + (f" Did you mean {meant}?" if meant and meant != asked else ""),
        remediation="Embed a table to which a foreign key leads; manage_schema get shows the foreign keys.",
        details={"related": [{"embed": f"{r.table.name}!{r.words[0]}", "relation": r.says} for r in every][:50]},
    )


def _relations(snapshot: Snapshot, table: Table) -> Iterator[Relation]:
    # A view that reads with its owner's rights would let those pass whom policies stop.
    views = [v for v in snapshot.views.values() if v.view is not None and v.view.sealed]
    every = [*snapshot.tables.values(), *views]
    for key in table.foreign_keys:
        for there in every:
            names = _names(there, key.table, key.target)
            if names and (there.view is None or there.view.updatable):
                pairs = tuple(zip(key.columns, names, strict=True))
                yield Relation(there, False, pairs, _words(key), f"{_columns(key)} of {table.name}")
    for there in every:
        for key in there.foreign_keys:
            names = _names(table, key.table, key.target)
            if not names:
                continue
            back = tuple(zip(names, key.columns, strict=True))
            yield Relation(there, not _is_unique(there, key), back, _words(key), f"{_columns(key)} of {there.name}")
            if there.view is None:
                yield from _onward(snapshot, back, there, key)


def _names(table: Table, base: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The names that these columns of a table have here, in the table itself or a view of it; none if one lacks."""
    if table.view is None:
        return columns if table.name == base else ()
    names = {source: name for name, source in table.view.sources.items()}
    return tuple(names[base, c] for c in columns) if all((base, c) in names for c in columns) else ()


def _onward(snapshot: Snapshot, back: Pairs, junction: Table, key: ForeignKey) -> Iterator[Relation]:
    """The tables beyond a junction, which is one whose primary key holds both foreign keys."""
    for other in junction.foreign_keys:
        there = snapshot.tables.get(other.table)
        held = {*key.columns, *other.columns} <= set(junction.primary_key)
        if there is None or other.name == key.name or not held:
            continue
        yield Relation(
            there,
            True,
            back,
            (junction.name, other.name, *other.columns),
            f"by way of {junction.name}",
            junction,
            _pairs(other),
        )


def _pairs(key: ForeignKey) -> Pairs:
    return tuple(zip(key.columns, key.target, strict=True))


def _words(key: ForeignKey) -> tuple[str, ...]:
    return (key.name, *key.columns) if len(key.columns) == 1 else (key.name,)


def _columns(key: ForeignKey) -> str:
    return ", ".join(key.columns)


def _is_unique(table: Table, key: ForeignKey) -> bool:
    """Whether at most one row refers to the same row."""
    columns = set(key.columns)
    keys = [*table.uniques, *([table.primary] if table.primary else [])]
    return any(set(k.columns) <= columns for k in keys)
