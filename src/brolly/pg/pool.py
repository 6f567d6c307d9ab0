"""Connection pools: one for the control database, one per app on demand, bounded together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import asyncpg

from brolly.core.tokens import derive
from brolly.pg.errors import translated
from brolly.pg.server import Server

Connection = Any
"""An asyncpg connection, or a pool's proxy of one. asyncpg ships no complete types."""

IDLE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
OWNER_ROLE = "brolly_owner"
OWNERS_PER_APP = 3
OWNERS_TOTAL = 24


async def _keep_state(_connection: Connection) -> None:
    """Nothing to reset: all that a borrower sets is local to its transaction, so the round trip is saved."""


class Database:
    """A lazily connected pool whose errors are ours."""

    def __init__(
        self,
        server: Server,
        *,
        size: int,
        user: str = "",
        password: str = "",
        database: str = "",
        make_room: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._make_room = make_room
        args = server.connect_args(user=user or None, password=password or None, database=database or None)
        self._pool: Any = asyncpg.create_pool(
            **args,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=IDLE_SECONDS,
            timeout=CONNECT_SECONDS,
            reset=_keep_state,
        )
        self._opening = anyio.Lock()
        self._open = False
        self.users = 0
        self.used_at = 0.0

    @property
    def size(self) -> int:
        """Connections open now."""
        return self._pool.get_size() if self._open else 0

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Connection]:
        """A connection for the block; database errors leave it as ``AppError``."""
        self.users += 1
        self.used_at = anyio.current_time()
        try:
            with translated():
                if not self._open:
                    async with self._opening:
                        if not self._open:
                            await self._pool
                            self._open = True
                if self._make_room is not None and self._pool.get_idle_size() == 0:
                    await self._make_room()
                async with self._pool.acquire() as connection:
                    try:
                        yield connection
                    except anyio.get_cancelled_exc_class():
                        # Its statement may still run and its transaction be open: never for the next borrower.
                        connection.terminate()
                        raise
        finally:
            self.users -= 1

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """All rows."""
        async with self.acquire() as connection:
            return await connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """The first row, or None."""
        async with self.acquire() as connection:
            return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first row's first value, or None."""
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement; its command tag."""
        async with self.acquire() as connection:
            return await connection.execute(sql, *args)

    async def close(self) -> None:
        """Close every connection, waiting briefly for those in use."""
        if not self._open:
            return
        self._open = False
        with anyio.move_on_after(2, shield=True):
            await self._pool.close()
        self._pool.terminate()


def door_login(app_id: str) -> str:
    """The login behind the door: NOINHERIT, may take on the three caller roles, connects to its app alone."""
    return f"{app_id}_api"


def owner_login(app_id: str) -> str:
    """The login for changes of structure: may take on the owner role, connects to its app alone."""
    return f"{app_id}_owner"


def login_password(secret: str, login: str) -> str:
    """The password of a login, derived from the installation secret and stored nowhere."""
    return derive(secret, f"login:{login}")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections: per app, and for all apps of this process together."""

    per_app: int
    total: int


class AppPools:
    """The app databases' pools. Opens them when first used, closes the longest idle when the limit is near."""

    def __init__(self, server: Server, secret: str, limits: Limits) -> None:
        self._server = server
        self._secret = secret
        self._limits = limits
        self._pools: dict[str, Database] = {}
        self._owners: dict[str, anyio.CapacityLimiter] = {}
        self._all_owners = anyio.CapacityLimiter(OWNERS_TOTAL)

    def door(self, app: Any) -> Database:
        """The pool for ``as_caller``; ``app`` is the ``App`` that the registry gave for this caller."""
        pool = self._pools.get(app.id)
        if pool is None:
            login = door_login(app.id)
            pool = self._pools[app.id] = Database(
                self._server,
                size=self._limits.per_app,
                user=login,
                password=login_password(self._secret, login),
                database=app.db_name,
                make_room=self.make_room,
            )
        return pool

    @asynccontextmanager
    async def reader(self, app: Any) -> AsyncGenerator[Connection]:
        """A connection that has taken on no role, for reading the system catalogs."""
        async with self.door(app).acquire() as connection:
            yield connection

    @asynccontextmanager
    async def owner(self, app: Any) -> AsyncGenerator[Connection]:
        """A fresh connection with the app's owner role, for changes of structure."""
        login = owner_login(app.id)
        args = self._server.connect_args(user=login, password=login_password(self._secret, login), database=app.db_name)
        # One app's changes wait for each other before they take what all apps need.
        own = self._owners.setdefault(app.id, anyio.CapacityLimiter(OWNERS_PER_APP))
        async with own, self._all_owners, self._owner(args) as connection:
            yield connection

    @asynccontextmanager
    async def _owner(self, args: dict[str, Any]) -> AsyncGenerator[Connection]:
        with translated():
            connection: Any = await asyncpg.connect(
                **args, timeout=CONNECT_SECONDS, server_settings={"role": OWNER_ROLE, "lock_timeout": "10s"}
            )
            try:
                yield connection
            finally:
                with anyio.move_on_after(2, shield=True):
                    await connection.close()

    async def make_room(self) -> None:
        """Close the longest idle pools while more connections are open than allowed."""
        while sum(pool.size for pool in self._pools.values()) >= self._limits.total:
            idle = [(pool.used_at, app_id) for app_id, pool in self._pools.items() if not pool.users and pool.size]
            if not idle:
                return
            await self.forget(min(idle)[1])

    async def forget(self, app_id: str) -> None:
        """Close an app's pool."""
        pool = self._pools.pop(app_id, None)
        if (waiting := self._owners.get(app_id)) is not None and not waiting.borrowed_tokens:
            del self._owners[app_id]
        if pool is not None:
            await pool.close()

    async def close(self) -> None:
        """Close all pools."""
        for app_id in list(self._pools):
            await self.forget(app_id)
