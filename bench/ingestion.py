"""How fast documents become chunks that are searched: a long text, a PDF and a sheet, and each step of the way."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import openpyxl
import pypdf
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from bench.program import data_folder
from bench.runner import Run
from bench.tables import Table
from brolly.app import open_deps
from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.settings import load_settings
from brolly.core.worker import start_workers
from brolly.deps import Deps
from brolly.docs.topics import pages
from brolly.engines.documents.reader import extract
from brolly.engines.documents.text import Text
from brolly.keys.service import ensure_account
from brolly.pg.queue import SCHEMA
from brolly.rag.access import Visit
from brolly.rag.chunk import chunks_of
from brolly.rag.documents import DocumentRef, get_document
from brolly.rag.ingest import Ingest, ingest_document
from brolly.rag.service import CreateCollection, create_collection
from brolly.rag.worker import workers

SIZE, OVERLAP = 512, 50


def words(characters: int) -> str:
    """Our own pages, one after another, until there are so many characters."""
    whole = "\n\n".join(pages().values())
    return (whole * (characters // len(whole) + 1))[:characters]


def paper(count: int) -> bytes:
    """A PDF of so many pages of words."""
    writer = pypdf.PdfWriter()
    lines = [line[:90] for line in words(3000 * count).encode("ascii", "replace").splitlines() if line.strip()]
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for number in range(count):
        page: Any = writer.add_blank_page(612, 792)
        shown = [line.replace(b"\\", b"").replace(b"(", b"").replace(b")", b"") for line in lines[number * 40 :][:40]]
        stream = DecodedStreamObject()
        stream.set_data(b"BT /F 9 Tf 12 TL 40 740 Td " + b" ".join(b"(%s) Tj T*" % line for line in shown) + b" ET")
        page[NameObject("/Contents")] = stream
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F"): font})}
        )
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def sheet(rows: int) -> bytes:
    """A workbook of so many rows."""
    book: Any = openpyxl.Workbook()
    for number in range(rows):
        book.active.append([number, f"thing {number}", "what is said of it in some words", number * 1.5])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


async def measure(run: Run) -> Sequence[Table]:
    """In this process, over a Postgres of its own."""
    with data_folder() as home:
        async with open_deps(load_settings({}, home=home)) as deps, anyio.create_task_group() as group:
            account = await ensure_account(deps, "bench")
            app_id, _ = await provision.create(deps, account, f"bench-{uuid4()}", "self-hosted")
            owner = Caller("service", account_id=account)
            at = Visit(deps, await deps.registry.get(owner, app_id), owner)
            await create_collection(at, CreateCollection.model_validate({"app_id": app_id, "name": "bench"}))
            start_workers(group, workers(deps))
            rows = await _whole(run, at)
            steps = await _steps(run, deps)
            group.cancel_scope.cancel()
    return [rows, steps]


async def _whole(run: Run, at: Visit) -> Table:
    """From the call to ``ready``."""
    rows: list[list[str]] = []
    for what, characters in (("a short text", 2_000), ("a book", run.size(2_000_000, 200_000))):
        text = words(characters)
        warm = {"app_id": at.app.id, "collection": "bench", "text": "Warm.", "filename": f"{uuid4()}.txt"}
        await ingest_document(at, Ingest.model_validate(warm))
        await _drained(at.deps)
        began = time.perf_counter()
        made = await ingest_document(at, Ingest.model_validate({**warm, "text": text}))
        await _drained(at.deps)
        took = time.perf_counter() - began
        ref = DocumentRef(app_id=at.app.id, collection="bench", document_id=made["document_id"])
        told = await get_document(at, ref)
        count = told["chunk_count"]
        rows.append([what, f"{characters:,}", f"{count:,}", f"{took:.2f} s", f"{count / took:,.0f}"])
    note = (
        f"From the call to the last job's end, with the local model, chunks of {SIZE} tokens sharing {OVERLAP}: cut, "
        "made vectors of in hundreds, kept on the way, put into a table with an HNSW and two GIN indexes."
    )
    return Table(["document", "characters", "chunks", "until it is searched", "chunks per second"], rows, [note])


async def _drained(deps: Deps) -> None:
    left = f"select count(*) from {SCHEMA}.pgqueuer where status in ('queued', 'picked')"
    while await deps.control.fetchval(left):  # noqa: ASYNC110
        await anyio.sleep(0.01)


async def _steps(run: Run, deps: Deps) -> Table:
    """What a part of the way costs alone."""
    text = words(run.size(2_000_000, 200_000))
    cut = partial(chunks_of, Text(text, "markdown", "md"), SIZE, OVERLAP, deps.local_model.spans_now)
    began = time.perf_counter()
    chunks = await anyio.to_thread.run_sync(cut)
    cutting = time.perf_counter() - began
    began = time.perf_counter()
    await deps.local_model.embed([chunk.content for chunk in chunks])
    embedding = time.perf_counter() - began
    rows = [
        ["cutting by counted tokens", f"{len(chunks) / cutting:,.0f} chunks per second"],
        ["the local model's vectors", f"{len(chunks) / embedding:,.0f} chunks per second"],
    ]
    many = run.size(500, 20)
    for what, data, name in (
        (f"reading a PDF of {many} pages", paper(many), "a.pdf"),
        (f"reading a sheet of {many * 40:,} rows", sheet(many * 40), "a.xlsx"),
        ("reading a text of a line (the process alone)", b"A line.", "a.txt"),
    ):
        began = time.perf_counter()
        await extract(_once(data), name, None)
        rows.append([what, f"{time.perf_counter() - began:.2f} s"])
    return Table(["step alone", "took"], rows)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
