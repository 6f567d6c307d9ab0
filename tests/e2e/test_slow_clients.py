"""Clients that never finish what they began: the others are served, and the slow ones let go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
import uvicorn

from brolly import patience
from brolly.deps import Deps
from brolly.web import build_web


@pytest.fixture
async def port(deps: Deps, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(patience, "HEADER_SECONDS", 0.3)
    server = uvicorn.Server(
        uvicorn.Config(build_web(deps), port=0, log_config=None, lifespan="off", http=patience.PatientProtocol)
    )
    task = asyncio.get_running_loop().create_task(server.serve())
    with anyio.fail_after(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
            await anyio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def is_let_go(stream: anyio.abc.SocketStream) -> bool:
    with anyio.fail_after(10):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nX-a: "])
async def test_half_a_head_is_not_waited_for(port: int, begun: bytes) -> None:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        if begun:
            await stream.send(begun)
        assert await is_let_go(stream)


async def test_nor_is_the_second_on_a_connection(port: int) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(whole)
        assert b"200 OK" in await stream.receive()
        await stream.send(whole[:20])
        assert await is_let_go(stream)


@pytest.mark.parametrize(
    "head", [b"GET /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nX-a: " + b"a" * 100_000]
)
async def test_a_head_without_host_or_without_end_is_refused(port: int, head: bytes) -> None:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        for start in range(0, len(head), 30_000):
            await stream.send(head[start : start + 30_000])
            await anyio.sleep(0.01)
        assert b" 400 " in await stream.receive()


async def test_the_others_are_served(port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    try:
        for connection in slow:
            connection.send(b"POST /mcp HTTP/1.1\r\nX-a: ")
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/health", timeout=10)).status_code == 200
    finally:
        for connection in slow:
            connection.close()


async def test_a_flood_of_one_line_is_written_once(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    logger = logging.getLogger("flood")
    logger.addFilter(patience.OncePerWhile())
    for _ in range(1000):
        logger.error("socket.accept() out of system resource")
    logger.error("something else")
    assert [r.message for r in caplog.records] == ["socket.accept() out of system resource", "something else"]
