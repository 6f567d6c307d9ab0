"""The sockets on which functions ask us: for rows, links, other functions.

Lines of JSON both ways. A supervisor takes our orders on its connection; each worker asks on its own,
``{id, call, op, args}`` → ``{id, value}`` or ``{id, error}``, where ``call`` is the token of one running
invocation. The token decides what may be done; that a worker is connected decides nothing.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, cast

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from brolly.core.errors import AppError

log = logging.getLogger("brolly.deno")

LONGEST_LINE = 16 * 1024 * 1024
HELLO_SECONDS = 5.0
LONGEST_HELLO = 1000
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

    async def next(self, longest: int = LONGEST_LINE) -> dict[str, Any] | None:
        """The next message; None at the end, or when what comes is no message of ours."""
        try:
            message: Any = json.loads(await self._stream.receive_until(b"\n", longest))
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound):
            return None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ValueError, RecursionError):
            return None
        return cast(dict[str, Any], message) if isinstance(message, dict) else None


class Door:
    """A socket for one visitor, who brings a key. It is gone once that one is in.

    Deno lets a program that may connect to a socket also remove it and put its own there, and whoever came next
    would tell its secrets to that. So nobody ever comes next.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.key = str(folder / f"{secrets.token_hex(6)}.h"), secrets.token_urlsafe(24)
        self.scope = anyio.CancelScope()
        self._listener: anyio.abc.SocketListener | None = None
        self._stream: anyio.abc.SocketStream | None = None

    async def open(self) -> None:
        """Listen."""
        # For the account as whom functions run, too; the folder is closed to all others.
        self._listener = await anyio.create_unix_listener(self.path, mode=0o666)

    async def admit(self) -> tuple[Peer, Lines]:
        """Wait for whoever brings the key, then close."""
        if self._listener is None:
            raise RuntimeError("the door is not open")
        while True:
            self._stream = await self._listener.accept()
            lines = Lines(self._stream)
            with anyio.move_on_after(HELLO_SECONDS):
                hello = await lines.next(LONGEST_HELLO) or {}
                if secrets.compare_digest(str(hello.get("hello", "")).encode(), self.key.encode()):
                    await self._shut()
                    return Peer(self._stream), lines
            await self._stream.aclose()

    async def _shut(self) -> None:
        if self._listener is not None:
            await self._listener.aclose()
            await anyio.Path(self.path).unlink(missing_ok=True)
            self._listener = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._shut()
            if self._stream is not None:
                await self._stream.aclose()


@dataclass(slots=True)
class Host:
    """Our end of one app's sockets: which of its invocations are running."""

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

    async def attend(self, door: Door, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer the worker for whom the door stands open, until it is gone or the door is closed."""
        with door.scope:
            try:
                await door.open()
                task_status.started()
                async with door:
                    await self._answer(*await door.admit())
            except Exception:
                # One app's worker never takes down what serves the others.
                log.exception("a worker's connection failed")

    async def _answer(self, peer: Peer, lines: Lines) -> None:
        slots = anyio.Semaphore(AT_ONCE)
        async with anyio.create_task_group() as group:
            while (message := await lines.next()) is not None:
                await slots.acquire()
                group.start_soon(self._one, peer, message, slots)
            group.cancel_scope.cancel()

    async def _one(self, peer: Peer, message: dict[str, Any], slots: anyio.Semaphore) -> None:
        # Until it is sent: a worker that asks and does not read must not fill our memory with answers.
        try:
            number = message.get("id")
            if not isinstance(number, int):
                return
            answer = await self._ask(message)
            try:
                await peer.send({"id": number, **answer})
            except (ValueError, TypeError, RecursionError):
                said = {"code": "VALIDATION_INVALID_INPUT", "message": "The answer cannot be written as JSON."}
                await peer.send({"id": number, "error": said})
        finally:
            slots.release()

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
