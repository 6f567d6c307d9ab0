"""Views and functions as ways in: made by ``manage_schema``, reached over HTTP."""

from __future__ import annotations

from typing import Any

import httpx

from tests.isolation.callers import Who
from tests.isolation.doors import DOORS, REFUSED, TABLE, Row, Surroundings
from tests.isolation.rest_door import RestDoor

_EVERYBODY = ["anon", "user"]


def _function(body: str, returns: str, **arguments: str) -> dict[str, Any]:
    return {"arguments": arguments, "returns": returns, "body": body, "expose": _EVERYBODY}


_NEW = f"jsonb_populate_record(null::{TABLE}, thing)"
DOCUMENT: dict[str, Any] = {
    "views": {
        "all_things": {"query": f"select id, owner, body, shown, team from {TABLE}"},
        "over_things": {"query": "select * from all_things"},
        "thing_count": {"query": f"select count(*)::integer as n, array_agg(id order by id) as ids from {TABLE}"},
    },
    "functions": {
        "get_things": _function(f"select * from {TABLE}", f"setof {TABLE}") | {"volatility": "stable"},
        "count_things": _function("select coalesce(cardinality(ids), 0) from thing_count", "integer"),
        "add_thing": _function(f"insert into {TABLE} select * from {_NEW}", "void", thing="jsonb"),
        "remove_thing": _function(f"delete from {TABLE} where id = row_id returning 1", "integer", row_id="integer"),
    },
}


class _Made(RestDoor):
    """A door that first makes the views and functions; a second time that is no change."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._made = False

    async def _send(self, who: Who, method: str, path: str = "", **more: Any) -> httpx.Response:
        if not self._made:
            await self.around.mcp("manage_schema", action="apply", app_id=self.around.app.id, schema=DOCUMENT)
            self._made = True
        return await super()._send(who, method, path, **more)


class ViewDoor(_Made):
    """``/v1/{app}/all_things``, a view that rows are written through as well."""

    # Each verb once by view or function: both end in the same statements, and every try is a request.
    verbs = frozenset(("read", "update"))
    place = "all_things"


class ViewOverViewDoor(_Made):
    """The same through one view more, reading alone."""

    verbs = frozenset(("read",))
    place = "over_things"


class FunctionDoor(_Made):
    """Functions that read, count and write; their bodies are the owner's, their rights the caller's."""

    verbs = frozenset(("read", "insert", "delete"))
    place = "rpc"

    async def _call(self, who: Who, function: str, **arguments: Any) -> Any:
        """The answer; None when it was refused."""
        answer = await self._send(who, "POST", f"/{function}", json=arguments)
        if answer.is_success:
            return answer.json() if answer.content else True
        assert answer.json()["error"]["code"] == REFUSED, answer.text
        return None

    async def read(self, who: Who) -> list[Row]:
        rows: list[Row] = await self._call(who, "get_things") or []
        assert (await self._call(who, "count_things") or 0) == len(rows)
        some = await self._send(who, "GET", "/get_things?id=lt.3&select=id")
        if some.is_success:
            assert sorted(r["id"] for r in some.json()) == sorted(r["id"] for r in rows if r["id"] < 3)
        return rows

    async def insert(self, who: Who, row: Row) -> bool:
        return await self._call(who, "add_thing", thing=row) is not None

    async def delete(self, who: Who, row_id: int) -> bool:
        return await self._call(who, "remove_thing", row_id=row_id) is not None


DOORS |= {"view": ViewDoor, "view_over_view": ViewOverViewDoor, "function": FunctionDoor}
