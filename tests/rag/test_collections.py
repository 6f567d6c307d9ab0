"""Collections: what is made, who may, what is refused, and what goes with them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import McpCall, ToolFailed, mcp_session
from tests.rag.conftest import Library


async def test_a_collection_is_made_with_its_table(library: Library) -> None:
    made = await library.collection(
        "made-here", description="Questions", chunkSize=300, chunkOverlap=0, language="german"
    )
    assert made | {"id": "", "created_at": ""} == {
        "id": "",
        "name": "made-here",
        "description": "Questions",
        "access_mode": "private",
        "embedding_model": library.deps.local_model.name,
        "embedding_dimensions": 256,
        "chunk_size": 300,
        "chunk_overlap": 0,
        "language": "german",
        "table": "rag_made_here",
        "created_by": library.owner.key_id,
        "created_at": "",
    }
    async with library.sql() as connection:
        row = await connection.fetchrow(
            "select relrowsecurity, relforcerowsecurity, relowner::regrole::text as owner from pg_class "
            "where oid = 'public.rag_made_here'::regclass"
        )
        indexes = await connection.fetch(
            "select am.amname as kind from pg_index x join pg_class i on i.oid = x.indexrelid join pg_am am "
            "on am.oid = i.relam where x.indrelid = 'public.rag_made_here'::regclass"
        )
    assert (row["relrowsecurity"], row["relforcerowsecurity"], row["owner"]) == (True, True, "brolly_owner")
    assert {"hnsw", "gin"} <= {index["kind"] for index in indexes}
    listed = (await library.send("owner", "GET", "collections")).json()
    assert made in listed
    one = (await library.send("owner", "GET", "collections/made-here")).json()
    assert one["documentCount"] == {"pending": 0, "processing": 0, "ready": 0, "failed": 0}
    assert one["document_counts"]["total"] == 0
    assert (one["accessMode"], one["chunkSize"], one["chunkOverlap"]) == ("private", 300, 0)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "Upper"}, "VALIDATION_INVALID_SCHEMA"),
        ({"name": "x" * 101}, "VALIDATION_INVALID_SCHEMA"),
        ({}, "VALIDATION_MISSING_FIELD"),
        ({"name": "a", "chunk_size": 99}, "VALIDATION_INVALID_SCHEMA"),
        ({"name": "a", "chunk_size": 100, "chunk_overlap": 80}, "VALIDATION_INVALID_SCHEMA"),
        ({"name": "a", "access_mode": "open"}, "VALIDATION_INVALID_SCHEMA"),
        ({"name": "a", "language": "klingon"}, "VALIDATION_INVALID_INPUT"),
        ({"name": "a", "embedding_model": "nobody/knows"}, None),
    ],
)
async def test_what_is_wrong_makes_nothing(library: Library, body: dict[str, Any], code: str | None) -> None:
    answer = await library.send("owner", "POST", "collections", json=body)
    assert answer.status_code >= 400
    assert code is None or answer.json()["error"]["code"] == code
    async with library.sql() as connection:
        assert await connection.fetchval("select to_regclass('public.rag_a') is null")
        assert not await connection.fetchval("select exists (select from rag.collections where name = 'a')")


async def test_names_meet_neither_each_other_nor_tables(library: Library) -> None:
    first = await library.collection("one_name")
    second = await library.collection("one-name")
    assert first["table"] == "rag_one_name"
    assert second["table"].startswith("rag_one_name_")
    long = [await library.collection("n" * 99 + end) for end in "ab"]
    assert long[0]["table"] != long[1]["table"]
    again = await library.send("owner", "POST", "collections", json={"name": "one-name"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "VALIDATION_DUPLICATE_NAME")


async def test_over_mcp_deletion_asks_in_numbers(library: Library) -> None:
    async with mcp_session(library.deps, library.owner) as call:
        await _deletion(call, library)


HANGING = """
set search_path = public;
create view long_ones as select * from rag_doomed where tokens > 9;
create view longest as select * from long_ones order by tokens desc limit 1;
create table marks (id uuid primary key, chunk_id uuid references rag_doomed);
alter table marks enable row level security;
create policy named on marks using (exists (select from rag_doomed c where c.id = chunk_id));
create function first_words(rag_doomed) returns text language sql as $$ select left($1.content, 20) $$;
"""


async def _deletion(call: McpCall, library: Library) -> None:
    app = {"app_id": library.app.id}
    await call("manage_rag_content", action="create_collection", name="doomed", **app)
    made = await call("manage_rag_content", action="ingest_document", collection="doomed", text="Words.", **app)
    await library.settled("doomed", made["document_id"])
    assert "doomed" in [row["name"] for row in await call("manage_rag_content", action="list_collections", **app)]
    async with library.sql() as connection:
        await connection.execute(HANGING)
    with pytest.raises(ToolFailed) as asked:
        await call("manage_rag_content", action="delete_collection", name="doomed", **app)
    assert asked.value.code == "CONFIRMATION_REQUIRED"
    assert "1 documents and 1 chunks" in str(asked.value.error)
    hanging = [
        "constraint marks_chunk_id_fkey on table marks", "function first_words(rag_doomed)",
        "policy named on table marks", "view long_ones", "view longest",
    ]  # fmt: skip
    assert asked.value.error["message"].partition("made of it: ")[2] == ", ".join(hanging) + "."
    gone = await call("manage_rag_content", action="delete_collection", name="doomed", confirm=True, **app)
    assert (gone["name"], gone["dropped"]) == ("doomed", hanging)
    async with library.sql() as connection:
        assert await connection.fetchval("select count(*) from marks") == 0
        assert await connection.fetchval("select to_regclass('public.rag_doomed') is null")
        assert not await connection.fetchval("select count(*) from rag.documents where id = $1", made["document_id"])
    with pytest.raises(ToolFailed) as missing:
        await call("manage_rag_content", action="get_collection", name="doomed", **app)
    assert missing.value.code == "RESOURCE_NOT_FOUND"


async def test_the_schema_document_is_still_its_own_inverse(library: Library) -> None:
    await library.collection("in-schema")
    async with mcp_session(library.deps, library.owner) as call:
        document = (await call("manage_schema", action="get", app_id=library.app.id))["schema"]
        assert "rag_in_schema" in document["tables"]
        applied = await call("manage_schema", action="apply", app_id=library.app.id, schema=document)
    assert applied["applied"] == 0, applied
