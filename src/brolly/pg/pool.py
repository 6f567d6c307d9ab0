"""Connection pools: one for the control database, one per app on demand, bounded together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import asyncpg

from brolly.core.caller import Kind
from brolly.core.errors import AppError
from brolly.core.tokens import derive
from brolly.pg.errors import translate, translated
from brolly.pg.listen import Ear, listening
from brolly.pg.pipeline import PipelineConnection, Result, Step
from brolly.pg.server import Server

Connection = Any
"""An asyncpg connection, or a pool's proxy of one. asyncpg ships no complete types."""

Prepare = Callable[[Any], Awaitable[None]]

IDLE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
OWNER_ROLE = "brolly_owner"
OWNERS_PER_APP = 3
OWNERS_TOTAL = 24


class Database:
    """A lazily connected pool whose errors are ours.

    What a borrower sets is local to its transaction, so nothing is reset when a connection comes back; one that
    comes back with an open transaction is closed.
    """

    def __init__(
        self,
        server: Server,
        *,
        size: int,
        user: str = "",
        password: str = "",
        database: str = "",
        make_room: Callable[[], Awaitable[None]] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._make_room = make_room
        self._prepare = prepare
        self._args = server.connect_args(user=user or None, password=password or None, database=database or None)
        self._most = size
        self._idle: deque[tuple[float, PipelineConnection]] = deque()
        self._lent: set[PipelineConnection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[PipelineConnection | None]] = deque()
        self._closed = False
        self._all_back = anyio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self.users = 0
        self.used_at = 0.0

    @property
    def size(self) -> int:
        """Connections open now."""
        return len(self._lent) + len(self._idle) + self._opening

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Connection]:
        """A connection for the block; database errors leave it as ``AppError``."""
        with translated():
            connection = await self._borrow()
            try:
                yield connection
            except anyio.get_cancelled_exc_class():
                # Its statement may still run and its transaction be open: never for the next borrower.
                connection.terminate()
                raise
            finally:
                self._give_back(connection)

    async def pipeline(self, steps: Sequence[Step]) -> list[Result]:
        """The steps as one transaction in one message; database errors leave it as ``AppError``."""
        try:
            connection = await self._borrow()
            try:
                return await connection.pipeline(steps)
            finally:
                self._give_back(connection)
        except Exception as error:
            if (ours := translate(error)) is None:
                raise
            raise ours from error

    async def pipelines(self, groups: Sequence[Sequence[Step]]) -> list[list[Result] | Exception]:
        """Each group as one transaction, all in one message. What the database refuses fails its own group alone, and
        is its result; raises when the connection is lost, or an error of the database says that nothing works."""
        with translated():
            connection = await self._borrow()
            try:
                results = await connection.pipelines(groups)
            finally:
                self._give_back(connection)
        found = [(translate(result) or result) if isinstance(result, Exception) else result for result in results]
        for result in found:
            if isinstance(result, AppError) and result.code == "EXTERNAL_DB_ERROR":
                raise result
        return found

    async def _borrow(self) -> PipelineConnection:
        self.users += 1
        self.used_at = asyncio.get_running_loop().time()
        try:
            return await self._connection()
        except BaseException:
            self.users -= 1
            raise

    async def _connection(self) -> PipelineConnection:
        while True:
            if self._closed:
                raise asyncpg.InterfaceError("the pool is closed")
            while self._idle:
                connection = self._idle.pop()[1]
                if not connection.is_closed():
                    self._lent.add(connection)
                    return connection
            if self.size < self._most:
                return await self._open()
            waiter: asyncio.Future[PipelineConnection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                given = await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    # It was our turn, which is now the next one's.
                    self._pass_on(waiter.result())
                raise
            if given is not None:
                return given

    async def _open(self) -> PipelineConnection:
        self._opening += 1
        try:
            if self._make_room is not None:
                await self._make_room()
            made: Any = await asyncpg.connect(
                **self._args, timeout=CONNECT_SECONDS, connection_class=PipelineConnection
            )
            if self._prepare is not None:
                await self._prepare(made)
        except BaseException:
            self._opening -= 1
            self._pass_on(None)
            raise
        self._opening -= 1
        if self._closed:
            made.terminate()
            raise asyncpg.InterfaceError("the pool is closed")
        self._lent.add(made)
        return made

    def _give_back(self, connection: PipelineConnection) -> None:
        self.users -= 1
        if not connection.is_closed() and connection.is_in_transaction():
            connection.terminate()
        self._pass_on(connection)

    def _pass_on(self, connection: PipelineConnection | None) -> None:
        """The connection, or else the room for a new one, to who waits longest; idle if nobody does."""
        if connection is not None and (self._closed or connection.is_closed()):
            self._lent.discard(connection)
            if not connection.is_closed():
                connection.terminate()
            if self._closed and not self._lent:
                self._all_back.set()
            connection = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is not None:
            self._lent.discard(connection)
            loop = asyncio.get_running_loop()
            self._idle.append((loop.time(), connection))
            if self._sweep is None:
                self._sweep = loop.call_later(IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        """Close what nobody has used for a while."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0][0] <= loop.time() - IDLE_SECONDS:
            self._idle.popleft()[1].terminate()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0][0] + IDLE_SECONDS + 0.01, self._close_idle)

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
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        with anyio.move_on_after(2, shield=True):
            while self._idle:
                await self._idle.popleft()[1].close(timeout=2)
            if self._lent:
                await self._all_back.wait()
        for connection in [*self._lent, *(one for _, one in self._idle)]:
            connection.terminate()
        self._idle.clear()
        self._lent.clear()


def door_login(app_id: str) -> str:
    """The login behind the door: NOINHERIT, may take on the three caller roles, connects to its app alone."""
    return f"{app_id}_api"


def owner_login(app_id: str) -> str:
    """The login for changes of structure: may take on the owner role, connects to its app alone."""
    return f"{app_id}_owner"


def function_login(app_id: str, kind: Kind) -> str:
    """The login of the app's functions when they act for such a caller: may take on that one role."""
    return f"{app_id}_fn_{kind}"


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

    def function(self, app: Any, kind: Kind, prepare: Prepare) -> Database:
        """The pool for statements that the app's functions send while they act for such a caller."""
        name = f"{app.id}/{kind}"
        pool = self._pools.get(name)
        if pool is None:
            login = function_login(app.id, kind)
            pool = self._pools[name] = Database(
                self._server,
                size=self._limits.per_app,
                user=login,
                password=login_password(self._secret, login),
                database=app.db_name,
                make_room=self.make_room,
                prepare=prepare,
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

    @asynccontextmanager
    async def listening(self, app: Any, channel: str) -> AsyncGenerator[Ear]:
        """A connection of its own that listens to a channel of the app's database."""
        login = door_login(app.id)
        args = self._server.connect_args(user=login, password=login_password(self._secret, login), database=app.db_name)
        async with listening(args, channel) as ear:
            yield ear

    async def make_room(self) -> None:
        """Close the longest idle pools while more connections are open than allowed."""
        # The one that is to be opened is counted already.
        while sum(pool.size for pool in self._pools.values()) > self._limits.total:
            idle = [(pool.used_at, name) for name, pool in self._pools.items() if not pool.users and pool.size]
            if not idle:
                return
            # The app's other pools may be in use.
            await self._pools.pop(min(idle)[1]).close()

    async def forget(self, app_id: str) -> None:
        """Close an app's pools."""
        if (waiting := self._owners.get(app_id)) is not None and not waiting.borrowed_tokens:
            del self._owners[app_id]
        for name in [n for n in self._pools if n.partition("/")[0] == app_id]:
            if (pool := self._pools.pop(name, None)) is not None:
                await pool.close()

    async def close(self) -> None:
        """Close all pools."""
        while self._pools:
            await self._pools.popitem()[1].close()
