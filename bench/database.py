"""The bench's own way into the databases, and the app with protected rows that it reads from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from bench.clients import HttpClient
from brolly.core.tokens import derive
from brolly.pg.embedded.cluster import ADMINISTRATOR, PORT
from brolly.pg.embedded.process import DATABASE
from brolly.pg.embedded.runas import find_place
from brolly.pg.pool import door_login, login_password
from brolly.pg.server import Server

ROWS = 20_000
USERS = 100
TABLE = "notes"
_SCHEMA = {
    "tables": {
        TABLE: {
            "columns": {
                "id": {"type": "integer", "primaryKey": True},
                "user_id": {"type": "text", "nullable": False},
                "title": {"type": "text", "nullable": False},
                "body": {"type": "text"},
                "created_at": {"type": "timestamptz", "default": "now()"},
            },
            "indexes": {"notes_user": {"columns": ["user_id"]}},
        }
    }
}


def secret(home: Path) -> str:
    """The installation secret of a data folder."""
    return (home / "secret.key").read_text().strip()


def cluster(home: Path) -> Server:
    """The embedded cluster of a data folder, as its administrator."""
    place = find_place(home)
    password = derive(secret(home), "postgres-administrator")
    return Server(str(place.sockets), PORT, ADMINISTRATOR, password, DATABASE)


@asynccontextmanager
async def administrator(home: Path, database: str | None = None) -> AsyncGenerator[Any]:
    """A superuser's connection."""
    connection: Any = await asyncpg.connect(**cluster(home).connect_args(database=database))
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def door(home: Path, app_id: str) -> AsyncGenerator[Any]:
    """A connection with the login that requests for an app's data use."""
    login = door_login(app_id)
    password = login_password(secret(home), login)
    arguments = cluster(home).connect_args(user=login, password=password, database=app_id)
    connection: Any = await asyncpg.connect(**arguments)
    try:
        yield connection
    finally:
        await connection.close()


@dataclass(frozen=True)
class Shelf:
    """An app whose notes belong to users, some hundred notes each."""

    home: Path
    app_id: str

    def owner_of(self, note: int) -> str:
        """The user whom a note belongs to."""
        return f"user-{note % USERS}"

    def reading(self, note: int) -> dict[str, Any]:
        """The arguments of select_rows that read one note as its owner."""
        return {
            "app_id": self.app_id,
            "table": TABLE,
            "as_role": "user",
            "as_user": self.owner_of(note),
            "filters": {"id": f"eq.{note}"},
            "limit": 1,
        }


async def fill_shelf(client: HttpClient, home: Path, name: str = "shelf") -> Shelf:
    """Make the app, its table and policies by the tools, its rows in one statement."""
    app_id = (await client.call("init_app", name=name))["app_id"]
    await client.call("manage_schema", action="apply", app_id=app_id, schema=_SCHEMA)
    await client.call(
        "manage_rls", action="create_user_isolation", app_id=app_id, table_name=TABLE, user_column="user_id"
    )
    async with administrator(home, app_id) as connection:
        await connection.execute(
            f"insert into {TABLE} (id, user_id, title, body) select n, 'user-' || n % {USERS}, 'Note ' || n, "
            f"repeat('word ', 20) from generate_series(1, {ROWS}) n"
        )
        await connection.execute(f"analyze {TABLE}")
    return Shelf(home, app_id)
