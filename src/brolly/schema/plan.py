"""A plan: the steps from the tables as they are to the tables as a document wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Phase(IntEnum):
    """The order of steps: what others stand on goes last and comes first."""

    DROP_ROUTINES = -1
    DROP_FOREIGN_KEYS = 0
    DROP_CONSTRAINTS = 1
    DROP_INDEXES = 2
    DROP_TABLES = 3
    DROP_COLUMNS = 4
    CREATE_TABLES = 5
    ADD_COLUMNS = 6
    ALTER_COLUMNS = 7
    ADD_KEYS = 8
    ADD_CHECKS = 9
    # A foreign key may rest on a unique index.
    ADD_INDEXES = 10
    ADD_FOREIGN_KEYS = 11
    # Views and functions, in the order in which they use each other.
    CREATE_ROUTINES = 12


@dataclass(frozen=True, slots=True)
class Block:
    """Why a step cannot be taken, and what would unblock it."""

    reason: str
    unblock: str
    code: str = "STATE_PREREQUISITE_MISSING"
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Rows:
    """A count to make before the step: rows of the table for which the condition holds stand in its way."""

    table: str
    column: str
    condition: str
    reason: str
    unblock: str


@dataclass(frozen=True, slots=True)
class Written:
    """SQL of the owner's own in a statement: where the document has it, and where in the statement it begins.
    Of a ``view``, what was stored has to be looked at."""

    path: str
    text: str
    at: int
    view: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One statement. ``undo`` is its inverse; empty when there is none.

    ``joins`` names the tables of which it must see every row; ``written`` is what the owner wrote in it.
    """

    phase: Phase
    sql: str
    description: str
    undo: str
    destructive: bool = False
    block: Block | None = None
    rows: Rows | None = None
    joins: tuple[str, ...] = ()
    written: Written | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """What a step would destroy: a table, or the values of a column."""

    table: str
    column: str | None = None
    how: str = "deleted"


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order; what the document leaves out and so stays; what would be lost."""

    steps: Sequence[Step]
    kept: Mapping[str, Any]
    losses: Sequence[Loss]

    @property
    def sql_up(self) -> str:
        """All statements."""
        return ";\n".join(step.sql for step in self.steps) + ";"

    @property
    def sql_down(self) -> str:
        """The way back, as far as there is one; data that was dropped does not return."""
        return "\n".join(
            f"{step.undo};" if step.undo else f"-- no way back: {step.description}" for step in reversed(self.steps)
        )
