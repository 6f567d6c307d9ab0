"""One function loaded into a worker of its app's process: where it answers, and whether it still does."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio

from brolly.core.errors import AppError
from brolly.engines.deno.client import Body, Client, Response
from brolly.engines.deno.host import Door, Host
from brolly.engines.deno.process import Process

LOAD_SECONDS = 30.0
"""For fetching what a module imports, the first time."""
ENDED_SECONDS = 2.0
_HOP = frozenset(
    [
        "host",
        "connection",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-encoding",
        "accept-encoding",
        "keep-alive",
        "proxy-authorization",
        "proxy-authenticate",
        "te",
        "trailer",
    ]
)
_DROPPED = _HOP - {"content-encoding"}
_OURS = "x-brolly-"


class Isolate:
    """A loaded function. ``running`` counts its calls, ``blocked`` tells that it was ended for not yielding, ``full``
    that it was for taking more than ``memory_mb``.
    """

    def __init__(self, process: Process, host: Host, folder: Path, name: str, version: str, memory_mb: int) -> None:
        self.process, self.name, self.version, self.memory_mb = process, name, version, memory_mb
        self.running, self.used_at = 0, anyio.current_time()
        self._idle = anyio.Event()
        self.blocked = self.closed = self.full = False
        self.ended = anyio.Event()
        self._host, self._door = host, Door(folder)
        # Each gets a name of its own, so that none can reach, or wait for, another's socket.
        self.key = f"{name}@{secrets.token_hex(6)}"
        self._module = folder / f"{secrets.token_hex(12)}.ts"
        self._socket = folder / f"{secrets.token_hex(6)}.s"
        self._client = Client(str(self._socket))

    @property
    def is_usable(self) -> bool:
        """Whether calls can be sent to it."""
        return not (self.closed or self.full or self.ended.is_set() or self.process.dead.is_set())

    def _told(self, event: str) -> None:
        self.full = self.full or event == "full"
        self.ended.set()
        self._client.close()

    async def is_full(self) -> bool:
        """Whether a call that broke did so for want of memory; the word of it may still be on its way."""
        if self.is_usable:
            # The supervisor tells in order: behind this answer, or its own end, there is no more to come.
            await self.memory(ENDED_SECONDS)
        return self.full

    def enter(self) -> None:
        """A call begins."""
        self.running += 1
        self._idle = anyio.Event()

    def leave(self) -> None:
        """A call ends."""
        self.running -= 1
        self.used_at = anyio.current_time()
        if not self.running:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Until no call runs."""
        while self.running:
            await self._idle.wait()

    async def load(
        self, group: anyio.abc.TaskGroup, code: str, env: Mapping[str, str], about: Mapping[str, Any]
    ) -> None:
        """Have the module evaluated; ``VALIDATION_INVALID_SCHEMA`` with what Deno says when that fails."""
        await anyio.Path(self._module).write_text(code, "utf-8")
        # The account as whom functions run may be another; the folder is closed to all others.
        await anyio.Path(self._module).chmod(0o644)
        await group.start(self._host.attend, self._door)
        self.process.watchers[self.key] = self._told
        answer = await self.process.order(
            "load",
            LOAD_SECONDS,
            key=self.key,
            module=self._module.as_uri(),
            socket=str(self._socket),
            host=self._door.path,
            secret=self._door.key,
            memory=self.memory_mb,
            env=dict(env),
            app=dict(about),
        )
        if answer is not None and answer.get("ready"):
            return
        await self.close()
        if answer is None and self.process.dead.is_set():
            raise await self.process.broken(f"ended while it loaded {self.name}")
        if answer is None:
            raise AppError(
                "FUNCTION_TIMEOUT",
                f"Loading {self.name} took more than {LOAD_SECONDS:.0f} seconds.",
                remediation="Do slow work inside the handler rather than at the top of the module, "
                "then repeat deploy_function.",
            )
        raise self._unloadable(answer.get("error") or {})

    def _unloadable(self, error: Mapping[str, Any]) -> AppError:
        shown = str(error.get("message", "")).replace(self._module.as_uri(), f"{self.name}.ts")
        return AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"The function {self.name} cannot be loaded: {shown[:2000]}",
            remediation="Correct the code and repeat deploy_function.",
            details={"stack": str(error.get("stack", ""))[:4000]},
        )

    async def send(
        self, method: str, headers: Sequence[tuple[str, str]], body: Body, call: Mapping[str, Any]
    ) -> Response:
        """The response as soon as its head is there; it must be closed by the caller."""
        kept = [(k, v) for k, v in headers if k.lower() not in _HOP and not k.lower().startswith(_OURS)]
        told = quote(json.dumps(call, separators=(",", ":"), default=str), safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~\"")
        kept += [("x-brolly-call", told), ("accept-encoding", "identity"), ("host", "function")]
        return await self._client.send(method, "/", kept, body)

    async def memory(self, seconds: float) -> float | None:
        """The bytes that it holds; None when its event loop does not turn, so that it cannot answer."""
        answer = await self.process.order("ping", seconds, key=self.key)
        if answer is None or not answer.get("alive"):
            return None
        found = answer.get("memory")
        return found if isinstance(found, int | float) else 0.0

    async def close(self) -> None:
        """End it; calls on it break."""
        if self.closed:
            return
        self.closed = True
        self._door.scope.cancel()
        self.process.watchers.pop(self.key, None)
        with anyio.CancelScope(shield=True):
            await self.process.order("unload", 2.0, key=self.key)
            self._client.close()
            for path in (self._module, self._socket):
                await anyio.Path(path).unlink(missing_ok=True)


def lines_of(response: Response) -> tuple[list[dict[str, Any]], int]:
    """The console lines that came with the answer's head, and how many were too many."""
    coded = response.header("x-brolly-lines")
    if coded is None:
        return [], 0
    try:
        told = json.loads(base64.b64decode(coded, validate=True))
        return [line for line in told.get("lines", []) if isinstance(line, dict)], int(told.get("cut", 0))
    except (ValueError, binascii.Error, AttributeError, TypeError, OverflowError, RecursionError):
        return [], 0


def headers_of(response: Response) -> list[tuple[str, str]]:
    """The handler's own headers."""
    # We ask for no encoding, so that one which is there is the handler's own.
    return [(k, v) for k, v in response.headers if k not in _DROPPED and not k.startswith(_OURS)]
