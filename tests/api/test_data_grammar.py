"""What the query string can ask for, by the rows that come."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from brolly.deps import Deps
from brolly.registry import App

SETUP = """
create table items (id int primary key, name text, n int, price numeric(10,2), big bigint, tags text[],
    doc jsonb, raw json, span int4range, words tsvector, at timestamptz, ok boolean, "odd.name" text, "a,b" text);
insert into items select n, 'Item ' || n, nullif(n % 4, 0), n * 1.5, n, array['t' || n % 2, 't' || n % 3],
    jsonb_build_object('name', 'x' || n, 'list', jsonb_build_array(n, n + 1), 'deep', jsonb_build_object('k', n % 2)),
    '{"a": {"b": 1}}', int4range(n, n + 3), to_tsvector('english', 'running dogs ' || n),
    timestamptz '2026-01-01 00:00:00+00' + n * interval '1 day', n % 2 = 0, 'o' || n, 'c,' || n
from generate_series(1, 8) n;
"""


@pytest.fixture
async def get(deps: Deps, app: App, http: httpx.AsyncClient) -> Any:
    """``await get(name=value, …)``: the answer for the table items."""
    async with deps.pools.owner(app) as conn:
        await conn.execute(SETUP)
    await deps.catalog.changed(app)

    async def run(pairs: Any = (), **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await http.get(f"/v1/{app.id}/items", params=list(pairs), headers=named)

    return run


async def test_filters(get: Any) -> None:
    cases: list[tuple[list[tuple[str, str]], list[int]]] = [
        ([("id", "eq.3")], [3]),
        ([("id", "gt.2"), ("id", "lte.4")], [3, 4]),
        ([("id", "in.(1,2,99)")], [1, 2]),
        ([("id", "not.in.(1,2,3,4,5,6,7)")], [8]),
        ([("name", "like.%3")], [3]),
        ([("name", "ilike.item 3")], [3]),
        ([("name", "match.[34]$")], [3, 4]),
        ([("name", "imatch.^ITEM 5")], [5]),
        ([("name", "like(any).{%1,%2}")], [1, 2]),
        ([("id", "eq(any).{3,4}")], [3, 4]),
        ([("id", "gt(all).{3,6}")], [7, 8]),
        ([("name", 'in.("Item 1","Item 2")')], [1, 2]),
        ([("n", "is.null")], [4, 8]),
        ([("n", "isdistinct.1"), ("id", "lt.5")], [2, 3, 4]),
        ([("ok", "is.true")], [2, 4, 6, 8]),
        ([("ok", "not.is.true")], [1, 3, 5, 7]),
        ([("tags", "cs.{t1,t2}")], [5]),
        ([("tags", "cd.{t0,t1}")], [1, 3, 4, 6, 7]),
        ([("tags", "ov.{t2}")], [2, 5, 8]),
        ([("doc", 'cs.{"deep":{"k":1}}')], [1, 3, 5, 7]),
        ([("span", "ov.[9,20)")], [7, 8]),
        ([("span", "cs.[2,3]")], [1, 2]),
        ([("words", "fts.dog 3")], [3]),
        ([("name", "plfts(simple).item 4")], [4]),
        ([("name", "wfts.item -4"), ("id", "gt.3"), ("id", "lt.6")], [5]),
        ([("name", "phfts.item 4")], [4]),
        ([("doc->>name", "eq.x2")], [2]),
        ([("doc->list->0", "eq.5")], [5]),
        ([("doc->list->>-1", "eq.5")], [4]),
        ([("doc->deep->k", "eq.1"), ("id", "lt.4")], [1, 3]),
        ([("doc->>nope", "is.null")], [1, 2, 3, 4, 5, 6, 7, 8]),
        ([("raw->a->>b", "eq.1"), ("id", "eq.1")], [1]),
        ([('"odd.name"', "eq.o2")], [2]),
        ([('"a,b"', "eq.c,3")], [3]),
        ([("or", "(id.eq.1,id.eq.2)")], [1, 2]),
        ([("or", "(id.eq.1,and(n.eq.2,ok.is.true))")], [1, 2, 6]),
        ([("not.or", "(id.lt.4,id.gt.5)")], [4, 5]),
        ([("and", "(id.gt.2,not.and(id.gte.4,id.lte.8))")], [3]),
        ([("or", '("a,b".eq."c,1",name.in.("Item 2",x),tags.cs.{t1,t2})')], [1, 2, 5]),
        ([("or", "(doc->>name.eq.x7,id.not.gt.1)")], [1, 7]),
        ([("id", ""), ("name", "eq.Item 1"), ("or", "")], [1]),
        ([("at", "lt.2026-01-03T00:00:00.000Z")], [1]),
        ([("big", "gte.8")], [8]),
        ([("price", "eq.3")], [2]),
    ]
    for pairs, expected in cases:
        answer = await get([*pairs, ("order", "id"), ("select", "id")])
        assert answer.status_code == 200, (pairs, answer.text)
        assert [row["id"] for row in answer.json()] == expected, pairs


async def test_columns(get: Any) -> None:
    one = [("id", "eq.2")]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("id,name", {"id": 2, "name": "Item 2"}),
        ("key:id, title:name", {"key": 2, "title": "Item 2"}),
        ("id::text,n::float8", {"id": "2", "n": 2.0}),
        ("price,price2:price::int", {"price": "3.00", "price2": 3}),
        ("doc->name", {"name": "x2"}),
        ("doc->>name,at:doc->list->0", {"name": "x2", "at": 2}),
        ("doc->list->>1", {"list": "3"}),
        ("first:doc->list->0::int8", {"first": "2"}),
        ('"a,b","odd.name"', {"a,b": "c,2", "odd.name": "o2"}),
        ('"x:y":id', {"x:y": 2}),
        ("id,id", {"id": 2}),
        ("_last:id", {"_last": 2}),
        ("at::date", {"at": "2026-01-03"}),
    ]
    for select, expected in cases:
        answer = await get([*one, ("select", select)])
        assert answer.status_code == 200, (select, answer.text)
        assert answer.json() == [expected], select
    assert len((await get([*one, ("select", "*")])).json()[0]) == 14


async def test_order(get: Any) -> None:
    cases = [
        ("n.asc,id.desc", [5, 1, 6, 2, 7, 3, 8, 4]),
        ("n.desc", [4, 8, 3, 7, 2, 6, 1, 5]),
        ("n.desc.nullslast", [3, 7, 2, 6, 1, 5, 4, 8]),
        ("n.nullsfirst", [4, 8, 1, 5, 2, 6, 3, 7]),
        ("doc->deep->k,id.desc", [8, 6, 4, 2, 7, 5, 3, 1]),
        ("doc->>name.desc", [8, 7, 6, 5, 4, 3, 2, 1]),
        ('"odd.name".desc', [8, 7, 6, 5, 4, 3, 2, 1]),
    ]
    for order, expected in cases:
        answer = await get([("order", order), ("select", "id")])
        assert [row["id"] for row in answer.json()] == expected, (order, answer.text)


async def test_pages_and_counts(get: Any) -> None:
    answer = await get([("limit", "2"), ("offset", "4"), ("select", "id")], prefer="count=exact")
    assert (answer.json(), answer.headers["content-range"]) == ([{"id": 5}, {"id": 6}], "4-5/8")
    ranged = await get([("select", "id")], range="2-3", prefer="count=exact")
    assert (ranged.status_code, ranged.json(), ranged.headers["content-range"]) == (
        206,
        [{"id": 3}, {"id": 4}],
        "2-3/8",
    )
    beyond = await get([("offset", "50")], prefer="count=exact")
    assert (beyond.status_code, beyond.json(), beyond.headers["content-range"]) == (200, [], "*/8")
    for kind in ("planned", "estimated"):
        rough = await get([("limit", "1")], prefer=f"count={kind}")
        assert rough.headers["content-range"].split("/")[1].isdigit()
    assert "link" not in (await get([("limit", "8")])).headers
    none = await get([("limit", "0")], prefer="count=exact")
    assert (none.json(), none.headers["content-range"], "link" in none.headers) == ([], "*/8", False)
    filtered = await get([("ok", "is.true"), ("limit", "1")], prefer="count=exact")
    assert filtered.headers["content-range"] == "0-0/4"


async def test_aggregates(get: Any) -> None:
    cases: list[tuple[list[tuple[str, str]], list[dict[str, Any]]]] = [
        ([("select", "count()")], [{"count": 8}]),
        (
            [("select", "n.sum(),n.avg(),n.min(),n.max(),n.count()")],
            [{"sum": "12", "avg": "2.0000000000000000", "min": 1, "max": 3, "count": 6}],
        ),
        (
            [("select", "ok,total:price.sum()::float8"), ("order", "ok")],
            [{"ok": False, "total": 24.0}, {"ok": True, "total": 30.0}],
        ),
        (
            [("select", "ok,n:count()"), ("id", "lt.4"), ("order", "n.desc")],
            [{"ok": False, "n": 2}, {"ok": True, "n": 1}],
        ),
        ([("select", "k:doc->deep->k,count()"), ("order", "k.desc")], [{"k": 1, "count": 4}, {"k": 0, "count": 4}]),
        ([("select", "most:doc->list->0::int.max()")], [{"most": 8}]),
    ]
    for pairs, expected in cases:
        answer = await get(pairs)
        assert answer.status_code == 200, (pairs, answer.text)
        assert answer.json() == expected, pairs
    counted = await get([("select", "ok,count()"), ("limit", "1"), ("order", "ok")], prefer="count=exact")
    assert counted.headers["content-range"] == "0-0/2"


WRONG = [
    [("nope", "eq.1")],
    [("id", "1")],
    [("id", "foo.1")],
    [("id", "eq")],
    [("id", "eq(some).1")],
    [("id", "is(any).null")],
    [("id", "is.1")],
    [("id", "like.x")],
    [("id", "cs.1")],
    [("name", "ov.x")],
    [("tags", "in.(a)")],
    [("raw", "eq.1")],
    [("doc->a", "like.x")],
    [("name->a", "eq.x")],
    [("id", "in.1")],
    [("id", "in.(1")],
    [("or", "(id.eq.1")],
    [("or", "id.eq.1")],
    [("or", "()")],
    [("or", "(id.eq.1)x")],
    [("or", "(nope.eq.1)")],
    [("or", "(" * 30 + "id.eq.1" + ")" * 30)],
    [("or", "(" + "and(" * 30 + "id.eq.1" + ")" * 31)],
    [("or", "(" + ",".join(["id.eq.1"] * 300) + ")")],
    [("or", '(name.eq."x)')],
    [("name", "fts(nope'x).a")],
    [("odd.name", "eq.x")],
    [("ok", "is.maybe")],
]


async def test_wrong_filters_are_named(get: Any) -> None:
    for pairs in WRONG:
        answer = await get(pairs)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "VALIDATION_INVALID_SCHEMA"), (pairs, answer.text)
        assert len(error["details"]["invalidFilters"]) == 1, (pairs, error)
    several = await get([("nope", "eq.1"), ("id", "foo.1"), ("name", "x"), ("orders.id", "eq.1")])
    assert len(several.json()["error"]["details"]["invalidFilters"]) == 4


async def test_wrong_requests_say_so(get: Any) -> None:
    cases = [
        ([("select", "nope")], "VALIDATION_COLUMN_NOT_FOUND"),
        ([("order", "nope")], "VALIDATION_COLUMN_NOT_FOUND"),
        ([("select", "id,,name")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "id::regclass")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "id::int; drop table items")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "tags::int")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "name::int")], "VALIDATION_INVALID_INPUT"),
        ([("select", "a:id,a:name")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "name.sum()")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "raw,count()")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "id.pg_sleep()")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "ok,count()"), ("order", "id")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "a" * 64 + ":id")], "VALIDATION_INVALID_SCHEMA"),
        ([("select", "orders(*)")], "VALIDATION_INVALID_SCHEMA"),
        ([("order", "id.up")], "VALIDATION_INVALID_SCHEMA"),
        ([("order", "raw")], "VALIDATION_INVALID_TYPE"),
        ([("limit", "x")], "VALIDATION_INVALID_SCHEMA"),
        ([("offset", "-1")], "VALIDATION_INVALID_SCHEMA"),
        ([("limit", "1"), ("limit", "2")], "VALIDATION_INVALID_SCHEMA"),
        ([("on_conflict", "id")], "VALIDATION_INVALID_SCHEMA"),
        ([("id", "eq.x")], "VALIDATION_INVALID_INPUT"),
        ([("id", "in.(1,x)")], "VALIDATION_INVALID_INPUT"),
        ([("id", "eq(any).x")], "VALIDATION_INVALID_INPUT"),
        ([("or", "(id.eq.x)")], "VALIDATION_INVALID_INPUT"),
        ([("doc->a", "eq.{")], "VALIDATION_INVALID_INPUT"),
        ([("name", "match.(")], "VALIDATION_INVALID_INPUT"),
        ([("span", "ov.x")], "VALIDATION_INVALID_INPUT"),
        ([("name", "fts(klingon).x")], "VALIDATION_INVALID_SCHEMA"),
        ([("cursor", "x")], "VALIDATION_INVALID_INPUT"),
    ]
    for pairs, expected in cases:
        answer = await get(pairs)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, expected), (pairs, answer.text)
