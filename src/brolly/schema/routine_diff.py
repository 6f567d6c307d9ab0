"""From views and functions of a document, and those that are there, to steps."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from brolly.pg.catalog import Function as Existing
from brolly.pg.catalog import Snapshot, Table
from brolly.pg.identifiers import quote
from brolly.pg.statement import words
from brolly.schema.document import Document
from brolly.schema.plan import Block, Phase, Step, Written
from brolly.schema.probe import Place
from brolly.schema.routines import ROLES, Function, View, same_function

_EVERYBODY = ", ".join(ROLES.values())


def view_place(name: str) -> Place:
    """Where a view's query belongs among the texts that Postgres printed."""
    return (name, "view", "query")


def same_query(wanted: View, current: Table, printed: str | None) -> bool:
    """Whether a view of the document is the existing one: as it reads back, or as Postgres would store it."""
    view = current.view
    return view is not None and view.invoker and view.plain and view.query in (wanted.query, printed)


def create_view(name: str, query: str) -> str:
    """A view that runs with the rights of who reads it."""
    return f"create view {quote(name)} with (security_invoker = true) as\n{query}"


def _open_view(name: str) -> str:
    # What it reads is judged by the tables' own rights and policies.
    return f"grant select, insert, update, delete on {quote(name)} to {_EVERYBODY}"


def create_function(name: str, wanted: Function) -> str:
    """A function with the rights of who calls it."""
    said = [
        f"{quote(n)} {a.type.name}" + (f" default {a.default.sql}" if a.default else "")
        for n, a in wanted.arguments.items()
    ]
    tag = "$body$"
    while tag in wanted.body:
        tag = f"$body_{secrets.token_hex(4)}$"
    return (
        f"create function {quote(name)}({', '.join(said)}) returns {wanted.returns.sql}\n"
        f"language {wanted.language} {wanted.volatility} security invoker as {tag}{wanted.body}{tag}"
    )


def _allow(signature: str, roles: Iterable[str]) -> str:
    return (
        f"revoke all on function {signature} from public, {_EVERYBODY};\n"
        f"grant execute on function {signature} to {', '.join(sorted(roles))}"
    )


def signature_of(now: Existing) -> str:
    """The existing function as a statement names it."""
    return f"{quote(now.name)}({', '.join(a.value.type for a in now.arguments)})"


def function_again(now: Existing) -> str:
    """The statements that make an existing function once more."""
    said = [
        (f"{quote(a.name)} " if a.name else "") + a.value.type + (f" default {a.default}" if a.default else "")
        for a in now.arguments
    ]
    tag = "$body$"
    while tag in now.body:
        tag = f"$body_{secrets.token_hex(4)}$"
    made = (
        f"create function {quote(now.name)}({', '.join(said)}) returns {now.returns}\n"
        f"language {now.language} {now.volatility} as {tag}{now.body}{tag}"
    )
    return f"{made};\n{_allow(signature_of(now), now.roles)}"


