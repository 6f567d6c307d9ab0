"""Who sees and adds what: by the routes of documents, by the rows of the chunks' tables, and from other apps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from brolly.apps import provision
from tests.conftest import http_client, make_owner, mcp_session
from tests.rag.conftest import Library

WHO = ("owner", "ann", "ben")


async def listed(library: Library, who: str, collection: str) -> set[str]:
    """The names of the documents that the caller is told of, each of which opens for them and no other does."""
    answer = await library.send(who, "GET", f"collections/{collection}/documents")
    assert answer.status_code == 200, answer.text
    everything = (await library.send("owner", "GET", f"collections/{collection}/documents")).json()
    told = {row["id"] for row in answer.json()}
    for row in everything:
        one = await library.send(who, "GET", f"collections/{collection}/documents/{row['id']}")
        assert one.status_code == (200 if row["id"] in told else 404)
    return {row["filename"] for row in answer.json()}


async def rows(library: Library, who: str, table: str) -> set[str] | int:
    """The chunks that the caller reads as rows of the app; the status when refused."""
    answer = await library.clients[who].get(f"/v1/{library.app.id}/{table}?select=content")
    return {row["content"] for row in answer.json()} if answer.status_code == 200 else answer.status_code


async def as_tool(library: Library, who: str, table: str) -> set[str]:
    async with mcp_session(library.deps, library.owner) as call:
        more = {} if who == "owner" else {"as_role": "user", "as_user": library.ids[who]}
        answer = await call("select_rows", app_id=library.app.id, table=table, **more)
    return {row["content"] for row in answer["rows"]}


@pytest.fixture(scope="module")
async def filled(library: Library) -> dict[str, str]:
    """A collection of each mode, with a document of the owner's, and users' own where users may add."""
    tables: dict[str, str] = {}
    for mode in ("private", "shared", "custom"):
        tables[mode] = (await library.collection(mode, access_mode=mode))["table"]
        await library.read(mode, text="owner's", filename="owner.txt", metadata={"team": "red"})
    for who in ("ann", "ben"):
        await library.read("private", who, text=f"{who}'s", filename=f"{who}.txt")
    return tables


async def test_private_each_sees_their_own(library: Library, filled: dict[str, str]) -> None:
    expected = {"owner": {"owner", "ann", "ben"}, "ann": {"ann"}, "ben": {"ben"}}
    for who in WHO:
        names = expected[who]
        assert await listed(library, who, "private") == {f"{name}.txt" for name in names}
        assert await rows(library, who, filled["private"]) == {f"{name}'s" for name in names}
        assert await as_tool(library, who, filled["private"]) == {f"{name}'s" for name in names}
    counts = (await library.send("ann", "GET", "collections/private")).json()["documentCount"]
    assert counts["ready"] == 1


async def test_shared_all_read_and_keys_alone_add(library: Library, filled: dict[str, str]) -> None:
    for who in WHO:
        assert await listed(library, who, "shared") == {"owner.txt"}
        assert await rows(library, who, filled["shared"]) == {"owner's"}
    refused = await library.send("ann", "POST", "collections/shared/ingest", json={"text": "Believe me."})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AUTH_FORBIDDEN")


async def test_custom_is_closed_until_policies_open_it(library: Library, filled: dict[str, str]) -> None:
    assert await listed(library, "ann", "custom") == set()
    assert await rows(library, "ann", filled["custom"]) == set()
    body = {"text": "ann's", "filename": "ann.txt", "metadata": {"team": "blue"}}
    refused = await library.send("ann", "POST", "collections/custom/ingest", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AUTH_RLS_POLICY_VIOLATION")
    table = {"app_id": library.app.id, "table_name": filled["custom"]}
    async with mcp_session(library.deps, library.owner) as call:
        policy = {"action": "create_policy", **table, "role": "user"}
        red = {"policy_name": "red_reads", "command": "SELECT", "using_expression": 'metadata @> \'{"team": "red"}\''}
        blue = 'user_id = current_user_id() and metadata @> \'{"team": "blue"}\''
        add = {"policy_name": "blue_adds", "command": "INSERT", "with_check_expression": blue}
        await call("manage_rls", **policy, **red)
        await call("manage_rls", **policy, **add)
    assert await listed(library, "ann", "custom") == {"owner.txt"}
    assert await rows(library, "ben", filled["custom"]) == {"owner's"}
    told = await library.read("custom", "ann", **body)
    assert told["status"] == "ready"
    # Ann knows of what she brought; nobody but keys may search it, as the policies have it.
    assert await listed(library, "ann", "custom") == {"owner.txt", "ann.txt"}
    assert await listed(library, "ben", "custom") == {"owner.txt"}
    assert await rows(library, "ann", filled["custom"]) == {"owner's"}
    other = await library.send("ann", "POST", "collections/custom/ingest", json={**body, "metadata": {"team": "red"}})
    assert other.status_code == 403


async def test_users_change_nothing_but_their_own(library: Library, filled: dict[str, str]) -> None:
    everything = (await library.send("owner", "GET", "collections/private/documents")).json()
    ids = {row["filename"]: row["id"] for row in everything}
    for name in ("owner.txt", "ben.txt"):
        gone = await library.send("ann", "DELETE", f"collections/private/documents/{ids[name]}")
        assert gone.status_code == 404
        body = {"text": "Mine now.", "document_id": ids[name]}
        assert (await library.send("ann", "POST", "collections/private/ingest", json=body)).status_code == 404
    shared = (await library.send("ann", "GET", "collections/shared/documents")).json()[0]["id"]
    assert (await library.send("ann", "DELETE", f"collections/shared/documents/{shared}")).status_code == 404
    assert len((await library.send("owner", "GET", "collections/private/documents")).json()) == 3
    for method, path, more in (
        ("POST", "collections", {"json": {"name": "anns"}}),
        ("DELETE", "collections/private", {}),
    ):
        refused = await library.send("ann", method, path, **more)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AUTH_FORBIDDEN")
    # Nor by the rows themselves.
    for mode in ("private", "shared"):
        url = f"/v1/{library.app.id}/{filled[mode]}"
        tried = [
            await library.clients["ann"].delete(f"{url}?position=eq.0"),
            await library.clients["ann"].patch(f"{url}?position=eq.0", json={"content": "Obey me."}),
            await library.clients["ann"].post(url, json={"content": "Obey me.", "user_id": library.ids["ann"]}),
        ]
        assert [answer.status_code for answer in tried] == [403, 403, 403], [a.text for a in tried]


async def test_nobody_is_told_anything(library: Library, filled: dict[str, str]) -> None:
    for method, path in (
        ("GET", "collections"),
        ("GET", "collections/shared"),
        ("GET", "collections/shared/documents"),
        ("POST", "collections/private/ingest"),
    ):
        answer = await library.send("nobody", method, path, json={"text": "a"} if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "AUTH_REQUIRED")
    for mode in ("private", "shared", "custom"):
        assert await rows(library, "nobody", filled[mode]) in (401, 403, set())


async def test_the_lists_behind_are_out_of_every_callers_reach(library: Library, filled: dict[str, str]) -> None:
    for who in (*WHO, "nobody"):
        for table in ("collections", "documents", "staged_chunks", "rag.documents"):
            answer = await library.clients[who].get(f"/v1/{library.app.id}/{table}")
            assert answer.status_code == 404, (who, table, answer.text)
    await library.deps.databases.create_function_logins(library.app.id)
    for kind in ("service", "user", "anonymous"):
        pool = library.deps.pools.function(library.app, kind, _nothing)
        for table in ("rag.collections", "rag.documents", "rag.staged_chunks"):
            with pytest.raises(Exception, match="permission denied"):
                await pool.fetch(f"select * from {table}")


async def _nothing(_connection: Any) -> None:
    return


async def test_a_file_is_ingested_by_who_may_read_it(library: Library, filled: dict[str, str]) -> None:
    mine = await library.store(b"Ann wrote this.", "ann-file.txt", "ann")
    refused = await library.send("ben", "POST", "collections/private/ingest", json={"storage_object_id": mine})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
    told = await library.read("private", "ann", storage_object_id=mine)
    assert told["status"] == "ready"
    async with library.sql() as connection:
        assert (
            await connection.fetchval("select user_id from rag.documents where id = $1", told["id"])
            == library.ids["ann"]
        )


async def test_another_app_has_nothing_of_it(library: Library, filled: dict[str, str]) -> None:
    object_id = await library.store(b"Only here.", "here.txt")
    document = (await library.send("owner", "GET", "collections/shared/documents")).json()[0]["id"]
    # Another app of the same account, and another account.
    assert library.owner.account_id is not None
    second, _ = await provision.create(library.deps, library.owner.account_id, f"app-{uuid4()}", "self-hosted")
    mine = f"/v1/{second}/rag/collections"
    client = library.clients["owner"]
    assert (await client.post(mine, json={"name": "shared"})).status_code == 201
    taken = await client.post(f"{mine}/shared/ingest", json={"storage_object_id": object_id})
    assert taken.json()["error"]["code"] == "RESOURCE_NOT_FOUND"
    assert (await client.get(f"{mine}/shared/documents")).json() == []
    assert (await client.get(f"{mine}/shared/documents/{document}")).status_code == 404
    assert (await library.clients["ann"].get(mine)).status_code == 401
    _, key = await make_owner(library.deps)
    async with http_client(library.deps, key) as stranger:
        assert (await stranger.get(f"/v1/{library.app.id}/rag/collections")).status_code == 404
    await provision.delete(library.deps, await library.deps.registry.get(library.owner, second))


async def test_one_user_fills_no_disk(library: Library) -> None:
    await library.collection("heap")
    deps = replace(library.deps, settings=replace(library.deps.settings, rag_user_documents=4, rag_user_mb=1))
    async with http_client(deps, library.clients["ben"].headers["authorization"].split()[1]) as ben:
        path = f"/v1/{library.app.id}/rag/collections/heap"
        # Ben has one already, where the documents of private are.
        answers = await asyncio.gather(*(ben.post(f"{path}/ingest", json={"text": f"Leaf {n}."}) for n in range(6)))
        assert sorted(answer.status_code for answer in answers) == [202, 202, 202, 429, 429, 429]
        refused = next(answer.json()["error"] for answer in answers if answer.status_code == 429)
        assert (refused["code"], refused["details"]["documents"]) == ("QUOTA_STORAGE_EXCEEDED", 5)
        assert "manage_rag_content delete_document" in refused["remediation"]
        first, second, *_ = rows = (await ben.get(f"{path}/documents")).json()
        assert len(rows) == 3
        # In place of another, but not above the size; what was there stays.
        for row in rows:
            await library.settled("heap", row["id"])
        async with library.sql() as connection:
            await connection.execute("update rag.documents set size_bytes = 1048000 where id = $1", second["id"])
        instead = {"document_id": first["id"], "text": "A twig. " * 100}
        assert (await ben.post(f"{path}/ingest", json=instead)).status_code == 429
        assert (await library.settled("heap", first["id"]))["status"] == "ready"
        assert (await ben.post(f"{path}/ingest", json={**instead, "text": "A twig."})).status_code == 202
        assert (await ben.delete(f"{path}/documents/{first['id']}")).status_code == 204
        assert (await ben.post(f"{path}/ingest", json={"text": "The last leaf."})).status_code == 202
    assert (await library.send("ann", "POST", "collections/heap/ingest", json={"text": "Hers."})).status_code == 202


async def test_a_key_acts_as_a_user(library: Library, filled: dict[str, str]) -> None:
    headers = {"X-Butterbase-As-Role": "user", "X-Butterbase-As-User": library.ids["ben"]}
    answer = await library.send("owner", "GET", "collections/private/documents", headers=headers)
    assert [row["filename"] for row in answer.json()] == ["ben.txt"]
    answer = await library.send("owner", "GET", "collections", headers={"X-Butterbase-As-Role": "anon"})
    assert answer.status_code == 401
