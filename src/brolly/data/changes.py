"""Statements that store, change and remove rows, and answer what became of them."""

from __future__ import annotations

from dataclasses import replace

from brolly.data import reading
from brolly.data.expressions import Args, outputs, table_name, where
from brolly.data.plan import ReadPlan
from brolly.data.query import Statement, row_object
from brolly.data.values import InsertPlan
from brolly.pg.identifiers import quote


def payload(plan: InsertPlan) -> str:
    """The rows as ``store`` binds them, before all other values."""
    return f"[{','.join(plan.rows)}]"


def store(plan: InsertPlan, back: ReadPlan | None, conflict: tuple[str, ...] = (), merge: bool = False) -> Statement:
    """Store the rows. With ``conflict``, a row that has these values already is changed (``merge``) or passed over."""
    args = Args()
    place = args.bind(payload(plan))
    fields = ", ".join(f"{quote(c.name)} {c.type}" for c in plan.columns)
    names = ", ".join(quote(c.name) for c in plan.columns)
    values = ", ".join(f"v.{quote(c.name)}" for c in plan.columns)
    text = (
        f"insert into {table_name(plan.table)} as t ({names}) "
        f"select {values} from json_to_recordset({place}::text::json) v({fields})"
    )
    if conflict:
        changed = ", ".join(f"{quote(c.name)} = excluded.{quote(c.name)}" for c in plan.columns)
        done = f"update set {changed}" if merge else "nothing"
        text += f" on conflict ({', '.join(map(quote, conflict))}) do {done}"
    return _answered(text, back, args)


def update(plan: InsertPlan, chosen: ReadPlan, back: ReadPlan | None) -> Statement:
    """Give the chosen rows the one row's values."""
    args = Args()
    place = args.bind(plan.rows[0])
    fields = ", ".join(f"{quote(c.name)} {c.type}" for c in plan.columns)
    changed = ", ".join(f"{quote(c.name)} = v.{quote(c.name)}" for c in plan.columns)
    text = (
        f"update {table_name(plan.table)} as t set {changed} from json_to_record({place}::text::json) v({fields}) "
        f"where {where(chosen, 't', args)}"
    )
    return _answered(text, back, args)


def delete(chosen: ReadPlan, back: ReadPlan | None) -> Statement:
    """Remove the chosen rows."""
    args = Args()
    return _answered(f"delete from {table_name(chosen.table)} as t where {where(chosen, 't', args)}", back, args)


TOO_LONG = "the answer would be too long"


def _answered(text: str, back: ReadPlan | None, args: Args) -> Statement:
    """With ``body``, a JSON array of up to ``back.limit`` rows, and ``found``, how many there were. Without ``back``
    nothing is returned, which asks for no right to read; the command's tag has the number.

    Rows that would make ``body`` longer than an answer may be let the statement itself fail, with ``TOO_LONG`` in
    the error: nothing has happened then, even where it is a transaction of its own.
    """
    if back is None:
        return Statement(text, tuple(args))
    chosen = outputs(replace(back, conditions=()), "t", args)
    wanted = f"n <= {args.bind(back.limit)}::int8"
    fits = f"size <= {args.bind(reading.MAX_BYTES)}::int8"
    return Statement(
        f"with t as ({text} returning t.*) "
        f"select convert_to('[' || coalesce(string_agg(j, ',') filter (where {wanted} and {fits}), '') || ']', 'UTF8') "
        "as body, count(*) as found, "
        # No constant, which would be cast when the statement is planned.
        f"(case when bool_or({wanted} and not {fits}) then '{TOO_LONG} ' || count(*) end)::integer as fits "
        # A row's length and the comma after it.
        "from (select j, row_number() over () as n, sum(octet_length(j) + 1) over (rows unbounded preceding) as size "
        f"from (select {row_object('r', back)} as j from (select {chosen} from t) r) q) s",
        tuple(args),
    )
