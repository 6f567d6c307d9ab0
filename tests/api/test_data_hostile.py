"""What nobody should send: never a 500, never more than was asked for, and the tables are as before."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest

from brolly.data.grammar import OPERATORS
from brolly.deps import Deps
from brolly.registry import App

SETUP = """
create table parents (id int primary key, name text);
create table every (id int primary key, parent_id int references parents, t text, v varchar(5), c char(3), i int,
    b bigint,
    n numeric(8,2), f float8, o boolean, u uuid, d date, z timestamptz, w interval, j jsonb, k json, a text[], x int[],
    r int4range, s tsvector, y bytea, p inet, e vector(3));
insert into parents values (1, 'p');
insert into every (id, parent_id, t, i, j, a) values (1, 1, 'x', 1, '{"a": [1]}', '{x}');
insert into every (id) values (2);
"""
VALUES = (
    "", "1", "-1", "x", "null", "{1,2}", "{", "(1,2)", "(", "[1,2)", '{"a":1}', '"', "'", "\\", "1e999", "NaN", "%",
    "2026-01-01", "9" * 50, "x" * 3000, "'; drop table every; --", "$1", "é☃", "a & | !", "(((", "[[:foo:]]", "::1",
    "aaaaaaaa-0000-4000-8000-00000000000a", "true", "{{1},{2}}", '{"\\u0000":1}', "infinity", "1 day", "[1,2,3]",
)  # fmt: skip
COLUMNS = [
    *("id", "t", "v", "c", "i", "b", "n", "f", "o", "u", "d", "z", "w", "j", "k", "a", "x", "r", "s", "y", "p", "e"),
    *("j->a", "j->>a", "j->a->0", "k->a", "k->>a", "t->a", "parent_id"),
]


@pytest.fixture
async def base(deps: Deps, app: App) -> str:
    async with deps.pools.owner(app) as conn:
        await conn.execute(SETUP)
    await deps.catalog.changed(app)
    return f"/v1/{app.id}/every"


@pytest.fixture
async def untouched(deps: Deps, app: App, base: str) -> Any:
    """After the test the tables hold what they held before."""
    yield None
    async with deps.pools.owner(app) as conn:
        assert await conn.fetchval("select array_agg(id order by id) from every") == [1, 2]
        assert await conn.fetchval("select count(*) from parents") == 1


def refused_or_read(answer: httpx.Response, asked: Any) -> None:
    assert answer.status_code in (200, 206, 400), (asked, answer.status_code, answer.text)
    if answer.status_code == 400:
        assert answer.json()["error"]["code"].startswith("VALIDATION_"), (asked, answer.text)


async def test_every_operator_with_every_type(base: str, http: httpx.AsyncClient, untouched: Any) -> None:
    chance = random.Random(4)
    for operator in OPERATORS:
        for column in COLUMNS:
            value = chance.choice(VALUES)
            modifier = chance.choice(["", "", "(any)", "(all)", "(english)", "(x)"])
            pair = {column: f"{chance.choice(['', 'not.'])}{operator}{modifier}.{value}"}
            refused_or_read(await http.get(base, params=pair), pair)


async def test_every_value_in_every_place(base: str, http: httpx.AsyncClient, untouched: Any) -> None:
    for value in VALUES:
        places: list[dict[str, str]] = [
            {"select": value},
            {"select": f"id,{value}"},
            {"select": f"{value}:id"},
            {"select": f"id::{value}"},
            {"select": f"parents({value})"},
            {"select": f"parents!{value}(id)"},
            {"select": f"j->{value}"},
            {"order": value},
            {"order": f"id.{value}"},
            {"or": value},
            {"or": f"(id.eq.{value},t.{value}.x)"},
            {value: "eq.1"},
            {"limit": value},
            {"offset": value},
            {"cursor": value},
            {"select": "id,parents(id)", f"parents.{value}": "eq.1"},
            {"columns": value},
            {"on_conflict": value},
        ]
        for params in places:
            refused_or_read(await http.get(base, params=params), params)
        for headers in ({"Range": value}, {"Prefer": value}, {"Accept": value}, {"If-None-Match": value}):
            sent = [(name.encode(), text.encode()) for name, text in headers.items()]
            refused_or_read(await http.get(base, headers=sent), headers)


async def test_ids_and_names_of_every_kind(base: str, http: httpx.AsyncClient, untouched: Any) -> None:
    from urllib.parse import quote

    for value in (*VALUES, "\0", "\ud800"):
        path = quote(value, safe="", errors="surrogatepass")
        for method in ("GET", "DELETE", "PATCH"):
            body = None if method != "PATCH" else {"t": "y"}
            answer = await http.request(method, f"{base}/{path}", json=body)
            if value in ("1", "") and method != "GET":
                await http.post(base, json={"id": 1}) if answer.json() == {"deleted": True} else None
                continue
            assert answer.status_code in (200, 400, 404), (method, value, answer.text)
        other = await http.get(f"{base.rsplit('/', 1)[0]}/{path}")
        assert other.status_code in (400, 404), (value, other.text)


async def test_values_of_every_kind_to_store(base: str, http: httpx.AsyncClient) -> None:
    chance = random.Random(7)
    kinds: list[Any] = [
        *VALUES,
        1,
        -1,
        1.5,
        10**30,
        True,
        None,
        [],
        {},
        [1, "x", None],
        {"a": {"b": []}},
        [[1], [2, 3]],
    ]
    for column in COLUMNS[1:22]:
        for value in chance.sample(kinds, 14):
            for answer in (
                await http.post(base, json={"id": 50, column: value}),
                await http.patch(f"{base}?id=gte.50", json={column: value}),
            ):
                assert answer.status_code in (200, 201, 400), (column, value, answer.text)
            await http.delete(f"{base}/50")


async def test_bodies_of_every_kind(base: str, http: httpx.AsyncClient, untouched: Any) -> None:
    deep = b'{"j":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bodies = (
        b"{", b"[", b"null", b"1", b'"x"', b"[null]", b"[[]]", b"\xff\xfe", b'{"id":1e999}', b'{"id":NaN}',
        b'{"id":' + b"9" * 5000 + b"}",
        b'{"t":"\\u0000"}', b'{"t":"\\ud800"}', b'{"":1}', b'{"id":1,"id":2,"nope":1}', deep, b'[{"id":90},{"id":"x"}]',
        b'{"j":' + b"[" * 8000 + b"]" * 8000 + b"}", b'{"__proto__":1}',
    )  # fmt: skip
    for body in bodies:
        for method, query in (("POST", ""), ("PATCH", "?id=eq.77")):
            answer = await http.request(
                method, base + query, content=body, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 400, (method, body[:60], answer.text[:300])
            as_csv = await http.request(method, base + query, content=body, headers={"Content-Type": "text/csv"})
            assert as_csv.status_code == 400, (body[:60], as_csv.text[:300])
    huge = json.dumps([{"id": n, "t": "x" * 1000} for n in range(10_000)]).encode()
    answer = await http.post(base, content=huge)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")


async def test_a_page_does_not_outgrow_its_limit(
    base: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brolly.data.reading.MAX_BYTES", 5000)
    quiet = {"Prefer": "return=minimal"}
    await http.post(base, json=[{"id": n, "t": "x" * 1500} for n in range(10, 20)], headers=quiet)
    found: list[int] = []
    link = f"{base}?select=id,t&id=gte.9"
    while link:
        answer = await http.get(link)
        assert answer.json()
        found += [row["id"] for row in answer.json()]
        link = answer.headers.get("link", "").removeprefix("<").partition(">")[0]
    assert found == list(range(10, 20))
    await http.post(base, json={"id": 9, "t": "y" * 9000}, headers=quiet)
    for path in (f"{base}?id=gte.9", f"{base}/9"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")
    assert (await http.get(f"{base}/9?select=id")).json() == {"id": 9}
