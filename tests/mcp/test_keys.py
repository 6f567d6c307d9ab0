"""manage_auth_config generate_service_key and manage_api_keys, by their effect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.core.tokens import hash_key, is_service_key
from brolly.deps import Deps
from brolly.keys.service import caller_of_key
from brolly.registry import App
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session


async def make(mcp: Any, **arguments: Any) -> dict[str, Any]:
    return await mcp("manage_auth_config", action="generate_service_key", **({"name": "made"} | arguments))


async def refusal(mcp: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as failed:
        await mcp(tool, **arguments)
    return failed.value.error


async def caller(deps: Deps, key: str) -> Caller:
    found = await caller_of_key(deps, key)
    assert found is not None
    return found


async def status(deps: Deps, key: str, path: str = "/apps") -> int:
    async with http_client(deps, key) as client:
        return (await client.get(path)).status_code


async def test_a_new_key_works_and_only_its_hash_is_kept(deps: Deps, owner: Caller, mcp: Any) -> None:
    made = await make(mcp, name="deploy")
    assert is_service_key(made["key"])
    assert made["prefix"] == made["key"][:12]
    assert made["key_id"] == made["keyId"] == made["id"]
    assert made["scopes"] == ["*"]
    assert await status(deps, made["key"]) == 200
    row = await deps.control.fetchrow("select * from brolly.api_keys where key_hash = $1", hash_key(made["key"]))
    assert str(row["account_id"]) == owner.account_id
    assert made["key"][12:] not in str(dict(row))


@pytest.mark.parametrize(
    ("arguments", "scopes"),
    [
        ({}, ["*"]),
        ({"key_scope": "account"}, ["*"]),
        ({"additional_scopes": ["read"]}, ["*", "read"]),
        ({"additional_scopes": ["ai:gateway", "ai:gateway"]}, ["*", "ai:gateway"]),
        ({"app_id": "APP"}, ["app:APP", "ai:gateway"]),
        ({"app_id": "APP", "key_scope": "app", "additional_scopes": ["read"]}, ["app:APP", "ai:gateway", "read"]),
    ],
)
async def test_scopes_follow_from_the_arguments(
    mcp: Any, app: App, arguments: dict[str, Any], scopes: list[str]
) -> None:
    real = json.loads(json.dumps(arguments).replace("APP", app.id))
    assert (await make(mcp, **real))["scopes"] == [scope.replace("APP", app.id) for scope in scopes]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"additional_scopes": ["*"]}, "VALIDATION_INVALID_SCOPE"),
        ({"additional_scopes": ["app:app_000000000000"]}, "VALIDATION_INVALID_SCOPE"),
        ({"key_scope": "app"}, "VALIDATION_MISSING_FIELD"),
        ({"app_id": "app_000000000000"}, "RESOURCE_NOT_FOUND"),
        ({"organization_id": "other"}, "AUTH_ORG_FORBIDDEN"),
        ({"name": ""}, "VALIDATION_INVALID_SCHEMA"),
        ({"name": "x" * 101}, "VALIDATION_INVALID_SCHEMA"),
        ({"expires": "never"}, "VALIDATION_INVALID_SCHEMA"),
    ],
)
async def test_a_key_that_must_not_be_is_not_made(
    deps: Deps, owner: Caller, mcp: Any, arguments: dict[str, Any], code: str
) -> None:
    count = "select count(*) from brolly.api_keys where account_id = $1"
    before = await deps.control.fetchval(count, owner.account_id)
    error = await refusal(mcp, "manage_auth_config", action="generate_service_key", **({"name": "x"} | arguments))
    assert error["code"] == code
    assert await deps.control.fetchval(count, owner.account_id) == before


async def test_a_scope_that_cannot_be_added_is_answered_with_those_that_can(mcp: Any) -> None:
    wrong = {"action": "generate_service_key", "name": "x", "additional_scopes": ["write"]}
    error = await refusal(mcp, "manage_auth_config", **wrong)
    assert error["message"] == "'write' is not a scope that can be added; read and ai:gateway are."
    assert "details" not in error


async def test_a_key_for_an_app_without_one_is_answered_with_what_to_do(mcp: Any) -> None:
    wrong = {"action": "generate_service_key", "name": "x", "key_scope": "app"}
    error = await refusal(mcp, "manage_auth_config", **wrong)
    assert error["remediation"].startswith("Repeat the call with app_id set to the app's id")


@pytest.mark.parametrize("said", [{"scope": "app"}, {"scope": "both"}, {"scopes": ["*"]}])
async def test_published_clients_scopes_are_taken(http: Any, said: dict[str, Any]) -> None:
    answer = await http.post("/api-keys", json={"name": "x"} | said)
    assert (answer.status_code, answer.json()["scopes"]) == (201, ["*"])


@pytest.mark.parametrize("said", [{"scope": "substrate"}, {"scope": ""}, {"scopes": ["read"]}, {"scopes": []}])
async def test_scopes_of_what_is_not_here_make_no_key(http: Any, said: dict[str, Any]) -> None:
    answer = await http.post("/api-keys", json={"name": "x"} | said)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCOPE")
    assert len((await http.get("/api-keys")).json()["keys"]) == 1


async def test_the_list_takes_the_scopes_there_are(http: Any) -> None:
    for scope in ("app", "substrate", "both", "me"):
        assert len((await http.get(f"/api-keys?scope={scope}")).json()["keys"]) == 1
    wrong = await http.get("/api-keys?scope=zz")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCOPE")


async def test_mcp_takes_no_scope_that_it_does_not_tell_of(mcp: Any) -> None:
    for scope in ({"scope": "app"}, {"scopes": ["*"]}):
        wrong = {"action": "generate_service_key", "name": "x", **scope}
        assert (await refusal(mcp, "manage_auth_config", **wrong))["code"] == "VALIDATION_INVALID_SCHEMA"


async def test_an_account_key_takes_no_app(mcp: Any, app: App) -> None:
    wrong = {"action": "generate_service_key", "name": "x", "key_scope": "account", "app_id": app.id}
    assert (await refusal(mcp, "manage_auth_config", **wrong))["code"] == "VALIDATION_INVALID_SCOPE"


async def test_the_list_never_shows_a_secret(deps: Deps, owner: Caller, mcp: Any) -> None:
    made = [await make(mcp, name=f"key {n}") for n in range(3)]
    listed = (await mcp("manage_api_keys", action="list"))["keys"]
    assert [k["name"] for k in listed] == ["key 2", "key 1", "key 0", "test"]
    for key in made:
        assert key["key"][12:] not in json.dumps(listed)
        assert hash_key(key["key"]).hex() not in json.dumps(listed)
    assert [k["id"] for k in listed if k["current"]] == [owner.key_id]
    assert listed[0]["key_prefix"] == listed[0]["prefix"] == made[2]["prefix"]


async def test_the_list_pages_without_gap_or_double(mcp: Any) -> None:
    for n in range(4):
        await make(mcp, name=f"key {n}")
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = await mcp("manage_api_keys", action="list", limit=2, offset=offset)
        seen += [key["name"] for key in page["keys"]]
        offset = page.get("next_offset")
    assert seen == ["key 3", "key 2", "key 1", "key 0", "test"]


async def test_use_is_noted(deps: Deps, mcp: Any) -> None:
    made = await make(mcp, name="used")
    assert next(k for k in (await mcp("manage_api_keys", action="list"))["keys"])["last_used_at"] is None
    assert await status(deps, made["key"]) == 200
    listed = (await mcp("manage_api_keys", action="list"))["keys"]
    assert next(k for k in listed if k["id"] == made["id"])["last_used_at"] is not None


async def test_revoking_asks_and_then_ends_the_key_at_once(deps: Deps, mcp: Any) -> None:
    made = await make(mcp, name="old laptop")
    asked = await refusal(mcp, "manage_api_keys", action="revoke", key_id=made["key_id"])
    assert asked["code"] == "CONFIRMATION_REQUIRED"
    assert "old laptop" in asked["message"]
    assert "never used" in asked["message"]
    assert await status(deps, made["key"]) == 200
    done = await mcp("manage_api_keys", action="revoke", key_id=made["key_id"], confirm=True)
    assert done == {"revoked": True, "key_id": made["key_id"]}
    assert await status(deps, made["key"]) == 401
    async with http_client(deps, made["key"]) as client:
        answer = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "AUTH_INVALID_API_KEY")
    assert made["id"] not in [k["id"] for k in (await mcp("manage_api_keys", action="list"))["keys"]]
    again = await refusal(mcp, "manage_api_keys", action="revoke", key_id=made["key_id"], confirm=True)
    assert again["code"] == "RESOURCE_NOT_FOUND"


async def test_revoking_over_http_does_as_told(deps: Deps, owner_key: str, mcp: Any) -> None:
    made = await make(mcp)
    async with http_client(deps, owner_key) as client:
        assert (await client.delete(f"/api-keys/{made['id']}")).json() == {"revoked": True, "key_id": made["id"]}
    assert await status(deps, made["key"]) == 401


async def test_revoking_the_key_in_use_is_said(deps: Deps, owner: Caller, mcp: Any) -> None:
    asked = await refusal(mcp, "manage_api_keys", action="revoke", key_id=owner.key_id)
    assert "the key that this call uses" in asked["message"]


@pytest.mark.parametrize("key_id", ["", "nonsense", "00000000-0000-0000-0000-000000000000", "-" * 36, "a" * 36])
async def test_a_key_that_is_not_there_is_not_found(mcp: Any, key_id: str) -> None:
    error = await refusal(mcp, "manage_api_keys", action="revoke", key_id=key_id, confirm=True)
    assert error["code"] == "RESOURCE_NOT_FOUND"
    assert "manage_api_keys" in error["remediation"]


async def test_somebody_elses_key_is_not_found_and_lives(deps: Deps, mcp: Any) -> None:
    stranger, key = await make_owner(deps)
    error = await refusal(mcp, "manage_api_keys", action="revoke", key_id=stranger.key_id, confirm=True)
    assert error["code"] == "RESOURCE_NOT_FOUND"
    assert await status(deps, key) == 200
    assert str(stranger.key_id) not in json.dumps(await mcp("manage_api_keys", action="list"))


async def test_a_key_for_one_app_manages_no_keys_and_sees_no_other_app(deps: Deps, mcp: Any, app: App) -> None:
    other = (await mcp("init_app", name="neighbour"))["app_id"]
    made = await make(mcp, app_id=app.id)
    async with mcp_session(deps, await caller(deps, made["key"])) as narrow:
        assert (await narrow("manage_app", action="get_config", app_id=app.id))["id"] == app.id
        for tool, arguments in (
            ("manage_app", {"action": "get_config", "app_id": other}),
            ("manage_app", {"action": "pause", "app_id": other, "paused": True}),
            ("manage_app", {"action": "delete", "app_id": other, "confirm": True}),
            ("query_audit_logs", {"app_id": other}),
            ("select_rows", {"app_id": other, "table": "t"}),
            ("manage_schema", {"action": "get", "app_id": other}),
            ("submit_suggestion", {"category": "improvement", "description": "x" * 10, "app_id": other}),
        ):
            assert (await refusal(narrow, tool, **arguments))["code"] == "RESOURCE_NOT_FOUND", tool
        for tool, arguments in (
            ("manage_auth_config", {"action": "generate_service_key", "name": "wider"}),
            ("manage_auth_config", {"action": "generate_service_key", "name": "same", "app_id": app.id}),
            ("manage_api_keys", {"action": "list"}),
            ("manage_api_keys", {"action": "revoke", "key_id": made["key_id"], "confirm": True}),
            ("query_audit_logs", {"app_id": "_platform"}),
        ):
            assert (await refusal(narrow, tool, **arguments))["code"] == "AUTH_FORBIDDEN", tool
    assert await status(deps, made["key"], f"/v1/{other}/config") == 404
    assert await status(deps, made["key"], f"/v1/{app.id}/config") == 200


async def test_an_expired_key_is_refused(deps: Deps, mcp: Any) -> None:
    made = await make(mcp)
    set_expiry = "update brolly.api_keys set expires_at = now() + $2::text::interval where key_hash = $1"
    await deps.control.execute(set_expiry, hash_key(made["key"]), "1 hour")
    assert await status(deps, made["key"]) == 200
    await deps.control.execute(set_expiry, hash_key(made["key"]), "-1 second")
    assert await status(deps, made["key"]) == 401
    assert await caller_of_key(deps, made["key"]) is None
