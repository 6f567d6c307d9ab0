"""The REST API's writes, as the caller's role, in one transaction each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from brolly.core.errors import AppError
from brolly.data import changes, query, reading, service
from brolly.data.access import is_closed, refusal
from brolly.data.constraint import explain
from brolly.data.plan import Embedding, ReadPlan
from brolly.data.query_string import MAX_SAID, MAX_STORED, Preferences, RowsQuery, not_single, refuse, too_many_rows
from brolly.data.request import InsertRequest, shown
from brolly.data.tables import require_writable
from brolly.data.values import InsertPlan, of_texts, plan_insert
from brolly.data.visit import Visit, by_id, discreet, no_row, opened, plan_rows, refuse_words, run, table_of
from brolly.pg.catalog import Snapshot, Table

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Changed:
    """How many rows were stored, changed or removed; ``body`` is a JSON array of them, or None where they
    are not asked for or may not be read. ``keys`` are the primary key's columns."""

    found: int
    body: bytes | None
    names: tuple[str, ...]
    keys: tuple[str, ...] = ()


def require_writing(at: Visit) -> None:
    """Refuse writes in read-only mode, and to keys with the scope read."""
    if at.deps.settings.read_only or at.who.read_only:
        raise AppError(
            "AUTH_FORBIDDEN",
            "This server is in read-only mode." if at.deps.settings.read_only else "This key has the scope read.",
            remediation="Use a key without the scope read on a server that is not read-only; select_rows works.",
        )


async def require_door(at: Visit, name: str) -> None:
    """Refuse, before a body is read, who may not store rows in the table, and a table that is not there."""
    require_writing(at)
    table = table_of(at, await at.tables(), name)
    if is_closed(table, at.who):
        raise refusal(table, at.who, "INSERT")


def _back(at: Visit, tables: Snapshot, asked: RowsQuery) -> ReadPlan:
    """What is answered of the rows that were written."""
    plan = plan_rows(at, tables, replace(asked, cursor=None))
    if plan.grouped:
        raise refuse("Aggregates do not go with this method.")
    return plan


def _plans(at: Visit, tables: Snapshot, table: Table, rows: Rows) -> tuple[InsertPlan, ...]:
    if not rows:
        raise refuse(f"There are no rows for {table.name} in the body.")
    try:
        return plan_insert(InsertRequest(table.name, tuple(rows)), tables)
    except AppError as error:
        raise (error if at.who.account_id else discreet(error)) from None


def _conflict(table: Table, asked: RowsQuery) -> tuple[str, ...]:
    if asked.preferences.resolution is None:
        if asked.on_conflict:
            raise refuse("on_conflict goes with Prefer: resolution=merge-duplicates or ignore-duplicates.")
        return ()
    columns = asked.on_conflict or table.primary_key
    keys = [k.columns for k in (*table.uniques, *([table.primary] if table.primary else []))]
    keys += [i.columns for i in table.indexes if i.unique and i.plain and None not in i.columns]
    if not any(set(key) == set(columns) for key in keys):
        raise refuse("on_conflict takes the columns of a primary key or unique constraint.")
    return columns


def _narrows(plan: ReadPlan) -> bool:
    """Whether a filter leaves out rows, be it a filter on rows that each must have."""
    inner = [o.plan for o in plan.outputs if isinstance(o, Embedding) and o.inner]
    return bool(plan.conditions) or any(map(_narrows, inner))


def _chosen(table: Table, asked: RowsQuery, back: ReadPlan, row_id: str | None) -> ReadPlan:
    """The rows to write: by primary key, or by filters, of which there must be one."""
    if asked.ignored:
        empty = ", ".join(map(shown, asked.ignored[:MAX_SAID]))
        raise refuse(f"{empty} is empty; a filter that is written by must say something.")
    if row_id is not None:
        return by_id(table, back, row_id)
    if not _narrows(back):
        raise refuse(
            f"Without a filter this would reach every row of {table.name}. Name the rows, for example ?id=eq.1."
        )
    return back


@dataclass(slots=True)
class Work:
    """Statements of one kind on one table. ``current`` is the rows' plan that is being done, for an error's words."""

    table: Table
    command: Literal["INSERT", "UPDATE", "DELETE"]
    chosen: ReadPlan
    steps: tuple[tuple[InsertPlan | None, query.Statement], ...]
    returning: bool
    preferences: Preferences
    current: InsertPlan | None = None


