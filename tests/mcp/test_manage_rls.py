"""manage_rls, by what is in Postgres afterwards."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.pg.catalog import Table
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App
from tests.conftest import ToolFailed, make_owner, mcp_session

TABLES = """
create table notes (
    id serial primary key, user_id uuid, author text, rank int, body text default 'x', published boolean);
create table members (team int, user_id uuid);
create table _secret (id int);
"""
ALICE = "aaaaaaaa-0000-4000-8000-00000000000a"


@pytest.fixture
async def rls(deps: Deps, app: App, mcp: Any) -> Any:
    """``await rls(action, **arguments)`` on an app with the tables above."""
    async with deps.pools.owner(app) as conn:
        await conn.execute(TABLES)
    await deps.catalog.changed(app)

    async def call(action: str, **arguments: Any) -> Any:
        return await mcp("manage_rls", action=action, app_id=app.id, **arguments)

    return call


async def table(deps: Deps, app: App, name: str) -> Table:
    async with deps.pools.owner(app) as conn:
        return (await read_snapshot(conn)).tables[name]


async def owner_fetch(deps: Deps, app: App, sql: str, *args: Any) -> list[Any]:
    async with deps.pools.owner(app) as conn:
        return await conn.fetch(sql, *args)


async def anon_may(deps: Deps, app: App, name: str) -> set[str]:
    rows = await owner_fetch(
        deps,
        app,
        "select privilege_type from information_schema.table_privileges "
        "where table_name = $1 and grantee = 'butterbase_anon'",
        name,
    )
    return {row[0] for row in rows}


async def failed(call: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as caught:
        await call
    return caught.value.error


async def test_enable_denies_all_but_the_service_role(deps: Deps, app: App, rls: Any) -> None:
    assert await anon_may(deps, app, "notes") == set()
    answer = await rls("enable", table_name="notes")
    assert (answer["success"], answer["table"], answer["rls_enabled"]) == (True, "notes", True)
    found = await table(deps, app, "notes")
    assert (found.rls_enabled, found.rls_forced) == (True, True)
    assert [(p.name, p.command, p.roles, p.using, p.check) for p in found.policies] == [
        ("notes_service_bypass", "ALL", ("butterbase_service",), "true", "true")
    ]
    assert await anon_may(deps, app, "notes") == {"SELECT", "INSERT", "UPDATE", "DELETE"}


async def test_user_isolation_makes_what_the_contract_says(deps: Deps, app: App, rls: Any) -> None:
    answer = await rls(
        "create_user_isolation", table_name="notes", user_column="user_id", public_read_column="published"
    )
    assert answer["policy_name"] == "notes_user_isolation"
    assert answer["public_read_policies"] == ["notes_public_read_user", "notes_public_read_anon"]
    policies = {p.name: p for p in (await table(deps, app, "notes")).policies}
    own = "(user_id = (current_user_id())::uuid)"
    isolation = policies["notes_user_isolation"]
    assert (isolation.command, isolation.roles, isolation.using, isolation.check) == (
        "ALL",
        ("butterbase_user",),
        own,
        own,
    )
    for role in ("user", "anon"):
        public = policies[f"notes_public_read_{role}"]
        assert (public.command, public.roles, public.using) == ("SELECT", (f"butterbase_{role}",), "(published = true)")
    (function,) = await owner_fetch(
        deps,
        app,
        "select pg_get_userbyid(p.proowner) as owner, p.prosecdef, p.proconfig, t.tgname from pg_proc p "
        "join pg_trigger t on t.tgfoid = p.oid where p.proname = 'notes_set_user_id'",
    )
    assert tuple(function) == (
        "brolly_owner",
        False,
        ["search_path=pg_catalog, pg_temp"],
        "notes_set_user_id_trigger",
    )


async def test_each_change_is_recorded_with_the_way_back(deps: Deps, app: App, rls: Any) -> None:
    before = await table(deps, app, "notes")
    for _ in range(2):
        await rls("create_user_isolation", table_name="notes", user_column="user_id", public_read_column="published")
    for _ in range(2):
        await rls("create_policy", table_name="notes", policy_name="all", using_expression="rank > 1")
    rows = await owner_fetch(deps, app, "select * from brolly.migrations order by id")
    # A repetition changes nothing, so it is not recorded.
    assert [row["name"] for row in rows] == ["rls_notes_user_isolation", "rls_policy_notes_all"]
    for row in rows:
        assert row["checksum"] == hashlib.sha256(row["sql_up"].encode()).hexdigest()
    protected = await table(deps, app, "notes")
    async with deps.pools.owner(app) as conn:
        for row in reversed(rows):
            await conn.execute(row["sql_down"])
        assert (await read_snapshot(conn)).tables["notes"] == before
        assert await conn.fetchval("select count(*) from pg_proc where proname = 'notes_set_user_id'") == 0
        for row in rows:
            await conn.execute(row["sql_up"])
        assert (await read_snapshot(conn)).tables["notes"] == protected


async def test_the_way_back_from_switching_off_restores_everything(deps: Deps, app: App, rls: Any) -> None:
    await rls("create_user_isolation", table_name="notes", user_column="author", public_read_column="published")
    protected = await table(deps, app, "notes")
    await rls("delete", table_name="notes", confirm=True)
    (row,) = await owner_fetch(deps, app, "select sql_down from brolly.migrations where name = 'rls_notes_disable'")
    async with deps.pools.owner(app) as conn:
        await conn.execute(row["sql_down"])
    assert await table(deps, app, "notes") == protected
    assert await anon_may(deps, app, "notes") == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert await owner_fetch(deps, app, "select 1 from pg_trigger where tgname = 'notes_set_user_id_trigger'")


async def test_create_policy_switches_rls_on_and_says_so(deps: Deps, app: App, rls: Any) -> None:
    policy = {"table_name": "notes", "policy_name": "read", "command": "select", "using_expression": "published"}
    first = await rls("create_policy", **policy)
    assert first["rls_enabled"] is True
    assert "was off" in first["warnings"][0]
    again = await rls("create_policy", **{**policy, "using_expression": "rank = 1"})
    assert again == {"success": True, "policy_name": "read", "table": "notes"}
    found = await table(deps, app, "notes")
    assert found.rls_enabled
    assert {p.name: p.using for p in found.policies} == {"notes_service_bypass": "true", "read": "(rank = 1)"}


async def test_update_replaces_the_whole_policy_and_leaves_the_trigger(deps: Deps, app: App, rls: Any) -> None:
    await rls(
        "create_policy",
        table_name="notes",
        policy_name="p",
        command="UPDATE",
        role="user",
        restrictive=True,
        using_expression="rank = 1",
        with_check_expression="rank = 2",
        user_column="user_id",
    )
    await rls("update_policy", table_name="notes", policy_name="p", using_expression="rank = 3")
    policy = next(p for p in (await table(deps, app, "notes")).policies if p.name == "p")
    assert (policy.command, policy.permissive, policy.roles, policy.using, policy.check) == (
        "ALL",
        True,
        (),
        "(rank = 3)",
        None,
    )
    assert await owner_fetch(deps, app, "select 1 from pg_trigger where tgname = 'notes_set_user_id_trigger'")


async def test_a_restrictive_policy_never_binds_the_service_role(deps: Deps, app: App, rls: Any) -> None:
    await rls("create_policy", table_name="notes", policy_name="none", restrictive=True, using_expression="false")
    policy = next(p for p in (await table(deps, app, "notes")).policies if p.name == "none")
    assert policy.roles == ("butterbase_anon", "butterbase_user")


async def test_list_shows_policies_and_tables_without_any(deps: Deps, app: App, rls: Any) -> None:
    await rls("enable", table_name="members")
    await rls("create_policy", table_name="notes", policy_name="p", using_expression="published", role="anon")
    answer = await rls("list")
    assert answer["tables_with_rls"] == ["members"]
    assert answer["tables_without_rls"] == []
    assert answer["summary"].startswith("2 of 2 tables are under row-level security.")
    assert list(answer)[:2] == ["untrusted", "summary"], "what tables_with_rls leaves open is said before it"
    assert answer["tables"] == [
        {"table": "members", "rls_enabled": True, "policy_count": 1},
        {"table": "notes", "rls_enabled": True, "policy_count": 2},
    ]
    assert {
        "schemaname": "public",
        "tablename": "notes",
        "policyname": "p",
        "permissive": "PERMISSIVE",
        "roles": ["butterbase_anon"],
        "cmd": "ALL",
        "qual": "published",
        "with_check": None,
    } in answer["policies"]
    assert not [p for p in answer["policies"] if p["tablename"].startswith("_")]


async def test_list_names_the_tables_without_row_level_security(rls: Any) -> None:
    await rls("create_user_isolation", table_name="notes", user_column="user_id")
    answer = await rls("list")
    assert (answer["tables_with_rls"], answer["tables_without_rls"]) == ([], ["members"])
    assert answer["summary"].startswith("1 of 2 tables")


async def test_deleting_the_last_policy_leaves_the_table_closed(deps: Deps, app: App, rls: Any) -> None:
    await rls("create_policy", table_name="notes", policy_name="p", using_expression="true")
    answer = await rls("delete", table_name="notes", policy_name="p")
    assert (answer["policy_name"], answer["remaining_policies"]) == ("p", 1)
    assert "only service keys" in answer["warnings"][0]
    found = await table(deps, app, "notes")
    assert (found.rls_enabled, [p.name for p in found.policies]) == (True, ["notes_service_bypass"])


async def test_switching_off_asks_with_the_number_of_rows(deps: Deps, app: App, rls: Any) -> None:
    await owner_fetch(deps, app, "insert into notes (rank) select generate_series(1, 7)")
    await rls("create_user_isolation", table_name="notes", user_column="user_id")
    error = await failed(rls("delete", table_name="notes"))
    assert error["code"] == "CONFIRMATION_REQUIRED"
    assert " 7 rows then become visible to every signed-in user" in error["message"]
    assert (await table(deps, app, "notes")).rls_enabled
    answer = await rls("delete", table_name="notes", confirm=True)
    assert answer["policies_removed"] == 2
    found = await table(deps, app, "notes")
    assert (found.rls_enabled, found.rls_forced, found.policies) == (False, False, ())
    assert await anon_may(deps, app, "notes") == set()
    assert not await owner_fetch(deps, app, "select 1 from pg_proc where proname = 'notes_set_user_id'")
    assert (await failed(rls("delete", table_name="notes", confirm=True)))["code"] == "RESOURCE_NOT_FOUND"


async def test_deleting_a_restrictive_policy_asks_since_it_widens_access(rls: Any) -> None:
    await rls("create_policy", table_name="notes", policy_name="wide", using_expression="true")
    await rls("create_policy", table_name="notes", policy_name="narrow", restrictive=True, using_expression="rank = 1")
    error = await failed(rls("delete", table_name="notes", policy_name="narrow"))
    assert error["code"] == "CONFIRMATION_REQUIRED"
    assert "(rank = 1)" in error["message"]
    assert (await rls("delete", table_name="notes", policy_name="narrow", confirm=True))["remaining_policies"] == 2


async def test_a_read_only_key_may_list_alone(deps: Deps, app: App, rls: Any, owner: Caller) -> None:
    reader, _ = await make_owner(deps, ("*", "read"), owner.account_id)
    async with mcp_session(deps, reader) as call:
        assert (await call("manage_rls", action="list", app_id=app.id))["policies"] == []
        error = await failed(call("manage_rls", action="enable", app_id=app.id, table_name="notes"))
    assert error["code"] == "AUTH_FORBIDDEN"
    assert not (await table(deps, app, "notes")).rls_enabled


@pytest.mark.parametrize(
    ("action", "arguments", "code", "said"),
    [
        ("enable", {"table_name": "noets"}, "VALIDATION_TABLE_NOT_FOUND", "Did you mean notes?"),
        ("enable", {"table_name": 'notes"; drop table notes; --'}, "VALIDATION_TABLE_NOT_FOUND", "no table"),
        ("enable", {"table_name": "_secret"}, "VALIDATION_RESERVED_TABLE", "platform"),
        ("enable", {"table_name": "pg_class"}, "VALIDATION_TABLE_NOT_FOUND", "no table"),
        ("create_user_isolation", {"user_column": "usr_id"}, "VALIDATION_COLUMN_NOT_FOUND", "Did you mean user_id?"),
        ("create_user_isolation", {"user_column": "rank"}, "VALIDATION_INVALID_TYPE", "is integer"),
        (
            "create_user_isolation",
            {"user_column": "user_id", "public_read_column": "body"},
            "VALIDATION_INVALID_TYPE",
            "must be boolean",
        ),
        (
            "create_user_isolation",
            {"user_column": "user_id", "public_read_column": "publishd"},
            "VALIDATION_COLUMN_NOT_FOUND",
            "Did you mean published?",
        ),
        ("create_user_isolation", {}, "VALIDATION_MISSING_FIELD", "user_column"),
        ("create_policy", {"policy_name": "p"}, "VALIDATION_INVALID_SCHEMA", "needs using_expression"),
        ("create_policy", {"policy_name": "p q"}, "VALIDATION_INVALID_SCHEMA", "policy_name"),
        ("create_policy", {"policy_name": "p" * 64, "using_expression": "true"}, "VALIDATION_INVALID_SCHEMA", "name"),
        (
            "create_policy",
            {"policy_name": "notes_service_bypass", "using_expression": "false"},
            "VALIDATION_INVALID_SCHEMA",
            "service keys pass",
        ),
        (
            "create_policy",
            {"policy_name": "p", "command": "INSERT", "using_expression": "true"},
            "VALIDATION_INVALID_SCHEMA",
            "takes no using_expression",
        ),
        (
            "create_policy",
            {"policy_name": "p", "command": "DELETE", "using_expression": "true", "with_check_expression": "true"},
            "VALIDATION_INVALID_SCHEMA",
            "takes no with_check_expression",
        ),
        (
            "create_policy",
            {"policy_name": "p", "command": "GRANT", "using_expression": "true"},
            "VALIDATION_INVALID_SCHEMA",
            "command",
        ),
        (
            "create_policy",
            {"policy_name": "p", "role": "service", "using_expression": "true"},
            "VALIDATION_INVALID_SCHEMA",
            "role",
        ),
        (
            "create_policy",
            {"policy_name": "p", "using_expression": "true", "user_column": "rank"},
            "VALIDATION_INVALID_TYPE",
            "uuid or text",
        ),
        ("update_policy", {"policy_name": "p", "using_expression": "true"}, "RESOURCE_NOT_FOUND", "no policy 'p'"),
        ("delete", {"policy_name": "p"}, "RESOURCE_NOT_FOUND", "no policy 'p'"),
        ("delete", {"policy_name": "notes_service_bypass"}, "VALIDATION_INVALID_SCHEMA", "service keys pass"),
        ("delete", {}, "RESOURCE_NOT_FOUND", "not under row-level security"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    deps: Deps, app: App, rls: Any, action: str, arguments: dict[str, Any], code: str, said: str
) -> None:
    error = await failed(rls(action, **{"table_name": "notes", **arguments}))
    assert error["code"] == code
    assert said in error["message"]
    found = await table(deps, app, "notes")
    assert (found.rls_enabled, found.policies) == (False, ())
    assert not await owner_fetch(deps, app, "select 1 from brolly.migrations")


async def test_another_accounts_app_does_not_exist(deps: Deps, app: App, rls: Any) -> None:
    stranger, _ = await make_owner(deps)
    async with mcp_session(deps, stranger) as call:
        for action in ("list", "enable", "delete"):
            rest = {} if action == "list" else {"table_name": "notes"}
            error = await failed(call("manage_rls", action=action, app_id=app.id, **rest))
            assert error["code"] == "RESOURCE_NOT_FOUND"


async def test_isolation_warns_of_policies_that_still_widen_access(rls: Any) -> None:
    await rls("create_policy", table_name="notes", policy_name="wide", using_expression="true")
    answer = await rls("create_user_isolation", table_name="notes", user_column="user_id")
    assert "wide" in answer["warnings"][0]


async def test_long_names_are_shortened_without_meeting(deps: Deps, app: App, rls: Any) -> None:
    names = ["t" * 62 + end for end in "ab"]
    async with deps.pools.owner(app) as conn:
        for name in names:
            await conn.execute(f"create table {name} (id int, user_id uuid, published boolean)")
    for name in names:
        await rls("create_user_isolation", table_name=name, user_column="user_id", public_read_column="published")
    found = [await table(deps, app, name) for name in names]
    assert [len(t.policies) for t in found] == [4, 4]
    functions = await owner_fetch(deps, app, "select proname from pg_proc where proname ~ '_set_user_id$'")
    assert len(functions) == 2
    await rls("delete", table_name=names[0], confirm=True)
    triggers = await owner_fetch(deps, app, "select tgrelid::regclass::text from pg_trigger where not tgisinternal")
    assert [row[0] for row in triggers] == [names[1]]


async def test_a_dropped_user_column_does_not_stop_inserts(deps: Deps, app: App, rls: Any, mcp: Any) -> None:
    await rls("create_user_isolation", table_name="notes", user_column="user_id")
    await rls("delete", table_name="notes", policy_name="notes_user_isolation")
    await rls("create_policy", table_name="notes", policy_name="open", using_expression="true")
    await owner_fetch(deps, app, "alter table notes drop column user_id")
    await deps.catalog.changed(app)
    row = {"app_id": app.id, "table": "notes", "data": {"body": "hello"}, "as_role": "user", "as_user": ALICE}
    assert await mcp("insert_row", **row)


async def test_the_capability_isolates_for_secure(deps: Deps, app: App, owner: Caller, rls: Any) -> None:
    done = await deps.capabilities["isolate"](
        deps, owner, app.id, table_name="notes", user_column="user_id", public_read_column="published"
    )
    assert done["policy_name"] == "notes_user_isolation"
    assert done["public_read_policies"] == ["notes_public_read_user", "notes_public_read_anon"]