class RoutineDiff:
    """What becomes of an app's views and functions."""

    def __init__(self, document: Document, snapshot: Snapshot, texts: Mapping[Place, str]) -> None:
        self.document, self.snapshot = document, snapshot
        self.gone = {n for n in document.drop_views if n in snapshot.views}
        self.gone |= {n for n in document.drop_functions if n in snapshot.functions}
        self.new = {
            n: v
            for n, v in document.views.items()
            if n not in snapshot.views or not same_query(v, snapshot.views[n], texts.get(view_place(n)))
        }
        self.made = {n: f for n, f in document.functions.items() if not self._stands(n, f)}
        self.again = self._dragged()

    def _stands(self, name: str, wanted: Function) -> bool:
        now = self.snapshot.functions.get(name, ())
        return len(now) == 1 and same_function(wanted, now[0])

    def _dragged(self) -> set[str]:
        """What is left as it is, and yet has to go and come back, since it stands on what is replaced."""
        moved = {n for n in (*self.new, *self.made) if n in self.snapshot.views or n in self.snapshot.functions}
        again: set[str] = set()
        while more := {n for n in self._users(moved | again) if n not in moved | again | self.gone}:
            again |= more
        return again

    def _users(self, names: set[str]) -> Iterator[str]:
        for name, view in self.snapshot.views.items():
            if view.view is not None and names & {*view.view.reads, *view.view.calls}:
                yield name
        for name, functions in self.snapshot.functions.items():
            if any(f.relation in names for f in functions):
                yield name

    def steps(self) -> Iterator[Step]:
        """Drops first, each before what it stands on; then what is made, each after what it uses."""
        yield from self._drops()
        yield from self._creations()
        for name, wanted in self.document.functions.items():
            now = self.snapshot.functions.get(name, ())
            if name not in self.made and name not in self.again and now and now[0].roles != wanted.roles:
                signature = signature_of(now[0])
                said = f"Let {_who(wanted)} call function {name}"
                yield Step(
                    Phase.CREATE_ROUTINES, _allow(signature, wanted.roles), said, _allow(signature, now[0].roles)
                )

    def _drops(self) -> Iterator[Step]:
        goes = [n for n in self.snapshot.views if n in self.new or n in self.gone | self.again]
        goes += [n for n in self.snapshot.functions if n in self.made or n in self.gone | self.again]
        for name in reversed(_in_order(goes, self._uses)):
            why = "" if name in self.gone else " to make it anew"
            view = self.snapshot.views.get(name)
            if view is not None and view.view is not None:
                sql, undo = f"drop view {quote(name)}", f"{create_view(name, view.view.query)};\n{_open_view(name)}"
                yield Step(Phase.DROP_ROUTINES, sql, f"Drop view {name}{why}", undo)
            for now in self.snapshot.functions.get(name, ()):
                sql = f"drop function {signature_of(now)}"
                yield Step(Phase.DROP_ROUTINES, sql, f"Drop function {name}{why}", function_again(now))

    def _uses(self, name: str) -> set[str]:
        """The names that an existing one stands on."""
        view = self.snapshot.views.get(name)
        if view is not None and view.view is not None:
            return {*view.view.reads, *view.view.calls}
        return {f.relation for f in self.snapshot.functions.get(name, ()) if f.relation}

    def _creations(self) -> Iterator[Step]:
        texts = {n: v.query for n, v in self.new.items()}
        texts |= {n: f"{f.body} {f.returns.sql}" for n, f in self.made.items()}
        for name in self.again:
            view = self.snapshot.views.get(name)
            if view is not None and view.view is not None:
                texts[name] = view.view.query
            for now in self.snapshot.functions.get(name, ()):
                texts[name] = f"{now.body} {now.returns}"
        used = {name: words(text) for name, text in texts.items()}
        for name in _in_order(list(texts), lambda name: set(used[name]) - {name}):
            yield from self._create(name)

    def _create(self, name: str) -> Iterator[Step]:
        if name in self.new or (name in self.again and name in self.snapshot.views):
            query = self.new[name].query if name in self.new else _query_of(self.snapshot.views[name])
            sql = create_view(name, query)
            written = Written(f"views.{name}.query", query, len(sql) - len(query), name)
            what = "Create view" if name not in self.again else "Put back view"
            yield Step(Phase.CREATE_ROUTINES, sql, f"{what} {name}", f"drop view {quote(name)}", written=written)
            said = f"Let every role read view {name}, as far as its tables allow"
            yield Step(Phase.CREATE_ROUTINES, _open_view(name), said, f"-- with view {name}")
        elif name in self.made:
            wanted = self.made[name]
            sql = create_function(name, wanted)
            signature = f"{quote(name)}({', '.join(a.type.name for a in wanted.arguments.values())})"
            written = Written(f"functions.{name}.body", wanted.body, sql.index(wanted.body, sql.rindex(" as $")))
            undo = f"drop function {signature}"
            yield Step(Phase.CREATE_ROUTINES, sql, f"Create function {name}", undo, written=written)
            allow = _allow(signature, wanted.roles)
            said = f"Let {_who(wanted)} call function {name}"
            yield Step(Phase.CREATE_ROUTINES, allow, said, f"-- with function {name}")
        else:
            for now in self.snapshot.functions[name]:
                undo = f"drop function {signature_of(now)}"
                yield Step(Phase.CREATE_ROUTINES, function_again(now), f"Put back function {name}", undo)

    def kept(self) -> dict[str, Any]:
        """What the document leaves out."""
        views = sorted(self.snapshot.views.keys() - self.document.views.keys() - self.gone)
        functions = sorted(self.snapshot.functions.keys() - self.document.functions.keys() - self.gone)
        return ({"views": views} if views else {}) | ({"functions": functions} if functions else {})

    def guarded(self, step: Step) -> Step:
        """The step, blocked if a view or function that stays stands on what it takes away."""
        if step.phase not in (Phase.DROP_TABLES, Phase.DROP_COLUMNS) or step.block is not None:
            return step
        goes = {n for n in self.new if n in self.snapshot.views} | self.made.keys() | self.gone
        users = sorted({n for n in self._touched(step) if n not in goes})
        if not users:
            return step
        key = "_dropViews" if all(n in self.snapshot.views for n in users) else "_dropViews or _dropFunctions"
        block = Block(
            f"{', '.join(users)} {'stands' if len(users) == 1 else 'stand'} on it",
            f"In the same document send {', '.join(users)} without it, or name it in {key}.",
        )
        return replace(step, block=block)

    def _touched(self, step: Step) -> Iterator[str]:
        tables = set(self.document.drop) if step.phase is Phase.DROP_TABLES else set[str]()
        for name, view in self.snapshot.views.items():
            assert view.view is not None  # noqa: S101 - these are views
            columns = [(table, c) for table, names in view.view.reads.items() for c in names]
            dropped = {f"Drop column {table}.{c} with its values" for table, c in columns}
            if tables & view.view.reads.keys() or step.description in dropped:
                yield name
        for name, functions in self.snapshot.functions.items():
            if any(f.relation in tables for f in functions):
                yield name


def _query_of(table: Table) -> str:
    return table.view.query if table.view else ""


def _who(wanted: Function) -> str:
    return " and ".join(name for name, role in ROLES.items() if role in wanted.roles)


def _in_order(names: list[str], uses: Callable[[str], set[str]]) -> list[str]:
    """Each after those that it uses; in a circle the first met goes first."""
    order: list[str] = []
    met: set[str] = set()

    def visit(name: str) -> None:
        if name in met:
            return
        met.add(name)
        for used in sorted(uses(name).intersection(names)):
            visit(used)
        order.append(name)

    for name in names:
        visit(name)
    return order