def creation(at: Visit, tables: Snapshot, asked: RowsQuery, rows: Rows, *, texts: bool = False) -> Work:
    """What stores the rows. ``texts``: each value is a text, as in CSV."""
    refuse_words(asked, "select", "on_conflict", "columns")
    if len(rows) > MAX_STORED:
        raise too_many_rows()
    table = table_of(at, tables, asked.request.table)
    if asked.request.filters or asked.problems:
        raise refuse("Filters do not go with new rows.")
    require_writable(table, "INSERT")
    form = _form(at, tables, table, asked)
    back = replace(form.back, limit=len(rows))
    plans = _plans(at, tables, table, [of_texts(table, row) for row in rows] if texts else rows)
    if is_closed(table, at.who):
        raise refusal(table, at.who, "INSERT")
    steps = tuple((plan, form.store(plan, back)) for plan in plans)
    return Work(table, "INSERT", back, steps, form.returning, asked.preferences)


@dataclass(frozen=True, slots=True)
class _Form:
    """What all new rows of a table that are sent in the same way have in common."""

    asked: RowsQuery
    table: Table
    back: ReadPlan
    conflict: tuple[str, ...]
    statements: dict[tuple[str, ...], query.Statement]
    """For a single row that names those columns."""

    @property
    def returning(self) -> bool:
        return self.asked.preferences.returning != "minimal"

    def store(self, plan: InsertPlan, back: ReadPlan) -> query.Statement:
        """The statement that stores the plan's rows."""
        single, names = back.limit == 1, tuple(column.name for column in plan.columns)
        known = self.statements.get(names) if single else None
        if known is not None:
            return query.Statement(known.text, (changes.payload(plan), *known.args[1:]))
        merge = self.asked.preferences.resolution == "merge-duplicates"
        made = changes.store(plan, back if self.returning else None, self.conflict, merge)
        if single and len(self.statements) < _KEPT_FORMS:
            self.statements[names] = made
        return made


_KEPT_FORMS = 100
_forms: OrderedDict[tuple[int, int], _Form] = OrderedDict()


def _form(at: Visit, tables: Snapshot, table: Table, asked: RowsQuery) -> _Form:
    """Made once for the very same question about the very same table."""
    key = id(asked), id(table)
    form = _forms.get(key)
    if form is not None and form.asked is asked and form.table is table:
        return form
    form = _forms[key] = _Form(asked, table, _back(at, tables, asked), _conflict(table, asked), {})
    if len(_forms) > _KEPT_FORMS:
        _forms.popitem(last=False)
    return form


def alteration(
    at: Visit, tables: Snapshot, asked: RowsQuery, values: Mapping[str, Any], row_id: str | None = None
) -> Work:
    """What gives the chosen rows these values."""
    refuse_words(asked, "select", "columns")
    table = table_of(at, tables, asked.request.table)
    require_writable(table, "UPDATE")
    back = _back(at, tables, asked)
    chosen = _chosen(table, asked, back, row_id)
    (plan,) = _plans(at, tables, table, (values,))
    if is_closed(table, at.who):
        raise refusal(table, at.who, "UPDATE")
    returning = asked.preferences.returning != "minimal"
    statement = changes.update(plan, chosen, back if returning else None)
    return Work(table, "UPDATE", chosen, ((plan, statement),), returning, asked.preferences)


def removal(at: Visit, tables: Snapshot, asked: RowsQuery, row_id: str | None = None) -> Work:
    """What removes the chosen rows."""
    refuse_words(asked, "select")
    table = table_of(at, tables, asked.request.table)
    require_writable(table, "DELETE")
    back = _back(at, tables, asked)
    chosen = _chosen(table, asked, back, row_id)
    if is_closed(table, at.who):
        raise refusal(table, at.who, "DELETE")
    returning = asked.preferences.returning == "representation"
    statement = changes.delete(chosen, back if returning else None)
    return Work(table, "DELETE", chosen, ((None, statement),), returning, asked.preferences)


async def perform(connection: Any, work: Work, used: int = 0) -> Changed:
    """Do it, in the transaction of the connection. ``used`` is how long the answer is already."""
    found, bodies = 0, list[bytes]()
    for plan, statement in work.steps:
        work.current = plan
        if work.returning:
            row = await connection.fetchrow(statement.text, *statement.args)
            found += row["found"]
            bodies.append(row["body"])
            used += len(row["body"])
            if used > reading.MAX_BYTES:
                raise too_long()
        else:
            tag = await connection.execute(statement.text, *statement.args)
            found += int(tag.rsplit(" ", 1)[-1])
    _check_number(work, found)
    return Changed(found, _joined(bodies) if work.returning else None, work.chosen.names, work.table.primary_key)


def _check_number(work: Work, found: int) -> None:
    """Raise, which undoes the write, where another number of rows was expected."""
    most = work.preferences.most
    if work.preferences.single and found != 1:
        raise not_single(found)
    if most is not None and found > most:
        raise AppError(
            "RESULT_TOO_MANY_AFFECTED",
            f"{found} rows of {work.table.name} would be reached, and max-affected allows {most}.",
            details={"reason": f"The query affects {found} rows"},
        )


