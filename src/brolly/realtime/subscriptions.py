"""Who wants which changes. Sockets that want the same with the same rights are one audience, served as one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from brolly.realtime.changes import Change, Identity, Position

if TYPE_CHECKING:
    from brolly.realtime.socket import Socket

Ids = tuple[str | None, ...]
"""The subscriptions that a change is for, by what the client called them; None is the one without a name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscription asks for. ``filter`` is the data feature's record, or None for all rows."""

    id: str | None
    filter: Any
    operations: frozenset[str]


@dataclass(slots=True, eq=False)
class Audience:
    """Sockets of one identity that want the same of a table."""

    identity: Identity
    wanted: tuple[Wanted, ...]
    members: set[Socket] = field(default_factory=set[Any])


@dataclass(slots=True, eq=False)
class Resumption(Audience):
    """One socket's subscription that begins in the past. Until the past is sent, what is new waits in ``held``;
    after it, ``position`` says which of what comes was sent with it."""

    held: list[tuple[Change, bytes]] = field(default_factory=list[tuple[Change, bytes]])
    position: Position | None = None


class TableIndex:
    """The audiences of one table, found by the filters that let a change through."""

    def __init__(self) -> None:
        self._shared: dict[tuple[Identity, tuple[Wanted, ...]], Audience] = {}
        self._by_filter: dict[Any, set[Audience]] = {}
        self._equal: dict[tuple[str, ...], dict[tuple[Any, ...], Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_filter)

    def all(self) -> set[Audience]:
        """Every audience of the table."""
        return {audience for users in self._by_filter.values() for audience in users}

    def join(self, socket: Socket, identity: Identity, wanted: tuple[Wanted, ...]) -> Audience:
        """The audience of that identity and wish, with the socket in it."""
        audience = self._shared.get((identity, wanted))
        if audience is None:
            audience = self._shared[identity, wanted] = Audience(identity, wanted)
            self.add(audience)
        audience.members.add(socket)
        return audience

    def leave(self, socket: Socket, audience: Audience) -> None:
        """Without the socket; nothing is kept of an audience without members."""
        audience.members.discard(socket)
        if audience.members:
            return
        key = (audience.identity, audience.wanted)
        if self._shared.get(key) is audience:
            del self._shared[key]
        for each in {one.filter for one in audience.wanted}:
            users = self._by_filter.get(each)
            if users is None:
                continue
            users.discard(audience)
            if not users:
                del self._by_filter[each]
                self._forget(each)

    def add(self, audience: Audience) -> None:
        """Serve the audience from now on."""
        for each in {one.filter for one in audience.wanted}:
            self._by_filter.setdefault(each, set()).add(audience)
            if each is not None and each.equal is not None:
                columns, values = _equality(each)
                self._equal.setdefault(columns, {})[values] = each

    def _forget(self, found: Any) -> None:
        if found is None or found.equal is None:
            return
        columns, values = _equality(found)
        of_columns = self._equal.get(columns, {})
        if of_columns.get(values) == found:
            del of_columns[values]
            if not of_columns:
                del self._equal[columns]

    @property
    def computed(self) -> list[Any]:
        """The filters that Postgres has to look at."""
        return [each for each in self._by_filter if each is not None and each.equal is None]

    def audiences(self, change: Change, computed: Iterable[Any]) -> dict[Audience, Ids]:
        """Who is to get the change if they may see it. ``computed``: those of the computed filters that let it pass."""
        found: dict[Audience, list[str | None]] = {}
        for passed in [None, *self._equals(change), *computed]:
            for audience in self._by_filter.get(passed, ()):
                for wanted in audience.wanted:
                    if wanted.filter == passed and change.operation in wanted.operations:
                        found.setdefault(audience, []).append(wanted.id)
        return {audience: tuple(sorted(ids, key=lambda one: one or "")) for audience, ids in found.items()}

    def _equals(self, change: Change) -> Iterator[Any]:
        if not self._equal:
            return
        row = cast(Mapping[str, Any], json.loads(change.image or change.old_image or "{}"))
        for columns, by_values in self._equal.items():
            values = tuple(row.get(column) for column in columns)
            # A null equals nothing, and a value of another type than the column had is not comparable.
            if None not in values and (passed := by_values.get(_typed(values))) is not None:
                yield passed


def _equality(found: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    pairs = found.equal
    return tuple(name for name, _ in pairs), _typed([json.loads(text) for _, text in pairs])


def _typed(values: Sequence[Any]) -> tuple[Any, ...]:
    """True is 1 in Python, and must not be here; a document is no value."""
    return tuple((type(v).__name__, v if isinstance(v, str | int | bool) else None) for v in values)
