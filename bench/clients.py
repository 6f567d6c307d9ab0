"""MCP clients with as little of their own as can be: one JSON-RPC message out, one answer in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from bench.program import Program, command, environment

PROTOCOL = "2025-11-25"
_LINE_LIMIT = 1 << 22


class CallFailed(Exception):  # noqa: N818
    """A tool answered with an error where none was expected."""


def message(number: int, method: str, **params: Any) -> bytes:
    """A JSON-RPC request as it goes over the wire."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def tool_message(number: int, tool: str, arguments: dict[str, Any]) -> bytes:
    """A tool call as it goes over the wire."""
    return message(number, "tools/call", name=tool, arguments=arguments)


def initialize_message() -> bytes:
    """The first message of a session."""
    return message(
        0, "initialize", protocolVersion=PROTOCOL, capabilities={}, clientInfo={"name": "bench", "version": "1"}
    )


def payload(body: bytes) -> dict[str, Any]:
    """The message in a response, be it JSON or an event."""
    if body.startswith(b"{"):
        return json.loads(body)
    line = next(line for line in body.split(b"\n") if line.startswith(b"data:"))
    return json.loads(line[5:])


class HttpClient:
    """POSTs messages over one kept connection per request at a time, as a client does after its handshake."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def post(self, content: bytes) -> dict[str, Any]:
        """Send a message; the answer, whatever it says."""
        response = await self._client.post("/mcp", content=content)
        return payload(response.content)

    async def health(self) -> None:
        """An exchange with nothing in it."""
        (await self._client.get("/health")).raise_for_status()

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool and parse its answer; raises ``CallFailed``."""
        result = (await self.post(tool_message(1, tool, arguments)))["result"]
        text = result["content"][0]["text"]
        if result.get("isError"):
            raise CallFailed(f"{tool}: {text}")
        return json.loads(text)


@asynccontextmanager
async def http_client(program: Program, connections: int = 8) -> AsyncGenerator[HttpClient]:
    """A client with the owner's key."""
    headers = {
        "Authorization": f"Bearer {program.key}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": PROTOCOL,
    }
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60)
    async with httpx.AsyncClient(
        base_url=program.url, headers=headers, timeout=60, limits=limits, trust_env=False, verify=False
    ) as client:
        yield HttpClient(client)


class StdioClient:
    """Lines to and from ``brolly mcp``, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def send(self, content: bytes) -> dict[str, Any]:
        """Send a request; its answer."""
        self._in.write(content + b"\n")
        return json.loads(await self._out.readline())

    async def notify(self, method: str) -> None:
        """Send a notification."""
        self._in.write(json.dumps({"jsonrpc": "2.0", "method": method}).encode() + b"\n")
        await self._in.drain()


@asynccontextmanager
async def stdio_client(program: Program) -> AsyncGenerator[StdioClient]:
    """A bridge to that server, after its handshake."""
    process = await asyncio.create_subprocess_exec(
        *command("mcp", "--home", str(program.home)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(),
        limit=_LINE_LIMIT,
    )
    try:
        client = StdioClient(process)
        await client.send(initialize_message())
        await client.notify("notifications/initialized")
        yield client
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