def too_long() -> AppError:
    """The error for a write whose answer would be longer than one may be."""
    return AppError(
        "REQUEST_TOO_LARGE",
        f"The answer would be longer than one may be ({reading.MAX_BYTES} bytes); nothing was done.",
        remediation="Send Prefer: return=minimal (returning false in a batch), name few columns in select, or write "
        "fewer rows at a time; butterbase_docs, topic rest, has the limits.",
    )


def _joined(bodies: Sequence[bytes]) -> bytes:
    """Several JSON arrays as one."""
    return b"[" + b",".join(body[1:-1] for body in bodies if body != b"[]") + b"]"


# What a broken rule is told to callers of the app itself, who sent no other names than the row's own.
_RULES = {
    "VALIDATION_UNIQUE_CONSTRAINT_VIOLATION": "A row with these values exists already.",
    "VALIDATION_FOREIGN_KEY_VIOLATION": "The row refers to a row that does not exist, or is referred to.",
    "VALIDATION_CHECK_CONSTRAINT_VIOLATION": "The row breaks a rule of its table.",
    "VALIDATION_NOT_NULL_VIOLATION": "A value that must be given is missing.",
}


_ASK_THE_OWNER = "Send other values; butterbase_docs, topic rest, explains the codes."


def _plain(error: AppError) -> AppError:
    """The error without the table's definition: no expressions, no columns or tables that were not asked for."""
    kept = {k: v for k, v in dict(error.details or {}).items() if k in ("pg_code", "column", "constraint_details")}
    return AppError(error.code, _RULES[error.code], remediation=_ASK_THE_OWNER, details=kept or None)


async def explained(at: Visit, work: Work, error: AppError) -> AppError:
    """What the error was about, in the words of the table."""
    if changes.TOO_LONG in error.message:
        return too_long()
    if error.code in ("VALIDATION_TABLE_NOT_FOUND", "VALIDATION_COLUMN_NOT_FOUND"):
        at.deps.catalog.forget(at.app.id)  # changed by another process a moment ago
        return error
    if error.code in ("REQUEST_TOO_LARGE", "RESULT_NOT_SINGLE", "RESULT_TOO_MANY_AFFECTED"):
        return error
    if error.code == "AUTH_RLS_POLICY_VIOLATION":
        return refusal(work.table, at.who, work.command, error.message)
    if at.who.account_id is None and error.code in _RULES:
        return _plain(error)
    async with opened(at, read_only=True) as connection:
        if error.code == "VALIDATION_INVALID_INPUT":
            found = await service.wrong_value(connection, work.chosen)
            if found:
                return found
        if work.current is not None:
            return await service.explain_insert(connection, at.who, work.current, error)
    return explain(error, work.table)


async def _alone(at: Visit, work: Work) -> Changed:
    """The one statement, alone in its transaction."""
    ((work.current, statement),) = work.steps
    result = await run(at, statement.text, statement.args)
    if not work.returning:
        return Changed(result.count, None, work.chosen.names, work.table.primary_key)
    row = result.rows[0]
    return Changed(row["found"], row["body"], work.chosen.names, work.table.primary_key)


async def _done(at: Visit, work: Work) -> Changed:
    try:
        # Where the number of rows decides whether the write stays, it is counted before the commit.
        if len(work.steps) == 1 and not work.preferences.single and work.preferences.most is None:
            return await _alone(at, work)
        async with opened(at) as connection:
            return await perform(connection, work)
    except AppError as error:
        raise await explained(at, work, error) from error


async def create(at: Visit, asked: RowsQuery, rows: Rows, *, texts: bool = False) -> Changed:
    """Store the rows, all or none."""
    require_writing(at)
    tables = await at.tables()
    work = creation(at, tables, asked, rows, texts=texts)
    try:
        return await _done(at, work)
    except AppError as error:
        # Answering a row needs the right to read it; a role may have the right to add it alone.
        chosen = asked.preferences.returning or asked.preferences.resolution
        if error.code != "AUTH_RLS_POLICY_VIOLATION" or chosen:
            raise
    quiet = replace(asked, preferences=Preferences(returning="minimal"))
    return await _done(at, creation(at, tables, quiet, rows, texts=texts))


async def change(at: Visit, asked: RowsQuery, values: Mapping[str, Any], row_id: str | None = None) -> Changed:
    """Give the chosen rows these values."""
    require_writing(at)
    return _seen(await _done(at, work := alteration(at, await at.tables(), asked, values, row_id)), work, row_id)


async def remove(at: Visit, asked: RowsQuery, row_id: str | None = None) -> Changed:
    """Remove the chosen rows."""
    require_writing(at)
    return _seen(await _done(at, work := removal(at, await at.tables(), asked, row_id)), work, row_id)


def _seen(done: Changed, work: Work, row_id: str | None) -> Changed:
    if row_id is not None and not done.found:
        raise no_row(work.table)
    return done
