"""Pages by cursor: every row once, whatever the order holds and whoever writes meanwhile."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from brolly.deps import Deps
from brolly.registry import App

SETUP = """
create table events (a int, b int, name text, score float8, at timestamptz, doc jsonb, price numeric,
    primary key (a, b));
insert into events select n / 5, n % 5, case when n % 3 = 0 then null else 'n"' || n % 4 end,
    case when n % 7 = 0 then null else n / 3.0 end, timestamptz '2026-01-01 00:00:00.123456+00' + n * interval '1 us',
    jsonb_build_object('k', n % 3), n / 7.0 from generate_series(0, 39) n;
create table loose (n int);
insert into loose select generate_series(1, 5);
"""
ORDERS = (
    "", "a.desc", "a.desc,b.desc", "name", "name.desc", "name.nullsfirst,score.desc.nullslast", "score.desc",
    "at.desc", "doc->k,name", "doc->>k.desc", "price", "b,a.desc", "name.desc.nullslast,a",
)  # fmt: skip


@pytest.fixture
async def base(deps: Deps, app: App) -> str:
    async with deps.pools.owner(app) as conn:
        await conn.execute(SETUP)
    await deps.catalog.changed(app)
    return f"/v1/{app.id}"


async def pages(http: httpx.AsyncClient, url: str, **params: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Every page, by the cursor that the one before gave."""
    while True:
        answer = await http.get(url, params=params)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        if "x-next-cursor" not in answer.headers:
            return
        params["cursor"] = answer.headers["x-next-cursor"]


@pytest.mark.parametrize("order", ORDERS)
async def test_every_row_comes_once_and_in_order(base: str, http: httpx.AsyncClient, order: str) -> None:
    whole = [(r["a"], r["b"]) for r in (await http.get(f"{base}/events", params={"order": order})).json()]
    found = [p async for p in pages(http, f"{base}/events", order=order, limit="7", select="a,b")]
    assert [len(page) for page in found] == [7, 7, 7, 7, 7, 5]
    assert [(r["a"], r["b"]) for page in found for r in page] == whole


async def test_the_link_leads_on(base: str, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{base}/events?select=a,b&order=name.desc,a&limit=30&score=not.is.null")
    link = answer.headers["link"]
    assert link.endswith('>; rel="next"')
    following = await http.get(link[1 : link.index(">")])
    assert len(answer.json()) + len(following.json()) == 34
    assert "link" not in following.headers


async def test_rows_stored_meanwhile_shift_nothing(base: str, http: httpx.AsyncClient) -> None:
    seen: list[Any] = []
    async for page in pages(http, f"{base}/events", order="a,b", limit="10"):
        seen += [(r["a"], r["b"]) for r in page]
        await http.post(f"{base}/events", json={"a": -len(seen), "b": 0})
        await http.delete(f"{base}/events?a=eq.{page[0]['a']}&b=eq.{page[0]['b']}")
    assert seen == [(n // 5, n % 5) for n in range(40)]


def forged(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def test_a_cursor_that_is_not_ours(base: str, http: httpx.AsyncClient) -> None:
    real = (await http.get(f"{base}/events?limit=1&order=score")).headers["x-next-cursor"]
    form, *_ = json.loads(base64.urlsafe_b64decode(real + "=="))
    for cursor in (
        "x", "%00", "é", "a" * 9000, forged([]), forged({}), forged(1), forged([form]), forged([form, "1", "1"]),
        forged([form, "x", "1", "1"]), forged([form, "1", "1", "1; drop table events"]), forged([form, 1, 2, 3]),
        forged([form, "\x00", "1", "1"]), forged([form, ["1"], "1", "1"]), forged(["0" * 16, "1", "1", "1"]),
        "W1tb" * 1900,
    ):  # fmt: skip
        answer = await http.get(f"{base}/events", params={"order": "score", "cursor": cursor})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_INPUT"), cursor
    other = await http.get(f"{base}/events", params={"order": "score.desc", "cursor": real})
    assert other.status_code == 400
    both = await http.get(f"{base}/events", params={"order": "score", "cursor": real, "offset": "1"})
    assert both.status_code == 400
    loose = await http.get(f"{base}/loose", params={"cursor": real})
    assert loose.json()["error"]["code"] == "VALIDATION_INVALID_SCHEMA"


async def test_an_index_leads_to_the_page(deps: Deps, app: App, base: str) -> None:
    from dataclasses import replace

    from brolly.data import query
    from brolly.data.plan import plan_read
    from brolly.data.query_string import parse_query

    async with deps.pools.owner(app) as conn:
        await conn.execute(
            "create table many (id int primary key, n int not null); create index on many (n, id);"
            "insert into many select k, k % 100 from generate_series(1, 20000) k; analyze many"
        )
        await deps.catalog.changed(app)
        plan = plan_read(parse_query("many", [("order", "n"), ("limit", "10")]).request, await deps.catalog.get(app))
        built = query.page(replace(plan, after=("50", "7000")), 10**6, keys=True, total=False)
        told = "\n".join(r[0] for r in await conn.fetch("explain " + built.text, *built.args))
    assert "Index Cond: (ROW(n, id) > ROW" in told, told


async def test_a_page_of_short_rows_is_the_page_that_is_counted(deps: Deps, app: App, base: str) -> None:
    from dataclasses import replace

    from brolly.data import query
    from brolly.data.plan import plan_read
    from brolly.data.query_string import parse_query

    async with deps.pools.owner(app) as conn:
        await conn.execute(
            "create table uneven (id int primary key, k0 text, at timestamptz, doc json);"
            "insert into uneven select k, case when k % 3 > 0 then repeat('é\"', k) end, now() - k * interval '1 day', "
            "'{\"a\":\n 1}' from generate_series(1, 30) k"
        )
        await deps.catalog.changed(app)
        tables = await deps.catalog.get(app)
        given = set[bool]()
        for order, limit, offset, room in itertools.product(
            ("id.desc", "k0.asc,at.desc"), (0, 1, 7, 29, 30), (0, 4), (150, 2000, 10**6)
        ):
            asked = parse_query("uneven", [("order", order), ("limit", str(limit)), ("offset", str(offset))]).request
            plan = replace(plan_read(asked, tables), stripped=bool(offset))
            short, exact = [
                await conn.fetchrow(made.text, *made.args)
                for form in (query.short_page, query.page)
                for made in (form(plan, room, keys=True, total=True),)
            ]
            given.add(short["body"] is None)
            if short["body"] is None:
                continue
            if short["found"] <= short["shown"]:  # there is no next page that would need it
                short, exact = ({**row, "last": None} for row in (short, exact))
            assert dict(short) == dict(exact), asked
        assert given == {True, False}
