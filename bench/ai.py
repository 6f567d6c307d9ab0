"""The model gateway: a call by it beside the same call to the provider; the local model's speed and size."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from bench.clients import http_client
from bench.figures import mebibytes, milliseconds, times
from bench.program import Program, data_folder, end, serving
from bench.runner import Run
from bench.stopwatch import in_turn
from bench.tables import Table
from brolly.engines.embedding import LOCAL_MODEL

_PROVIDER = Path(__file__).parent.parent / "tests/ai/provider.py"
_KEY = "key-of-the-stand-in-1234"
_MODEL = "gpt-5-mini"
_TEXT = "An umbrella keeps the rain off whoever stands below it, as long as the wind is kind. " * 20
_BATCH = 50


@contextmanager
def stand_in() -> Generator[str]:
    """A provider on loopback that answers at once; its address."""
    process = subprocess.Popen([sys.executable, str(_PROVIDER)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        end(process)


def _request(model: str, stream: bool) -> dict[str, object]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": "say one two three four"}]}


async def _first_part(http: httpx.AsyncClient, url: str, model: str, key: str) -> float:
    """Seconds until the first bytes of a stream, which is then read to its end."""
    began = time.perf_counter()
    first = 0.0
    headers = {"Authorization": f"Bearer {key}"}
    async with http.stream("POST", url, json=_request(model, True), headers=headers) as answer:
        answer.raise_for_status()
        async for _ in answer.aiter_bytes():
            first = first or time.perf_counter() - began
    return first


async def _calls(run: Run, program: Program, app_id: str, provider: str) -> Table:
    rounds = run.size(300, 20)
    ways = {
        "by the gateway": (f"{program.url}/v1/{app_id}/chat/completions", f"openai/{_MODEL}", program.key),
        "direct": (f"{provider}/chat/completions", _MODEL, _KEY),
    }
    async with httpx.AsyncClient(trust_env=False) as http:

        async def whole(url: str, model: str, key: str) -> None:
            answer = await http.post(url, json=_request(model, False), headers={"Authorization": f"Bearer {key}"})
            answer.raise_for_status()

        run.begin("calls", rounds + 10)
        taken = await in_turn(run, {n: (lambda way=way: whole(*way)) for n, way in ways.items()}, rounds, 10)
        run.begin("streams", rounds)
        firsts: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                firsts[name].append(await _first_part(http, *way))
            run.step()
    whole_of = {name: t.wall.median for name, t in taken.items()}
    first_of = {name: sorted(values)[len(values) // 2] for name, values in firsts.items()}
    rows = [
        [what, *(milliseconds(of[name]) for name in ways), milliseconds(of["by the gateway"] - of["direct"]),
         times(of["by the gateway"] / of["direct"])]
        for what, of in (("whole answer", whole_of), ("first part of a stream", first_of))
    ]  # fmt: skip
    note = (
        f"Medians of {rounds} calls of each, in turn, to a provider on loopback that answers at once; by the gateway "
        "with the caller's key looked up and usage and cost written to Postgres before the answer ends."
    )
    return Table(["chat", *ways, "more", "ratio"], rows, [note])


async def _embeddings(run: Run, program: Program, app_id: str) -> Table:
    server = psutil.Process(program.process.pid)
    url = f"{program.url}/v1/{app_id}/embeddings"
    rounds = run.size(20, 3)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {program.key}"}, trust_env=False) as http:
        before = server.memory_info().rss
        began = time.perf_counter()
        (await http.post(url, json={"input": "x", "model": LOCAL_MODEL})).raise_for_status()
        loaded, after = time.perf_counter() - began, server.memory_info().rss
        run.begin("embeddings", rounds)
        began = time.perf_counter()
        tokens = 0
        for _ in range(rounds):
            body = {"input": [_TEXT] * _BATCH, "model": LOCAL_MODEL}
            tokens += (await http.post(url, json=body, timeout=60)).json()["usage"]["total_tokens"]
            run.step()
        taken = time.perf_counter() - began
    many = rounds * _BATCH
    row = [f"{many / taken:.0f}", f"{tokens / taken:.0f}", mebibytes(after - before), milliseconds(loaded)]
    note = (
        f"{many} texts of {tokens // many} tokens over HTTP, {_BATCH} to a request, one request after another, answers "
        "as JSON numbers; memory and time are what the first text added and took, the model loaded with it."
    )
    return Table(["local model: texts/s", "tokens/s", "memory", "first text"], [row], [note])


async def measure(run: Run) -> Sequence[Table]:
    """Chat through the gateway and beside it, and the local model."""
    with data_folder() as home, stand_in() as provider:
        told = {"BROLLY_AI_PROVIDERS": f"openai={provider.replace('//', f'//:{_KEY}@')}"}
        with serving(home, settings=told) as program:
            async with http_client(program, 4) as client:
                app_id = (await client.call("init_app", name="models"))["app_id"]
                return [await _calls(run, program, app_id, provider), await _embeddings(run, program, app_id)]
