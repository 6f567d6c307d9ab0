"""Retrieval: what is found of questions about our own pages, and how long it takes among a hundred thousand chunks."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx
import psutil

from bench.clients import HttpClient, http_client
from bench.database import administrator
from bench.figures import mebibytes, milliseconds
from bench.program import Program, data_folder, serving
from bench.relevance import Place, Quality, pages, quality, questions, questions_on
from bench.runner import Run
from bench.tables import Table
from brolly.docs.search import by_words, rank
from brolly.docs.topics import Section, sections
from brolly.docs.topics import pages as served
from brolly.engines.embedding import LocalModel

_WAYS = {"hybrid": "both, the default", "vector": "vectors alone", "text": "full text alone"}
_PATH = " > "
_BATCH = 5_000
_DOCUMENTS = 100


def _place(chunk: dict[str, Any], titles: dict[str, str]) -> Place:
    inside = [line.lstrip("#").strip() for line in chunk["text"].splitlines() if line.startswith("#")]
    path = [*chunk["heading"].split(_PATH), *inside]
    return Place(titles.get(path[0], ""), tuple(path))


async def _read(client: HttpClient, app_id: str, collection: str, text: str) -> tuple[int, float]:
    """Take a text in; how many chunks it made, and how long it took."""
    began = time.perf_counter()
    where = {"app_id": app_id, "collection": collection}
    made = await client.call("manage_rag_content", action="ingest_document", text=text, filename="all.md", **where)
    while True:
        state = await client.call(
            "manage_rag_content", action="get_document_status", document_id=made["document_id"], **where
        )
        if state["status"] in ("ready", "failed"):
            return state["chunk_count"], time.perf_counter() - began
        await anyio.sleep(0.05)


async def _ask(http: httpx.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = await http.post(path, json=body)
    answer.raise_for_status()
    return answer.json()["chunks"]


def _row(what: str, found: Quality) -> list[str]:
    return [what, f"{found.recall:.2f}", f"{found.reciprocal_rank:.2f}", f"{found.first:.2f}"]


async def _docs_rows() -> list[list[str]]:
    def place(section: Section) -> Place:
        return Place(section.page, tuple(section.place.split(_PATH)[1:]) or (section.heading,))

    model, asked = LocalModel(), questions_on(served())
    words = [[place(sections()[n]) for n in by_words(each.text)] for each in asked]
    both = [[place(each) for each in await rank(model, one.text, 10)] for one in asked]
    return [
        _row(f"`butterbase_docs`, {len(asked)} of them", quality(asked, both)),
        _row("the same by words alone (BM25)", quality(asked, words)),
    ]


async def _relevance(run: Run, http: httpx.AsyncClient, client: HttpClient, app_id: str) -> tuple[Table, str]:
    titles = {text.split("\n", 1)[0].removeprefix("# "): name for name, text in pages().items()}
    rows: list[list[str]] = []
    speed = ""
    for size in (256, 512):
        name = f"pages-{size}"
        await client.call(
            "manage_rag_content", action="create_collection", app_id=app_id, name=name, chunk_size=size, chunk_overlap=0
        )
        chunks, took = await _read(client, app_id, name, "\n\n".join(pages().values()))
        speed = f"{chunks / took:,.0f} chunks a second were read, cut, embedded and stored ({chunks} in {took:.2f} s)."
        run.begin(f"questions, chunks of {size}", len(_WAYS) * len(questions()))
        for way, words in _WAYS.items():
            found: list[list[Place]] = []
            for question in questions():
                path = f"/v1/{app_id}/rag/collections/{name}/query"
                found.append(
                    [_place(c, titles) for c in await _ask(http, path, query=question.text, topK=10, search=way)]
                )
                run.step()
            rows.append(_row(f"chunks of {size} tokens: {words}", quality(questions(), found)))
    note = (
        f"{len(questions())} questions over tools/, docs/ and README, worded as somebody asks who has not read them; "
        "the local model, offline. `recall@5`: the share that has a right place among the first five."
    )
    rows += await _docs_rows()
    return Table(("search", "recall@5", "MRR", "first is right"), rows, (note,)), speed


async def _fill(run: Run, home: Path, app_id: str, table: str, collection: str, count: int) -> None:
    """Chunks made of our pages' lines, with vectors near those of our pages' sections."""
    chance = random.Random(7)
    lines = [line for text in pages().values() for line in text.splitlines() if len(line) > 30]
    texts = [each.text for each in sections()]
    vectors = (await LocalModel().embed(texts)).vectors
    run.begin(f"{count:,} chunks", count)
    async with administrator(home, app_id) as connection:
        index = await connection.fetch(
            "select indexname, indexdef from pg_indexes where tablename = $1 and indexdef ~* 'using (hnsw|gin)'", table
        )
        for each in index:
            await connection.execute(f'drop index public."{each["indexname"]}"')
        ids = [uuid4() for _ in range(_DOCUMENTS)]
        await connection.executemany(
            "insert into rag.documents (id, collection_id, filename, source_type, size_bytes, content_hash, status, "
            "chunk_count) values ($1, $2, 'made.md', 'text', 1, $3, 'ready', $4)",
            [(each, UUID(collection), str(each), count // _DOCUMENTS) for each in ids],
        )
        for first in range(0, count, _BATCH):
            rows = [_chunk(chance, lines, vectors, ids, first + n) for n in range(min(_BATCH, count - first))]
            await connection.executemany(
                f'insert into public."{table}" (document_id, position, content, start_offset, end_offset, tokens, '
                "metadata, embedding) values ($1, $2, $3, 0, 1, 1, $4::text::jsonb, $5::text::vector)",
                rows,
            )
            run.step(len(rows))
        await connection.execute("set maintenance_work_mem = '512MB'")
        for each in index:
            await connection.execute(each["indexdef"])
        await connection.execute(f'vacuum analyze public."{table}"')


def _chunk(
    chance: random.Random, lines: Sequence[str], vectors: Sequence[Sequence[float]], ids: Sequence[UUID], number: int
) -> tuple[Any, ...]:
    near = vectors[number % len(vectors)]
    vector = "[" + ",".join(f"{each + chance.gauss(0, 0.04):.4f}" for each in near) + "]"
    text = "\n".join(chance.choices(lines, k=6))
    return ids[number % len(ids)], number, text, json.dumps({"kind": number % 100}), vector


async def _speed(run: Run, http: httpx.AsyncClient, path: str, count: int) -> Table:
    kinds: dict[str, dict[str, Any]] = {
        "both, the default": {},
        "both, filter that one in a hundred passes": {"filter": {"kind": 7}},
        "vectors alone": {"search": "vector"},
        "full text alone": {"search": "text"},
    }
    rounds = run.size(2, 1)
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    run.begin("queries", rounds * len(questions()) * len(kinds))
    for _ in range(rounds):
        for question in questions():
            for name, more in kinds.items():
                began = time.perf_counter()
                await _ask(http, path, query=question.text, **more)
                taken[name].append(time.perf_counter() - began)
                run.step()
    rows = [
        [name, *(milliseconds(sorted(all_)[int(part * (len(all_) - 1))]) for part in (0, 0.5, 0.95, 0.99))]
        for name, all_ in taken.items()
    ]
    head = (f"a query among {count:,} chunks", "least", "p50", "p95", "p99")
    return Table(head, rows, ("Over HTTP by a service key, one at a time, each question embedded once.",))


def _resident(program: Program) -> int:
    return psutil.Process(program.process.pid).memory_info().rss


async def _measured(run: Run, program: Program, client: HttpClient, home: Path) -> list[Table]:
    app_id = (await client.call("init_app", name="library"))["app_id"]
    before = _resident(program)
    headers = {"Authorization": f"Bearer {program.key}"}
    async with httpx.AsyncClient(base_url=program.url, headers=headers, timeout=120) as http:
        await client.call("manage_rag_content", action="create_collection", app_id=app_id, name="first")
        memory = _resident(program) - before
        relevance, speed = await _relevance(run, http, client, app_id)
        count = run.size(100_000, 5_000)
        made = await client.call("manage_rag_content", action="create_collection", app_id=app_id, name="large")
        await _fill(run, home, app_id, made["table"], made["id"], count)
        queries = await _speed(run, http, f"/v1/{app_id}/rag/collections/large/query", count)
    notes = (
        *queries.notes,
        f"{speed} The local model took {mebibytes(memory)} of the server's memory when first used.",
    )
    return [relevance, Table(queries.head, queries.rows, notes)]


async def measure(run: Run) -> Sequence[Table]:
    """Relevance, then the time of a query in a large collection."""
    with data_folder() as home, serving(home) as program:
        async with http_client(program) as client:
            return await _measured(run, program, client, home)
