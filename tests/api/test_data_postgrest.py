"""What programs written for PostgREST send and expect, beyond the query language."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from brolly.apps import provision
from brolly.deps import Deps
from tests.conftest import http_client, make_owner

OBJECT = {"Accept": "application/vnd.pgrst.object+json"}
CLIENT = {"X-Client-Info": "postgrest-js/2.109.0"}
SETUP = """
create table writers (id int primary key, name text unique not null);
create table books (id int primary key, writer_id int references writers (id), title text, pages int4range, doc jsonb);
insert into writers values (1, 'Zoe'), (2, 'Al');
insert into books select n, 1 + n % 2, 'Book ' || n || ' 5*', int4range(n, n + 3),
    jsonb_build_object('k-ey', n, 'x', null) from generate_series(1, 6) n;
insert into books values (7, null, 'fat rats', null, null);
"""


@pytest.fixture(scope="module")
async def rest(deps: Deps) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose base is the app."""
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, "postgrest", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    async with deps.pools.owner(app) as connection:
        await connection.execute(SETUP)
    await deps.catalog.changed(app)
    async with http_client(deps, key) as client:
        client.base_url = httpx.URL(f"http://brolly.test/v1/{app_id}/")
        yield client
    await provision.delete(deps, app)


def ids(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()]


async def test_one_row_as_an_object(rest: httpx.AsyncClient) -> None:
    one = await rest.get("books?id=eq.7&select=id,pages", headers=OBJECT)
    assert (one.status_code, one.json()) == (200, {"id": 7, "pages": None})
    assert one.headers["content-type"].startswith("application/vnd.pgrst.object+json")
    bare = await rest.get("books?id=eq.7&select=id,pages", headers={"Accept": f"{OBJECT['Accept']};nulls=stripped"})
    assert bare.json() == {"id": 7}
    rows = await rest.get(
        "books?id=gte.6&select=doc,id", headers={"Accept": "application/vnd.pgrst.array+json;nulls=stripped"}
    )
    assert rows.json() == [{"doc": {"k-ey": 6}, "id": 6}, {"id": 7}]
    for query, count in (("id=eq.99", 0), ("id=lt.3", 2), ("writer_id=eq.1&limit=2", 2)):
        refused = await rest.get(f"books?{query}", headers=OBJECT)
        assert (refused.status_code, refused.json()["code"]) == (406, "PGRST116")
        assert refused.json()["error"]["code"] == "RESULT_NOT_SINGLE"
        assert refused.json()["details"] == f"The result contains {count} rows"
    assert (await rest.get("books?order=id&limit=1", headers=OBJECT)).json()["id"] == 1


async def test_a_write_that_reaches_other_than_one_row_is_undone(rest: httpx.AsyncClient) -> None:
    chosen = {**OBJECT, "Prefer": "return=representation"}
    one = await rest.patch("books?id=eq.7", json={"title": "thin rats"}, headers=chosen)
    assert (one.status_code, one.json()["title"]) == (200, "thin rats")
    for prefer in ("return=representation", "return=minimal"):
        many = await rest.patch("books?id=lt.4", json={"title": "x"}, headers={**OBJECT, "Prefer": prefer})
        assert many.json()["error"]["code"] == "RESULT_NOT_SINGLE"
    few = await rest.delete("books?id=lt.4", headers={"Prefer": "handling=strict, max-affected=2"})
    assert (few.status_code, few.json()["error"]["code"]) == (400, "RESULT_TOO_MANY_AFFECTED")
    assert ids(await rest.get("books?title=like.Book*")) == [1, 2, 3, 4, 5, 6]
    back = await rest.patch("books?id=eq.7", json={"title": "fat rats"}, headers={"Prefer": "max-affected=1"})
    assert back.status_code == 200


async def test_writes_of_its_clients_answer_what_they_ask_for(rest: httpx.AsyncClient) -> None:
    quiet = await rest.post("writers", json={"id": 3, "name": "Cy"}, headers={**CLIENT, "Prefer": "count=exact"})
    assert (quiet.status_code, quiet.content, quiet.headers["content-range"]) == (201, b"", "*/1")
    shown = {**CLIENT, "Prefer": "return=representation"}
    told = await rest.post("writers?select=name", json={"id": 4, "name": "Di"}, headers=shown)
    assert (told.status_code, told.json()) == (201, [{"name": "Di"}])
    quiet = await rest.patch("writers?id=eq.3", json={"name": "Cyd"}, headers=CLIENT)
    assert (quiet.status_code, quiet.content) == (204, b"")
    gone = await rest.delete("writers?id=gte.3", headers={**CLIENT, "Prefer": "count=exact"})
    assert (gone.status_code, gone.content, gone.headers["content-range"]) == (204, b"", "*/2")


