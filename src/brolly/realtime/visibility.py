"""What each identity may see of recorded changes, by the table's own policies.

The recorded row stands where the table would: the table's SELECT conditions, put together as Postgres does, are asked
of it by the identity's role and with its claims, so that sub-selects see what that caller sees. Each identity is a
transaction of its own in one message: what fails for one fails for nobody else. The last of them tells whether the
conditions were still those of the table; if not, all is asked again with the new ones.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.databases import REALTIME_ROLE
from brolly.pg.identifiers import quote
from brolly.pg.pipeline import Result, Step
from brolly.pg.session import take_platform_role, take_role
from brolly.realtime.changes import Change, Identity, Sight
from brolly.realtime.facts import VERSION, Facts, claims_matter, facts_of
from brolly.registry import App, Registry

log = logging.getLogger("brolly.realtime")

_AT_ONCE = 200
"""Identities in one message."""
_TRIES = 3
TIMEOUT_MS = 2_000
"""For what one identity may see of a batch. Others wait meanwhile."""
Seen = Mapping[Identity, Sequence[Sight | None]]
Group = Sequence[Step]
Outcome = list[Result] | Exception


@dataclass(frozen=True, slots=True)
class _Image:
    """A row as it was recorded: of which change, and whether it is the one before."""

    place: int
    old: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Shape:
    """An image as it can be sent, by columns, and what conditions look at."""

    shown: Mapping[tuple[str, ...], str]
    judged: str


class _Outdated(Exception):  # noqa: N818 - a reason to ask again
    pass


async def visible(
    deps: Deps, app: App, table: str, changes: Sequence[Change], identities: Collection[Identity]
) -> Seen:
    """For each identity and each of the changes, all of that table, what may be sent; None for nothing.

    Where it cannot be told nothing is sent: a policy that fails is logged, and costs the others nothing. Raises
    only when the database does not answer: nothing was decided then, and the same may be asked again.
    """
    nothing: Seen = {identity: [None] * len(changes) for identity in identities}
    if not changes or not identities:
        return nothing
    stale: str | None = None
    for _ in range(_TRIES):
        facts = await facts_of(deps, app, table, stale=stale)
        if facts is None:
            return nothing  # dropped: there are no rights to it any more
        try:
            return await _Judge(deps, app, table, facts, changes).judge(identities)
        except _Outdated:
            stale = facts.version
    _warn(deps, app, table, "its structure changes faster than its changes can be looked at")
    return nothing


class _Judge:
    """Decides about some changes of a table by what is known of it."""

    def __init__(self, deps: Deps, app: App, table: str, facts: Facts, changes: Sequence[Change]) -> None:
        self._deps, self._app, self._table, self._facts, self._changes = deps, app, table, facts, changes
        self._images = [
            _Image(place, old, text)
            for place, change in enumerate(changes)
            for old, text in ((False, change.image), (True, change.old_image))
            if text is not None
        ]

    async def judge(self, identities: Collection[Identity]) -> Seen:
        """Raises ``_Outdated`` when the table has changed."""
        claims = await claims_matter(self._deps, self._app)
        asked = {identity: identity if claims else replace(identity, claims="{}") for identity in identities}
        shapes = await self._shapes({asked[i].role for i in identities})
        allowed = await self._allowed(set(asked.values()), shapes)
        # Who may see the same in the same form is told the same.
        keys = {who: (who.role, tuple(allowed.get(who, ()))) for who in allowed}
        decided = {key: self._sights(*key, shapes) for key in set(keys.values())}
        return {identity: decided[keys[who]] for identity, who in asked.items()}

    def _sights(self, role: str, allowed: Collection[int], shapes: Sequence[_Shape | None]) -> Sequence[Sight | None]:
        columns = self._facts.rights[role].columns
        seen: dict[tuple[int, bool], str] = {}
        for index in allowed:
            image, shape = self._images[index], shapes[index]
            if shape is not None:
                seen[image.place, image.old] = shape.shown[columns]
        sights: list[Sight | None] = []
        for place, change in enumerate(self._changes):
            new, old = seen.get((place, False)), seen.get((place, True))
            # Who could see the row before an update, and cannot now, hears nothing: a SELECT would show nothing.
            decides = old if change.operation == "DELETE" else new
            sights.append(None if decides is None else Sight(new, old))
        return sights

    async def _run(self, groups: Sequence[Group]) -> list[Outcome]:
        """Run the groups; raises ``_Outdated`` unless the table is, after them, what it is known to be."""
        last = (take_platform_role(REALTIME_ROLE), Step(VERSION, (self._table,), REALTIME_ROLE))
        *outcomes, version = await self._deps.pools.door(self._app).pipelines([*groups, last])
        if isinstance(version, Exception):
            raise version
        if version[1].rows[0]["version"] != self._facts.version:
            raise _Outdated
        return outcomes

    async def _shapes(self, roles: Collection[str]) -> list[_Shape | None]:
        """Each image in the forms that the roles may see; None for one that does not fit the table any more."""
        rights = [self._facts.rights[role] for role in sorted(roles)]
        wanted = list(dict.fromkeys(r.columns for r in rights if not r.nothing))
        if not wanted:
            return [None] * len(self._images)
        text = self._shaping(wanted)

        def group(images: Sequence[_Image]) -> Group:
            return take_platform_role(REALTIME_ROLE), Step(text, (_array(images),), REALTIME_ROLE)

        (outcome,) = await self._run([group(self._images)])
        if not isinstance(outcome, Exception):
            return [_shape(row, wanted) for row in outcome[1].rows]
        # One at a time, so that one that cannot be read takes no others along.
        shapes: list[_Shape | None] = []
        for found in await self._run([group([image]) for image in self._images]):
            if isinstance(found, Exception):
                self._warn(f"a recorded row does not fit the table: {found}")
            shapes.append(None if isinstance(found, Exception) else _shape(found[1].rows[0], wanted))
        return shapes

    def _shaping(self, wanted: Sequence[tuple[str, ...]]) -> str:
        facts, table = self._facts, quote(self._table)
        forms = [
            f"(select row_to_json(brolly_s.*)::text from (select {facts.shown(columns, 'brolly_t')}) brolly_s) as s{n}"
            for n, columns in enumerate(wanted)
        ]
        fields = ", ".join(f"{facts.value(name, 'brolly_t')} as {quote(name)}" for name in facts.judged)
        judged = f"(select row_to_json(brolly_s.*)::text from (select {fields}) brolly_s)" if fields else "'{}'::text"
        return (
            f"select {', '.join(forms)}, {judged} as judged from json_array_elements($1::text::json) "
            f"with ordinality brolly_e (image, place), "
            f"lateral json_populate_record(null::public.{table}, brolly_e.image) brolly_t order by brolly_e.place"
        )

    async def _allowed(
        self, identities: Collection[Identity], shapes: Sequence[_Shape | None]
    ) -> dict[Identity, Collection[int]]:
        """The images that each identity may see, by index."""
        present = [index for index, shape in enumerate(shapes) if shape is not None]
        allowed: dict[Identity, Collection[int]] = {}
        open_: list[Identity] = []
        for who in identities:
            rights = self._facts.rights[who.role]
            if rights.nothing or not present:
                allowed[who] = ()
            elif rights.condition is None:
                allowed[who] = present
            else:
                open_.append(who)
        images = f"[{','.join(shape.judged for shape in shapes if shape is not None)}]"
        for some in _chunks(open_, _AT_ONCE):
            outcomes = await self._run([self._question(who, images) for who in some])
            for who, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, AppError) and outcome.code == "DATABASE_TIMEOUT":
                    self._warn(f"a policy takes longer than {TIMEOUT_MS} ms for {who.role}")
                    allowed[who] = ()
                elif isinstance(outcome, Exception):
                    allowed[who] = await self._one_by_one(who, shapes)
                else:
                    allowed[who] = [present[row["place"] - 1] for row in outcome[1].rows]
        return allowed

    async def _one_by_one(self, who: Identity, shapes: Sequence[_Shape | None]) -> Collection[int]:
        """Where a condition fails, it may do so for some rows alone."""
        present = [(index, shape.judged) for index, shape in enumerate(shapes) if shape is not None]
        groups = [self._question(who, f"[{judged}]") for _, judged in present]
        allowed: list[int] = []
        for (index, _), outcome in zip(present, await self._run(groups), strict=True):
            if isinstance(outcome, Exception):
                self._warn(f"a policy fails for {who.role}: {outcome}")
            elif outcome[1].rows:
                allowed.append(index)
        return allowed

    def _question(self, who: Identity, images: str) -> Group:
        table, condition = quote(self._table), self._facts.rights[who.role].condition
        # Within exists, names that a condition does not qualify are those of the row.
        text = (
            "select brolly_e.place::int8 as place from json_array_elements($1::text::json) "
            "with ordinality brolly_e (image, place) where exists (select from "
            f"json_populate_record(null::public.{table}, brolly_e.image) {table} where {condition})"
        )
        return take_role(who.role, who.user_id or "", who.claims, TIMEOUT_MS), Step(text, (images,), who.role)

    def _warn(self, reason: str) -> None:
        _warn(self._deps, self._app, self._table, reason)


def _array(images: Sequence[_Image]) -> str:
    return f"[{','.join(image.text for image in images)}]"


def _shape(row: Any, wanted: Sequence[tuple[str, ...]]) -> _Shape:
    return _Shape({columns: row[f"s{n}"] for n, columns in enumerate(wanted)}, row["judged"])


def _chunks(identities: Sequence[Identity], size: int) -> Iterator[Sequence[Identity]]:
    for start in range(0, len(identities), size):
        yield identities[start : start + size]


_SAID: WeakKeyDictionary[Registry, set[tuple[str, str, str]]] = WeakKeyDictionary()
_MOST_SAID = 1_000


def _warn(deps: Deps, app: App, table: str, reason: str) -> None:
    """Say so, once."""
    said = _SAID.setdefault(deps.registry, set())
    if (key := (app.id, table, reason)) in said:
        return
    if len(said) >= _MOST_SAID:
        said.clear()
    said.add(key)
    log.warning("app %s: changes of %s are not delivered: %s", app.id, table, reason)
