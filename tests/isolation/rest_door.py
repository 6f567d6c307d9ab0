"""The REST API as a way in: rows over HTTP, by a service key that acts as the caller, or by nobody at all."""

from __future__ import annotations

from typing import Any

import httpx

from tests.conftest import http_client, make_owner
from tests.isolation.callers import Who
from tests.isolation.doors import DOORS, REFUSED, TABLE, Door, Row


class RestDoor(Door):
    """``/v1/{app}/things`` with the headers that choose a role; anonymous callers come without a key."""

    verbs = frozenset(("read", "insert", "update", "delete"))
    place = TABLE
    _key: str | None = None

    async def _send(self, who: Who, method: str, path: str = "", **more: Any) -> httpx.Response:
        headers = {"X-Butterbase-As-Role": "user", "X-Butterbase-As-User": str(who.id)} if who.is_user else {}
        if self._key is None:
            _, self._key = await make_owner(self.around.deps, account=self.around.app.account_id)
        async with http_client(self.around.deps, self._key if who.is_user or who.is_service else None) as client:
            return await client.request(method, f"/v1/{self.around.app.id}/{self.place}{path}", headers=headers, **more)

    def _allowed(self, answer: httpx.Response, status: int) -> bool:
        if answer.status_code == status:
            return True
        assert answer.json()["error"]["code"] in (REFUSED, "RESOURCE_NOT_FOUND"), answer.text
        return False

    async def read(self, who: Who) -> list[Row]:
        answer = await self._send(who, "GET")
        assert answer.status_code == 200, answer.text
        rows: list[Row] = answer.json()
        await self._agrees(who, rows)
        return rows

    async def _agrees(self, who: Who, rows: list[Row]) -> None:
        """In pages, counted and row by row, the same rows are there."""
        page = await self._send(who, "GET", "?order=team.desc,owner&limit=2")
        seen: list[Row] = page.json()
        while "x-next-cursor" in page.headers:
            query = f"?order=team.desc,owner&limit=2&cursor={page.headers['x-next-cursor']}"
            page = await self._send(who, "GET", query)
            seen += page.json()
        assert sorted(row["id"] for row in seen) == sorted(row["id"] for row in rows)
        # Where nobody may read, not even the number is told.
        assert (await self._send(who, "GET", "?select=count()")).json() in ([{"count": len(rows)}], [])
        for row_id in range(1, 6):
            one = await self._send(who, "GET", f"/{row_id}")
            assert (one.status_code == 200) is (row_id in {row["id"] for row in rows})

    async def insert(self, who: Who, row: Row) -> bool:
        return self._allowed(await self._send(who, "POST", json=row), 201)

    async def update(self, who: Who, row_id: int, values: Row) -> bool:
        return self._allowed(await self._send(who, "PATCH", f"/{row_id}", json=values), 200)

    async def delete(self, who: Who, row_id: int) -> bool:
        return self._allowed(await self._send(who, "DELETE", f"/{row_id}"), 200)


class RestFilterDoor(RestDoor):
    """The same on the whole table, with a filter; new rows as an array."""

    verbs = frozenset(("insert", "update", "delete"))

    async def insert(self, who: Who, row: Row) -> bool:
        return self._allowed(await self._send(who, "POST", json=[row]), 201)

    async def update(self, who: Who, row_id: int, values: Row) -> bool:
        answer = await self._send(who, "PATCH", f"?id=eq.{row_id}", json=values)
        return self._allowed(answer, 200) and answer.json() != []

    async def delete(self, who: Who, row_id: int) -> bool:
        answer = await self._send(who, "DELETE", f"?id=eq.{row_id}")
        return self._allowed(answer, 200) and answer.json()["count"] == 1


class BatchDoor(RestDoor):
    """The same as steps of ``/v1/{app}/batch``."""

    verbs = frozenset(("insert", "update", "delete"))
    place = "batch"

    async def _step(self, who: Who, **step: Any) -> bool:
        body = {"steps": [{"table": TABLE, "returning": False, **step}]}
        answer = await self._send(who, "POST", json=body)
        return self._allowed(answer, 200) and answer.json()["results"][0]["count"] == 1

    async def insert(self, who: Who, row: Row) -> bool:
        return await self._step(who, op="insert", values=row)

    async def update(self, who: Who, row_id: int, values: Row) -> bool:
        return await self._step(who, op="update", values=values, filters={"id": f"eq.{row_id}"})

    async def delete(self, who: Who, row_id: int) -> bool:
        return await self._step(who, op="delete", filters={"id": f"eq.{row_id}"})


DOORS |= {"rest": RestDoor, "rest_filters": RestFilterDoor, "rest_batch": BatchDoor}
