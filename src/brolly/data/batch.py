"""Several writes in one transaction: later steps may use what earlier ones stored."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, cast

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from brolly.core.errors import AppError
from brolly.data import reading
from brolly.data.query_string import Preferences, RowsQuery, parse_query, refuse
from brolly.data.response import compact
from brolly.data.visit import Visit, opened
from brolly.data.writing import Changed, Work, alteration, creation, explained, perform, removal, require_writing
from brolly.pg.catalog import Snapshot

MAX_STEPS = 50
MAX_ROWS = 1000
MAX_SECONDS = 30.0
"""How long the transaction of a batch may last."""

Row = dict[str, Any]


class Stored(dict[str, list[Row]]):
    """What the steps answered, by their names. ``room``: how many bytes of it may still be used again."""

    def __init__(self) -> None:
        super().__init__()
        self.room = reading.MAX_BYTES

    def take(self, value: Any) -> Any:
        """The value; a long one cannot be used so often that the rows outgrow the memory."""
        self.room -= len(value if isinstance(value, str) else compact(value))
        if self.room < 0:
            raise AppError(
                "REQUEST_TOO_LARGE",
                f"The values that the steps take by $ref are longer than {reading.MAX_BYTES} bytes.",
                remediation="Use $ref for short values, such as keys; butterbase_docs, topic rest, has examples.",
            )
        return value


class Step(BaseModel):
    """One write. A value ``{"$ref": "step.column"}`` is what the step of that name stored; ``{"$value": x}`` is x."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    op: Literal["insert", "upsert", "update", "delete"]
    table: str
    name: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    values: Row | list[Row] | None = None
    filters: dict[str, Any] = Field(default_factory=dict[str, Any])
    select: str | None = None
    on_conflict: str | None = None
    returning: bool = True
    expect: int | None = Field(None, ge=0)


