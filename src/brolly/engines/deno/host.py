"""The socket on which functions ask us: for rows, links, other functions.

Lines of JSON both ways. A supervisor takes our orders on its connection; a worker asks on its own,
``{id, call, op, args}`` → ``{id, value}`` or ``{id, error}``, where ``call`` is the token of one running
invocation. The token decides what may be done; that a worker is connected decides nothing.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from brolly.core.errors import AppError

log = logging.getLogger("brolly.deno")

LONGEST_LINE = 16 * 1024 * 1024
AT_ONCE = 64
"""Most questions of one worker that are worked on together; more wait."""


class HostCalls(Protocol):
    """What one invocation may ask. Made by the slice that starts it, with the caller's rights bound in."""

    async def ask(self, op: str, args: Mapping[str, Any]) -> Any:
        """The JSON answer; ``AppError`` reaches the function as an exception with its code."""
        ...

    async def close(self) -> None:
        """The invocation has ended: open transactions are rolled back."""
        ...


class Peer:
    """One connection: writes whole lines, one at a time."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self._writing = anyio.Lock()

    async def send(self, message: Mapping[str, Any]) -> None:
        """One message. A peer that is gone is found out by its reader."""
        line = json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"
        async with self._writing:
            try:
                await self.stream.send(line)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


class Lines:
    """The messages that come in on a connection."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = BufferedByteReceiveStream(stream)

    async def next(self) -> dict[str, Any] | None:
        """The next message; None at the end, or when what comes is no message of ours."""
        try:
            message: Any = json.loads(await self._stream.receive_until(b"\n", LONGEST_LINE))
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound):
            return None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ValueError, RecursionError):
            return None
        return cast(dict[str, Any], message) if isinstance(message, dict) else None


OnSupervisor = Callable[[Peer, Lines], Awaitable[None]]


@dataclass(slots=True)
class Host:
    """Our end of the socket: who may connect, and which invocations are running."""

    path: str
    supervisors: dict[str, OnSupervisor] = field(default_factory=dict[str, OnSupervisor])
    workers: set[str] = field(default_factory=set[str])
    calls: dict[str, HostCalls] = field(default_factory=dict[str, HostCalls])
    lasting: dict[str, anyio.Event] = field(default_factory=dict[str, anyio.Event])

    def open_call(self, calls: HostCalls) -> str:
        """A token by which a function asks as this invocation, until ``close_call``."""
        token = secrets.token_urlsafe(24)
        self.calls[token] = calls
        return token

    async def close_call(self, token: str) -> None:
        """The token means nothing any more."""
        if (ended := self.lasting.pop(token, None)) is not None:
            ended.set()
        if (calls := self.calls.pop(token, None)) is not None:
            with anyio.CancelScope(shield=True):
                await calls.close()

    async def linger(self, token: str, seconds: float) -> None:
        """Leave the call open until the function says that its last promise is settled, or the time is up."""
        ended = self.lasting.setdefault(token, anyio.Event())
        if token in self.calls:
            with anyio.move_on_after(seconds):
                await ended.wait()
        await self.close_call(token)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Accept connections until cancelled."""
        listener = await anyio.create_unix_listener(self.path, mode=0o600)
        async with listener:
            task_status.started()
            await listener.serve(self._welcome)

    async def _welcome(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            peer, lines = Peer(stream), Lines(stream)
            hello: dict[str, Any] | None = None
            with anyio.move_on_after(5):
                hello = await lines.next()
            key = str((hello or {}).get("hello", ""))
            if (hello or {}).get("supervisor") and (taken := self.supervisors.pop(key, None)) is not None:
                await taken(peer, lines)
            elif key in self.workers:
                await self._answer(peer, lines)

    async def _answer(self, peer: Peer, lines: Lines) -> None:
        slots = anyio.Semaphore(AT_ONCE)
        async with anyio.create_task_group() as group:
            while (message := await lines.next()) is not None:
                await slots.acquire()
                group.start_soon(self._one, peer, message, slots)
            group.cancel_scope.cancel()

    async def _one(self, peer: Peer, message: dict[str, Any], slots: anyio.Semaphore) -> None:
        try:
            answer = await self._ask(message)
        finally:
            slots.release()
        await peer.send({"id": message.get("id"), **answer})

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        token = str(message.get("call"))
        if message.get("op") == "finished":
            await self.close_call(token)
            return {"value": None}
        calls = self.calls.get(token)
        try:
            if calls is None:
                raise AppError(
                    "STATE_PREREQUISITE_MISSING",
                    "This invocation has ended; what it left running may ask nothing more.",
                    remediation="Await the work in the handler, or give its promise to ctx.waitUntil; then "
                    "repeat deploy_function.",
                )
            return {"value": await calls.ask(str(message.get("op")), dict(message.get("args") or {}))}
        except AppError as error:
            return {
                "error": {
                    "code": error.code,
                    "message": error.message,
                    "remediation": error.remediation,
                    "details": error.details,
                }
            }
        except Exception:
            log.exception("a function's %r failed", message.get("op"))
            return {"error": {"code": "INTERNAL_ERROR", "message": "Something went wrong on our side."}}
