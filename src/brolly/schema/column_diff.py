"""The steps for one column that exists and that the document describes."""

from __future__ import annotations

from collections.abc import Mapping

from brolly.pg.catalog import Table
from brolly.pg.identifiers import quote
from brolly.schema.defaults import same_default
from brolly.schema.document import Column
from brolly.schema.document import Table as TableSpec
from brolly.schema.outcome import column_type
from brolly.schema.plan import Block, Loss, Phase, Rows, Step
from brolly.schema.probe import Place
from brolly.schema.statements import alter_column, fit
from brolly.schema.types import ColumnType, widens

# Words that Postgres reads as a column's name only between double quotes.
_RESERVED = frozenset((
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "both", "case", "cast",
    "check", "collate", "column", "constraint", "create", "current_date", "current_role", "current_time",
    "current_timestamp", "current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end",
    "except", "false", "fetch", "for", "foreign", "from", "grant", "group", "having", "in", "initially",
    "intersect", "into", "lateral", "leading", "limit", "localtime", "localtimestamp", "not", "null", "offset",
    "on", "only", "or", "order", "placing", "primary", "references", "returning", "select", "session_user",
    "some", "symmetric", "system_user", "table", "then", "to", "trailing", "true", "union", "unique", "user",
    "using", "variadic", "when", "where", "window", "with", "authorization", "binary", "collation",
    "concurrently", "cross", "current_schema", "freeze", "full", "ilike", "inner", "is", "isnull", "join", "left",
    "like", "natural", "notnull", "outer", "overlaps", "right", "similar", "tablesample", "verbose",
))  # fmt: skip


