"""What one request may make the database hold, and what it may keep it busy with."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.data.query_string import parse_query
from brolly.data.visit import visit
from brolly.data.writing import create
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client

SETUP = """
create table authors (id int primary key, name text);
create table posts (id int primary key, author_id int references authors);
insert into authors values (1, 'Ann');
insert into posts select n, 1 from generate_series(1, 150) n;
"""
DEEP = "id,p:posts(id,a:authors(q:posts(id)))"


@pytest.fixture
async def base(deps: Deps, app: App) -> str:
    async with deps.pools.owner(app) as conn:
        await conn.execute(SETUP)
    await deps.catalog.changed(app)
    return f"/v1/{app.id}"


async def sizes(http: httpx.AsyncClient, base: str, **params: str) -> tuple[int, int]:
    named = {name.replace("__", "."): value for name, value in params.items()}
    answer = await http.get(f"{base}/authors", params={"select": DEEP, **named})
    assert answer.status_code == 200, answer.text
    posts: list[Any] = answer.json()[0]["p"]
    return len(posts), max((len(post["a"]["q"]) for post in posts), default=0)


async def test_arrays_inside_arrays_stay_small(base: str, http: httpx.AsyncClient) -> None:
    one = await http.get(f"{base}/authors?select=posts(id)")
    assert len(one.json()[0]["posts"]) == 150
    assert "x-embedded-limits" not in one.headers
    deep = await http.get(f"{base}/authors/1?select={DEEP}")
    assert deep.headers["x-embedded-limits"] == "p.a.q=100"
    assert "x-embedded-limits" not in (await http.get(f"{base}/authors?select={DEEP}&p.a.q.limit=5")).headers
    assert await sizes(http, base) == (150, 10)
    assert await sizes(http, base, limit="1") == (150, 100)
    assert await sizes(http, base, limit="1", p__limit="20") == (20, 100)
    assert await sizes(http, base, limit="1", p__limit="20", p__a__q__limit="1000") == (20, 150)
    assert await sizes(http, base, limit="1", p__a__q__limit="1000") == (100, 150)
    assert await sizes(http, base, p__limit="0", p__a__q__limit="1000") == (0, 0)


@pytest.mark.parametrize("page", [{"limit": "1"}, {}])
async def test_limits_that_multiply_too_far_are_refused(
    base: str, http: httpx.AsyncClient, page: dict[str, str]
) -> None:
    largest = 100 if page else 10
    asked = {**page, "select": DEEP, "p.limit": "1000", "p.a.q.limit": str(largest + 1)}
    answer = await http.get(f"{base}/authors", params=asked)
    assert answer.status_code == 400
    assert f"p.a.q.limit is at most {largest} here" in answer.json()["error"]["message"]
    fits = await http.get(f"{base}/authors", params={**asked, "p.a.q.limit": str(largest)})
    assert len(fits.json()[0]["p"][0]["a"]["q"]) == largest


async def test_arrays_are_counted(base: str, http: httpx.AsyncClient) -> None:
    for count, status in ((10, 200), (11, 400)):
        select = ",".join(f"p{n}:posts(id)" for n in range(count))
        assert (await http.get(f"{base}/authors", params={"select": select})).status_code == status


async def test_a_body_is_not_read_for_who_may_not_store(base: str, deps: Deps, http: httpx.AsyncClient) -> None:
    missing = await http.post(f"{base}/missing?columns=a", content=b"[no json")
    assert missing.json()["error"]["code"] == "VALIDATION_TABLE_NOT_FOUND"
    async with http_client(deps) as anonymous:
        closed = await anonymous.post(f"{base}/authors", content=b"[no json")
    assert closed.status_code in (401, 403), closed.text


@pytest.mark.parametrize("kind", ["application/json", "text/csv"])
async def test_rows_to_store_are_counted(base: str, http: httpx.AsyncClient, kind: str) -> None:
    for count, status in ((5000, 201), (5001, 413)):
        ids = range(count * 10, count * 11)
        lines = "id\n" + "\n".join(map(str, ids))
        body = lines if kind == "text/csv" else json.dumps([{"id": n} for n in ids])
        answer = await http.post(f"{base}/authors?columns=id", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, answer.text[:300]
    assert answer.json()["error"]["code"] == "REQUEST_TOO_LARGE"


async def test_errors_repeat_few_names(base: str, http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{base}/authors", json={f"{n}{'é' * 500}": 1 for n in range(1000)})
    error = answer.json()["error"]
    assert (answer.status_code, len(error["details"]["unknown"])) == (400, 20)
    assert len(answer.content) < 20_000
    wrong = await http.get(f"{base}/authors", params=[(f"x{n}", "nothing") for n in range(200)])
    assert (wrong.status_code, len(wrong.json()["error"]["details"]["invalidFilters"])) == (400, 20)


async def test_caches_tell_users_apart(base: str, http: httpx.AsyncClient) -> None:
    for path in ("authors", "authors/1"):
        assert "X-Butterbase-As-User" in (await http.get(f"{base}/{path}")).headers["vary"]


async def test_a_name_has_few_parts(base: str, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{base}/authors", params={".".join("a" * 6): "eq.1"})
    assert answer.status_code == 400
    assert "at most 5 parts" in answer.json()["error"]["message"]


async def count(deps: Deps, app: App) -> int:
    async with deps.pools.owner(app) as conn:
        return await conn.fetchval("select count(*) from authors")


async def test_answers_of_writes_are_bounded(
    base: str, deps: Deps, app: App, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brolly.data.reading.MAX_BYTES", 5000)
    long = [{"id": n, "name": "x" * 1000} for n in range(10, 16)]
    short = [{"id": n, "name": "x"} for n in range(10, 16)]
    for rows in (long, [{"id": 20}, *long]):
        answer = await http.post(f"{base}/authors", json=rows)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")
    assert await count(deps, app) == 1
    assert (await http.post(f"{base}/authors", json=short)).status_code == 201
    quiet = {"Prefer": "return=minimal"}
    more = [{"id": n, "name": "x" * 1000} for n in range(20, 26)]
    assert (await http.post(f"{base}/authors", json=more, headers=quiet)).status_code == 201
    shown = {"Prefer": "return=representation"}
    for method, body in (("PATCH", {"name": "y" * 1000}), ("DELETE", None)):
        answer = await http.request(method, f"{base}/authors?id=gte.10", json=body, headers=shown)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")
    assert await count(deps, app) == 13
    assert (await http.get(f"{base}/authors?name=like.y*")).json() == []


async def test_answers_of_batches_are_bounded(
    base: str, deps: Deps, app: App, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brolly.data.reading.MAX_BYTES", 5000)
    steps: list[dict[str, Any]] = [
        {"op": "insert", "table": "authors", "values": {"id": n, "name": "x" * 1500}} for n in (2, 3, 4, 5)
    ]
    answer = await http.post(f"{base}/batch", json={"steps": steps})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")
    again = {"op": "insert", "table": "authors", "returning": False}
    again["values"] = [{"id": n, "name": {"$ref": "a.name"}} for n in range(10, 14)]
    answer = await http.post(f"{base}/batch", json={"steps": [{**steps[0], "name": "a"}, again]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")
    assert await count(deps, app) == 1


async def test_a_batch_ends_in_time(
    base: str, deps: Deps, app: App, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with deps.pools.owner(app) as conn:
        await conn.execute(
            "create function slow() returns trigger language plpgsql as "
            "$$begin if new.id = 3 then perform pg_sleep(3); end if; return new; end$$; "
            "create trigger slow before insert on authors for each row execute function slow()"
        )
    monkeypatch.setattr("brolly.data.batch.MAX_SECONDS", 1.0)
    steps = [{"op": "insert", "table": "authors", "values": {"id": n}} for n in (2, 3)]
    answer = await http.post(f"{base}/batch", json={"steps": steps})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "DATABASE_TIMEOUT")
    assert await count(deps, app) == 1
    assert (await http.post(f"{base}/authors", json={"id": 2})).status_code == 201


async def test_a_broken_rule_tells_end_users_no_definition(
    base: str, deps: Deps, app: App, http: httpx.AsyncClient
) -> None:
    async with deps.pools.owner(app) as conn:
        await conn.execute(
            "create table ruled (id int primary key, secret text not null default 'x', price int check (price > 77), "
            "author_id int references authors)"
        )
    await deps.catalog.changed(app)
    rows = [{"id": 1, "price": 1}, {"id": 1, "secret": None}, {"id": 1, "author_id": 9}]
    at = await visit(deps, Caller("user", user_id="u", claims={"app_id": app.id}), app.id, None, None)
    asked = parse_query("ruled", [])
    for row in rows:
        with pytest.raises(AppError) as caught:
            await create(at, asked, [row])
        said = f"{caught.value.message} {caught.value.remediation} {caught.value.details}"
        assert caught.value.code.endswith("_VIOLATION")
        assert not any(word in said for word in ("77", "required", "references", "authors", "manage_schema"))
        told = await http.post(f"{base}/ruled", json=row)
        assert any(word in told.text for word in ("77", "required", "references"))
