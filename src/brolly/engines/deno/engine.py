"""Runs functions: a process per app on demand, an isolate per function, calls within their limits."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from brolly.core.errors import AppError
from brolly.engines.deno.check import Diagnostic, check
from brolly.engines.deno.client import LostError, Response, UnreachableError
from brolly.engines.deno.host import Host
from brolly.engines.deno.isolate import Isolate, headers_of, lines_of
from brolly.engines.deno.launch import MOST_FILES
from brolly.engines.deno.memory import BASE_MB, heaviest
from brolly.engines.deno.process import Bounds, Process
from brolly.engines.deno.program import Invocation, Program, busy, full, late
from brolly.engines.deno.scratch import Scratch, sweep

log = logging.getLogger("brolly.deno")

LINGER_SECONDS = 30.0
"""How long ``ctx.waitUntil`` may go on after the answer."""
WATCH_SECONDS = 1.0
MEMORY_SECONDS = 0.2
RELIEVED_SECONDS = 4.0
"""How long the end of one isolate is given to show, before the whole process is ended."""
LEFT_SECONDS = 30.0
"""For how long an isolate without calls is looked at as one with them."""
AGAIN_SECONDS = 2.0
"""For how long a version that could not be loaded is not tried again by calls."""
ROOM_FROM = 0.7
"""From which part of a process's memory or files on idle isolates are ended."""
RETIRE_SECONDS = 300.0
"""The longest that a call may take, and so the longest that a replaced version may still be needed."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(slots=True)
class Answer:
    """What the handler returned. ``failed`` when it threw: the body is then {message, stack, code?}.

    ``pending``: promises given to ``ctx.waitUntil`` go on; their lines come by ``HostCalls``.
    """

    status: int
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes]
    lines: list[dict[str, Any]]
    lines_cut: int
    failed: bool
    pending: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """Per app: ``at_once`` calls run, ``waiting`` more wait for at most ``wait_seconds``; its process is stopped
    after ``idle_seconds`` without a call, or when it holds more than ``memory_mb``; an isolate that does not
    answer for ``blocked_seconds`` is ended.
    """

    at_once: int = 100
    waiting: int = 100
    wait_seconds: float = 10.0
    idle_seconds: float = 300.0
    memory_mb: int = 512
    blocked_seconds: float = 10.0


@dataclass(slots=True)
class _App:
    """An app's process, if it runs, its loaded functions and its calls."""

    folder: Path
    slots: anyio.Semaphore
    host: Host = field(default_factory=Host)
    changing: anyio.Lock = field(default_factory=anyio.Lock)
    process: Process | None = None
    isolates: dict[str, Isolate] = field(default_factory=dict[str, Isolate])
    failed: tuple[str, float, AppError] | None = None
    gone: bool = False
    running: int = 0
    waiting: int = 0
    relieved_at: float = float("-inf")
    used_at: float = field(default_factory=anyio.current_time)

    def at_work(self) -> list[Isolate]:
        """Isolates with calls, or with calls a moment ago: code goes on when its caller left, or its time is over."""
        since = anyio.current_time() - LEFT_SECONDS
        return [isolate for isolate in self.isolates.values() if isolate.running or isolate.used_at > since]


