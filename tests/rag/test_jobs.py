"""Jobs: once each on however many servers, again after failures, gone on with after kill -9."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from brolly.ai.embedding import embed_texts
from brolly.core.errors import AppError
from brolly.core.worker import start_workers
from brolly.deps import Deps
from brolly.pg import queue
from brolly.rag import jobs
from brolly.rag.worker import workers
from tests.rag.conftest import Library

LONG = "\n\n".join(f"Sentence number {n} speaks of {n} things." for n in range(1500))

# Another server: reads documents, and stops answering after its first two hundred chunks.
SERVER = """
import sys, anyio
from pathlib import Path
from brolly.ai.embedding import embed_texts
from brolly.app import open_deps
from brolly.core.settings import load_settings
from brolly.pg import queue
from brolly.rag.worker import workers
queue.HEARTBEAT_SECONDS, queue.LOOK_SECONDS = 1.0, 0.2
done = 0
async def stuck(deps, app, texts, model=None):
    global done
    if done >= 200:
        print("stuck", flush=True)
        await anyio.sleep_forever()
    done += len(texts)
    return await embed_texts(deps, app, texts, model)
async def main():
    settings = load_settings({}, home=Path(sys.argv[1]), public_url="http://brolly.test")
    async with open_deps(settings) as deps:
        deps.capabilities["embed_texts"] = stuck
        await workers(deps)[0].run()
anyio.run(main)
"""


class Embedder:
    """In the place of the gateway: counts, fails as told, and waits where it is told to."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.failures: list[AppError] = []
        self.cut = 0
        self.lost = 0
        self.gate: anyio.Event | None = None
        self.waiting = anyio.Event()

    async def __call__(self, deps: Deps, app: Any, texts: Sequence[str], model: str | None = None) -> Any:
        if texts == ["How long is a vector?"]:
            return await embed_texts(deps, app, texts, model)
        if self.gate is not None:
            self.waiting.set()
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.seen.update(texts)
        found = await embed_texts(deps, app, texts, model)
        return replace(found, vectors=[vector[self.cut :] for vector in found.vectors[self.lost :]])


