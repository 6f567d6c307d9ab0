"""What the compiler says of a function before it is deployed, and what it must not read for that."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.abc
import pytest

from brolly.core.settings import child_environment
from brolly.engines.deno import Bounds
from brolly.engines.deno.check import check


@pytest.fixture
def bounds(tmp_path: Path) -> Bounds:
    """A cache of its own."""
    return Bounds(tmp_path, environment=child_environment())


async def test_the_compiler_names_the_place(bounds: Bounds) -> None:
    code = "export async function handler(request, ctx) {\n  const n: number = 'a';\n  return new Response(ctx.x);\n}"
    found = await check("typed", code, bounds)
    assert [(d.line, d.column, d.code) for d in found] == [(2, 9, "TS2322")]
    found = await check("broken", "export const handler = () => {\n  return (;\n}", bounds)
    assert [(d.line, d.message) for d in found] == [(2, "Expression expected")]
    assert (
        await check(
            "fine",
            "export const handler = (r, c) => { try { x() } catch (e) { return e.message } };\nfunction x() {}",
            bounds,
        )
        == []
    )
    found = await check("apart", "import { a } from './beside.ts';\nexport const handler = () => a;", bounds)
    assert [(d.line, "one file" in d.message) for d in found] == [(1, True)]


@pytest.mark.parametrize(
    "code",
    [
        "import x from 'file:///etc/passwd'; export const handler = x;",
        "import x from '/etc/passwd' with { type: 'text' }; export const handler: number = x;",
        "export const handler: number = (await import('/etc/passwd', { with: { type: 'text' } })).default;",
        "import type { X } from '/etc/passwd'; export const handler: X = 1;",
        "/// <reference types='/etc/passwd' />\nexport const handler = 1;",
    ],
)
async def test_the_compiler_shows_no_file_of_the_server(bounds: Bounds, code: str) -> None:
    found = await check("reader", code, bounds)
    assert "one file" in found[0].message
    assert "root" not in found[0].message


async def test_modules_come_from_known_hosts_alone(bounds: Bounds) -> None:
    asked: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked.append(await stream.receive())

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/x.ts"
        assert await check("far", f"import x from '{url}'; export const handler = x;", bounds)
        group.cancel_scope.cancel()
    assert asked == []
