"""Background jobs in the control database, by PgQueuer: what is queued survives this process, and runs once.

A job that a process took with it into its end is taken up by another when its heartbeat is overdue. What runs is
named by ``entrypoint``; the payload is JSON. Jobs are put in with the control pool and taken out over a connection
of the queue's own, which listens.
"""

from __future__ import annotations

import importlib
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg

from brolly.pg.errors import translated
from brolly.pg.pool import CONNECT_SECONDS, Database
from brolly.pg.server import Server

# The library is imported by the functions that need it: it takes a fifth of a second, which no command has to wait.
if TYPE_CHECKING:
    from pgqueuer.adapters.persistence.queries import Queries
    from pgqueuer.core.qm import QueueManager
    from pgqueuer.domain.models import Job
    from pgqueuer.domain.settings import DBSettings

SCHEMA = "brolly_queue"
HEARTBEAT_SECONDS = 30.0
LOOK_SECONDS = 5.0
KEPT_DAYS = 7
# The library tells of every retry with its trace, and of each start.
logging.getLogger("pgqueuer").setLevel(logging.ERROR)

Payload = Mapping[str, Any]
Handler = Callable[[Payload, int], Awaitable[None]]
"""Takes the payload, and how often the job was tried before; raises ``Again`` to be called later."""


class Again(Exception):  # noqa: N818 - not a failure
    """Run the job again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds} s")
        self.seconds = seconds


_loading = threading.Lock()


def load() -> None:
    """Import the library: by one thread at a time, since its modules import each other."""
    with _loading:
        importlib.import_module("pgqueuer.core.qm")
        importlib.import_module("pgqueuer.adapters.persistence.queries")
        importlib.import_module("pgqueuer.adapters.drivers.asyncpg")


@cache
def settings() -> DBSettings:
    """The names of the library's tables, said outright: it would take them from the environment."""
    load()
    from pgqueuer.domain.settings import DBSettings, Durability
    from pgqueuer.domain.types import Channel

    return DBSettings(
        prefix="",
        db_schema=SCHEMA,
        channel=Channel("ch_pgqueuer"),
        function="fn_pgqueuer_changed",
        statistics_table="pgqueuer_statistics",
        queue_status_type="pgqueuer_status",
        queue_table="pgqueuer",
        queue_table_log="pgqueuer_log",
        trigger="tg_pgqueuer_changed",
        schedules_table="pgqueuer_schedules",
        durability=Durability.durable,
        widen_id=True,
    )


class _PoolDriver:
    """The library's view of our pool, enough to put jobs in."""

    def __init__(self, pool: Database) -> None:
        self._pool = pool

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        return [dict(row) for row in await self._pool.fetch(query, *args)]

    async def execute(self, query: str, *args: object) -> str:
        return await self._pool.execute(query, *args)


def queries_over(driver: Any) -> Queries:
    """The library's statements, over that driver."""
    named = settings()
    from pgqueuer.adapters.persistence import qb
    from pgqueuer.adapters.persistence.queries import Queries

    return Queries(
        driver,
        qbe=qb.QueryBuilderEnvironment(named),
        qbq=qb.QueryQueueBuilder(named),
        qbs=qb.QuerySchedulerBuilder(named),
    )


async def enqueue(control: Database, entrypoint: str, payload: Payload, *, delay: float = 0) -> None:
    """Have a worker of any server run it, after so many seconds."""
    after = timedelta(seconds=delay) if delay else None
    await queries_over(_PoolDriver(control)).enqueue(entrypoint, json.dumps(payload).encode(), execute_after=after)


async def tidy(control: Database) -> None:
    """Forget what ended long ago: the library keeps a line for every job."""
    for table in ("pgqueuer_log", "pgqueuer_statistics"):
        await control.execute(f"delete from {SCHEMA}.{table} where created < now() - interval '{KEPT_DAYS} days'")


async def keep_tidy(control: Database) -> None:
    """Tidy once an hour."""
    while True:
        await tidy(control)
        await anyio.sleep(3600)


class Queue:
    """One process's share of the work."""

    def __init__(self, server: Server, control: Database, handlers: Mapping[str, Handler], *, at_once: int) -> None:
        self._server = server
        self._control = control
        self._handlers = handlers
        self._at_once = at_once

    async def run(self) -> None:
        """Work until cancelled: then what is being done is put back, for another process. Raises when the database
        goes away.
        """
        await anyio.to_thread.run_sync(load)
        from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
        from pgqueuer.core.qm import QueueManager

        with translated():
            connection: Any = await asyncpg.connect(**self._server.connect_args(), timeout=CONNECT_SECONDS)
        manager = QueueManager(queries_over(AsyncpgDriver(connection)), channel=settings().channel)
        for entrypoint, handler in self._handlers.items():
            manager.entrypoint(entrypoint, accepts_context=False)(_Run(manager, handler))
        try:
            await self._work(manager)
        finally:
            with anyio.move_on_after(2, shield=True):
                await connection.close()

    async def _work(self, manager: QueueManager) -> None:
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    # A cancelled job would count as done with: it has to end by itself, and says "again".
                    manager.shutdown.set()

            group.start_soon(stop)
            group.start_soon(keep_tidy, self._control)
            with anyio.CancelScope(shield=True):
                await manager.run(
                    dequeue_timeout=timedelta(seconds=LOOK_SECONDS),
                    batch_size=1,
                    max_concurrent_tasks=max(2, self._at_once),
                    shutdown_on_listener_failure=True,
                    heartbeat_timeout=timedelta(seconds=HEARTBEAT_SECONDS),
                    log_aggregation_interval=timedelta(minutes=10),
                )
            group.cancel_scope.cancel()


class _Run:
    """What the library calls: our handler, stopped when the process stops."""

    def __init__(self, manager: QueueManager, handler: Handler) -> None:
        self._manager = manager
        self._handler = handler

    async def __call__(self, job: Job) -> None:
        from pgqueuer.domain.errors import RetryRequested

        payload: Payload = json.loads(job.payload or b"{}")
        again: float | None = None
        done = False
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                await self._manager.shutdown.wait()
                group.cancel_scope.cancel()

            group.start_soon(stop)
            try:
                await self._handler(payload, job.attempts)
                done = True
            except Again as wanted:
                again = wanted.seconds
            group.cancel_scope.cancel()
        if again is not None:
            raise RetryRequested(timedelta(seconds=again))
        if not done:
            raise RetryRequested(timedelta(0), "the server stops")
