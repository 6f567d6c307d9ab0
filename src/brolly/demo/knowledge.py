"""Three documents of different kinds are read, and three questions find the place that answers them, offline."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
from rich.markup import escape

from brolly.demo.files import send_bytes
from brolly.demo.people import sign_in
from brolly.demo.stage import Demo, DemoFailed

_SECONDS = 60.0
NAME = "handbook"
CARE = """\
# Care

## After rain

Leave the umbrella open until the cloth is dry; rolled up wet, it goes mouldy.

## In a storm

Close it when gusts turn it inside out: the ribs bend, and bent ribs break.
"""
PRICES = """\
model,span,colour,price
Drizzle,98 cm,yellow,19 EUR
Shower,110 cm,blue,25 EUR
Cloudburst,130 cm,black,49 EUR
"""
PAGES = (
    ("Returns", "Customers who change their mind send the goods back within thirty days.", "The money is refunded."),
    ("Warranty", "Every umbrella is under warranty for five years.", "Ribs that rust are replaced free of charge."),
)
QUESTIONS = (
    ("How do I keep the fabric from getting mouldy?", "care.md", "cloth is dry"),
    ("What does the Cloudburst cost?", "prices.csv", "49 EUR"),
    ("I changed my mind, can I get a refund?", "terms.pdf", "thirty days"),
)


def pdf(pages: tuple[tuple[str, ...], ...]) -> bytes:
    """A PDF of some lines a page."""
    texts = [
        b"BT /F 14 Tf 16 TL 40 780 Td " + b" ".join(b"(%s) Tj T*" % line.encode() for line in p) + b" ET" for p in pages
    ]
    numbers = [4 + 2 * n for n in range(len(pages))]
    kids = " ".join(f"{n} 0 R" for n in numbers).encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] /MediaBox [0 0 595 842] >>" % (len(pages), kids),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in zip(numbers, texts, strict=True):
        objects += [
            b"<< /Type /Page /Parent 2 0 R /Resources << /Font << /F 3 0 R >> >> /Contents %d 0 R >>" % (number + 1),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text),
        ]
    made, places = b"%PDF-1.4\n", list[int]()
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return made + end % (size, table, size, len(made))


async def play(demo: Demo) -> None:
    """The whole scene."""
    demo.step("A collection of documents", f"manage_rag_content action=create_collection name={NAME}")
    made = await demo.call("manage_rag_content", action="create_collection", name=NAME, access_mode="shared")
    demo.expect(
        made["embedding_model"].startswith("local/"), f"vectors by {made['embedding_model']}: no account, no key"
    )
    await _ingest(demo)
    await _ask(demo)
    await _ask_as_user(demo)


async def _ingest(demo: Demo) -> None:
    demo.step("Three documents: Markdown, CSV and a PDF", "manage_rag_content action=ingest_document")
    sent = [
        await demo.call("manage_rag_content", action="ingest_document", collection=NAME, text=CARE, filename="care.md")
    ]
    for filename, kind, data in (
        ("prices.csv", "text/csv", PRICES.encode()),
        ("terms.pdf", "application/pdf", pdf(PAGES)),
    ):
        link = await demo.call(
            "manage_storage", action="upload_url", filename=filename, content_type=kind, size_bytes=len(data)
        )
        await send_bytes(link["upload_url"], data, link["headers"])
        sent.append(
            await demo.call(
                "manage_rag_content", action="ingest_document", collection=NAME, storage_object_id=link["object_id"]
            )
        )
    ready = await _settled(demo, len(sent))
    chunks = sum(document["chunk_count"] for document in ready)
    demo.expect(len(ready) == len(sent), f"read in the background: {len(ready)} documents, {chunks} chunks")


async def _settled(demo: Demo, count: int) -> list[Any]:
    with anyio.move_on_after(_SECONDS):
        while True:
            listed: list[Any] = await demo.call("manage_rag_content", action="list_documents", collection=NAME)
            failed = [each for each in listed if each["status"] == "failed"]
            if failed:
                raise DemoFailed(f"{failed[0]['filename']}: {failed[0]['error_message']}")
            ready = [each for each in listed if each["status"] == "ready"]
            if len(ready) == count:
                return ready
            await anyio.sleep(0.05)
    raise DemoFailed(f"expected: {count} documents to be read")


async def _ask(demo: Demo) -> None:
    demo.step("Three questions, each worded otherwise than the answer", f"rag_query collection={NAME}")
    for question, filename, words in QUESTIONS:
        first = (await demo.call("rag_query", collection=NAME, query=question))["chunks"][0]
        demo.screen.print(f"  [bold]{escape(question)}[/]")
        holds = first["document"]["filename"] == filename and words in first["text"]
        demo.expect(holds, f"\\[1] {_source(first)}: “{escape(_line_with(first['text'], words))}”")


def _source(chunk: Any) -> str:
    page = f", page {chunk['page']}" if chunk["page"] else ""
    heading = f", {chunk['heading']}" if chunk["heading"] else ""
    return escape(f"{chunk['document']['filename']}{page}{heading}")


def _line_with(text: str, words: str) -> str:
    return next(line.strip() for line in text.splitlines() if words in line)


async def _ask_as_user(demo: Demo) -> None:
    path = f"/v1/{demo.app_id}/rag/collections/{NAME}/query"
    demo.step("Who else may ask", f"POST {path}")
    async with httpx.AsyncClient(base_url=demo.server, timeout=_SECONDS, trust_env=False) as http:
        carol = await sign_in(demo, http, "Carol")
        body = {"query": QUESTIONS[2][0], "topK": 1}
        found = await http.post(path, json=body, headers=carol.headers)
        seen = found.json()["chunks"][0]["document"]["filename"]
        demo.expect(seen == "terms.pdf", f"{carol.name}, as the collection is shared: {seen}")
        refused = await http.post(path, json=body)
        demo.expect(refused.status_code == 401, "nobody who is not signed in")
