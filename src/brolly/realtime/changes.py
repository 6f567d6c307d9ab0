"""Changes as they are recorded, who they may be for, and what a reader already has.

Transactions commit in another order than that in which their changes were numbered, so "everything up to number 57"
says nothing. What a reader has is told by snapshots instead: see ``Position``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from brolly.core.caller import ROLES, Caller, Kind
from brolly.core.errors import AppError

Operation = Literal["INSERT", "UPDATE", "DELETE"]

_MOMENT = re.compile(r"([0-9]{1,19})((?:,[0-9]{1,19})*)")
_LONGEST_TOKEN = 20_000


@dataclass(frozen=True, slots=True)
class Moment:
    """Which transactions had ended: all below ``next`` but the ``running``."""

    next: int
    running: frozenset[int] = frozenset()

    def has(self, transaction: int) -> bool:
        """Whether what that transaction did was to be seen then."""
        return transaction < self.next and transaction not in self.running

    def __str__(self) -> str:
        return ",".join(map(str, (self.next, *sorted(self.running))))


def moment_of(snapshot: str) -> Moment:
    """Postgres's own text of a snapshot, ``xmin:xmax:running,…``."""
    _, after, running = snapshot.split(":")
    return Moment(int(after), frozenset(map(int, filter(None, running.split(",")))))


@dataclass(frozen=True, slots=True)
class Position:
    """What a reader has: all that was to be seen at ``before``, and of what was to be seen ``at``, the changes up to
    number ``id``. Its text is the token that ``since`` takes."""

    before: Moment
    at: Moment
    id: int

    def covers(self, change: Change) -> bool:
        """Whether the reader has that change already."""
        mine = change.transaction
        return self.before.has(mine) or (change.id <= self.id and self.at.has(mine))

    def __str__(self) -> str:
        return f"{self.id}-{self.at}" if self.before == self.at else f"{self.id}-{self.before}-{self.at}"


def position_of(token: str) -> Position:
    """The position that a token stands for; raises for what is none."""
    number, _, rest = token.partition("-")
    moments = rest.split("-")
    if len(token) > _LONGEST_TOKEN or not re.fullmatch("[0-9]{1,19}", number) or len(moments) > 2:
        raise _bad_token()
    found = [_moment(text) for text in moments]
    return Position(found[0], found[-1], int(number))


def _moment(text: str) -> Moment:
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise _bad_token()
    return Moment(int(match[1]), frozenset(map(int, filter(None, match[2].split(",")))))


def _bad_token() -> AppError:
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        "since is not the id of a change.",
        remediation="Send the id of the last change, or the since of the last subscribed message, as it came; "
        "manage_realtime get shows the tables that are recorded.",
    )


@dataclass(frozen=True, slots=True)
class Change:
    """A recorded change. ``image`` and ``old_image`` are the whole row as JSON texts, which nobody may see as they
    are: ``visibility.visible`` tells what of them may be sent to whom. ``position``: of a reader who has this change
    and all that were delivered before it.
    """

    id: int
    transaction: int
    table: str
    operation: Operation
    image: str | None = field(repr=False)
    old_image: str | None = field(repr=False)
    at: datetime
    position: Position = field(repr=False)

    @property
    def token(self) -> str:
        """The change's id as clients know it, from which they can resume."""
        return str(self.position)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose rights decide: the same for all connections of one user with the same claims."""

    kind: Kind
    user_id: str | None = None
    claims: str = "{}"

    @property
    def role(self) -> str:
        """The database role."""
        return ROLES[self.kind]


def identity_of(caller: Caller) -> Identity:
    """The caller's identity. Service keys are one: their role alone decides."""
    if caller.kind == "service":
        return Identity("service")
    claims: Mapping[str, Any] = caller.claims
    return Identity(caller.kind, caller.user_id, json.dumps(dict(claims), sort_keys=True))


@dataclass(frozen=True, slots=True)
class Sight:
    """What an identity may see of a change: rows as JSON texts, as the REST API shows them."""

    record: str | None
    old_record: str | None
