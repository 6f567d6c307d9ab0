"""Ask Postgres how it stores an expression: the only sure way to compare two, and to find what is wrong with one.

The expressions go onto an empty table that lives in a savepoint, so nothing is evaluated,
no table is locked and nothing stays.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from brolly.pg.expression import Refusal, refusal_of, unsafe_functions
from brolly.pg.identifiers import quote
from brolly.pg.pool import Connection
from brolly.schema.problems import Problem
from brolly.schema.statements import add_constraint, alter_column, create_table
from brolly.schema.types import ColumnType

Kind = Literal["default", "check", "using", "view"]
Place = tuple[str, Kind, str]
"""Table, kind of expression, and the column's or check's name."""


@dataclass(frozen=True, slots=True)
class Question:
    """One expression that belongs to a place. ``path`` is where the document has it."""

    place: Place
    sql: str
    path: str


@dataclass(frozen=True, slots=True)
class Answers:
    """Each expression as Postgres prints it once stored, and what it refused."""

    texts: dict[Place, str] = field(default_factory=dict[Place, str])
    problems: list[Problem] = field(default_factory=list[Problem])


Columns = Mapping[str, ColumnType]

_TEXTS = """
select 'default' as kind, a.attname as name, pg_get_expr(d.adbin, d.adrelid) as text
from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
where d.adrelid = $1::text::regclass
union all
select 'check', n.conname, pg_get_expr(n.conbin, n.conrelid)
from pg_constraint n where n.conrelid = $1::text::regclass and n.contype = 'c'
"""
_TREES = "select n.conbin::text from pg_constraint n where n.conrelid = $1::text::regclass and n.contype = 'c'"


async def ask(conn: Connection, groups: Iterable[tuple[Columns, Sequence[Question]]]) -> Answers:
    """The answers to all questions; each group is a table's columns with what is to stand on them."""
    answers = Answers()
    for columns, questions in groups:
        if questions:
            await _ask_table(conn, columns, questions, answers)
    return answers


async def _ask_table(conn: Connection, columns: Columns, questions: Sequence[Question], answers: Answers) -> None:
    # Two at a time must not wait for each other, so the name is new each time.
    table = f"_probe_{secrets.token_hex(8)}"
    async with _undone(conn):
        clauses = [f"{quote(name)} {kind.stored.name}" for name, kind in columns.items()]
        problem = await refusal_of(conn, create_table(table, clauses))
        if problem is not None:
            name = questions[0].place[0]
            answers.problems.append(Problem(f"tables.{name}", problem.message))
            return
        if await _all_at_once(conn, table, questions):
            await _read(conn, table, questions, answers)
            return
        for question in questions:
            async with _undone(conn):
                await _ask_one(conn, table, question, answers)


async def _all_at_once(conn: Connection, table: str, questions: Sequence[Question]) -> bool:
    """Put all expressions on the table in one go; False (and undone) when one of them is refused or unsafe."""
    savepoint = conn.transaction()
    await savepoint.start()
    refused = await refusal_of(conn, ";\n".join(_statement(table, question) for question in questions))
    if refused is not None or await unsafe_functions(conn, _TREES, quote(table)):
        await savepoint.rollback()
        return False
    await savepoint.commit()
    return True


async def _ask_one(conn: Connection, table: str, question: Question, answers: Answers) -> None:
    refused = await refusal_of(conn, _statement(table, question))
    if refused is not None:
        answers.problems.append(Problem(question.path, _reason(refused, question)))
        return
    unsafe = await unsafe_functions(conn, _TREES, quote(table))
    if unsafe:
        why = f"{', '.join(unsafe)} may not be called here: an expression has no effects and reads only its row"
        answers.problems.append(Problem(question.path, why))
        return
    await _read(conn, table, [question], answers)


def _statement(table: str, question: Question) -> str:
    kind, name = question.place[1:]
    if kind == "default":
        return alter_column(table, name, f"set default {question.sql}")
    if kind == "check":
        return add_constraint(table, name, f"check ({question.sql})")
    # A conversion is stored nowhere; as part of a check its tree can be read.
    return add_constraint(table, f"_using_{secrets.token_hex(8)}", f"check (({question.sql}) is not null)")


async def _read(conn: Connection, table: str, questions: Sequence[Question], answers: Answers) -> None:
    texts = {(row["kind"], row["name"]): row["text"] for row in await conn.fetch(_TEXTS, quote(table))}
    for question in questions:
        text = texts.get(question.place[1:])
        if text is not None:
            answers.texts[question.place] = text


def _reason(refused: Refusal, question: Question) -> str:
    if refused.state == "42804" and question.place[1] == "default" and question.sql == "current_user_id()":
        return "current_user_id() is text, and the column is not; for a uuid column write current_user_id()::uuid"
    if refused.state == "42P01":
        return f"{refused.message}; write column names without the table's"
    return refused.message


@asynccontextmanager
async def _undone(conn: Connection) -> AsyncGenerator[None]:
    """A savepoint that is rolled back at the end."""
    savepoint = conn.transaction()
    await savepoint.start()
    try:
        yield
    finally:
        await savepoint.rollback()
