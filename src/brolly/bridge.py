"""``brolly mcp``: MCP over stdin and stdout, carried to a server's ``/mcp`` message by message.

It knows as little of the protocol as can be: which headers HTTP wants, what a cancellation is, and how
a failure to reach the server is told. So every protocol version that the server speaks passes through.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import anyio.lowlevel
import httpx

from brolly import __version__
from brolly.core.errors import AppError, error_body
from brolly.core.settings import Settings
from brolly.daemon import ensure_running

Message = dict[str, Any]

_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
# Methods whose Mcp-Name header repeats a parameter.
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_ENCODED = re.compile(r"=\?base64\?.*\?=")
_PARSE_ERROR, _INVALID_REQUEST, _INTERNAL_ERROR = -32700, -32600, -32603
_START_SECONDS = 25.0  # then the client hears that it still starts; many give up after 30
_FORGIVE_SECONDS = 2.0  # how long a failed start is remembered
_END_SECONDS = 0.6  # for answers on their way when stdin ends
_LAST_RESORT_SECONDS = 0.95


def say(text: str) -> None:
    """A line for the client's log."""
    sys.stderr.write(f"brolly mcp: {text}\n")
    sys.stderr.flush()


class Unreachable(Exception):  # noqa: N818 - becomes an answer
    """The server gave no answer; ``sent`` when it may have received the request."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Stdio:
    """The client's ends of the pipes. Whatever else is printed in this process goes to stderr."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._send, self._lines = anyio.create_memory_object_stream[bytes](10_000)

    def __aiter__(self) -> Any:
        return self._lines.__aiter__()

    def start_reading(self) -> None:
        """Read in a thread that nothing waits for: a blocked read cannot be cancelled, whatever stdin is."""
        token = anyio.lowlevel.current_token()
        threading.Thread(target=self._read, args=(token,), name="stdin", daemon=True).start()

    def _read(self, token: Any) -> None:
        rest = b""
        while chunk := _read_some():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                anyio.from_thread.run(self._send.send, line, token=token)
        # Should an answer block on a pipe that nobody reads, the end must not wait for it.
        timer = threading.Timer(_LAST_RESORT_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()
        if rest.strip():
            anyio.from_thread.run(self._send.send, rest, token=token)
        anyio.from_thread.run_sync(self._send.close, token=token)

    def write(self, line: bytes) -> None:
        """Write one message, whole."""
        data = memoryview(line.rstrip(b"\r\n") + b"\n")
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:
                select.select([], [self._out], [])


def _read_some() -> bytes:
    while True:
        try:
            return os.read(0, 1 << 16)
        except BlockingIOError:
            select.select([0], [], [])
        except OSError:
            return b""


class Server:
    """Where the server is and with which key: found or started on this machine, or named by BROLLY_URL."""

    def __init__(self, settings: Settings, *, port_given: bool) -> None:
        self._settings = settings
        self._local = not settings.url
        # This client's limits are its own affair: the server is shared.
        self._options = ["--no-read-only", "--tools", "", *([] if port_given else ["--any-port"])]
        self._base = settings.url.rstrip("/").removesuffix("/mcp")
        self._lock = anyio.Lock()
        self._failed: tuple[float, AppError] | None = None

    async def base(self) -> str:
        """The address; raises ``AppError`` when no server can be had."""
        if self._base:
            return self._base
        with anyio.move_on_after(_START_SECONDS):
            async with self._lock:
                if not self._base:
                    self._base = await self._start()
                return self._base
        raise AppError(
            "EXTERNAL_DB_ERROR",
            "The server is still starting; its database may be recovering from a crash.",
            remediation="Wait half a minute and repeat the call; brolly status tells the operator more.",
        )

    async def _start(self) -> str:
        if self._failed is not None and anyio.current_time() - self._failed[0] < _FORGIVE_SECONDS:
            raise self._failed[1]
        try:
            running = await ensure_running(self._settings, options=self._options)
        except AppError as error:
            say(error.message)
            self._failed = (anyio.current_time(), error)
            raise
        if running.version != __version__:
            say(f"the running server is version {running.version}, this is {__version__}; restart it with brolly down")
        say(f"server at {running.url}")
        return running.url

    def lost(self, base: str) -> None:
        """That address does not answer: look again, and start the server if it was on this machine."""
        if self._local and self._base == base:
            self._base = ""

    def key(self) -> str:
        """The service key; raises ``AppError`` when there is none."""
        if self._settings.api_key:
            return self._settings.api_key
        path = self._settings.home / "owner.key"
        if not self._local and not _is_here(self._base):
            # The local owner's key is nobody else's business.
            raise AppError(
                "AUTH_REQUIRED",
                f"No key is set for {self._base}.",
                remediation="Set BROLLY_API_KEY in this client's MCP configuration to a key made there with "
                "brolly keys create.",
            )
        try:
            return path.read_text().strip()
        except OSError:
            raise AppError(
                "AUTH_REQUIRED",
                f"No service key is set and {path} cannot be read.",
                remediation="Make one with brolly keys create NAME and set BROLLY_API_KEY to it in this client's MCP "
                "configuration.",
            ) from None

    def limits(self) -> dict[str, str]:
        """Headers by which the server narrows what this client is offered."""
        headers: dict[str, str] = {}
        if self._settings.read_only:
            headers["X-Brolly-Read-Only"] = "1"
        if self._settings.tools:
            headers["X-Brolly-Tools"] = ",".join(self._settings.tools)
        return headers

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient]:
        """An HTTP client: no limit on how long an answer takes or how many are awaited."""
        async with httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=10),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=60),
            # On this machine there is neither a proxy nor TLS; not loading the certificates saves start-up time.
            trust_env=not self._local,
            verify=not self._local,
            headers={"User-Agent": f"brolly-mcp/{__version__}", **self.limits()},
        ) as client:
            yield client


