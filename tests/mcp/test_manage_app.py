"""manage_app and init_app, by their effect."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session

ALICE, BOB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
NOTES = {
    "tables": {
        "notes": {
            "columns": {
                "id": {"type": "uuid", "primaryKey": True, "default": "gen_random_uuid()"},
                "user_id": {"type": "uuid", "nullable": False},
                "body": {"type": "text"},
                "published": {"type": "boolean", "default": "false"},
            }
        },
        "open": {"columns": {"id": {"type": "serial", "primaryKey": True}}},
    }
}


async def refusal(mcp: Any, tool: str = "manage_app", **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as failed:
        await mcp(tool, **arguments)
    return failed.value.error


async def test_the_same_name_gives_the_same_app(mcp: Any) -> None:
    first = await mcp("init_app", name="My Blog")
    again = await mcp("init_app", name="My Blog")
    assert (first["created"], again["created"]) == (True, False)
    assert first["app_id"] == again["app_id"]
    assert first["name"] == "my-blog"


async def test_two_accounts_may_use_one_name(deps: Deps, mcp: Any) -> None:
    other, _ = await make_owner(deps)
    mine = await mcp("init_app", name="shop")
    async with mcp_session(deps, other) as theirs_mcp:
        theirs = await theirs_mcp("init_app", name="shop")
    assert theirs["created"]
    assert theirs["app_id"] != mine["app_id"]
    assert theirs["subdomain"] != mine["subdomain"]


async def test_a_new_app_names_its_address_and_what_comes_next(deps: Deps, mcp: Any) -> None:
    made = await mcp("init_app", name="fresh")
    assert made["api_base"] == made["api_url"] == f"http://brolly.test/v1/{made['app_id']}"
    assert made["provisioning_status"] == "ready"
    assert made["region"] == deps.settings.regions[0]
    assert {step["tool"] for step in made["_meta"]["next_actions"]} >= {"manage_schema", "manage_rls"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"name": "!!!"}, "VALIDATION_INVALID_NAME"),
        ({"name": "x", "region": "mars-north-1"}, "VALIDATION_INVALID_SCHEMA"),
        ({"name": "x", "organization_id": "someone-else"}, "AUTH_ORG_FORBIDDEN"),
        ({}, "VALIDATION_MISSING_FIELD"),
    ],
)
async def test_init_app_refuses(mcp: Any, arguments: dict[str, Any], code: str) -> None:
    assert (await refusal(mcp, "init_app", **arguments))["code"] == code
    assert (await mcp("manage_app", action="list"))["apps"] == []


async def test_delete_asks_then_drops_the_database(deps: Deps, mcp: Any) -> None:
    app_id = (await mcp("init_app", name="doomed"))["app_id"]
    asked = await refusal(mcp, action="delete", app_id=app_id)
    assert asked["code"] == "CONFIRMATION_REQUIRED"
    assert "0 tables" in asked["message"]
    assert await deps.control.fetchval("select count(*) from pg_database where datname = $1", app_id) == 1
    await mcp("manage_app", action="delete", app_id=app_id, confirm=True)
    assert await deps.control.fetchval("select count(*) from pg_database where datname = $1", app_id) == 0
    assert await deps.control.fetchval("select count(*) from pg_roles where rolname ^@ $1", app_id) == 0
    assert (await refusal(mcp, action="delete", app_id=app_id, confirm=True))["code"] == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("rows", "said"),
    [(0, "2 tables, 0 rows ("), (1, "2 tables, 1 row ("), (12_000, "2 tables, more than 10,000 rows (")],
)
async def test_delete_counts_what_postgres_has_no_estimate_of(
    deps: Deps, mcp: Any, app: App, rows: int, said: str
) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=NOTES)
    await mcp("manage_rls", action="enable", app_id=app.id, table_name="notes")
    async with deps.pools.owner(app) as connection:
        await connection.execute("insert into open select from generate_series(1, $1::int)", rows)
    assert said in (await refusal(mcp, action="delete", app_id=app.id))["message"]


async def test_delete_trusts_an_estimate_and_says_so(deps: Deps, mcp: Any, app: App) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=NOTES)
    async with deps.pools.owner(app) as connection:
        await connection.execute("insert into open select from generate_series(1, 12000)")
        await connection.execute("analyze open")
    asked = await refusal(mcp, action="delete", app_id=app.id)
    assert "2 tables, about 12,000 rows (" in asked["message"]
    assert asked["remediation"] == "Ask the user, then repeat manage_app delete with confirm: true."


async def test_delete_asks_though_a_table_cannot_be_counted(deps: Deps, mcp: Any, app: App) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=NOTES)
    async with deps.pools.owner(app) as connection:
        await connection.execute("revoke all on open from butterbase_service")
    assert "2 tables, an unknown number of rows (" in (await refusal(mcp, action="delete", app_id=app.id))["message"]


@pytest.mark.parametrize("name", ["team-todos", "Team Todos"])
async def test_a_name_in_place_of_the_id_is_answered_with_the_id(
    deps: Deps, owner: Caller, mcp: Any, app: App, name: str
) -> None:
    app_id = (await mcp("init_app", name="team-todos"))["app_id"]
    error = await refusal(mcp, action="get_config", app_id=name)
    assert error["code"] == "RESOURCE_NOT_FOUND"
    assert f"its id is {app_id}" in error["message"]
    stranger, _ = await make_owner(deps)
    scoped, _ = await make_owner(deps, (f"app:{app.id}",), owner.account_id)
    for caller in (stranger, scoped):
        async with mcp_session(deps, caller) as theirs:
            assert app_id not in str(await refusal(theirs, action="get_config", app_id=name))


async def test_a_deleted_name_is_free_again(mcp: Any) -> None:
    first = await mcp("init_app", name="again")
    await mcp("manage_app", action="delete", app_id=first["app_id"], confirm=True)
    second = await mcp("init_app", name="again")
    assert second["created"]
    assert second["app_id"] != first["app_id"]
    assert second["subdomain"] == first["subdomain"]


async def test_pause_stops_the_data_and_not_the_management(mcp: Any, app: App) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=NOTES)
    paused = await mcp("manage_app", action="pause", app_id=app.id, paused=True, reason="Moving house")
    assert paused["paused"] is True
    assert paused["paused_reason"] == "Moving house"
    row = {"user_id": ALICE, "body": "late"}
    for tool, arguments in (("select_rows", {}), ("insert_row", {"data": row}), ("seed_database", {"rows": [row]})):
        error = await refusal(mcp, tool, app_id=app.id, table="notes", **arguments)
        assert error["code"] == "APP_PAUSED", tool
        assert error["details"]["paused_reason"] == "Moving house"
    assert (await mcp("manage_app", action="get_config", app_id=app.id))["paused_reason"] == "Moving house"
    assert "notes" in (await mcp("manage_schema", action="get", app_id=app.id))["schema"]["tables"]
    again = await mcp("manage_app", action="pause", app_id=app.id, paused=True)
    assert again["paused_at"] == paused["paused_at"]
    resumed = await mcp("manage_app", action="pause", app_id=app.id, paused=False)
    assert (resumed["paused"], resumed["paused_at"], resumed["paused_reason"]) == (False, None, None)
    assert (await mcp("select_rows", app_id=app.id, table="notes"))["rows"] == []


async def test_pause_needs_a_word(mcp: Any, app: App) -> None:
    assert (await refusal(mcp, action="pause", app_id=app.id))["code"] == "VALIDATION_MISSING_FIELD"
    long = await refusal(mcp, action="pause", app_id=app.id, paused=True, reason="x" * 501)
    assert long["code"] == "VALIDATION_INVALID_SCHEMA"


async def preflight(deps: Deps, app: App, origin: str) -> str | None:
    async with http_client(deps) as client:
        headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        answer = await client.options(f"/v1/{app.id}/notes", headers=headers)
    return answer.headers.get("Access-Control-Allow-Origin")


async def test_update_cors_replaces_the_list_at_once(deps: Deps, mcp: Any, app: App) -> None:
    assert await preflight(deps, app, "http://localhost:3000") == "http://localhost:3000"
    sent = [
        "https://Blog.Example.com/",
        "https://shop.example.com:443",
        "http://[::1]:8080",
        "https://blog.example.com",
    ]
    kept = (await mcp("manage_app", action="update_cors", app_id=app.id, allowed_origins=sent))["allowed_origins"]
    assert kept == ["https://blog.example.com", "https://shop.example.com", "http://[::1]:8080"]
    assert (await mcp("manage_app", action="get_config", app_id=app.id))["allowed_origins"] == kept
    for origin in kept:
        assert await preflight(deps, app, origin) == origin
    for origin in ("http://localhost:3000", "http://blog.example.com", "https://example.com", "null"):
        assert await preflight(deps, app, origin) is None


async def test_one_apps_origins_are_not_anothers(deps: Deps, mcp: Any, app: App) -> None:
    other = await mcp("init_app", name="other")
    await mcp("manage_app", action="update_cors", app_id=other["app_id"], allowed_origins=["https://evil.example"])
    assert await preflight(deps, app, "https://evil.example") is None


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://*.example.com",
        "example.com",
        "https://",
        "ftp://example.com",
        "https://example.com/path",
        "https://example.com?x",
        "https://example.com#x",
        "https://u:p@example.com",
        "https://example.com:port",
        "https://example.com:99999",
        "null",
        "",
        "javascript:alert(1)",
    ],
)
async def test_update_cors_refuses_what_is_no_origin(mcp: Any, app: App, origin: str) -> None:
    error = await refusal(mcp, action="update_cors", app_id=app.id, allowed_origins=["https://ok.example", origin])
    assert error["code"] == "VALIDATION_INVALID_SCHEMA"
    config = await mcp("manage_app", action="get_config", app_id=app.id)
    assert config["allowed_origins"] == ["http://localhost:3000"]


async def test_update_cors_needs_one_origin(mcp: Any, app: App) -> None:
    error = await refusal(mcp, action="update_cors", app_id=app.id, allowed_origins=[])
    assert error["code"] == "VALIDATION_INVALID_SCHEMA"


async def test_access_mode_decides_about_anonymous_callers_alone(deps: Deps, mcp: Any, app: App) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=NOTES)
    await mcp("manage_rls", action="enable", app_id=app.id, table_name="notes")
    read = {"app_id": app.id, "table": "notes"}
    assert (await mcp("select_rows", **read, as_role="anon"))["rows"] == []
    changed = await mcp("manage_app", action="update_access_mode", app_id=app.id, access_mode="authenticated")
    assert changed["access_mode"] == "authenticated"
    assert (await mcp("manage_app", action="get_config", app_id=app.id))["access_mode"] == "authenticated"
    error = await refusal(mcp, "select_rows", **read, as_role="anon")
    assert error["code"] == "AUTH_REQUIRED"
    assert (await mcp("select_rows", **read, as_role="user", as_user=ALICE))["rows"] == []
    assert (await mcp("select_rows", **read))["rows"] == []
    await mcp("manage_app", action="update_access_mode", app_id=app.id, access_mode="public")
    assert (await mcp("select_rows", **read, as_role="anon"))["rows"] == []
    wrong = await refusal(mcp, action="update_access_mode", app_id=app.id, access_mode="secret")
    assert wrong["code"] == "VALIDATION_INVALID_SCHEMA"
    assert await deps.control.fetchval("select access_mode from brolly.apps where id = $1", app.id) == "public"


async def test_secure_isolates_what_it_can_and_says_what_it_could_not(mcp: Any, app: App) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=NOTES)
    tables = [
        {"table_name": "notes", "user_column": "user_id", "public_read_column": "published"},
        {"table_name": "missing", "user_column": "user_id"},
    ]
    done = await mcp("manage_app", action="secure", app_id=app.id, tables=tables)
    assert done["access_mode"] == "authenticated"
    assert "manage_app update_access_mode with access_mode public" in done["message"]
    assert [t["table"] for t in done["tables_secured"]] == ["notes"]
    assert done["tables_secured"][0]["policy"] == "notes_user_isolation"
    assert done["tables_secured"][0]["public_read_policies"]
    assert [(e["table"], e["code"]) for e in done["table_errors"]] == [("missing", "VALIDATION_TABLE_NOT_FOUND")]
    assert done["table_errors"][0]["remediation"]
    assert len(done["warnings"]) == 1
    assert "manage_rls create_user_isolation with table_name open" in done["warnings"][0]
    policies = (await mcp("manage_rls", action="list", app_id=app.id))["policies"]
    assert "notes_user_isolation" in [p["policyname"] for p in policies]
    await mcp("insert_row", app_id=app.id, table="notes", data={"body": "mine"}, as_role="user", as_user=ALICE)
    for reader, seen in ((ALICE, 1), (BOB, 0)):
        answer = await mcp("select_rows", app_id=app.id, table="notes", as_role="user", as_user=reader)
        assert len(answer["rows"]) == seen


async def test_get_config_holds_no_secret_and_no_token_lifetime(mcp: Any, app: App) -> None:
    config = await mcp("manage_app", action="get_config", app_id=app.id)
    assert config["access_mode"] == "public"
    assert config["allowed_origins"] == ["http://localhost:3000"]
    assert config["storage_config"] == {
        "maxFileSizeMb": 10,
        "publicReadEnabled": False,
        "allowedContentTypes": ["*/*"],
    }
    assert not [key for key in config if "jwt" in key or "secret" in key or "password" in key]


async def test_list_pages_without_gap_or_double(mcp: Any) -> None:
    made = [(await mcp("init_app", name=f"page-{n}"))["app_id"] for n in range(5)]
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = await mcp("manage_app", action="list", limit=2, offset=offset)
        assert len(page["apps"]) <= 2
        assert all(app["app_id"] == app["id"] for app in page["apps"])
        seen += [app["id"] for app in page["apps"]]
        offset = page.get("next_offset")
    assert seen == made[::-1]
    wrongs: list[dict[str, Any]] = [{"limit": 0}, {"limit": 1001}, {"offset": -1}]
    for wrong in wrongs:
        assert (await refusal(mcp, action="list", **wrong))["code"] == "VALIDATION_INVALID_SCHEMA"


@pytest.mark.parametrize(("status", "code"), [("provisioning", "APP_PROVISIONING"), ("deleting", "APP_DELETING")])
async def test_an_app_that_is_not_ready_says_so(deps: Deps, mcp: Any, app: App, status: str, code: str) -> None:
    change = "update brolly.apps set status = $2 where id = $1"
    await deps.control.execute(change, app.id, status)
    await deps.registry.changed(app.id)
    for tool, arguments in (
        ("manage_app", {"action": "get_config"}),
        ("manage_schema", {"action": "get"}),
        ("select_rows", {"table": "t"}),
    ):
        assert (await refusal(mcp, tool, app_id=app.id, **arguments))["code"] == code
    await deps.control.execute(change, app.id, "ready")
    await deps.registry.changed(app.id)
    assert await mcp("manage_app", action="get_config", app_id=app.id)


async def test_another_account_sees_and_changes_nothing(deps: Deps, app: App) -> None:
    stranger, _ = await make_owner(deps)
    async with mcp_session(deps, stranger) as mcp:
        assert (await mcp("manage_app", action="list"))["apps"] == []
        for arguments in (
            {"action": "get_config"},
            {"action": "pause", "paused": True},
            {"action": "update_access_mode", "access_mode": "authenticated"},
            {"action": "update_cors", "allowed_origins": ["https://evil.example"]},
            {"action": "secure", "tables": []},
            {"action": "delete", "confirm": True},
        ):
            error = await refusal(mcp, app_id=app.id, **arguments)
            assert error["code"] == "RESOURCE_NOT_FOUND", arguments
            # The same words as for an app that never was: nothing tells that this one exists.
            never = await refusal(mcp, app_id="app_000000000000", **arguments)
            assert never["message"].replace("app_000000000000", app.id) == error["message"]
    row = await deps.control.fetchrow(
        "select access_mode, paused_at, allowed_origins from brolly.apps where id = $1", app.id
    )
    assert tuple(row) == ("public", None, ["http://localhost:3000"])


async def test_a_key_for_one_app_lists_that_one(deps: Deps, owner: Caller, mcp: Any, app: App) -> None:
    other = (await mcp("init_app", name="neighbour"))["app_id"]
    scoped, _ = await make_owner(deps, (f"app:{app.id}",), owner.account_id)
    async with mcp_session(deps, scoped) as narrow:
        assert [a["id"] for a in (await narrow("manage_app", action="list"))["apps"]] == [app.id]
        assert (await refusal(narrow, action="get_config", app_id=other))["code"] == "RESOURCE_NOT_FOUND"
        assert (await refusal(narrow, "init_app", name="third"))["code"] == "AUTH_FORBIDDEN"
        assert (await narrow("manage_app", action="get_config", app_id=app.id))["id"] == app.id
