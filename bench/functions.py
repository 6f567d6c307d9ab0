"""Functions: calls beside the same TypeScript under a bare ``deno serve``, first calls, deployments, memory."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import anyio
import httpx
import psutil

from bench.clients import HttpClient, http_client
from bench.figures import mebibytes, milliseconds, times
from bench.program import Program, data_folder, end, free_port, serving
from bench.runner import Run
from bench.stopwatch import in_turn
from bench.tables import Table
from brolly.engines.deno.place import find_deno

_BARE = 'export default { fetch() { return Response.json({ hello: "world" }); } };'
_CONSTANT = 'export function handler() { return Response.json({ hello: "world" }); }'
_QUERY = """export async function handler(_: Request, ctx: any) {
  return Response.json((await ctx.db.query("select 1 as one")).rows);
}"""


@contextmanager
def bare_server(home: Path) -> Generator[str]:
    """The same TypeScript without us; its address."""
    source, port = home / "bare.ts", free_port()
    source.write_text(_BARE)
    command = [find_deno(), "serve", "--quiet", "--host", "127.0.0.1", "--port", str(port), str(source)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        end(process)


async def _deploy(client: HttpClient, app_id: str, name: str, code: str) -> float:
    began = time.perf_counter()
    trigger = {"type": "http", "config": {"auth": "none"}}
    await client.call("deploy_function", app_id=app_id, name=name, code=code, trigger=trigger)
    return time.perf_counter() - began


def _engines(program: Program) -> list[psutil.Process]:
    children = psutil.Process(program.process.pid).children(recursive=True)
    return [child for child in children if child.name() == "deno"]


def _idle_memory(program: Program) -> int:
    return sum(child.memory_info().rss for child in _engines(program))


async def _cold(program: Program, http: httpx.AsyncClient, url: str, rounds: int) -> list[float]:
    """The first call of an app whose process does not run: it is started, and the function loaded."""
    taken: list[float] = []
    for _ in range(rounds):
        for engine in _engines(program):
            engine.kill()
        await anyio.sleep(0.5)
        began = time.perf_counter()
        (await http.get(url)).raise_for_status()
        taken.append(time.perf_counter() - began)
    return taken


async def _rate(get: Callable[[str], Awaitable[None]], url: str, together: int) -> float:
    """Calls per second, 16 at once."""
    slots = anyio.Semaphore(16)

    async def one() -> None:
        async with slots:
            await get(url)

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(together):
            group.start_soon(one)
    return together / (time.perf_counter() - began)


async def _measured(run: Run, program: Program, client: HttpClient, home: Path) -> Table:
    app_id = (await client.call("init_app", name="functions"))["app_id"]
    deployed = [await _deploy(client, app_id, n, c) for n, c in (("constant", _CONSTANT), ("query", _QUERY))]
    memory = _idle_memory(program)
    base, rounds, together = f"{program.url}/v1/{app_id}/fn", run.size(300, 20), run.size(1000, 50)
    run.begin("calls", rounds + 20)
    with bare_server(home) as bare:
        async with httpx.AsyncClient() as http:

            async def get(url: str) -> None:
                (await http.get(url)).raise_for_status()

            urls = {"constant": f"{base}/constant", "one query": f"{base}/query", "bare `deno serve`": bare}
            calls = {name: (lambda url=url: get(url)) for name, url in urls.items()}
            taken = await in_turn(run, calls, rounds, 20)
            rates = {name: await _rate(get, url, together) for name, url in urls.items()}
            cold = await _cold(program, http, urls["constant"], run.size(7, 2))
    yardstick = taken["bare `deno serve`"].wall.median
    rows = [
        [name, milliseconds(t.wall.median), milliseconds(sorted(t.wall.values)[int(len(t.wall.values) * 0.99)]),
         times(t.wall.median / yardstick), f"{rates[name]:.0f}"]
        for name, t in taken.items()
    ]  # fmt: skip
    return Table(
        ["warm call", "median", "p99", "of the bare server's time", "calls/s, 16 at once"],
        rows,
        [
            f"{rounds} calls of each over HTTP, one after another, each with a log entry; calls per second by a "
            f"client in Python, which shares the processors. First call of an app whose process does not run: "
            f"{milliseconds(median(cold))} (median of {len(cold)}). The app's first deployment took "
            f"{milliseconds(deployed[0])}, its process started, the next {milliseconds(deployed[1])}. Its process "
            f"with two functions holds {mebibytes(memory)} (resident)."
        ],
    )


async def measure(run: Run) -> Sequence[Table]:
    """Calls, deployments and memory of one app."""
    with data_folder() as home, serving(home) as program:
        async with http_client(program, 8) as client:
            return [await _measured(run, program, client, home)]
