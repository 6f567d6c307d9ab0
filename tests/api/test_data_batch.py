"""Several writes in one transaction: all or nothing, as the caller."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from brolly.deps import Deps
from brolly.registry import App

ALICE = "aaaaaaaa-0000-4000-8000-00000000000a"
WRONG = "VALIDATION_INVALID_SCHEMA"
SETUP = """
create table orders (id bigint generated always as identity primary key, who text, doc jsonb);
create table lines (id int generated always as identity primary key, order_id bigint not null references orders,
    sku text, n int check (n > 0));
create table stock (sku text primary key, left_over int check (left_over >= 0));
insert into stock values ('a', 5), ('b', 1);
"""


@pytest.fixture
async def url(deps: Deps, app: App) -> str:
    async with deps.pools.owner(app) as conn:
        await conn.execute(SETUP)
    await deps.catalog.changed(app)
    return f"/v1/{app.id}/batch"


async def state(deps: Deps, app: App) -> tuple[int, int, list[Any]]:
    """How many orders and lines there are, and what is in stock."""
    async with deps.pools.owner(app) as conn:
        stock = await conn.fetch("select sku, left_over from stock order by sku")
        counts = [await conn.fetchval(f"select count(*) from {t}") for t in ("orders", "lines")]
    return counts[0], counts[1], [tuple(row) for row in stock]


def order(*more: Any) -> dict[str, Any]:
    steps: list[Any] = [
        {"name": "order", "op": "insert", "table": "orders",
         "values": {"who": "ann", "doc": {"$value": {"$ref": "x"}}}},
        {"name": "lines", "op": "insert", "table": "lines", "select": "id,order_id",
         "values": [{"order_id": {"$ref": "order.id"}, "sku": s, "n": 1} for s in "ab"]},
        {"op": "update", "table": "stock", "values": {"left_over": 4}, "filters": {"sku": "eq.a"}, "expect": 1},
    ]  # fmt: skip
    return {"steps": [*steps, *more]}


async def test_later_steps_use_what_earlier_ones_stored(
    deps: Deps, app: App, url: str, http: httpx.AsyncClient
) -> None:
    more = [
        {"op": "upsert", "table": "stock", "values": {"sku": "c", "left_over": 9}, "returning": False},
        {"op": "delete", "table": "lines", "filters": {"id": {"eq": {"$ref": "lines.1.id"}}}},
    ]
    answer = await http.post(url, json=order(*more))
    assert answer.status_code == 200, answer.text
    first, second, third, fourth, fifth = answer.json()["results"]
    assert first["rows"] == [{"id": "1", "who": "ann", "doc": {"$ref": "x"}}]
    assert second == {"name": "lines", "op": "insert", "table": "lines", "count": 2,
                      "rows": [{"id": 1, "order_id": "1"}, {"id": 2, "order_id": "1"}]}  # fmt: skip
    assert third["rows"] == [{"sku": "a", "left_over": 4}]
    assert fourth == {"op": "upsert", "table": "stock", "count": 1}
    assert fifth["count"] == 1
    assert await state(deps, app) == (1, 1, [("a", 4), ("b", 1), ("c", 9)])


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ({"op": "update", "table": "stock", "values": {"left_over": -1}, "filters": {"sku": "eq.b"}},
         "VALIDATION_CHECK_CONSTRAINT_VIOLATION"),
        ({"op": "insert", "table": "lines", "values": {"order_id": 99, "sku": "a", "n": 1}},
         "VALIDATION_FOREIGN_KEY_VIOLATION"),
        ({"op": "insert", "table": "lines", "values": {"order_id": "x"}}, "VALIDATION_INVALID_INPUT"),
        ({"op": "delete", "table": "stock"}, WRONG),
        ({"op": "delete", "table": "stock", "filters": {"sku": ""}}, WRONG),
        ({"op": "delete", "table": "stock", "filters": {"sku": "eq.a", "limit": "1"}}, WRONG),
        ({"op": "delete", "table": "stock", "filters": {"sku": {"eq": {"$ref": "nope.id"}}}}, WRONG),
        ({"op": "delete", "table": "stock", "filters": {"sku": ["eq.a"]}}, WRONG),
        ({"op": "delete", "table": "stock", "filters": {"sku": {"eq": None}}}, WRONG),
        ({"op": "delete", "table": "stock", "filters": {"sku": "eq.z"}, "expect": 1}, "RESOURCE_CONFLICT"),
        ({"op": "insert", "table": "lines", "values": {"order_id": {"$ref": "order.5.id"}}}, WRONG),
        ({"op": "insert", "table": "lines", "values": {"order_id": {"$ref": {"a": 1}}}}, WRONG),
        ({"op": "insert", "table": "lines"}, WRONG),
        ({"op": "update", "table": "lines", "values": []}, WRONG),
        ({"op": "insert", "table": "nope", "values": {}}, "VALIDATION_TABLE_NOT_FOUND"),
        ({"op": "insert", "table": "orders", "values": {"id": 5}}, WRONG),
    ],
)  # fmt: skip
async def test_one_step_that_fails_undoes_all(
    deps: Deps, app: App, url: str, http: httpx.AsyncClient, step: dict[str, Any], code: str
) -> None:
    answer = await http.post(url, json=order({**step, "name": "last"}))
    error = answer.json()["error"]
    assert (error["code"], error["details"]["step"]) == (code, "last"), error
    assert await state(deps, app) == (0, 0, [("a", 5), ("b", 1)])


async def test_a_batch_is_bounded_and_read_strictly(url: str, http: httpx.AsyncClient) -> None:
    one = {"op": "insert", "table": "orders", "values": {"who": "x"}}
    for body in (
        {}, [], "x", {"steps": []}, {"steps": [one] * 51}, {"steps": [{**one, "values": [{"who": "x"}] * 1001}]},
        {"steps": [{**one, "op": "select"}]}, {"steps": [{**one, "tabel": "x"}]}, {"steps": [{**one, "name": "a b"}]},
        {"steps": [{**one, "name": "a"}, {**one, "name": "a"}]}, {"steps": [one], "more": 1}, {"steps": [None]},
    ):  # fmt: skip
        answer = await http.post(url, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, WRONG), body


async def test_policies_hold_in_every_step(deps: Deps, app: App, url: str, http: httpx.AsyncClient) -> None:
    rls = f"/v1/{app.id}/rls"
    await http.post(f"{rls}/enable", json={"table_name": "stock"})
    alice = {"X-Butterbase-As-Role": "user", "X-Butterbase-As-User": ALICE}
    add = {"op": "insert", "table": "orders", "values": {"who": "alice"}}
    hidden = await http.post(url, json=order(), headers=alice)
    assert (hidden.status_code, hidden.json()["error"]["code"]) == (409, "RESOURCE_CONFLICT")
    stock = {"op": "insert", "table": "stock", "values": {"sku": "z", "left_over": 1}}
    refused = await http.post(url, json={"steps": [add, stock]}, headers=alice)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AUTH_RLS_POLICY_VIOLATION")
    closed = await http.post(url, json={"steps": [add]}, headers={"X-Butterbase-As-Role": "anon"})
    assert closed.status_code == 403
    async with deps.pools.owner(app) as conn:
        assert await conn.fetchval("select count(*) from orders") == 0
    assert (await http.post(url, json={"steps": [add]}, headers=alice)).status_code == 200
