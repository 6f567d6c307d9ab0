"""A function that opens sockets without end: it meets its process's limit, and nobody else does."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from brolly.core.errors import AppError
from brolly.core.settings import child_environment
from brolly.engines.deno import Bounds, Engine, Program
from brolly.engines.deno.launch import MOST_FILES
from tests.conftest import hold_open
from tests.functions.engine_calls import call

CODE = """
const kept: unknown[] = [];
export async function handler(request: Request) {
  const port = Number(await request.text());
  for (let i = 0; port && i < 5000; i++) kept.push(await Deno.connect({ hostname: "127.0.0.1", port }));
  return new Response(String(kept.length));
}
"""


@pytest.fixture(scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """An engine whose functions may reach the listener of this test."""
    bounds = Bounds(tmp_path_factory.mktemp("deno"), private_network=True, environment=child_environment())
    made = Engine(bounds)

    class Running:
        async def __aenter__(self) -> Engine:
            self.group = anyio.create_task_group()
            await self.group.__aenter__()
            await self.group.start(made.run)
            return made

        async def __aexit__(self, *_: object) -> None:
            self.group.cancel_scope.cancel()
            await self.group.__aexit__(None, None, None)

    value, close = await hold_open(Running())
    yield value
    await close()


async def test_a_function_that_opens_a_thousand_sockets_stands_in_its_own_way_alone(opened: Engine) -> None:
    flood, sibling, other = (Program(app, name, CODE) for app, name in (("a", "flood"), ("a", "more"), ("b", "calm")))
    await opened.load(flood)
    await opened.load(other)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # Nobody accepts them: the system keeps as many waiting.
        listener.listen(2 * MOST_FILES)
        port = str(listener.getsockname()[1]).encode()
        async with anyio.create_task_group() as group:

            async def others() -> None:
                for _ in range(10):
                    assert (await call(opened, "x", other))[:2] == (200, b"0")

            group.start_soon(others)
            said = await _failure(opened, flood, port)
    # Deno itself may need a file at that moment, and gives up with its process.
    assert said.startswith(
        ("500 Error: Too many open files", "EXTERNAL_NETWORK_ERROR The app's function process ended")
    )
    assert (await call(opened, "x", other))[:2] == (200, b"0")
    # Another function of the app is loaded at once, and the one with the sockets begins anew.
    assert (await call(opened, "x", sibling))[:2] == (200, b"0")
    assert (await call(opened, "x", flood))[:2] == (200, b"0")
    process = opened._apps["a"].process  # pyright: ignore[reportPrivateUsage]
    assert process is not None
    assert 0 < process.files < MOST_FILES / 4


async def _failure(engine: Engine, made: Program, body: bytes) -> str:
    """What the caller is told: the function's own exception, or the server's error."""
    try:
        status, answer, _ = await call(engine, "x", made, body=body)
    except AppError as error:
        return f"{error.code} {error.message}"
    return f"{status} {json.loads(answer)['message']}"