def _is_here(url: str) -> bool:
    return (urlsplit(url).hostname or "") in ("127.0.0.1", "::1", "localhost")


@dataclass
class _Flight:
    """A request whose answer is awaited."""

    scope: anyio.CancelScope


class Bridge:
    """Carries messages between the client and the server, many at once."""

    def __init__(self, stdio: Stdio, server: Server, client: httpx.AsyncClient) -> None:
        self._stdio, self._server, self._client = stdio, server, client
        self._flights: dict[Any, _Flight] = {}
        self._negotiated = ""  # the version that a handshake agreed on

    async def run(self) -> None:
        """Until stdin ends; then answers on their way get a moment."""
        async with anyio.create_task_group() as group:
            async for line in self._stdio:
                if line.strip():
                    self._take(line, group)
            with anyio.move_on_after(_END_SECONDS):
                while self._flights:
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    def _take(self, line: bytes, group: Any) -> None:
        try:
            parsed: Any = json.loads(line)
        except (ValueError, RecursionError):
            self._answer({"id": None, "error": {"code": _PARSE_ERROR, "message": "Parse error: not JSON."}})
            return
        if isinstance(parsed, list):
            # The 2025-03-26 version has batches; the server takes one message at a time.
            for entry in cast(list[Any], parsed):
                self._dispatch(entry, json.dumps(entry).encode(), group)
        else:
            self._dispatch(parsed, line, group)

    def _dispatch(self, message: Any, raw: bytes, group: Any) -> None:
        if not isinstance(message, dict):
            self._answer({"id": None, "error": {"code": _INVALID_REQUEST, "message": "Not a JSON-RPC message."}})
            return
        message = cast(Message, message)
        if message.get("method") == "notifications/cancelled":
            self._cancel(message)
        elif "id" in message and "method" in message:
            flight = _Flight(anyio.CancelScope())
            if (older := self._flights.get(message["id"])) is not None:
                older.scope.cancel()
            self._flights[message["id"]] = flight
            group.start_soon(self._request, message, raw, flight)
        elif self._negotiated:
            group.start_soon(self._notify, message, raw)
        # Otherwise a notification of the stateless versions, which HTTP servers drop.

    def _cancel(self, message: Message) -> None:
        """Closing the connection is what cancels over HTTP, in both eras, as the server keeps no sessions."""
        flight = self._flights.get((message.get("params") or {}).get("requestId"))
        if flight is not None:
            flight.scope.cancel()

    async def _notify(self, message: Message, raw: bytes) -> None:
        try:
            base = await self._server.base()
            headers = self._headers(message)
            await self._client.post(f"{base}/mcp", content=raw, headers=headers, timeout=10)
        except (AppError, httpx.HTTPError) as error:
            say(f"{message.get('method', 'an answer')} was not delivered: {error}")

    async def _request(self, message: Message, raw: bytes, flight: _Flight) -> None:
        try:
            with flight.scope:
                await self._carry(message, raw)
        finally:
            if self._flights.get(message["id"]) is flight:
                del self._flights[message["id"]]

    async def _carry(self, message: Message, raw: bytes) -> None:
        """Until it is answered: by the server, or by us with what went wrong."""
        for attempt in (1, 2):
            base = ""
            try:
                base = await self._server.base()
                await self._exchange(base, message, raw)
                return
            except AppError as error:
                self._fail(message, error)
                return
            except Unreachable as lost:
                self._server.lost(base)
                # Sent again only if it cannot have been done: asking twice is harmless, acting twice is not.
                if attempt == 2 or (lost.sent and message["method"] in ("tools/call", "subscriptions/listen")):
                    self._fail(message, _lost(base, lost))
                    return

    async def _exchange(self, base: str, message: Message, raw: bytes) -> None:
        sent = False
        try:
            async with self._client.stream(
                "POST", f"{base}/mcp", content=raw, headers=self._headers(message)
            ) as response:
                sent = True
                await self._receive(response, message)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(str(error), sent=False) from error
        except httpx.TransportError as error:
            raise Unreachable(str(error) or type(error).__name__, sent=True) from error
        except httpx.InvalidURL as error:
            raise AppError("CONFIG_INVALID", f"BROLLY_URL cannot be used: {error}.") from error
        del sent

    async def _receive(self, response: httpx.Response, message: Message) -> None:
        kind = response.headers.get("content-type", "")
        if response.status_code == 200 and kind.startswith("text/event-stream"):
            await self._stream(response, message)
            return
        body = await response.aread()
        if response.status_code == 200 and kind.startswith("application/json"):
            self._deliver(body, message)
        else:
            self._refused(response, body, message)

    async def _stream(self, response: httpx.Response, message: Message) -> None:
        """Pass on each event's message; the one with our id is the answer."""
        async for data in _events(response):
            if self._deliver(data, message):
                return
        raise Unreachable("the stream ended without an answer", sent=True)

    def _deliver(self, data: bytes, message: Message) -> bool:
        """Write a message of the server's; whether it was the answer."""
        parsed: Any = json.loads(data)
        answer = "method" not in parsed and "id" in parsed
        if answer and message["method"] == "initialize":
            self._negotiated = str((parsed.get("result") or {}).get("protocolVersion") or "")
        self._stdio.write(json.dumps(parsed).encode() if b"\n" in data.strip() else data)
        return answer

    def _refused(self, response: httpx.Response, body: bytes, message: Message) -> None:
        """An answer other than 200: a JSON-RPC error is the client's, our error shape is put into words."""
        try:
            error: Any = json.loads(body)["error"]
            code: Any = error["code"]
        except (ValueError, KeyError, TypeError):
            error, code = {"message": f"The server answered with status {response.status_code}."}, 0
        if isinstance(code, int):
            self._answer({"id": message["id"], "error": {"code": code or _INTERNAL_ERROR, **error}})
            return
        if response.status_code == 401:
            error["remediation"] = (
                "Set BROLLY_API_KEY in this client's MCP configuration to a valid key; brolly keys create NAME makes "
                "one on the server's machine."
            )
        self._answer(_failure(message, error))

    def _fail(self, message: Message, error: AppError) -> None:
        self._answer(_failure(message, error_body(error)["error"]))

    def _answer(self, answer: Message) -> None:
        self._stdio.write(json.dumps({"jsonrpc": "2.0", **answer}, ensure_ascii=False, separators=(",", ":")).encode())

    def _headers(self, message: Message) -> dict[str, str]:
        """What HTTP wants beside the message, per version."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {self._server.key()}",
        }
        version = _meta(message).get(_VERSION_KEY)
        if isinstance(version, str):
            method = str(message.get("method"))
            headers["MCP-Protocol-Version"] = version
            headers["Mcp-Method"] = _header_value(method)
            name = (message.get("params") or {}).get(_NAMED.get(method, ""))
            if isinstance(name, str):
                headers["Mcp-Name"] = _header_value(name)
        elif self._negotiated and message.get("method") != "initialize":
            headers["MCP-Protocol-Version"] = self._negotiated
        return headers


def _meta(message: Message) -> Mapping[str, Any]:
    params = message.get("params")
    meta: Any = cast(Message, params).get("_meta") if isinstance(params, dict) else None
    return cast(Message, meta) if isinstance(meta, dict) else {}


def _header_value(text: str) -> str:
    """Text as a header's value: as it is, or in base64 where HTTP would not keep it."""
    if _PLAIN.fullmatch(text) and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


