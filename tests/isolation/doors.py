"""The ways in through which rows may be reached. A new feature that touches rows adds its door to ``DOORS``.

A door says nothing about who may do what: it tries, and tells what came of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.session import as_caller
from brolly.registry import App
from tests.conftest import McpCall, ToolFailed
from tests.isolation.callers import Who

Row = dict[str, Any]
Verb = Literal["read", "insert", "update", "delete"]
TABLE = "things"
COLUMNS = ("id", "owner", "body", "shown", "team")

# The one answer to what policies forbid. Any other error is a failure of the door.
REFUSED = "AUTH_RLS_POLICY_VIOLATION"


@dataclass(frozen=True)
class Surroundings:
    """What a door may need to be opened on an app."""

    deps: Deps
    app: App
    owner: Caller
    mcp: McpCall


class Door:
    """One way in to the table ``things``. ``verbs`` are those that it offers; no others are called.

    ``read`` gives the rows (none when refused); the others say whether they were let do it.
    """

    verbs: frozenset[Verb]

    def __init__(self, around: Surroundings) -> None:
        self.around = around

    async def read(self, who: Who) -> list[Row]:
        raise NotImplementedError

    async def insert(self, who: Who, row: Row) -> bool:
        raise NotImplementedError

    async def update(self, who: Who, row_id: int, values: Row) -> bool:
        raise NotImplementedError

    async def delete(self, who: Who, row_id: int) -> bool:
        raise NotImplementedError


class SqlDoor(Door):
    """The kernel's door with plain statements: what every other door stands on."""

    verbs = frozenset(("read", "insert", "update", "delete"))

    async def _run(self, who: Who, sql: str, *args: Any) -> list[Any] | None:
        pool = self.around.deps.pools.door(self.around.app)
        try:
            async with as_caller(pool, who.as_caller(self.around.owner)) as connection:
                return await connection.fetch(sql, *args)
        except AppError as error:
            if error.code != REFUSED:
                raise
            return None

    async def read(self, who: Who) -> list[Row]:
        return [dict(row) for row in await self._run(who, f"select * from {TABLE}") or []]

    async def insert(self, who: Who, row: Row) -> bool:
        # Without RETURNING, which would ask for the right to read as well.
        sql = f"insert into {TABLE} select * from jsonb_populate_record(null::{TABLE}, $1::jsonb)"
        return await self._run(who, sql, json.dumps(row)) is not None

    async def update(self, who: Who, row_id: int, values: Row) -> bool:
        names = ", ".join(values)
        sql = (
            f"update {TABLE} t set ({names}) = row(new.{', new.'.join(values)}) "
            f"from jsonb_populate_record(null::{TABLE}, $2::jsonb) new where t.id = $1 returning 1"
        )
        return bool(await self._run(who, sql, row_id, json.dumps(values)))

    async def delete(self, who: Who, row_id: int) -> bool:
        return bool(await self._run(who, f"delete from {TABLE} where id = $1 returning 1", row_id))


class RowTools(Door):
    """``select_rows`` and ``insert_row`` with ``as_role`` and ``as_user``, over MCP."""

    verbs = frozenset(("read", "insert"))

    async def _call(self, who: Who, tool: str, **arguments: Any) -> Any:
        if who.is_user:
            arguments |= {"as_role": "user", "as_user": who.id}
        elif not who.is_service:
            arguments["as_role"] = "anon"
        return await self.around.mcp(tool, app_id=self.around.app.id, table=TABLE, **arguments)

    async def read(self, who: Who) -> list[Row]:
        answer = await self._call(who, "select_rows", limit=1000)
        return answer["rows"]

    async def insert(self, who: Who, row: Row) -> bool:
        try:
            await self._call(who, "insert_row", data=row)
        except ToolFailed as error:
            if error.code != REFUSED:
                raise
            return False
        return True


DOORS: dict[str, type[Door]] = {"sql": SqlDoor, "row_tools": RowTools}