class Batch(BaseModel):
    """The body of a batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS)]


def parse(body: Any) -> list[Step]:
    """The steps of a body."""
    try:
        steps = Batch.model_validate(body).steps
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        said = [f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in found[:20]]
        raise refuse("The batch cannot be read: " + "; ".join(said[:3]) + ".", issues=said) from None
    names = [step.name for step in steps if step.name]
    if len(set(names)) < len(names):
        raise refuse("Two steps have the same name.")
    if sum(len(step.values) for step in steps if isinstance(step.values, list)) > MAX_ROWS:
        raise refuse(f"A batch stores at most {MAX_ROWS} rows.")
    return steps


async def run(at: Visit, steps: Sequence[Step]) -> bytes:
    """Do all steps as the caller, or none of them; what each did."""
    require_writing(at)
    tables = await at.tables()
    stored = Stored()
    results: list[bytes] = []
    work: Work | None = None
    number = used = 0
    try:
        with _time_limit():
            async with opened(at) as connection:
                for number, step in enumerate(steps, 1):  # noqa: B007 - an error names the step
                    work = None
                    work = _work(at, tables, step, stored)
                    done = await perform(connection, work, used)
                    _check(step, done)
                    results.append(_result(step, done))
                    used += len(results[-1])
                    if step.name and done.body is not None:
                        stored[step.name] = json.loads(done.body)
    except AppError as error:
        ours = await explained(at, work, error) if work and error.code != "DATABASE_TIMEOUT" else error
        raise _of_step(ours, number, steps[number - 1]) from error
    return b'{"results":[' + b",".join(results) + b"]}"


@contextmanager
def _time_limit() -> Generator[None]:
    """Ends what takes too long; the connection is then closed, which undoes its transaction."""
    with anyio.move_on_after(MAX_SECONDS) as scope:
        yield
    if scope.cancelled_caught:
        raise AppError(
            "DATABASE_TIMEOUT",
            f"The batch took longer than {MAX_SECONDS:.0f} seconds; nothing was done.",
            remediation="Send fewer steps or rows at a time; butterbase_docs, topic rest, has the limits.",
        )


def _work(at: Visit, tables: Snapshot, step: Step, stored: Stored) -> Work:
    asked = _asked(step, stored)
    if step.op == "delete":
        if step.values is not None:
            raise refuse("A delete takes filters and no values.")
        return removal(at, tables, asked)
    if step.values is None:
        raise refuse(f"An {step.op} needs values.")
    if step.op == "update":
        if isinstance(step.values, list):
            raise refuse("An update takes one object of values.")
        return alteration(at, tables, asked, _filled(step.values, stored))
    rows = step.values if isinstance(step.values, list) else [step.values]
    return creation(at, tables, asked, [_filled(row, stored) for row in rows])


def _asked(step: Step, stored: Stored) -> RowsQuery:
    pairs = [(name, _filter(name, given, stored)) for name, given in step.filters.items()]
    pairs += [(name, text) for name in ("select", "on_conflict") if (text := getattr(step, name))]
    asked = parse_query(step.table, pairs)
    if step.filters.keys() & {"select", "on_conflict", "order", "limit", "offset", "cursor", "columns"}:
        raise refuse("filters holds conditions only.")
    preferences = Preferences(
        returning="representation" if step.returning else "minimal",
        resolution="merge-duplicates" if step.op == "upsert" else None,
    )
    return RowsQuery(asked.request, None, asked.on_conflict, asked.problems, asked.ignored, asked.given, preferences)


def _filter(name: str, given: Any, stored: Stored) -> str:
    """``"eq.5"``, or ``{"eq": {"$ref": "step.column"}}`` for a value that an earlier step stored."""
    if isinstance(given, str):
        return given
    entries = list(cast("dict[str, Any]", given).items()) if isinstance(given, dict) else []
    if len(entries) != 1:
        raise refuse(f'The filter on {name[:63]} must be "op.value" or {{"op": {{"$ref": "step.column"}}}}.')
    operator, operand = entries[0]
    value = _value(operand, stored)
    if value is None:
        raise refuse(f"The filter on {name[:63]} compares with null, which nothing equals; use is.null.")
    return f"{operator}.{value if isinstance(value, str) else compact(value)}"


def _filled(row: Mapping[str, Any], stored: Stored) -> Row:
    return {name: _value(value, stored) for name, value in row.items()}


def _value(value: Any, stored: Stored) -> Any:
    if not isinstance(value, dict):
        return value
    entries = cast("dict[str, Any]", value)
    if entries.keys() == {"$value"}:
        return entries["$value"]
    return _reference(entries["$ref"], stored) if entries.keys() == {"$ref"} else entries


def _reference(text: Any, stored: Stored) -> Any:
    """``step.column``, or ``step.2.column`` for the third row."""
    name, _, rest = str(text).partition(".")
    place, dot, column = rest.partition(".")
    index = int(place) if dot and place.isascii() and place.isdigit() and len(place) < 6 else 0
    column = column if dot else place
    rows = stored.get(name)
    if rows is None:
        raise refuse(f"$ref {str(text)[:63]!r}: no earlier step of that name returned rows.", steps=list(stored))
    if index >= len(rows) or column not in rows[index]:
        raise refuse(f"$ref {str(text)[:63]!r}: that step answered no such row or column.")
    return stored.take(rows[index][column])


def _check(step: Step, done: Changed) -> None:
    if step.expect is not None and done.found != step.expect:
        raise AppError(
            "RESOURCE_CONFLICT",
            f"It reached {done.found} rows where {step.expect} were expected; nothing was done.",
            remediation="Read the rows again with select_rows, then repeat the batch.",
            details={"found": done.found, "expected": step.expect},
        )


def _result(step: Step, done: Changed) -> bytes:
    head: dict[str, Any] = {"name": step.name} if step.name else {}
    head |= {"op": step.op, "table": step.table, "count": done.found}
    rows = b',"rows":' + done.body if done.body is not None else b""
    return compact(head)[:-1].encode() + rows + b"}"


def _of_step(error: AppError, number: int, step: Step) -> AppError:
    details: dict[str, Any] = {**cast("dict[str, Any]", error.details or {}), "step": step.name or number}
    return AppError(
        error.code,
        f"Step {step.name or number}: {error.message}",
        remediation=error.remediation,
        details=details,
        retry_after=error.retry_after,
    )
