"""The HTTP routes of row-level security: as the published SDK and command line call them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client, make_owner


@pytest.fixture
async def base(deps: Deps, app: App) -> str:
    async with deps.pools.owner(app) as conn:
        await conn.execute("create table notes (id int, user_id uuid, published boolean)")
        await conn.execute("create table policies (id int)")
    await deps.catalog.changed(app)
    return f"/v1/{app.id}/rls"


async def test_from_isolation_to_off(base: str, http: httpx.AsyncClient) -> None:
    made = await http.post(
        base, json={"table_name": "notes", "user_column": "user_id", "public_read_column": "published"}
    )
    assert (made.status_code, made.json()["policy_name"]) == (200, "notes_user_isolation")
    listed = (await http.get(base)).json()
    # The SDK maps over the body itself.
    assert isinstance(listed, list)
    assert {row["policyname"] for row in listed} == {
        "notes_user_isolation",
        "notes_service_bypass",
        "notes_public_read_user",
        "notes_public_read_anon",
    }
    gone = await http.delete(f"{base}/notes/notes_user_isolation")
    assert (gone.status_code, gone.json()["remaining_policies"]) == (200, 3)
    # A program with a key does as it is told: nothing is asked.
    off = await http.delete(f"{base}/notes")
    assert (off.status_code, off.json()["policies_removed"]) == (200, 3)
    assert (await http.get(base)).json() == []
    assert (await http.delete(f"{base}/notes")).status_code == 404


async def test_policies(base: str, http: httpx.AsyncClient) -> None:
    enabled = await http.post(f"{base}/enable", json={"table_name": "notes"})
    assert enabled.json()["rls_enabled"] is True
    policy: dict[str, Any] = {"table_name": "notes", "policy_name": "p", "command": "SELECT", "role": None}
    made = await http.post(f"{base}/policies", json={**policy, "using_expression": "published"})
    assert made.json() == {"success": True, "policy_name": "p", "table": "notes"}
    body = {"table_name": "notes", "using_expression": "id = 1"}
    for extra in ({}, {"policy_name": "p"}):
        assert (await http.patch(f"{base}/policies/p", json={**body, **extra})).status_code == 200
    (row,) = [r for r in (await http.get(base)).json() if r["policyname"] == "p"]
    assert (row["cmd"], row["qual"], row["roles"]) == ("ALL", "(id = 1)", ["public"])
    other = await http.patch(f"{base}/policies/p", json={**body, "policy_name": "q"})
    assert (other.status_code, other.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
    missing = await http.patch(f"{base}/policies/q", json=body)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")


async def test_a_table_may_be_named_like_a_route(base: str, http: httpx.AsyncClient) -> None:
    body = {"table_name": "policies", "policy_name": "p", "using_expression": "id = 1"}
    assert (await http.post(f"{base}/policies", json=body)).status_code == 200
    assert (await http.delete(f"{base}/policies/p")).json()["table"] == "policies"
    assert (await http.delete(f"{base}/policies")).json()["policies_removed"] == 1


async def test_errors_keep_their_status(base: str, http: httpx.AsyncClient) -> None:
    body = {"table_name": "notes", "policy_name": "p", "using_expression": "user_id = current_user_id()"}
    refused = await http.post(f"{base}/policies", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "RLS_TYPE_MISMATCH")
    reserved = await http.post(f"{base}/enable", json={"table_name": "_x"})
    assert (reserved.status_code, reserved.json()["error"]["code"]) == (400, "VALIDATION_RESERVED_TABLE")


async def test_only_the_apps_owner_gets_in(deps: Deps, base: str, anon_http: httpx.AsyncClient) -> None:
    assert (await anon_http.get(base)).status_code == 401
    assert (await anon_http.post(f"{base}/enable", json={"table_name": "notes"})).status_code == 401
    _, key = await make_owner(deps)
    async with http_client(deps, key) as stranger:
        assert (await stranger.get(base)).status_code == 404
        assert (await stranger.delete(f"{base}/notes")).status_code == 404
