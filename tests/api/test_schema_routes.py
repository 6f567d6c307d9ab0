"""The schema over HTTP: the same actions as the tool's, without questions."""

from __future__ import annotations

import httpx

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client, make_owner

TABLE = {"columns": {"id": {"type": "uuid", "primaryKey": True}, "title": {"type": "text"}}}


async def test_apply_get_and_list(http: httpx.AsyncClient, app: App) -> None:
    base = f"/v1/{app.id}"
    shown = await http.post(
        f"{base}/schema/apply", json={"schema": {"tables": {"todos": TABLE}}, "dry_run": True, "name": "x"}
    )
    assert shown.status_code == 200
    assert shown.json()["dry_run"] is True
    assert shown.json()["statements"][0].keys() == {"sql", "description", "destructive"}
    done = await http.post(f"{base}/schema/apply", json={"schema": {"tables": {"todos": TABLE}}, "name": "first"})
    assert done.status_code == 200
    assert done.json()["applied"] == 1
    again = await http.post(f"{base}/schema/apply", json={"schema": {"tables": {"todos": TABLE}}, "dry_run": False})
    assert again.json()["message"] == "Schema is up to date"
    found = (await http.get(f"{base}/schema")).json()
    assert found["schema"] == {"tables": {"todos": TABLE}}
    assert found["_meta"]["resource_info"] == {"table_count": 1, "tables": ["todos"]}
    listed = (await http.get(f"{base}/migrations")).json()
    assert [m["description"] for m in listed["migrations"]] == ["first"]
    assert listed["migrations"][0].keys() == {"id", "description", "applied_sql", "applied_at"}
    assert listed["template_migrations"][0].keys() == {"id", "filename", "applied_at"}


async def test_a_program_is_not_asked_before_a_drop(http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await http.post(f"/v1/{app.id}/schema/apply", json={"schema": {"tables": {"todos": TABLE}}})
    async with deps.pools.owner(app) as conn:
        await conn.execute("insert into todos values (gen_random_uuid(), 'x')")
    done = await http.post(f"/v1/{app.id}/schema/apply", json={"schema": {"_drop": ["todos"]}})
    assert (done.status_code, done.json()["applied"]) == (200, 1)
    assert (await http.get(f"/v1/{app.id}/schema")).json()["schema"] == {"tables": {}}


async def test_statuses_of_refusals(http: httpx.AsyncClient, app: App) -> None:
    url = f"/v1/{app.id}/schema/apply"
    wrong = await http.post(url, json={"schema": {"tables": {"t": {"columns": {"a": {"type": "nope"}}}}}})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
    for preview in ("false", 0, None):
        unsure = await http.post(url, json={"schema": {}, "dry_run": preview})
        assert unsure.status_code == 400
    missing = await http.post(url, json={})
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, "VALIDATION_MISSING_FIELD")
    await http.post(url, json={"schema": {"tables": {"t": {"columns": {"a": {"type": "text"}}}}}})
    blocked = await http.post(url, json={"schema": {"tables": {"t": {"columns": {"a": {"type": "int"}}}}}})
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (409, "STATE_PREREQUISITE_MISSING")
    assert isinstance(blocked.json()["error"]["details"], list)


async def test_nobody_else_gets_in(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    _, key = await make_owner(deps)
    async with http_client(deps, key) as stranger:
        for client, status in ((anon_http, 401), (stranger, 404)):
            assert (await client.get(f"/v1/{app.id}/schema")).status_code == status
            assert (await client.get(f"/v1/{app.id}/migrations")).status_code == status
            posted = await client.post(f"/v1/{app.id}/schema/apply", json={"schema": {"_drop": ["todos"]}})
            assert posted.status_code == status