class Engine:
    """All apps' functions in this server process."""

    def __init__(self, bounds: Bounds, limits: Limits | None = None) -> None:
        self._bounds, self._limits = bounds, limits or Limits()
        self._scratch = Scratch()
        self._folder = self._scratch.path
        self._apps: dict[str, _App] = {}
        self._group: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve functions' questions and watch the processes until cancelled; then end them all."""
        await anyio.to_thread.run_sync(sweep)
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._watch, self._look_after, WATCH_SECONDS)
                group.start_soon(self._watch, self._look_at_memory, MEMORY_SECONDS)
                task_status.started()
        finally:
            with anyio.CancelScope(shield=True):
                for app_id in list(self._apps):
                    await self.forget(app_id)
                await anyio.to_thread.run_sync(self._scratch.remove)

    def _running(self) -> anyio.abc.TaskGroup:
        if self._group is None:
            raise RuntimeError("the engine is used outside of run()")
        return self._group

    def start_soon(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Work on something in the background, for as long as the engine runs. What it raises is logged."""
        self._running().start_soon(self._quietly, work, args)

    async def _quietly(self, work: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await work(*args)
        except Exception:
            log.exception("background work failed")

    async def forget(self, app_id: str) -> None:
        """End an app's process and all its calls."""
        if (app := self._apps.pop(app_id, None)) is not None:
            app.gone = True
            async with app.changing:
                await self._stop(app)
            await anyio.to_thread.run_sync(shutil.rmtree, app.folder, True)

    @property
    def app_ids(self) -> list[str]:
        """The apps whose functions were called here."""
        return list(self._apps)

    @property
    def folder(self) -> Path:
        """Where the sockets and the modules of running functions lie; closed to other accounts."""
        return self._folder

    async def check(self, name: str, code: str) -> list[Diagnostic]:
        """What the compiler has against the module; see ``check``."""
        return await check(name, code, self._bounds)

    async def load(self, program: Program) -> None:
        """Have the function loaded as a call would need it; ``VALIDATION_INVALID_SCHEMA`` when it cannot be."""
        app = self._app(program.app_id)
        app.failed = None
        await self._isolate(app, program)

    @asynccontextmanager
    async def invoke(self, program: Program, invocation: Invocation) -> AsyncGenerator[Answer]:
        """The answer while it comes in.

        Raises ``FUNCTION_BUSY``, ``FUNCTION_TIMEOUT`` (also out of ``Answer.body``), ``EXTERNAL_NETWORK_ERROR``
        when the process died with the call, and ``VALIDATION_INVALID_SCHEMA`` when the module cannot be loaded.
        """
        app = self._app(program.app_id)
        async with self._slot(app):
            token = app.host.open_call(invocation.calls)
            pending = False
            try:
                isolate, response = await self._exchange(app, program, invocation, token)
                try:
                    lines, cut = lines_of(response)
                    pending = response.header("x-brolly-pending") is not None
                    yield Answer(
                        response.status,
                        headers_of(response),
                        self._body(program, isolate, response, anyio.current_time() + program.timeout),
                        lines,
                        cut,
                        response.header("x-brolly-failed") is not None,
                        pending,
                    )
                finally:
                    isolate.leave()
                    response.close()
            finally:
                if pending and self._group is not None:
                    self._group.start_soon(app.host.linger, token, LINGER_SECONDS)
                else:
                    await app.host.close_call(token)

    @asynccontextmanager
    async def _slot(self, app: _App) -> AsyncGenerator[None]:
        try:
            app.slots.acquire_nowait()
        except anyio.WouldBlock:
            await self._queue(app)
        app.running += 1
        try:
            yield
        finally:
            app.running -= 1
            app.used_at = anyio.current_time()
            app.slots.release()

    async def _queue(self, app: _App) -> None:
        """Wait for a call to end; raises when too many wait, or for too long."""
        if app.waiting >= self._limits.waiting:
            raise busy()
        app.waiting += 1
        try:
            with anyio.fail_after(self._limits.wait_seconds):
                await app.slots.acquire()
        except TimeoutError:
            raise busy() from None
        finally:
            app.waiting -= 1

    async def _exchange(
        self, app: _App, program: Program, invocation: Invocation, token: str
    ) -> tuple[Isolate, Response]:
        """The response's head; repeated once where the process was gone before, or the call changes nothing."""
        call = {"token": token, "url": invocation.url, **invocation.about}
        for again in (True, False):
            isolate = await self._isolate(app, program)
            isolate.enter()
            try:
                with anyio.fail_after(program.timeout):
                    return isolate, await isolate.send(invocation.method, invocation.headers, invocation.body, call)
            except BaseException as error:
                isolate.leave()
                if isinstance(error, TimeoutError) or isolate.blocked:
                    raise late(program, blocked=isolate.blocked) from None
                if not isinstance(error, LostError):
                    raise
                if await isolate.is_full():
                    raise full(program) from None
                whole = isinstance(invocation.body, bytes)
                fresh = isinstance(error, UnreachableError) or (whole and invocation.method in SAFE_METHODS)
                if not (again and fresh):
                    raise await isolate.process.broken(f"ended while {program.name} was working") from None
                await self._discard(app, isolate)
        raise AssertionError("unreachable")

    async def _body(
        self, program: Program, isolate: Isolate, response: Response, until: float
    ) -> AsyncGenerator[bytes]:
        chunks = response.chunks()
        while True:
            try:
                with anyio.fail_after(max(until - anyio.current_time(), 0)):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise late(program, blocked=False) from None
            except LostError:
                if isolate.blocked:
                    raise late(program, blocked=True) from None
                if await isolate.is_full():
                    raise full(program) from None
                raise await isolate.process.broken(f"ended while {program.name} was answering") from None
            yield chunk

    def _app(self, app_id: str) -> _App:
        if (app := self._apps.get(app_id)) is None:
            folder = self._folder / hashlib.sha256(app_id.encode()).hexdigest()[:12]
            folder.mkdir(mode=0o700, exist_ok=True)
            app = self._apps[app_id] = _App(folder, anyio.Semaphore(self._limits.at_once))
        return app

    async def _isolate(self, app: _App, program: Program) -> Isolate:
        found = app.isolates.get(program.name)
        if found is not None and found.version == program.version and found.is_usable:
            found.used_at = anyio.current_time()
            return found
        async with app.changing:
            return await self._loaded(app, program)

    async def _loaded(self, app: _App, program: Program) -> Isolate:
        """Under the app's lock: the function's isolate, started and loaded if it is not."""
        if app.gone:
            raise AppError("EXTERNAL_NETWORK_ERROR", f"The app {program.app_id} ended.")
        if app.failed is not None and app.failed[0] == program.version and anyio.current_time() < app.failed[1]:
            # A function that ends its process while it loads would do so once for each call that waits.
            raise app.failed[2]
        if app.process is None or app.process.dead.is_set():
            await self._stop(app)
            process = Process(program.app_id, app.folder)
            await process.start(self._running(), self._bounds)
            app.process = process
        found = app.isolates.get(program.name)
        if found is not None and found.version == program.version and found.is_usable:
            return found
        await self._free_files(app, app.process)
        isolate = Isolate(app.process, app.host, app.folder, program.name, program.version, program.memory_mb)
        try:
            await isolate.load(self._running(), program.code, program.env, program.about)
        except AppError as error:
            app.failed = (program.version, anyio.current_time() + AGAIN_SECONDS, error)
            raise
        app.isolates[program.name] = isolate
        if found is not None:
            # Calls that run on the former version end on it.
            self._running().start_soon(self._retire, found)
        return isolate

    async def _retire(self, isolate: Isolate) -> None:
        with anyio.move_on_after(RETIRE_SECONDS):
            await isolate.wait_idle()
        await isolate.close()

    async def _discard(self, app: _App, isolate: Isolate) -> None:
        if app.isolates.get(isolate.name) is isolate:
            del app.isolates[isolate.name]
        await isolate.close()

    async def _stop(self, app: _App) -> None:
        if app.process is not None:
            await app.process.stop()
            app.process = None
        for isolate in app.isolates.values():
            await isolate.close()
        app.isolates.clear()

    async def _watch(self, look: Callable[[_App, Process], Coroutine[Any, Any, None]], seconds: float) -> None:
        while True:
            await anyio.sleep(seconds)
            async with anyio.create_task_group() as group:
                for app in list(self._apps.values()):
                    if app.process is not None and not app.process.dead.is_set():
                        group.start_soon(look, app, app.process)

    async def _look_after(self, app: _App, process: Process) -> None:
        await self._make_room(app, process)
        await self._free_files(app, process)
        for isolate in app.at_work():
            if await isolate.memory(self._limits.blocked_seconds) is None:
                isolate.blocked = not process.dead.is_set() and not isolate.full
                await self._discard(app, isolate)
        await self._stop_idle(app)

    async def _look_at_memory(self, app: _App, process: Process) -> None:
        memory = process.memory
        at_work = app.at_work()
        floor = (BASE_MB + min(isolate.memory_mb for isolate in at_work)) * 2**20 if at_work else memory
        if memory > min(floor, self._limits.memory_mb * 2**20):
            await self._relieve(app, process, memory, at_work)

    async def _relieve(self, app: _App, process: Process, memory: int, at_work: list[Isolate]) -> None:
        """End the isolate that takes too much, or of a full process the largest; if that is no help, the process."""
        most, now = self._limits.memory_mb * 2**20, anyio.current_time()
        crowded = memory > most and not app.relieved_at < now < app.relieved_at + RELIEVED_SECONDS
        found = await heaviest(at_work, memory)
        if found is not None and (crowded or found.over):
            found.isolate.full, app.relieved_at = True, anyio.current_time()
            await self._discard(app, found.isolate)
        elif memory > most and now > app.relieved_at + RELIEVED_SECONDS / 2:
            process.stderr += b"out of memory"
            await process.stop()

    async def _make_room(self, app: _App, process: Process) -> None:
        """End isolates that nobody calls; and before the process is full, the one that waits longest."""
        idle = sorted((i for i in app.isolates.values() if not i.running), key=lambda isolate: isolate.used_at)
        full = process.memory > self._limits.memory_mb * 2**20 * ROOM_FROM
        for isolate in idle:
            if full or anyio.current_time() - isolate.used_at > self._limits.idle_seconds:
                await self._discard(app, isolate)
                full = False

    async def _free_files(self, app: _App, process: Process) -> None:
        """End all isolates that nobody calls before the process has no files left."""
        if process.files > MOST_FILES * ROOM_FROM:
            for isolate in [each for each in app.isolates.values() if not each.running]:
                await self._discard(app, isolate)

    async def _stop_idle(self, app: _App) -> None:
        if not app.running and anyio.current_time() - app.used_at > self._limits.idle_seconds:
            async with app.changing:
                if not app.running:
                    await self._stop(app)