class ColumnDiff:
    """Finds the steps of one column: type with default, sequence, default, nulls.

    ``retyped`` says that the type changes, ``converted`` that it does so by an expression.
    """

    def __init__(self, now: Table, wanted: Column, name: str, spec: TableSpec, texts: Mapping[Place, str]) -> None:
        self.table = now
        self.now = now.columns[name]
        self.wanted = wanted
        self.name = name
        self.spec = spec
        self.texts = texts
        self.retyped = False
        self.converted = False
        self.losses: list[Loss] = []
        self.type_now = column_type(now, name)
        self.found: list[Step] = []

    def steps(self) -> list[Step]:
        """The column's steps, in order."""
        old, new = self.type_now, self.wanted.type
        if old.serial and not new.serial:
            self._detach_sequence()
        if old.stored != new.stored:
            self._change_type(old, new)
        elif not new.serial and not old.serial:
            self._change_default()
        elif old.serial and not new.serial and self.wanted.default is not None:
            self._set_default(self.wanted.default.sql)
        if new.serial and not old.serial:
            self._attach_sequence(new)
        self._change_nulls()
        return self.found

    def _step(
        self,
        description: str,
        actions: tuple[str, ...],
        undo: str,
        *,
        destructive: bool = False,
        block: Block | None = None,
        rows: Rows | None = None,
    ) -> None:
        sql = alter_column(self.table.name, self.name, *actions)
        self.found.append(Step(Phase.ALTER_COLUMNS, sql, description, undo, destructive, block, rows))

    @property
    def _place(self) -> str:
        return f"{self.table.name}.{self.name}"

    # Type

    def _change_type(self, old: ColumnType, new: ColumnType) -> None:
        using = self.spec.alter_type.get(self.name)
        block = None
        if using is None and not widens(old.stored, new.stored):
            block = self._needs_conversion(old, new)
        self.retyped = True
        self.converted = using is not None or block is not None
        if using is not None:
            self.losses.append(Loss(self.table.name, self.name, f"converted to {new.stored.name}"))
        had = self.now.default is not None and not old.serial
        change = f"type {new.stored.name}" + (f" using ({using})" if using is not None else "")
        # Between types without a cast of their own, the text form is the way back.
        through = "::text" if self.converted else ""
        back = f"type {self.now.type} using ({quote(self.name)}{through}::{self.now.type})"
        # The old default may have no form in the new type; Postgres allows all three at once.
        actions = ["drop default"] * had + [change]
        undo = ["drop default"] * (self.wanted.default is not None) + [back]
        if self.wanted.default is not None:
            actions.append(f"set default {self.wanted.default.sql}")
        if had:
            undo.append(f"set default {self.now.default}")
        self._step(
            f"Change the type of {self._place} from {old.name} to {new.name}",
            tuple(actions),
            alter_column(self.table.name, self.name, *undo),
            destructive=self.converted,
            block=block,
        )
        if old.serial and new.serial:
            self._widen_sequence(old, new)

    def _needs_conversion(self, old: ColumnType, new: ColumnType) -> Block:
        name = quote(self.name) if self.name in _RESERVED else self.name
        # As JSON, ready to paste.
        cast = f"{name}::{new.stored.name}".replace('"', '\\"')
        return Block(
            f"{old.name} does not widen to {new.name} without loss",
            f'Add "_alterType": {{"{self.name}": "{cast}"}} to table {self.table.name}, or another conversion.',
        )

    # Sequence

    @property
    def _sequence(self) -> str:
        # The default reads nextval('name'::regclass), with the name quoted where that is needed.
        default = self.now.default or ""
        return default.removeprefix("nextval('").removesuffix("'::regclass)").replace("''", "'")

    def _widen_sequence(self, old: ColumnType, new: ColumnType) -> None:
        sql = f"alter sequence {self._sequence} as {new.stored.name}"
        undo = f"alter sequence {self._sequence} as {old.stored.name}"
        self.found.append(Step(Phase.ALTER_COLUMNS, sql, f"Let {self._place} count as {new.name}", undo))

    def _detach_sequence(self) -> None:
        sequence = self._sequence
        sql = f"{alter_column(self.table.name, self.name, 'drop default')};\ndrop sequence {sequence}"
        undo = ";\n".join(self._sequence_statements(sequence, self.type_now))
        self.found.append(Step(Phase.ALTER_COLUMNS, sql, f"Stop counting {self._place} up", undo))

    def _sequence_statements(self, sequence: str, counted: ColumnType) -> list[str]:
        table, column = quote(self.table.name), quote(self.name)
        literal = sequence.replace("'", "''")
        return [
            f"create sequence {sequence} as {counted.stored.name} owned by {table}.{column}",
            f"select setval('{literal}', coalesce(max({column}), 0) + 1, false) from {table}",
            alter_column(self.table.name, self.name, f"set default nextval('{literal}')"),
        ]

    def _attach_sequence(self, new: ColumnType) -> None:
        sequence = quote(fit(f"{self.table.name}_{self.name}_seq"))
        actions = self._sequence_statements(sequence, new)
        # A change of type, undone after this, brings its own default back.
        kept = self.now.default if self.type_now.stored == new.stored else None
        back = "drop default" if kept is None else f"set default {kept}"
        undo = f"{alter_column(self.table.name, self.name, back)};\ndrop sequence {sequence}"
        description = f"Count {self._place} up as {new.name}"
        # The count starts after the largest of all values, so every row must be seen.
        seen = (self.table.name,)
        self.found.append(Step(Phase.ALTER_COLUMNS, ";\n".join(actions), description, undo, joins=seen))

    # Default and nulls

    def _change_default(self) -> None:
        if self.now.generated is not None or self.now.identity:
            return
        wanted, current = self.wanted.default, self.now.default
        if wanted is None:
            if current is not None:
                undo = alter_column(self.table.name, self.name, f"set default {current}")
                self._step(f"Drop the default of {self._place}", ("drop default",), undo)
            return
        stored = self.texts.get((self.table.name, "default", self.name))
        if current is None or not (same_default(wanted, current, self.wanted.type) or stored == current):
            self._set_default(wanted.sql)

    def _set_default(self, sql: str) -> None:
        # A serial's default comes back with its sequence.
        current = None if self.type_now.serial else self.now.default
        back = "drop default" if current is None else f"set default {current}"
        undo = alter_column(self.table.name, self.name, back)
        self._step(f"Set the default of {self._place}", (f"set default {sql}",), undo)

    def _change_nulls(self) -> None:
        key = self.table.primary_key if self.spec.key is None else self.spec.key
        fixed = self.now.generated is not None or self.now.identity
        if self.name in key or (fixed and self.wanted.nullable is None):
            return
        required = self.wanted.nullable is False or self.wanted.type.serial
        if required and self.now.nullable:
            # An expression that converts the column may fill it as well; then Postgres counts.
            rows = (
                None
                if self.converted
                else Rows(
                    self.table.name,
                    self.name,
                    f"{quote(self.name)} is null",
                    "these rows have no value",
                    f"Give {self.name} a value in every row of {self.table.name} first, or leave nullable out.",
                )
            )
            undo = alter_column(self.table.name, self.name, "drop not null")
            self._step(f"Require a value in {self._place}", ("set not null",), undo, rows=rows)
        elif not required and not self.now.nullable:
            undo = alter_column(self.table.name, self.name, "set not null")
            self._step(f"Allow {self._place} to be null", ("drop not null",), undo)