@pytest.mark.parametrize("headers", [CLIENT, {"Accept-Profile": "public"}, {"Content-Profile": "public"}])
async def test_its_clients_find_the_error_where_they_look(rest: httpx.AsyncClient, headers: dict[str, str]) -> None:
    taken = await rest.post("writers", json={"id": 1, "name": "Al"}, headers=headers)
    body = taken.json()
    assert (taken.status_code, body["code"]) == (400, "23505")
    assert body["message"] == body["error"]["message"]
    assert body["hint"] == body["error"]["remediation"]
    assert isinstance(body["details"], str)
    seen = {
        "nope": "PGRST205",
        "writers?nope=eq.1": "PGRST100",
        "writers?select=nope": "42703",
        "writers?id=eq.x": "22P02",
    }
    for path, code in seen.items():
        assert (await rest.get(path, headers=headers)).json()["code"] == code, path
    stranger = await rest.get("writers", headers={**headers, "Authorization": "Bearer bb_sk_nothing"})
    assert (stranger.status_code, stranger.json()["message"]) == (401, stranger.json()["error"]["message"])


async def test_clients_that_do_not_say_who_they_are_find_it_too(rest: httpx.AsyncClient) -> None:
    assert (await rest.get("nope")).json()["code"] == "PGRST205"
    assert (await rest.get("nope", headers={"Authorization": "Bearer bb_sk_no"})).json()["message"]
    assert set((await rest.get("schema?x=1")).json()) == {"error"}


async def test_count_alone_counts(rest: httpx.AsyncClient) -> None:
    assert (await rest.get("books?select=count")).json() == [{"count": 7}]
    embedded = await rest.get("writers?select=id,books(count),n:books(number:count::text)&id=eq.1")
    assert embedded.json() == [{"id": 1, "books": [{"count": 3}], "n": [{"number": "3"}]}]
    assert (await rest.get("books?select=id,count")).status_code == 400


async def test_there_is_one_schema(rest: httpx.AsyncClient) -> None:
    assert ids(await rest.get("writers?id=eq.1", headers={"Accept-Profile": "public"})) == [1]
    other = await rest.get("writers", headers={"Accept-Profile": "auth"})
    assert (other.status_code, other.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
    other = await rest.post("writers", json={"id": 9, "name": "x"}, headers={"Content-Profile": "auth"})
    assert other.status_code == 400


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("title=like.Book*", [1, 2, 3, 4, 5, 6]),
        ("title=ilike.*3%20*", [3]),
        (r"title=like.*5\*", [1, 2, 3, 4, 5, 6]),
        (r"title=like.*\*5", []),
        ("title=like(any).{*1*,*2*}", [1, 2]),
        ("pages=sl.[4,9)", [1]),
        ("pages=sr.[1,5)", [5, 6]),
        ("pages=nxr.[1,6)", [1, 2, 3]),
        ("pages=nxl.[5,9)", [5, 6]),
        ("pages=adj.[4,5)", [1, 5]),
        ("title=fts.fat%20%26%20rat", [7]),
        ("title=fts.cat%20|%20rat", [7]),
        ("title=fts.!fat", [1, 2, 3, 4, 5, 6]),
        ("title=fts.(fat%20|%20thin)%20%26%20ra:*", [7]),
        ("title=fts.'fat%20rats'", [7]),
        ("title=fts.fat%20(rats", [7]),
        ("title=not.fts.fat%20rats", [1, 2, 3, 4, 5, 6]),
        ("writer_id=is.not_null&id=gt.5", [6]),
        ("writer_id=not.is.not_null", [7]),
        ("doc->>k-ey=eq.3", [3]),
    ],
)
async def test_its_forms_of_filters(rest: httpx.AsyncClient, query: str, found: list[int]) -> None:
    assert ids(await rest.get(f"books?{query}&order=id")) == found


async def test_order_by_a_related_row_goes_on_by_cursor(rest: httpx.AsyncClient) -> None:
    path = "books?select=id,writers(name)&order=writers(name).desc,id.desc&limit=3"
    first = await rest.get(path)
    second = await rest.get(path, params={"cursor": first.headers["x-next-cursor"]} | dict(httpx.URL(path).params))
    third = await rest.get(path, params={"cursor": second.headers["x-next-cursor"]} | dict(httpx.URL(path).params))
    assert ids(first) + ids(second) + ids(third) == [7, 6, 4, 2, 5, 3, 1]
    for order in ("books(id)", "nope(id)", "writers(nope)", "writers(id"):
        assert (await rest.get(f"writers?select=id,books(id)&order={order}")).status_code == 400


async def test_no_range_but_of_get(rest: httpx.AsyncClient) -> None:
    ranged = {"Range": "0-1"}
    assert (await rest.get("books", headers=ranged)).headers["content-range"] == "0-1/*"
    head = await rest.head("books", headers=ranged)
    assert (head.status_code, head.headers["content-range"]) == (200, "0-6/*")
