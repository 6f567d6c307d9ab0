"""rag_query: what is found, by whom, and in what order."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.rag import fusion, search
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session
from tests.rag.conftest import Library

GUIDE = """# Umbrellas

## Care

Let it dry open after rain, or the cloth will rot. Never roll it up wet.

## Sizes

| model | span | price |
|---|---|---|
| XK-4711 | 98 cm | 19 € |
| XK-4712 | 120 cm | 29 € |

## Returns

Whoever does not like what they bought sends it back within thirty days and gets the money.
"""
STAFF = "# Staff\n\n## Holidays\n\nEverybody has thirty days of holiday a year, and asks for them in the calendar."
MANUALS = [
    ("one", {"year": 2019, "lang": "en", "tags": ["old", "paper"], "by": {"name": "ann", "age": 30}}),
    ("two", {"year": 2022, "lang": "de", "tags": ["paper"], "released": "2022-05-01"}),
    ("three", {"year": 2024, "lang": "en", "tags": [], "released": "2024-01-15", "draft": True}),
]


@pytest.fixture(scope="module")
async def shelf(library: Library) -> Library:
    """Collections in every access mode with a few documents."""
    await library.collection("shop", access_mode="shared", chunk_size=100, chunk_overlap=0)
    await library.collection("notes")
    await library.collection("teams", access_mode="custom")
    await library.collection("empty")
    for what in (
        ("shop", {"text": GUIDE, "filename": "guide.md", "metadata": {"kind": "guide"}}),
        ("shop", {"text": STAFF, "filename": "staff.md", "metadata": {"kind": "staff"}}),
        *(("teams", {"text": f"Manual number {n}.", "filename": f"{n}.txt", "metadata": m}) for n, m in MANUALS),
    ):
        assert (await library.read(what[0], **what[1]))["status"] == "ready"
    for who, text in (("ann", "Ann's secret is a blue door."), ("ben", "Ben's secret is a red door.")):
        assert (await library.read("notes", who, text=text, filename=f"{who}.txt"))["status"] == "ready"
    return library


async def ask(library: Library, who: str, collection: str, query: str, **more: Any) -> list[dict[str, Any]]:
    answer = await library.send(who, "POST", f"collections/{collection}/query", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["chunks"]


async def failure(library: Library, who: str, collection: str, **body: Any) -> tuple[int, str]:
    answer = await library.send(who, "POST", f"collections/{collection}/query", json=body)
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("query", "heading"),
    [
        ("how do I keep the fabric from going mouldy?", "Care"),
        ("XK-4712", "Sizes"),
        ("can I get a refund?", "Returns"),
        ("vacation for employees", "Holidays"),
    ],
)
async def test_the_right_place_comes_first_by_meaning_and_by_words(shelf: Library, query: str, heading: str) -> None:
    first = (await ask(shelf, "owner", "shop", query))[0]
    assert heading in first["heading"] or f"## {heading}" in first["text"]


async def test_a_result_says_where_it_stands_and_why_it_was_found(shelf: Library) -> None:
    answer = await shelf.send("owner", "POST", "collections/shop/query", json={"query": "span of XK-4711", "topK": 2})
    body = answer.json()
    assert body["untrusted"] is True
    assert len(body["chunks"]) == 2
    chunk = body["chunks"][0]
    assert chunk["document"] == {"id": chunk["document_id"], "filename": "guide.md"}
    assert chunk["metadata"] == {"kind": "guide"}
    assert chunk["text"] == chunk["content"]
    assert "98 cm" in GUIDE[chunk["start"] : chunk["end"]]
    assert chunk["number"] == 1
    assert chunk["page"] is None
    assert 0 < chunk["score"] <= 1
    assert chunk["scores"]["text_place"] == 1
    assert chunk["scores"]["vector_place"] >= 1
    share = fusion.VECTOR_SHARE / (fusion.RANK_OFFSET + chunk["scores"]["vector_place"])
    assert chunk["scores"]["fused"] == pytest.approx(share + 1 / (fusion.RANK_OFFSET + 1), abs=1e-4)


async def test_the_tool_answers_as_the_route_and_may_act_as_a_user(shelf: Library) -> None:
    async with mcp_session(shelf.deps, shelf.owner) as call:
        arguments = {"app_id": shelf.app.id, "collection": "notes", "query": "secret door"}
        assert {c["document"]["filename"] for c in (await call("rag_query", **arguments))["chunks"]} == {
            "ann.txt",
            "ben.txt",
        }
        acting = await call("rag_query", **arguments, as_role="user", as_user=shelf.ids["ann"])
        assert [c["document"]["filename"] for c in acting["chunks"]] == ["ann.txt"]
        assert "content" not in acting["chunks"][0]
        with pytest.raises(ToolFailed) as failed:
            await call("rag_query", **{**arguments, "collection": "empty"})
        assert failed.value.code == "COLLECTION_EMPTY"
        assert "ingest_document" in failed.value.error["remediation"]


def be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every collection is searched as a large one."""
    monkeypatch.setattr(fusion, "RANK_ALL_UP_TO", 0)
    monkeypatch.setattr(search, "EXACT_UP_TO", 0)
    monkeypatch.setattr(search, "OWN_EXACT_UP_TO", 0)