async def _events(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The data of each event. By bytes, as JSON text may hold characters that count as line ends elsewhere."""
    rest, data = b"", list[bytes]()
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                if any(data):
                    yield b"\n".join(data)
                data.clear()


def _lost(base: str, lost: Unreachable) -> AppError:
    if lost.sent:
        return AppError(
            "EXTERNAL_DB_ERROR",
            f"The connection to {base} was lost before the answer came ({lost}).",
            remediation="The call may or may not have been done: look first, with manage_app list or select_rows, "
            "then repeat it if it was not.",
        )
    return AppError(
        "EXTERNAL_DB_ERROR",
        f"The server at {base} cannot be reached ({lost}).",
        remediation="Start it there with brolly up, or correct BROLLY_URL in this client's MCP configuration; then "
        "repeat the call.",
    )


def _failure(message: Message, error: Mapping[str, Any]) -> Message:
    """What went wrong, for the model where a tool was called, else for the client."""
    if message["method"] == "tools/call":
        text = json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))
        result: Message = {"content": [{"type": "text", "text": text}], "isError": True}
        if _VERSION_KEY in _meta(message):
            result["resultType"] = "complete"
        return {"id": message["id"], "result": result}
    words = f"{error.get('message', '')} {error.get('remediation', '')}".strip()
    return {"id": message["id"], "error": {"code": _INTERNAL_ERROR, "message": words, "data": {"error": error}}}


def run_bridge(settings: Settings, *, port_given: bool) -> None:
    """Serve the client until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    async def work() -> None:
        stdio = Stdio()
        server = Server(settings, port_given=port_given)
        async with server.client() as client:
            stdio.start_reading()
            await Bridge(stdio, server, client).run()

    try:
        anyio.run(work)
    except* BrokenPipeError:
        # The client is gone.
        os._exit(0)
