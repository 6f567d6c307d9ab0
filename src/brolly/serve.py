"""``brolly serve``: one process that listens, works in the background and ends in good order."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from brolly import __version__
from brolly.app import open_deps, write_private
from brolly.core.settings import Settings
from brolly.core.worker import Worker, start_workers
from brolly.daemon import Running, log_path, make_folders, record_path, server_lock, take_lock
from brolly.deps import Deps
from brolly.keys.service import ensure_owner_key
from brolly.listener import BACKLOG, local_url
from brolly.patience import OncePerWhile, PatientProtocol, raise_file_limit, return_large_memory
from brolly.pg.embedded.cluster import bound_log
from brolly.web import build_web
from brolly.wire import socket_options

log = logging.getLogger("brolly.serve")

GRACE_SECONDS = 4  # for requests in flight; what still runs then is cancelled
KEEP_ALIVE_SECONDS = 75
_LISTEN = (b"mcp-method", b"subscriptions/listen")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is known once the server answers."""

    running: Running
    settings: Settings
    primary: bool
    """False when another server of the same data folder is the one that the other commands talk to."""
    key_file: Path | None


class _Formatter(logging.Formatter):
    """Writes the date and time of a second once; there is a line for each request."""

    _second, _text = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The second of the record."""
        if self._second != (now := int(record.created)):
            self._second, self._text = now, super().formatTime(record, datefmt)
        return self._text


def configure_logging(level: str) -> None:
    """Log to stderr: time, level, line. Other packages speak up only for warnings."""
    logging.raiseExceptions = False  # a closed stderr must not end the server
    # What no line shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("asyncio").addFilter(OncePerWhile())
    if level != "debug":
        for name in ("uvicorn", "mcp", "httpx", "httpcore", "asyncio", "sse_starlette"):
            logging.getLogger(name).setLevel(logging.WARNING)


class _Subscriptions:
    """Ends open subscriptions when the server ends: they last for ever, and clients renew them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[anyio.CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _LISTEN not in scope["headers"]:
            await self._app(scope, receive, send)
            return
        with anyio.CancelScope() as here:
            self._open.add(here)
            try:
                await self._app(scope, receive, send)
            finally:
                self._open.discard(here)
        if here.cancelled_caught:
            # Not begun, there is nothing to end.
            with suppress(RuntimeError):
                await send({"type": "http.response.body", "body": b""})

    def close(self) -> None:
        """End them all."""
        for here in list(self._open):
            here.cancel()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which end the process before our own clearing up."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready, self._on_end = on_ready, on_end

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to us."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when requests are answered."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell before connections are refused."""
        self._on_end()
        await super().shutdown(sockets)


class _Stop:
    """What signals do: the first ends in good order, the next at once."""

    def __init__(self) -> None:
        self.server: _Server | None = None
        self.scope = anyio.CancelScope()
        self._heard = 0

    async def listen(self) -> None:
        """Hear signals until cancelled."""
        wanted = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            wanted.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*wanted) as signals:
            async for number in signals:
                self._heard += 1
                log.info("%s: ending%s", number.name, "" if self._heard == 1 else " at once")
                if self.server is None:
                    self.scope.cancel()
                elif self._heard == 1:
                    self.server.should_exit = True
                else:
                    self.server.force_exit = True


@asynccontextmanager
async def _place_of_server(home: Path) -> AsyncGenerator[bool]:
    """Hold the data folder's server lock for the block; False when another server has it."""
    lock = None
    for _ in range(25):
        # Somebody who looks whether a server runs holds it for a moment.
        if (lock := take_lock(server_lock(home))) is not None:
            break
        await anyio.sleep(0.02)
    try:
        if lock is not None:
            record_path(home).unlink(missing_ok=True)
        yield lock is not None
    finally:
        if lock is not None:
            record_path(home).unlink(missing_ok=True)
            os.close(lock)


async def settle_owner_key(deps: Deps) -> Path | None:
    """Keep ``owner.key`` in the data folder while the owner's first key is valid; remove it when it is not."""
    path = deps.settings.home / "owner.key"
    key = await ensure_owner_key(deps)
    if key is None:
        path.unlink(missing_ok=True)
        return None
    write_private(path, key + "\n")
    return path


async def serve(
    settings: Settings,
    listener: socket.socket,
    *,
    keep_log: bool = False,
    ready: Callable[[Serving], None] = lambda _serving: None,
) -> None:
    """Serve until a signal comes. ``ready`` is called once requests are answered.

    ``keep_log`` keeps the log of a server in the background small.
    """
    raise_file_limit()
    return_large_memory()
    make_folders(settings.home)
    settings = replace(settings, port=listener.getsockname()[1])
    stop = _Stop()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(stop.listen)
            with stop.scope:
                async with _place_of_server(settings.home) as primary:
                    await _run(settings, listener, stop, primary, keep_log, ready)
            group.cancel_scope.cancel()
    finally:
        listener.close()
    log.info("ended")


async def _run(
    settings: Settings,
    listener: socket.socket,
    stop: _Stop,
    primary: bool,
    keep_log: bool,
    ready: Callable[[Serving], None],
) -> None:
    async with open_deps(settings, log.info) as deps:
        key_file = await settle_owner_key(deps)
        postgres = "external" if settings.database_url else "embedded"
        running = Running(
            os.getpid(),
            local_url(settings),
            __version__,
            datetime.now(UTC).isoformat(timespec="seconds"),
            postgres,
            settings.host,
            settings.read_only,
            settings.tools,
        )

        def on_ready() -> None:
            if primary:
                write_private(record_path(settings.home), running.to_json())
            log.info("serving at %s", running.url)
            ready(Serving(running, settings, primary, key_file))

        web = _Subscriptions(build_web(deps))
        config = uvicorn.Config(
            web,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            # Longer than clients keep an idle connection, lest one sends just when we close it.
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            backlog=BACKLOG,
            http=PatientProtocol,
            **socket_options(settings.realtime_frame_kb * 1024),
        )

        def on_end() -> None:
            web.close()
            if primary:
                record_path(settings.home).unlink(missing_ok=True)

        server = _Server(config, on_ready, on_end)
        async with anyio.create_task_group() as group:
            start_workers(group, _workers(deps, keep_log))
            stop.server = server
            await server.serve(sockets=[listener])
            group.cancel_scope.cancel()


def _workers(deps: Deps, keep_log: bool) -> list[Worker]:
    workers = [worker for part in deps.slices for worker in part.workers(deps)] if deps.settings.workers else []
    if keep_log:
        workers.append(Worker("log", lambda: _bound_log(log_path(deps.settings.home))))
    return workers


async def _bound_log(path: Path) -> None:
    while True:
        await anyio.to_thread.run_sync(bound_log, path)
        await anyio.sleep(60)
