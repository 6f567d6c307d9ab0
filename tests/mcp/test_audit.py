"""The audit log: every call leaves one row, and query_audit_logs finds exactly what is asked for."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from brolly import auth
from brolly.audit.service import QueryLogs
from brolly.auth.codes import Kind
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session

ROWS = "select * from brolly.audit_log where account_id = $1 order by id"


async def rows_of(deps: Deps, caller: Caller) -> list[dict[str, Any]]:
    return [
        {**dict(r), "event_data": json.loads(r["event_data"])}
        for r in await deps.control.fetch(ROWS, caller.account_id)
    ]


async def logs(mcp: Any, **filters: Any) -> list[dict[str, Any]]:
    return (await mcp("query_audit_logs", **filters))["logs"]


async def refusal(mcp: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as failed:
        await mcp(tool, **arguments)
    return failed.value.error


async def test_a_call_leaves_one_row_that_says_all(deps: Deps, owner: Caller, mcp: Any, app: App) -> None:
    await mcp("manage_app", action="update_cors", app_id=app.id, allowed_origins=["https://x.example"])
    (row,) = await rows_of(deps, owner)
    assert (row["app_id"], row["category"], row["event_type"], row["action"]) == (
        app.id,
        "admin",
        "app.config.cors",
        "update",
    )
    assert (row["actor_type"], row["actor_id"]) == ("api_key", owner.key_id)
    assert (row["success"], row["error_message"]) == (True, None)
    assert (row["event_data"]["tool"], row["event_data"]["action"]) == ("manage_app", "update_cors")
    assert 0 < row["event_data"]["duration_ms"] < 60_000
    assert datetime.now(UTC) - row["created_at"] < timedelta(minutes=1)


async def test_a_failure_leaves_one_row_with_its_code(deps: Deps, owner: Caller, mcp: Any, app: App) -> None:
    await refusal(mcp, "manage_app", action="update_cors", app_id=app.id, allowed_origins=["*"])
    await refusal(mcp, "manage_app", action="delete", app_id=app.id)
    await refusal(mcp, "manage_app", action="get_config", app_id="app_000000000000")
    rows = await rows_of(deps, owner)
    assert [(r["success"], r["event_data"]["code"]) for r in rows] == [
        (False, "VALIDATION_INVALID_SCHEMA"),
        (False, "CONFIRMATION_REQUIRED"),
        (False, "RESOURCE_NOT_FOUND"),
    ]
    assert all(r["error_message"] for r in rows)
    assert [r["app_id"] for r in rows[1:]] == [app.id, "app_000000000000"]


async def test_creating_an_app_is_filed_under_it(deps: Deps, owner: Caller, mcp: Any) -> None:
    made = await mcp("init_app", name="filed")
    assert [(r["app_id"], r["event_type"]) for r in await rows_of(deps, owner)] == [(made["app_id"], "app.create")]


async def test_keys_are_filed_under_the_platform_with_their_id(deps: Deps, owner: Caller, mcp: Any) -> None:
    made = await mcp("manage_auth_config", action="generate_service_key", name="x")
    await mcp("manage_api_keys", action="revoke", key_id=made["key_id"], confirm=True)
    found = await logs(mcp, app_id="_platform", resource_type="api_key")
    assert [(r["event_type"], r["action"], r["resource_id"]) for r in found] == [
        ("api_key.revoke", "delete", made["key_id"]),
        ("api_key.create", "create", made["key_id"]),
    ]


async def test_a_key_for_an_app_is_filed_alike_at_every_entrance(
    deps: Deps, owner: Caller, owner_key: str, mcp: Any, app: App
) -> None:
    made = await mcp("manage_auth_config", action="generate_service_key", name="x", app_id=app.id)
    async with http_client(deps, owner_key) as client:
        posted = (await client.post("/api-keys", json={"name": "y", "app_id": app.id})).json()
    await refusal(mcp, "manage_auth_config", action="generate_service_key", name="", app_id=app.id)
    found = await logs(mcp, app_id="_platform", event_type="api_key.create")
    assert [r["resource_id"] for r in found] == [None, posted["key_id"], made["key_id"]]
    for row in found:
        assert (row["event_data"]["tool"], row["event_data"]["action"]) == (
            "manage_auth_config",
            "generate_service_key",
        )
    assert await logs(mcp, app_id=app.id) == []


async def test_switching_rls_off_and_deleting_a_policy_are_told_apart(mcp: Any, app: App) -> None:
    columns = {"id": {"type": "uuid", "primaryKey": True}, "user_id": {"type": "text"}}
    await mcp("manage_schema", action="apply", app_id=app.id, schema={"tables": {"t": {"columns": columns}}})
    await mcp("manage_rls", action="enable", app_id=app.id, table_name="t")
    policy = {"table_name": "t", "policy_name": "mine"}
    await mcp("manage_rls", action="create_policy", app_id=app.id, **policy, command="SELECT", using_expression="true")
    await mcp("manage_rls", action="delete", app_id=app.id, **policy, confirm=True)
    await mcp("manage_rls", action="delete", app_id=app.id, table_name="t", confirm=True)
    found = await logs(mcp, app_id=app.id, resource_type="rls", limit=2)
    assert [(r["event_type"], r["action"], r["resource_id"]) for r in found] == [
        ("rls.disable", "disable", "t"),
        ("rls.policy.delete", "delete", "mine"),
    ]


async def test_a_call_of_no_action_leaves_a_row(mcp: Any, app: App) -> None:
    await refusal(mcp, "manage_app", action="explode", app_id=app.id)
    await refusal(mcp, "manage_app", app_id=app.id)
    await refusal(mcp, "execute_sql", app_id=app.id, sql="select 1")
    await refusal(mcp, "manage_app", action="update_cors", app_id=app.id, allowed_origins=7)
    assert [(r["event_type"], r["success"], r["event_data"]["code"]) for r in await logs(mcp, app_id=app.id)] == [
        ("app.config.cors", False, "VALIDATION_INVALID_SCHEMA"),
        ("tool.refused", False, "VALIDATION_INVALID_SCHEMA"),
        ("tool.refused", False, "VALIDATION_MISSING_FIELD"),
        ("tool.refused", False, "VALIDATION_INVALID_SCHEMA"),
    ]


async def test_rows_of_data_name_the_table_and_whom_the_key_acted_as(
    deps: Deps, owner: Caller, mcp: Any, app: App
) -> None:
    await mcp(
        "manage_schema", action="apply", app_id=app.id, schema={"tables": {"t": {"columns": {"n": {"type": "int"}}}}}
    )
    await mcp("insert_row", app_id=app.id, table="t", data={"n": 1}, as_role="user", as_user="u-1")
    await mcp("seed_database", app_id=app.id, table="t", rows=[{"n": 2}])
    await mcp("select_rows", app_id=app.id, table="t", as_role="anon")
    await refusal(mcp, "select_rows", app_id=app.id, table="t\0")
    found = await logs(mcp, app_id=app.id, resource_type="row")
    assert [(r["resource_id"], r["event_data"].get("as_role"), r["event_data"].get("as_user")) for r in found] == [
        ("t?", None, None),
        ("t", "anon", None),
        ("t", None, None),
        ("t", "user", "u-1"),
    ]
    for name in ("user_id", "actor_id"):
        assert [r["event_data"]["tool"] for r in await logs(mcp, app_id=app.id, **{name: "u-1"})] == ["insert_row"]
    assert len(await logs(mcp, app_id=app.id, resource_type="row", actor_id=owner.key_id)) == 4


async def test_calls_over_http_carry_their_request(deps: Deps, owner: Caller, owner_key: str, app: App) -> None:
    async with http_client(deps, owner_key) as client:
        answer = await client.get(f"/v1/{app.id}/config", headers={"User-Agent": "probe/1.0"})
    (row,) = await rows_of(deps, owner)
    assert row["correlation_id"] == answer.headers["X-Request-Id"]
    assert row["user_agent"] == "probe/1.0"
    assert row["ip_address"]


async def test_no_secret_and_no_value_is_kept(deps: Deps, owner: Caller, owner_key: str, mcp: Any, app: App) -> None:
    tables = {"tables": {"t": {"columns": {"id": {"type": "serial", "primaryKey": True}, "pin": {"type": "text"}}}}}
    await mcp("manage_schema", action="apply", app_id=app.id, schema=tables)
    await mcp("insert_row", app_id=app.id, table="t", data={"pin": "hush-4711"})
    await mcp("select_rows", app_id=app.id, table="t", filters={"pin": "eq.hush-4711"})
    await refusal(mcp, "insert_row", app_id=app.id, table="t", data={"id": "hush-4711"})
    made = await mcp("manage_auth_config", action="generate_service_key", name="x")
    async with http_client(deps, made["key"]) as client:
        await client.get("/apps")
    kept = str([{k: v for k, v in r.items() if k != "error_message"} for r in await rows_of(deps, owner)])
    for secret in ("hush-4711", made["key"], owner_key, made["key"][12:]):
        assert secret not in kept
    assert made["key"][12:] not in str(await rows_of(deps, owner))


@pytest.fixture
async def written(deps: Deps, owner: Caller, app: App) -> dict[str, str]:
    """Nine rows of one app, one an hour, told apart by every filter; the newest is number 0."""
    for n in range(9):
        await deps.control.execute(
            "insert into brolly.audit_log (account_id, app_id, category, event_type, action, resource_type, "
            "resource_id, actor_type, actor_id, success, created_at) "
            "values ($1, $2, $3, $4, $5, $6, $7, 'api_key', $8, true, $9)",
            owner.account_id,
            app.id,
            ("auth", "admin", "function")[n % 3],
            f"event.{n}",
            ("create", "update", "delete")[n // 3],
            f"kind{n % 2}",
            str(n),
            f"actor{n % 4}",
            datetime(2026, 1, 1, 12, tzinfo=UTC) - timedelta(hours=n),
        )
    return {"app_id": app.id}


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, "012345678"),
        ({"category": "admin"}, "147"),
        ({"event_type": "event.4"}, "4"),
        ({"event_type": "event"}, ""),
        ({"action": "update"}, "345"),
        ({"resource_type": "kind1"}, "1357"),
        ({"resource_id": "6"}, "6"),
        ({"actor_id": "actor3"}, "37"),
        ({"user_id": "actor3"}, "37"),
        ({"actor_id": "actor3", "user_id": "actor3"}, "37"),
        ({"from": "2026-01-01T09:00:00Z"}, "0123"),
        ({"to": "2026-01-01T09:00:00Z"}, "45678"),
        ({"from": "2026-01-01T10:00:00+01:00", "to": "2026-01-01T12:00:00+01:00"}, "23"),
        ({"category": "auth", "action": "delete"}, "6"),
        ({"limit": 2}, "01"),
        ({"limit": 2, "offset": 7}, "78"),
        ({"offset": 9}, ""),
        ({"event_type": "' or true --"}, ""),
    ],
)
async def test_each_filter_finds_what_it_says(
    mcp: Any, written: dict[str, str], filters: dict[str, Any], numbers: str
) -> None:
    found = await logs(mcp, **written, **({"to": "2026-01-02T00:00:00Z"} | filters))
    assert "".join(row["resource_id"] for row in found) == numbers


async def test_pages_follow_each_other(mcp: Any, written: dict[str, str]) -> None:
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = await mcp("query_audit_logs", **written, category="admin", limit=2, offset=offset)
        assert (page["total"], page["limit"], page["offset"]) == (3, 2, offset)
        assert page["untrusted"] is True
        seen += [row["id"] for row in page["logs"]]
        offset = page["nextOffset"]
    assert len(seen) == len(set(seen)) == 3


async def test_reading_the_log_is_found_when_asked_for(mcp: Any, app: App) -> None:
    assert await logs(mcp, app_id=app.id) == []
    assert [r["event_type"] for r in await logs(mcp, app_id=app.id, event_type="audit.query")] == ["audit.query"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"category": "weather"},
        {"action": "zz"},
        {"limit": 0},
        {"limit": 501},
        {"offset": -1},
        {"from": "yesterday"},
        {"from": "2026-01-01T00:00:00"},
        {"since": "2026-01-01T00:00:00Z"},
        {"actor_id": "a", "user_id": "b"},
    ],
)
async def test_a_filter_that_cannot_be_meant_is_refused(mcp: Any, app: App, wrong: dict[str, Any]) -> None:
    error = await refusal(mcp, "query_audit_logs", app_id=app.id, **wrong)
    assert error["code"] == "VALIDATION_INVALID_SCHEMA"


async def test_every_action_that_is_written_may_be_asked_for(mcp: Any, app: App) -> None:
    for action in ("read", "create", "update", "delete", "invoke", "enable", "disable", "login", "magic_link_sent"):
        await logs(mcp, app_id=app.id, action=action)
    error = await refusal(mcp, "query_audit_logs", app_id=app.id, action="zz")
    assert "action: must be one of: read, create, update, delete, invoke, enable, disable" in error["message"]


def test_what_users_do_may_be_asked_for_by_its_name() -> None:
    source = "".join(path.read_text("utf-8") for path in Path(auth.__path__[0]).glob("*.py"))
    written = set(re.findall(r'note\(deps, app, caller, "(\w+)"', source))
    # A code of the second factor is not sent.
    written |= {f"{kind}_sent" for kind in get_args(Kind) if kind != "mfa"}
    assert {"login", "signup"} <= written
    for action in written:
        assert QueryLogs.model_validate({"app_id": "app_1", "action": action}).action == action


async def test_a_row_read_as_a_user_needs_to_know_which(mcp: Any, app: App) -> None:
    error = await refusal(mcp, "select_rows", app_id=app.id, table="t", as_role="user")
    assert error["remediation"].startswith("Repeat the call with as_user set to a user's id")


async def test_another_account_sees_nothing(deps: Deps, mcp: Any, written: dict[str, str]) -> None:
    await mcp("manage_auth_config", action="generate_service_key", name="x")
    stranger, _ = await make_owner(deps)
    async with mcp_session(deps, stranger) as theirs:
        # Twice: the first refusal leaves a row of its own, which must not open the door.
        for _ in range(2):
            assert (await refusal(theirs, "query_audit_logs", **written))["code"] == "RESOURCE_NOT_FOUND"
        assert [r["event_type"] for r in await logs(theirs, app_id="_platform")] == []


async def test_what_became_of_a_deleted_app_stays_readable(deps: Deps, owner: Caller, mcp: Any) -> None:
    app_id = (await mcp("init_app", name="gone"))["app_id"]
    await mcp("manage_app", action="delete", app_id=app_id, confirm=True)
    assert [r["event_type"] for r in await logs(mcp, app_id=app_id)] == ["app.delete", "app.create"]
    stranger, _ = await make_owner(deps)
    scoped, _ = await make_owner(deps, (f"app:{app_id}",), owner.account_id)
    for caller in (stranger, scoped):
        async with mcp_session(deps, caller) as theirs:
            for _ in range(2):
                assert (await refusal(theirs, "query_audit_logs", app_id=app_id))["code"] == "RESOURCE_NOT_FOUND"


async def test_the_route_takes_the_same_filters(deps: Deps, owner_key: str, written: dict[str, str]) -> None:
    async with http_client(deps, owner_key) as client:
        path = f"/v1/{written['app_id']}/audit-logs"
        answer = (await client.get(path, params={"action": "update", "limit": "2"})).json()
        assert [row["resource_id"] for row in answer["logs"]] == ["3", "4"]
        assert (answer["total"], answer["nextOffset"]) == (3, 2)
        wrong = await client.get(path, params={"acton": "update"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
