"""Which expressions of a document only Postgres can judge: those that are new, and those that differ at sight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from brolly.pg.catalog import Snapshot
from brolly.schema.defaults import same_default
from brolly.schema.document import Document
from brolly.schema.outcome import Outcome, column_type, same_check
from brolly.schema.probe import Columns, Question


def questions(
    document: Document, snapshot: Snapshot, after: Mapping[str, Outcome]
) -> Iterator[tuple[Columns, list[Question]]]:
    """For each table the columns that its expressions stand on, and the expressions."""
    for name in document.tables:
        outcome = after[name]
        yield outcome.columns, [*_defaults(outcome), *_checks(outcome)]
        now = snapshot.tables.get(name)
        if now is not None:
            # A conversion reads the columns as they are before the change.
            yield {column: column_type(now, column) for column in now.columns}, [*_conversions(outcome)]


def _defaults(outcome: Outcome) -> Iterator[Question]:
    for name, column in outcome.spec.columns.items() if outcome.spec else ():
        if column.default is None:
            continue
        current = outcome.now.columns.get(name) if outcome.now else None
        if current is not None and current.default is not None and outcome.now is not None:
            unchanged = column_type(outcome.now, name) == column.type
            if unchanged and same_default(column.default, current.default, column.type):
                continue
        yield Question((outcome.name, "default", name), column.default.sql, f"{_path(outcome, name)}.default")


def _checks(outcome: Outcome) -> Iterator[Question]:
    existing = {check.name: check for check in outcome.now.checks} if outcome.now else {}
    for name, sql in outcome.spec.checks.items() if outcome.spec else ():
        if sql is not None and not (name in existing and same_check(sql, existing[name], None)):
            yield Question((outcome.name, "check", name), sql, f"tables.{outcome.name}.checks.{name}")


def _conversions(outcome: Outcome) -> Iterator[Question]:
    spec, now = outcome.spec, outcome.now
    if spec is None or now is None:
        return
    for name, sql in spec.alter_type.items():
        if name in now.columns and column_type(now, name).stored != spec.columns[name].type.stored:
            yield Question((outcome.name, "using", name), sql, f"tables.{outcome.name}._alterType.{name}")


def _path(outcome: Outcome, column: str) -> str:
    return f"tables.{outcome.name}.columns.{column}"
