"""Documents come in: from texts and files, once each, in the place of others, or not at all."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.rag import made
from tests.rag.conftest import Library

TEXT = "# Returns\n\nGoods come back within 30 days.\n\n# Shipping\n\nParcels leave on Monday."


@pytest.fixture(scope="module")
async def shelf(library: Library) -> str:
    return (await library.collection("shelf"))["table"]


async def test_a_text_becomes_chunks_that_know_their_place(library: Library, shelf: str) -> None:
    told = await library.read("shelf", text=TEXT, metadata={"topic": "shop"})
    assert (told["status"], told["chunk_count"], told["source_type"]) == ("ready", 1, "text")
    assert told["metadata"] == {"topic": "shop"}
    assert told["processedAt"]
    assert told["collection_name"] == "shelf"
    chunk = (await library.chunks(told["id"], shelf))[0]
    assert chunk["content"] == TEXT[chunk["start_offset"] : chunk["end_offset"]]
    assert chunk["metadata"] == '{"topic": "shop"}'
    assert (chunk["user_id"], chunk["page"]) == (None, None)
    async with library.sql() as connection:
        assert await connection.fetchval("select source_text is null from rag.documents where id = $1", told["id"])
        assert not await connection.fetchval("select count(*) from rag.staged_chunks")


async def test_a_file_is_read_from_the_store(library: Library, shelf: str) -> None:
    object_id = await library.store(made.pdf(["Tea grows on hills.", "Coffee too."]), "tea.pdf", kind="application/pdf")
    told = await library.read("shelf", storageObjectId=object_id)
    assert (told["status"], told["filename"], told["storage_object_id"]) == ("ready", "tea.pdf", object_id)
    chunk = (await library.chunks(told["id"], shelf))[0]
    assert "Tea grows on hills." in chunk["content"]
    assert chunk["page"] == 1


async def test_the_same_is_taken_in_once(library: Library, shelf: str) -> None:
    first = await library.read("shelf", text="Once only.", filename="once.txt")
    body = {"text": "Once only.", "filename": "once.txt"}
    again = (await library.send("owner", "POST", "collections/shelf/ingest", json=body)).json()
    assert again["duplicate"] is True
    assert again["document_id"] == again["documentId"] == first["id"]
    other = await library.ingest("shelf", text="Once only.", filename="once.txt", metadata={"edition": 2})
    assert other != first["id"]
    await library.settled("shelf", other)


async def test_new_content_takes_the_place_of_the_old_at_once(library: Library, shelf: str) -> None:
    first = await library.read("shelf", text="Old news about Lisbon.", filename="news.txt")
    await library.ingest("shelf", text="New news about Porto.", filename="news.txt", document_id=first["id"])
    told = await library.settled("shelf", first["id"])
    assert (told["status"], told["chunk_count"]) == ("ready", 1)
    assert [c["content"] for c in await library.chunks(first["id"], shelf)] == ["New news about Porto."]
    # What cannot be read leaves what was there.
    await library.ingest(
        "shelf", storage_object_id=await library.store(b"%PDF-1.4 rubbish", "bad.pdf"), document_id=first["id"]
    )
    told = await library.settled("shelf", first["id"])
    assert (told["status"], told["error_code"]) == ("failed", "VALIDATION_INVALID_INPUT")
    assert "damaged" in told["errorMessage"]
    assert [c["content"] for c in await library.chunks(first["id"], shelf)] == ["New news about Porto."]


async def test_a_document_that_cannot_be_read_leaves_nothing_but_its_reason(library: Library, shelf: str) -> None:
    object_id = await library.store(made.pdf([None]), "scan.pdf", kind="application/pdf")
    told = await library.read("shelf", storage_object_id=object_id)
    assert told["status"] == "failed"
    assert "scanner" in told["error_message"]
    assert not await library.chunks(told["id"], shelf)
    async with library.sql() as connection:
        assert not await connection.fetchval(
            "select count(*) from rag.staged_chunks where document_id = $1", told["id"]
        )
    counts = (await library.send("owner", "GET", "collections/shelf")).json()["documentCount"]
    assert counts["failed"] >= 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "VALIDATION_MISSING_FIELD"),
        ({"text": "a", "storage_object_id": str(uuid4())}, "VALIDATION_INVALID_SCHEMA"),
        ({"text": " "}, "VALIDATION_INVALID_INPUT"),
        ({"text": "a\0b"}, "VALIDATION_INVALID_INPUT"),
        ({"text": "a", "filename": "movie.mp4"}, "VALIDATION_INVALID_TYPE"),
        ({"storage_object_id": str(uuid4())}, "RESOURCE_NOT_FOUND"),
        ({"storage_object_id": "no-id"}, "RESOURCE_NOT_FOUND"),
        ({"text": "a", "metadata": {"k": "x" * 20_000}}, "VALIDATION_INVALID_SCHEMA"),
        ({"text": "a", "metadata": {"k": "\0"}}, "VALIDATION_INVALID_SCHEMA"),
        ({"text": "a", "document_id": str(uuid4())}, "RESOURCE_NOT_FOUND"),
        ({"text": "a", "colour": "red"}, "VALIDATION_INVALID_SCHEMA"),
    ],
)
async def test_what_is_wrong_is_refused_at_once(library: Library, shelf: str, body: dict[str, Any], code: str) -> None:
    before = (await library.send("owner", "GET", "collections/shelf")).json()["document_counts"]["total"]
    answer = await library.send("owner", "POST", "collections/shelf/ingest", json=body)
    assert answer.json()["error"]["code"] == code, answer.text
    after = (await library.send("owner", "GET", "collections/shelf")).json()["document_counts"]["total"]
    assert before == after


async def test_a_file_too_large_is_refused(library: Library, shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brolly.rag.ingest.LARGEST_FILE", 3)
    answer = await library.send("owner", "POST", "collections/shelf/ingest", json={"text": "four"})
    assert answer.json()["error"]["code"] == "QUOTA_FILE_SIZE_EXCEEDED"


async def test_documents_are_listed_and_deleted(library: Library, shelf: str) -> None:
    told = await library.read("shelf", text="To be deleted.")
    listed = (await library.send("owner", "GET", "collections/shelf/documents?limit=2")).json()
    assert listed[0]["id"] == told["id"]
    assert len(listed) == 2
    gone = await library.send("owner", "DELETE", f"collections/shelf/documents/{told['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert not await library.chunks(told["id"], shelf)
    for method in ("GET", "DELETE"):
        answer = await library.send("owner", method, f"collections/shelf/documents/{told['id']}")
        assert answer.json()["error"]["code"] == "RESOURCE_NOT_FOUND"
    answer = await library.send("owner", "GET", "collections/shelf/documents/nonsense")
    assert answer.status_code == 404
