"""Carries messages between the client's pipes and the server's ``/mcp``.

It knows as little of the protocol as can be: which headers HTTP wants, what a cancellation is, and how
a failure to reach the server is told. So every protocol version that the server speaks passes through.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import anyio
import httpx

from brolly.bridge.question import Questions, question_in, with_confirm
from brolly.bridge.server import Server
from brolly.bridge.stdio import Stdio, say
from brolly.bridge.wire import Message, headers_of, own_version, params_of, read_events
from brolly.core.errors import AppError, error_body
from brolly.core.settings import Settings

_PARSE_ERROR, _INVALID_REQUEST, _INTERNAL_ERROR = -32700, -32600, -32603
_END_SECONDS = 0.6  # for answers on their way when stdin ends
# Acting twice is not harmless, as asking twice is; and a subscription is for the client to renew.
_NEVER_REPEATED = ("tools/call", "subscriptions/listen")


class Unreachable(Exception):  # noqa: N818 - becomes an answer
    """The server gave no answer; ``sent`` when it may have received the request."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


@dataclass
class _Flight:
    """A request whose answer is awaited."""

    message: Message
    raw: bytes
    scope: anyio.CancelScope
    may_ask: bool
    question: str = ""  # what the server wants the person to be asked


class Bridge:
    """Carries messages between the client and the server, many at once."""

    def __init__(self, stdio: Stdio, server: Server, client: httpx.AsyncClient) -> None:
        self._stdio, self._server, self._client = stdio, server, client
        self._flights: dict[Any, _Flight] = {}
        self._questions = Questions(self._answer)
        self._negotiated = ""  # the version that a handshake agreed on

    async def run(self) -> None:
        """Until stdin ends; then answers on their way get a moment."""
        async with anyio.create_task_group() as group:
            async for line in self._stdio:
                if line.strip():
                    self._take(line, group)
            with anyio.move_on_after(_END_SECONDS):
                while self._flights:  # noqa: ASYNC110 - at most once in a process's life
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
        elif "method" in message and isinstance(message.get("id"), str | int | float):
            flight = self._flight(message, raw)
            if (older := self._flights.get(message["id"])) is not None:
                older.scope.cancel()
            self._flights[message["id"]] = flight
            group.start_soon(self._request, flight)
        elif not self._questions.take(message) and self._negotiated:
            group.start_soon(self._notify, message, raw)
        # Otherwise a notification of the stateless versions, which HTTP servers drop.

    def _flight(self, message: Message, raw: bytes) -> _Flight:
        if message["method"] == "initialize":
            self._questions.introduced(message)
        may_ask = self._questions.concern(message, self._negotiated)
        # A model's own confirm: true is not a person's word.
        return _Flight(message, with_confirm(message, False) if may_ask else raw, anyio.CancelScope(), may_ask)

    def _cancel(self, message: Message) -> None:
        """Closing the connection is what cancels over HTTP, in both eras, as the server keeps no sessions."""
        request_id = params_of(message).get("requestId")
        flight = self._flights.get(request_id) if isinstance(request_id, str | int | float) else None
        if flight is not None:
            flight.scope.cancel()

    async def _notify(self, message: Message, raw: bytes) -> None:
        try:
            base = await self._server.base()
            headers = self._headers(message)
            await self._client.post(f"{base}/mcp", content=raw, headers=headers, timeout=10)
        except BrokenPipeError:
            raise
        except Exception as error:
            # Nobody waits for it, and what it holds must not end the calls in flight.
            say(f"{message.get('method', 'an answer')!r} was not delivered: {error!r}")

    async def _request(self, flight: _Flight) -> None:
        message = flight.message
        try:
            with flight.scope:
                await self._carry(flight)
                if flight.question:
                    await self._ask(flight)
        except BrokenPipeError:
            raise
        except Exception as error:
            # One answer that cannot be read must not end the others.
            say(f"{message['method']} failed: {error!r}")
            self._fail(message, AppError("INTERNAL_ERROR", f"The server's answer cannot be used: {error!r}."))
        finally:
            if self._flights.get(message["id"]) is flight:
                del self._flights[message["id"]]

    async def _ask(self, flight: _Flight) -> None:
        """Ask the person; the call is repeated if they agree and refused if they do not."""
        try:
            await self._questions.ask(flight.question)
        except AppError as error:
            self._fail(flight.message, error)
            return
        flight.raw, flight.may_ask = with_confirm(flight.message, True), False
        await self._carry(flight)

    async def _carry(self, flight: _Flight) -> None:
        """Until it is answered: by the server, or by us with what went wrong."""
        message = flight.message
        for attempt in (1, 2):
            base = ""
            try:
                base = await self._server.base()
                await self._exchange(base, flight)
                return
            except AppError as error:
                self._fail(message, error)
                return
            except Unreachable as lost:
                self._server.lost(base)
                if attempt == 2 or (lost.sent and message["method"] in _NEVER_REPEATED):
                    self._fail(message, _lost(base, lost))
                    return

    async def _exchange(self, base: str, flight: _Flight) -> None:
        try:
            async with self._client.stream(
                "POST", f"{base}/mcp", content=flight.raw, headers=self._headers(flight.message)
            ) as response:
                await self._receive(response, flight)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(str(error), sent=False) from error
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise AppError("CONFIG_INVALID", f"BROLLY_URL or BROLLY_API_KEY cannot be used: {error}.") from error
        except httpx.TransportError as error:
            raise Unreachable(str(error) or type(error).__name__, sent=True) from error

    async def _receive(self, response: httpx.Response, flight: _Flight) -> None:
        kind = response.headers.get("content-type", "")
        if response.status_code == 200 and kind.startswith("text/event-stream"):
            await self._stream(response, flight)
            return
        body = await response.aread()
        if response.status_code == 200 and kind.startswith("application/json"):
            self._deliver(body, flight)
        else:
            self._refused(response, body, flight.message)

    async def _stream(self, response: httpx.Response, flight: _Flight) -> None:
        """Pass on each event's message; the one with our id is the answer."""
        async for data in read_events(response.aiter_bytes()):
            if self._deliver(data, flight):
                return
        raise Unreachable("the stream ended without an answer", sent=True)

    def _deliver(self, data: bytes, flight: _Flight) -> bool:
        """Write a message of the server's, save one that we must ask about; whether it was the answer."""
        parsed: Message = json.loads(data)
        answer = "method" not in parsed and "id" in parsed
        if answer and flight.may_ask and (question := question_in(parsed)):
            flight.question = question
            return True
        if answer and flight.message["method"] == "initialize" and isinstance(parsed.get("result"), dict):
            self._negotiated = str(parsed["result"].get("protocolVersion", ""))
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
        # In ASCII: an id may hold half of a character, which has no bytes of its own.
        self._stdio.write(json.dumps({"jsonrpc": "2.0", **answer}, separators=(",", ":")).encode())

    def _headers(self, message: Message) -> dict[str, str]:
        return {**headers_of(message, self._negotiated), "Authorization": f"Bearer {self._server.key()}"}


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
        if own_version(message):
            result["resultType"] = "complete"
        return {"id": message["id"], "result": result}
    words = f"{error.get('message', '')} {error.get('remediation', '')}".strip()
    return {"id": message["id"], "error": {"code": _INTERNAL_ERROR, "message": words, "data": {"error": error}}}


def run_bridge(settings: Settings, *, port_given: bool) -> None:
    """Serve the client until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    async def work() -> None:
        server = Server(settings, port_given=port_given)
        stdio = Stdio()
        async with server.client() as client:
            stdio.start_reading()
            await Bridge(stdio, server, client).run()

    try:
        anyio.run(work)
    except* BrokenPipeError:
        # The client is gone.
        os._exit(0)