@pytest.mark.parametrize("large", [False, True])
async def test_each_caller_finds_what_they_may_read(
    shelf: Library, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        be_large(monkeypatch)
    for who in ("ann", "ben"):
        assert [c["document"]["filename"] for c in await ask(shelf, who, "notes", "secret door")] == [f"{who}.txt"]
    assert len(await ask(shelf, "owner", "notes", "secret door")) == 2
    assert await ask(shelf, "ann", "shop", "holiday") == await ask(shelf, "owner", "shop", "holiday")
    # No policy yet: nobody but the service.
    assert await ask(shelf, "ann", "teams", "manual") == []
    assert len(await ask(shelf, "owner", "teams", "manual")) == 3
    assert await failure(shelf, "nobody", "shop", query="holiday") == (401, "AUTH_REQUIRED")


async def test_in_custom_the_policies_on_the_chunks_decide(shelf: Library) -> None:
    table = (await shelf.send("owner", "GET", "collections/teams")).json()["table"]
    rule = {
        "table_name": table,
        "policy_name": "english",
        "command": "SELECT",
        "role": "user",
        "using_expression": "metadata->>'lang' = 'en'",
    }
    made = await shelf.clients["owner"].post(f"/v1/{shelf.app.id}/rls/policies", json=rule)
    assert made.status_code in (200, 201), made.text
    try:
        found = await ask(shelf, "ann", "teams", "manual number two")
        assert {c["document"]["filename"] for c in found} == {"one.txt", "three.txt"}
    finally:
        await shelf.clients["owner"].delete(f"/v1/{shelf.app.id}/rls/{table}/english")


async def test_another_accounts_app_is_not_there(shelf: Library) -> None:
    _, key = await make_owner(shelf.deps)
    async with http_client(shelf.deps, key) as stranger:
        answer = await stranger.post(f"/v1/{shelf.app.id}/rag/collections/shop/query", json={"query": "holiday"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({"lang": "en"}, "one three"),
        ({"by": {"name": "ann"}}, "one"),
        ({"tags": ["paper"]}, "one two"),
        ({"year": {"$gte": 2022}}, "two three"),
        ({"year": {"$gt": 2019, "$lt": 2024}}, "two"),
        ({"by": {"age": {"$lte": 30}}}, "one"),
        ({"released": {"$lt": "2023-01-01"}}, "two"),
        ({"year": {"$gt": "2019"}}, ""),
        ({"year": {"$in": [2019, 2024, "x"]}}, "one three"),
        ({"tags": {"$in": ["old", "new"]}}, "one"),
        ({"tags": {"$nin": ["paper"]}}, "three"),
        ({"lang": {"$ne": "en"}}, "two"),
        ({"draft": {"$exists": False}}, "one two"),
        ({"$or": [{"lang": "de"}, {"draft": {"$eq": True}}]}, "two three"),
        ({"lang": "en", "$not": {"draft": True}}, "one"),
        ({"year": {"$in": []}}, ""),
        ({}, "one two three"),
        ({"lang": "' or true --"}, ""),
    ],
)
async def test_filters(shelf: Library, wanted: dict[str, Any], numbers: str) -> None:
    found = await ask(shelf, "owner", "teams", "manual", filter=wanted)
    assert {chunk["document"]["filename"].removesuffix(".txt") for chunk in found} == set(numbers.split())


@pytest.mark.parametrize(
    "body",
    [
        {"query": ""},
        {"query": "   "},
        {"query": "a\0b"},
        {"query": "x" * 10_001},
        {"query": "x", "topK": 0},
        {"query": "x", "top_k": 51},
        {"query": "x", "threshold": 1.1},
        {"query": "x", "filter": {"year": {"$near": 1}}},
        {"query": "x", "filter": {"$gt": 1}},
        {"query": "x", "filter": {"year": {"$gt": True}}},
        {"query": "x", "filter": {"year": {"$in": 1}}},
        {"query": "x", "filter": {"year": {"$in": [1] * 101}}},
        {"query": "x", "filter": {"year": {"$exists": "yes"}}},
        {"query": "x", "filter": {"$or": []}},
        {"query": "x", "filter": {"$and": [1]}},
        {"query": "x", "filter": {"a": "\0"}},
        {"query": "x", "filter": {"$and": [{"$or": [{"a": {"$gt": n}} for n in range(100)]}] * 3}},
        {"query": "x", "filters": {}},
    ],
)
async def test_what_is_wrong_is_refused(shelf: Library, body: dict[str, Any]) -> None:
    assert await failure(shelf, "owner", "teams", **body) == (400, "VALIDATION_INVALID_SCHEMA")


async def test_a_filter_that_is_too_deep_is_refused(shelf: Library) -> None:
    deep: dict[str, Any] = {"a": {"$gt": 1}}
    for _ in range(9):
        deep = {"$not": deep}
    assert await failure(shelf, "owner", "teams", query="x", filter=deep) == (400, "VALIDATION_INVALID_SCHEMA")


async def test_only_what_is_above_the_threshold_counts(shelf: Library) -> None:
    found = await ask(shelf, "owner", "shop", "holiday", threshold=0, top_k=50)
    best = max(chunk["score"] for chunk in found)
    assert all(c["score"] > best - 0.01 for c in await ask(shelf, "owner", "shop", "holiday", threshold=best - 0.01))
    assert await ask(shelf, "owner", "shop", "holiday", threshold=1) == []


async def test_quotes_demand_and_a_minus_forbids(shelf: Library) -> None:
    days = await ask(shelf, "owner", "shop", '"thirty days"')
    assert {c["document"]["filename"] for c in days} == {"guide.md", "staff.md"}
    assert {c["document"]["filename"] for c in await ask(shelf, "owner", "shop", '"thirty days" -holiday')} == {
        "guide.md"
    }
    assert await ask(shelf, "owner", "shop", '"thirty umbrellas"') == []
    # No word at all, and words that the language passes over, find nothing wrong.
    for query in ("???", '"the"', "-", "'; drop table x --", "\\", "a & b | !c <-> (", "傘"):
        await ask(shelf, "owner", "shop", query)


async def test_each_way_can_be_taken_alone(shelf: Library) -> None:
    for way, other in (("text", "vector_place"), ("vector", "text_place")):
        found = await ask(shelf, "owner", "shop", "XK-4711 span", search=way)
        assert found
        assert all(chunk["scores"][other] is None for chunk in found)


async def test_a_large_collection_is_searched_by_its_indexes(shelf: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = await ask(shelf, "owner", "shop", "wet umbrella XK-4711")
    be_large(monkeypatch)
    assert (await ask(shelf, "owner", "shop", "wet umbrella XK-4711"))[0] == usual[0]
    # Where every word is common, a chunk has to have all of them.
    monkeypatch.setattr(fusion, "COMMON", 0)
    found = await ask(shelf, "owner", "shop", "thirty days holiday", search="text")
    assert [c["document"]["filename"] for c in found] == ["staff.md"]


async def test_a_question_is_turned_into_a_vector_once(shelf: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    embed = search.embed

    async def counted(deps: Any, app: Any, space: Any, texts: Any) -> Any:
        asked.extend(texts)
        return await embed(deps, app, space, texts)

    monkeypatch.setattr(search, "embed", counted)
    for _ in range(3):
        await ask(shelf, "owner", "shop", "what did I ask just now?")
    assert asked == ["what did I ask just now?"]
    monkeypatch.setattr(search, "_KEPT_VECTORS", 2)
    for query in ("one", "two", "three"):
        await ask(shelf, "owner", "shop", query)
    assert len(search._vectors) == 2


async def test_a_search_that_a_change_of_vectors_overtook_begins_again(
    shelf: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, calls = search.embed, 0

    async def overtaken(deps: Any, app: Any, space: Any, texts: Any) -> Any:
        nonlocal calls
        calls += 1
        async with shelf.sql() as connection:
            await connection.execute(
                "update rag.collections set embedding_model = $1 where name = 'shop'", f"other/{calls}"
            )
        return await embed(deps, app, type(space)("local/wordllama-l2-256", 256), texts)

    model = (await shelf.send("owner", "GET", "collections/shop")).json()["embedding_model"]
    monkeypatch.setattr(search, "embed", overtaken)
    try:
        assert await failure(shelf, "owner", "shop", query="overtaken") == (409, "RESOURCE_CONFLICT")
        assert calls == 3
    finally:
        async with shelf.sql() as connection:
            await connection.execute("update rag.collections set embedding_model = $1 where name = 'shop'", model)


async def test_a_deleted_document_is_not_found_any_more(shelf: Library) -> None:
    made = await shelf.read("shop", text="Zebras sleep standing up.", filename="zebra.txt")
    assert (await ask(shelf, "owner", "shop", "zebras"))[0]["document_id"] == made["id"]
    await shelf.send("owner", "DELETE", f"collections/shop/documents/{made['id']}")
    assert made["id"] not in [chunk["document_id"] for chunk in await ask(shelf, "owner", "shop", "zebras")]