@pytest.fixture(scope="module", autouse=True)
def hurry() -> Any:
    """Short pauses: what they are is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "HEARTBEAT_SECONDS", 1.0)
        patch.setattr(queue, "LOOK_SECONDS", 0.2)
        patch.setattr(jobs, "FIRST_PAUSE", 0.01)
        yield


@pytest.fixture
def embedder(library: Library, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    made = Embedder()
    monkeypatch.setitem(library.deps.capabilities, "embed_texts", made)  # type: ignore[arg-type]
    return made


@asynccontextmanager
async def server(deps: Deps) -> AsyncIterator[None]:
    """One more server that works on the queue."""
    async with anyio.create_task_group() as group:
        start_workers(group, workers(deps))
        yield
        group.cancel_scope.cancel()


@pytest.fixture(scope="module")
async def table(library: Library) -> str:
    return (await library.collection("work", chunk_size=100, chunk_overlap=0))["table"]


async def test_the_queue_is_as_the_library_wants_it(deps: Deps) -> None:
    plan = await queue.queries_over(queue._PoolDriver(deps.control)).plan_upgrade()
    assert not plan.statements, plan


async def test_what_passes_is_tried_again_and_what_does_not_is_told(
    library: Library, table: str, embedder: Embedder
) -> None:
    embedder.failures = [AppError("QUOTA_RATE_LIMIT", "429."), AppError("MODEL_TIMEOUT", "Slow.")]
    document = await library.ingest("work", text="Patience is a virtue.")
    told = await library.settled("work", document)
    assert (told["status"], told["error_message"]) == ("ready", None)
    async with library.sql() as connection:
        assert await connection.fetchval("select attempts from rag.documents where id = $1", document) == 3
    embedder.failures = [AppError("MODEL_UNAVAILABLE", "Nobody answers.") for _ in range(9)]
    told = await library.read("work", text="It never comes.")
    assert (told["status"], told["error_code"]) == ("failed", "MODEL_UNAVAILABLE")
    assert len(embedder.failures) == 9 - jobs.MOST_ATTEMPTS
    embedder.failures = [AppError("NO_MODEL", "There is none.")] * 2
    told = await library.read("work", text="Nobody to ask.")
    assert (told["error_code"], len(embedder.failures)) == ("NO_MODEL", 1)


async def test_vectors_of_another_length_are_never_stored(library: Library, table: str, embedder: Embedder) -> None:
    embedder.cut = 1
    told = await library.read("work", text="One number short.")
    assert (told["status"], told["error_code"]) == ("failed", "STATE_PREREQUISITE_MISSING")
    assert "255" in told["error_message"]
    assert not await library.chunks(told["id"], table)


async def test_fewer_vectors_than_texts_are_a_broken_answer(library: Library, table: str, embedder: Embedder) -> None:
    embedder.lost = 1
    told = await library.read("work", text="Nothing comes back.")
    assert (told["status"], told["error_code"]) == ("failed", "MODEL_BROKEN_ANSWER")
    assert not await library.chunks(told["id"], table)


async def test_progress_is_told_and_deletion_ends_it(library: Library, table: str, embedder: Embedder) -> None:
    embedder.gate = anyio.Event()
    document = await library.ingest("work", text=LONG)
    await embedder.waiting.wait()
    told = (await library.send("owner", "GET", f"collections/work/documents/{document}")).json()
    assert told["status"] == "processing"
    assert told["progress"]["chunks_total"] > 100
    gone = await library.send("owner", "DELETE", f"collections/work/documents/{document}")
    assert gone.status_code == 204
    embedder.gate.set()
    embedder.gate = None
    after = await library.read("work", text="What comes after.")
    assert after["status"] == "ready"
    assert not await library.chunks(document, table)
    async with library.sql() as connection:
        assert not await connection.fetchval("select count(*) from rag.staged_chunks")


async def test_a_collection_deleted_meanwhile_ends_it_too(library: Library, embedder: Embedder) -> None:
    await library.collection("brief")
    embedder.gate = anyio.Event()
    await library.ingest("brief", text="Not for long.")
    await embedder.waiting.wait()
    assert (await library.send("owner", "DELETE", "collections/brief")).status_code == 204
    embedder.gate.set()
    embedder.gate = None
    async with asyncio.timeout(10):
        while await library.deps.control.fetchval(f"select count(*) from {queue.SCHEMA}.pgqueuer"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_two_servers_read_each_document_once(library: Library, table: str, embedder: Embedder) -> None:
    other = Embedder()
    second = replace(library.deps, capabilities={**library.deps.capabilities, "embed_texts": other})
    async with server(second):
        documents = [await library.ingest("work", text=f"Document number {n}.") for n in range(24)]
        for document in documents:
            assert (await library.settled("work", document))["status"] == "ready"
    both = embedder.seen + other.seen
    assert {both[f"Document number {n}."] for n in range(24)} == {1}
    assert embedder.seen
    assert other.seen
    async with library.sql() as connection:
        counts = await connection.fetch(
            f'select count(*) as n from public."{table}" where document_id = any($1::uuid[]) group by document_id',
            documents,
        )
    assert [row["n"] for row in counts] == [1] * 24


async def test_a_server_that_stops_puts_its_work_back(library: Library, table: str, embedder: Embedder) -> None:
    slow = Embedder()
    slow.gate = anyio.Event()
    second = replace(library.deps, capabilities={**library.deps.capabilities, "embed_texts": slow})
    embedder.gate = anyio.Event()
    async with server(second):
        documents = [await library.ingest("work", text=f"Handed over {n}.") for n in range(4)]
        await slow.waiting.wait()
        await embedder.waiting.wait()
    embedder.gate.set()
    embedder.gate = None
    for document in documents:
        assert (await library.settled("work", document))["status"] == "ready"
    assert not slow.seen
    assert {embedder.seen[f"Handed over {n}."] for n in range(4)} == {1}


async def test_what_a_killed_server_had_begun_is_gone_on_with(library: Library, table: str, embedder: Embedder) -> None:
    embedder.gate = anyio.Event()
    # This server is busy, so that the other one takes the document.
    busy = [await library.ingest("work", text=f"Busy {n}.") for n in range(2)]
    await embedder.waiting.wait()
    await anyio.sleep(0.3)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(library.deps.settings.home), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    document = await library.ingest("work", text=LONG, filename="long.txt")
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"stuck\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    embedder.gate.set()
    embedder.gate = None
    told = await library.settled("work", document)
    assert told["status"] == "ready"
    chunks = await library.chunks(document, table)
    assert [chunk["position"] for chunk in chunks] == list(range(told["chunk_count"]))
    # What had its vector was not sent again.
    sent = sum(embedder.seen[chunk["content"]] for chunk in chunks)
    assert sent == told["chunk_count"] - 200
    for each in busy:
        assert (await library.settled("work", each))["status"] == "ready"
