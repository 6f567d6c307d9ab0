"""The steps for one table that exists and that the document describes."""

from __future__ import annotations

from collections.abc import Mapping

from brolly.pg.catalog import Check, Index, Key, Table
from brolly.pg.catalog import Column as ColumnNow
from brolly.pg.identifiers import quote
from brolly.schema.column_diff import ColumnDiff
from brolly.schema.document import Column
from brolly.schema.document import Index as IndexSpec
from brolly.schema.document import Table as TableSpec
from brolly.schema.outcome import document_index, same_check
from brolly.schema.plan import Loss, Phase, Rows, Step
from brolly.schema.probe import Place
from brolly.schema.statements import (
    add_constraint,
    alter_column,
    alter_table,
    column_again,
    column_clause,
    create_index,
    drop_constraint,
    fit,
    quote_all,
)

FILL = 'give it a "default", or add it nullable, fill it and then set "nullable": false'


class TableDiff:
    """Collects the table's steps. ``converted`` are columns whose values an expression converts,
    ``keys_gone`` the keys taken away, ``key_drops`` the steps for that, which wait for a look at
    who refers to them."""

    def __init__(self, spec: TableSpec, now: Table, texts: Mapping[Place, str], names: set[str]) -> None:
        self.name = now.name
        self.spec = spec
        self.now = now
        self.texts = texts
        self.names = names
        self.steps: list[Step] = []
        self.losses: list[Loss] = []
        self.converted: set[str] = set()
        self.retyped: set[str] = set()
        self.keys_gone: list[Key] = []
        self.key_drops: list[tuple[Step, Key]] = []
        self.dropped = [name for name in spec.drop_columns if name in now.columns]

    def run(self) -> None:
        """Find all steps."""
        for name in self.dropped:
            self._drop_column(self.now.columns[name])
        self._drop_dependents()
        for name, column in self.spec.columns.items():
            if name not in self.now.columns:
                self._add_column(name, column)
        self._change_key()
        for name, column in self.spec.columns.items():
            if name in self.now.columns:
                self._change_column(name, column)
            self._change_unique(name, column)
        for name, sql in self.spec.checks.items():
            self._change_check(name, sql)
        for name in self.spec.drop_indexes:
            self._drop_index(name)
        for name, index in self.spec.indexes.items():
            self._change_index(name, index)

    def _step(self, phase: Phase, sql: str, description: str, undo: str) -> None:
        self.steps.append(Step(phase, sql, description, undo))

    # Columns

    def _drop_column(self, column: ColumnNow) -> None:
        sql = alter_table(self.name, f"drop column {quote(column.name)}")
        undo = alter_table(self.name, f"add column {column_again(column)}")
        description = f"Drop column {self.name}.{column.name} with its values"
        self.steps.append(Step(Phase.DROP_COLUMNS, sql, description, undo, destructive=True))
        self.losses.append(Loss(self.name, column.name))

    def _drop_dependents(self) -> None:
        """Say what goes with a dropped column: Postgres would drop it without a word."""
        gone = set(self.dropped)
        if self.now.primary and self.spec.key is None and gone & set(self.now.primary.columns):
            self._drop_key(self.now.primary, "primary key")
        for key in self.now.uniques:
            if gone & set(key.columns):
                self._drop_key(key, "unique")
        for check in self.now.checks:
            if gone & set(check.columns) and check.name not in self.spec.checks:
                self._drop_check(check, ", which reads a dropped column")
        for index in self.now.indexes:
            if gone & set(index.columns) and index.name not in {*self.spec.indexes, *self.spec.drop_indexes}:
                self._drop_index(index.name)

    def _add_column(self, name: str, column: Column) -> None:
        keyed = column.primary_key or name in (self.spec.key or ())
        filled = column.default is not None or column.type.serial
        rows = None
        if (column.nullable is False or keyed) and not filled:
            rows = Rows(self.name, name, "true", "the rows that exist would have no value", f"For {name}: {FILL}.")
        sql = alter_table(self.name, f"add column {column_clause(name, column)}")
        undo = alter_table(self.name, f"drop column {quote(name)}")
        self.steps.append(Step(Phase.ADD_COLUMNS, sql, f"Add column {self.name}.{name}", undo, rows=rows))

    def _change_column(self, name: str, column: Column) -> None:
        diff = ColumnDiff(self.now, column, name, self.spec, self.texts)
        self.steps += diff.steps()
        self.converted |= {name} if diff.converted else set()
        self.retyped |= {name} if diff.retyped else set()
        self.losses += diff.losses

    # Keys

    def _change_key(self) -> None:
        wanted, current = self.spec.key, self.now.primary
        if wanted is None or wanted == self.now.primary_key:
            return
        if current is not None:
            self._drop_key(current, "primary key")
        if not wanted:
            return
        name = fit(f"{self.name}_pkey", self.names - ({current.name} if current else set()))
        sql = add_constraint(self.name, name, f"primary key ({quote_all(wanted)})")
        description = f"Make ({', '.join(wanted)}) the primary key of {self.name}"
        old = [c for c in wanted if c in self.now.columns and self.now.columns[c].nullable]
        rows = None
        if old:
            condition = " or ".join(f"{quote(column)} is null" for column in old)
            reason = "a primary key has no nulls"
            rows = Rows(self.name, old[0], condition, reason, f"Give {', '.join(old)} a value in every row first.")
        undo = [drop_constraint(self.name, name), *(alter_column(self.name, c, "drop not null") for c in old)]
        self.steps.append(Step(Phase.ADD_KEYS, sql, description, ";\n".join(undo), rows=rows))

    def _change_unique(self, name: str, column: Column) -> None:
        if (self.spec.key or self.now.primary_key) == (name,):
            return  # the key says it already; a constraint beside it is left alone
        current = [key for key in self.now.uniques if key.columns == (name,)]
        if column.unique and not current:
            constraint = fit(f"{self.name}_{name}_key", self.names)
            self.names.add(constraint)
            sql = add_constraint(self.name, constraint, f"unique ({quote(name)})")
            self._step(Phase.ADD_KEYS, sql, f"Make {self.name}.{name} unique", drop_constraint(self.name, constraint))
        if not column.unique:
            for key in current:
                self._drop_key(key, "unique")

    def _drop_key(self, key: Key, kind: str) -> None:
        what = "primary key" if kind == "primary key" else "unique constraint"
        undo = add_constraint(self.name, key.name, f"{kind} ({quote_all(key.columns)})")
        description = f"Drop the {what} of {self.name} ({', '.join(key.columns)})"
        step = Step(Phase.DROP_CONSTRAINTS, drop_constraint(self.name, key.name), description, undo)
        self.keys_gone.append(key)
        self.key_drops.append((step, key))

    # Checks

    def _change_check(self, name: str, sql: str | None) -> None:
        current = next((check for check in self.now.checks if check.name == name), None)
        stored = self.texts.get((self.name, "check", name))
        # Postgres rewrites a check when a column of it changes type; taken anew, it reads as wanted.
        touched = current is not None and bool(self.retyped & set(current.columns))
        if current is not None and sql is not None and same_check(sql, current, stored) and not touched:
            return
        if current is not None:
            self._drop_check(current, "" if sql is None else ", which is replaced")
        if sql is not None:
            add, undo = add_constraint(self.name, name, f"check ({sql})"), drop_constraint(self.name, name)
            self._step(Phase.ADD_CHECKS, add, f"Add check {name} to {self.name}", undo)

    def _drop_check(self, check: Check, why: str) -> None:
        sql, undo = (
            drop_constraint(self.name, check.name),
            add_constraint(self.name, check.name, f"check ({check.expression})"),
        )
        self._step(Phase.DROP_CONSTRAINTS, sql, f"Drop check {check.name} of {self.name}{why}", undo)

    # Indexes

    def _index(self, name: str) -> Index | None:
        return next((i for i in self.now.indexes if i.name == name and i.constraint is None), None)

    def _drop_index(self, name: str) -> None:
        if index := self._index(name):
            sql = f"drop index {quote(name)}"
            self._step(Phase.DROP_INDEXES, sql, f"Drop index {name} of {self.name}", index.definition)

    def _change_index(self, name: str, wanted: IndexSpec) -> None:
        current = self._index(name)
        if current is not None and same_index(wanted, current):
            return
        if current is not None:
            what = f"Drop index {name} of {self.name}, which is replaced by another definition"
            self._step(Phase.DROP_INDEXES, f"drop index {quote(name)}", what, current.definition)
        sql, undo = create_index(self.name, name, wanted), f"drop index {quote(name)}"
        self._step(Phase.ADD_INDEXES, sql, f"Create index {name} on {self.name}", undo)


def same_index(wanted: IndexSpec, current: Index) -> bool:
    """Whether an index is as the document describes it."""
    if not document_index(current) or tuple(wanted.columns) != current.columns:
        return False
    if (wanted.unique, wanted.method) != (current.unique, current.method):
        return False
    return current.default_opclass if wanted.opclass is None else set(current.opclasses) == {wanted.opclass}
