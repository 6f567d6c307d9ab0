"""Policy expressions: what is accepted, what is refused, and what the answer says to do."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.deps import Deps
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App
from tests.conftest import ToolFailed

TABLES = """
create table notes (id serial primary key, user_id uuid, author text, rank int, team int, published boolean);
create table members (team int, user_id uuid);
create table teams (id int, leader uuid);
create table _platform (id int);
grant select on _platform to butterbase_user;
"""
MY_TEAM = "team in (select m.team from members m where m.user_id = current_user_id()::uuid)"


@pytest.fixture
async def policy(deps: Deps, app: App, mcp: Any) -> Any:
    """``await policy(expression, table="notes", **arguments)``: create_policy with a using_expression."""
    async with deps.pools.owner(app) as conn:
        await conn.execute(TABLES)
    await deps.catalog.changed(app)

    async def create(expression: str, table: str = "notes", **arguments: Any) -> Any:
        arguments = {"policy_name": "p", "using_expression": expression, **arguments}
        return await mcp("manage_rls", action="create_policy", app_id=app.id, table_name=table, **arguments)

    return create


async def refused(policy: Any, expression: str, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as caught:
        await policy(expression, **arguments)
    return caught.value.error


async def stored(deps: Deps, app: App) -> dict[str, list[str]]:
    async with deps.pools.owner(app) as conn:
        return {t.name: [p.name for p in t.policies] for t in (await read_snapshot(conn)).tables.values()}


@pytest.mark.parametrize(
    "expression",
    [
        "user_id = current_user_id()::uuid",
        "(select current_user_id())::uuid = user_id",
        "author = current_user_id() or published",
        "published is true and rank between 1 and 3",
        "author like 'a;b--c' and author <> 'it''s $1'",
        MY_TEAM,
        "exists (select from members m join teams t on t.id = m.team where m.team = notes.team)",
        "(select count(*) from members m where m.team = notes.team) > 1",
        "coalesce(current_setting('request.jwt.claims', true)::jsonb ->> 'plan', '') = 'pro'",
        "author = any (array['a', 'b']) and now() > '2020-01-01'",
    ],
)
async def test_accepted(policy: Any, expression: str) -> None:
    assert (await policy(expression, role="user"))["success"]


@pytest.mark.parametrize(
    ("expression", "better"),
    [
        ("user_id = current_user_id()", "user_id = current_user_id()::uuid"),
        ("current_user_id()  ::  text = user_id", "current_user_id()::uuid = user_id"),
        ("author = current_user_id()::uuid", "author = current_user_id()"),
        ("auth.uid() = user_id", "current_user_id()::uuid = user_id"),
        (
            "author = current_user_id() or user_id = current_user_id()",
            "author = current_user_id() or user_id = current_user_id()::uuid",
        ),
        (MY_TEAM.replace("::uuid", ""), MY_TEAM),
    ],
)
async def test_a_mismatch_comes_with_the_expression_that_works(policy: Any, expression: str, better: str) -> None:
    error = await refused(policy, expression)
    assert error["code"] in ("RLS_TYPE_MISMATCH", "RLS_INVALID_EXPRESSION")
    assert error["details"]["suggested_expression"] == better
    assert error["remediation"].endswith(f"using_expression: {better}")
    assert (await policy(better, role="user"))["success"]


@pytest.mark.parametrize(
    ("expression", "code", "said"),
    [
        ("rank = current_user_id()", "RLS_TYPE_MISMATCH", "integer = text"),
        ("user_id = 'abc'", "RLS_TYPE_MISMATCH", "uuid"),
        ("rank", "RLS_TYPE_MISMATCH", "boolean"),
        ("lower(rank) = 'x'", "RLS_TYPE_MISMATCH", "lower(integer)"),
        ("usr_id = current_user_id()::uuid", "RLS_INVALID_EXPRESSION", "usr_id"),
        ("exists (select from memberz)", "RLS_INVALID_EXPRESSION", "memberz"),
        ("count(*) > 1", "RLS_INVALID_EXPRESSION", "aggregate"),
        ("row_number() over () = 1", "RLS_INVALID_EXPRESSION", "window"),
        ("generate_series(1, 2) = 1", "RLS_INVALID_EXPRESSION", "set-returning"),
        ("1 / 0 = 1", "RLS_INVALID_EXPRESSION", "division"),
        ("rank = $1", "RLS_INVALID_EXPRESSION", "parameter"),
        ("rank =", "RLS_INVALID_EXPRESSION", "syntax"),
        ("select true", "RLS_INVALID_EXPRESSION", "syntax"),
        ("true) with check (true", "RLS_INVALID_EXPRESSION", "closes nothing"),
        ("true; drop table notes", "RLS_INVALID_EXPRESSION", "semicolon"),
        ("true -- comment", "RLS_INVALID_EXPRESSION", "comment"),
        ("true /* comment */", "RLS_INVALID_EXPRESSION", "comment"),
        ("  ", "RLS_INVALID_EXPRESSION", "empty"),
        ("exists (with x as (delete from members returning 1) select from x)", "RLS_INVALID_EXPRESSION", "WITH"),
        ("exists (select from members for update)", "RLS_INVALID_EXPRESSION", "lock"),
        ("exists (select from pg_authid)", "RLS_INVALID_EXPRESSION", "pg_authid"),
        ("exists (select from pg_roles)", "RLS_INVALID_EXPRESSION", "app's own"),
        ("exists (select from brolly.migrations)", "RLS_INVALID_EXPRESSION", "brolly"),
        ("exists (select from _platform)", "RLS_INVALID_EXPRESSION", "app's own"),
        ("exists (select from information_schema.tables)", "RLS_INVALID_EXPRESSION", "app's own"),
    ],
)
async def test_refused(deps: Deps, app: App, policy: Any, expression: str, code: str, said: str) -> None:
    error = await refused(policy, expression)
    assert error["code"] == code
    assert said in error["message"]
    assert await stored(deps, app) == {"members": [], "notes": [], "teams": []}


async def test_an_unknown_column_comes_with_the_nearest(policy: Any) -> None:
    assert "Did you mean user_id?" in (await refused(policy, "usr_id = current_user_id()::uuid"))["remediation"]
    assert "Did you mean members?" in (await refused(policy, "exists (select from memberz)"))["remediation"]


@pytest.mark.parametrize(
    "expression",
    [
        "set_config('role', 'butterbase_service', false) is not null",
        "\"pg_catalog\".set_config('role', 'x', true) is not null",
        "U&\"\\0073et_config\"('role', 'x', true) is not null",
        "SET_CONFIG('role', 'x', true) is not null",
        "pg_catalog . set_config ( 'role' , 'x' , true ) is not null",
        "exists (select set_config('role', 'x', true))",
        "exists (select from set_config('role', 'x', true))",
        "case when rank = 1 then set_config('role', 'x', true) is null else true end",
        "pg_read_file('/etc/passwd') is not null",
        "pg_read_binary_file('/etc/passwd') is not null",
        "pg_write_file('/tmp/x', 'x') is null",
        "exists (select pg_ls_dir('/'))",
        "lo_import('/etc/passwd') is null",
        "dblink('host=x', 'select 1') is null",
        "dblink_connect('x') is null",
        "pg_execute_server_program('x') is null",
        "pg_reload_conf()",
        "pg_terminate_backend(1)",
        "pg_cancel_backend(1)",
        "pg_sleep(10) is null",
        "pg_advisory_lock(1) is null",
        "pg_notify('x', 'y') is null",
        "nextval('notes_id_seq') > 0",
        "query_to_xml('select set_config(''role'', ''x'', true)', true, true, '') is null",
        "ts_rewrite('a'::tsquery, 'select 1') is null",
    ],
)
async def test_a_function_with_effects_is_refused_however_it_is_written(
    deps: Deps, app: App, policy: Any, expression: str
) -> None:
    assert (await refused(policy, expression))["code"] == "RLS_UNSAFE_EXPRESSION"
    checked = {"command": "INSERT", "using_expression": None, "with_check_expression": expression}
    assert (await refused(policy, expression, **checked))["code"] == "RLS_UNSAFE_EXPRESSION"
    assert await stored(deps, app) == {"members": [], "notes": [], "teams": []}


async def test_a_circle_is_refused_where_postgres_would_fail_at_every_query(app: App, mcp: Any, policy: Any) -> None:
    error = await refused(policy, "exists (select from notes n where n.id = 1)", role="user")
    assert (error["code"], error["details"]["circle"]) == ("RLS_INVALID_EXPRESSION", ["notes", "notes"])
    await policy(MY_TEAM, role="user")
    await policy("exists (select from teams t where t.id = members.team)", table="members", role="user")
    error = await refused(policy, "exists (select from notes n where n.team = teams.id)", table="teams", role="user")
    assert error["details"]["circle"] == ["teams", "notes", "members", "teams"]
    # For another role there is no circle, nor where the second visit is without sub-selects.
    assert (await policy("exists (select from notes n)", table="teams", role="anon"))["success"]
    assert (await policy("true", table="teams", role="user"))["success"]
    for name in ("notes", "members", "teams"):
        for role in ({"as_role": "anon"}, {"as_role": "user", "as_user": "aaaaaaaa-0000-4000-8000-00000000000a"}, {}):
            assert (await mcp("select_rows", app_id=app.id, table=name, **role))["rows"] == []


async def test_a_limit_per_user_may_count_the_table_itself(app: App, mcp: Any, policy: Any) -> None:
    """An INSERT policy that reads its own table is no circle, as long as its SELECT policies read no other."""
    alice = {"as_role": "user", "as_user": "aaaaaaaa-0000-4000-8000-00000000000a"}
    await mcp("manage_rls", action="create_user_isolation", app_id=app.id, table_name="notes", user_column="user_id")
    await policy(
        "",
        using_expression=None,
        command="INSERT",
        restrictive=True,
        with_check_expression="(select count(*) from notes n) < 2",
    )
    for _ in range(2):
        await mcp("insert_row", app_id=app.id, table="notes", data={"rank": 1}, **alice)
    with pytest.raises(ToolFailed) as full:
        await mcp("insert_row", app_id=app.id, table="notes", data={"rank": 1}, **alice)
    assert full.value.code == "AUTH_RLS_POLICY_VIOLATION"


async def test_a_sub_select_that_finds_nothing_is_warned_of(app: App, mcp: Any, policy: Any) -> None:
    await policy("false", table="members", role="anon")
    answer = await policy(MY_TEAM, role="user")
    assert "finds nothing for signed-in callers: members" in answer["warnings"][-1]
    await policy("true", table="members", policy_name="all", role="user", command="SELECT")
    assert "warnings" not in await policy(MY_TEAM, role="user")
    # Anonymous callers have no privilege on a table that is not under row-level security.
    answer = await policy("exists (select from teams)")
    assert "anonymous callers may not read teams" in answer["warnings"][-1]


async def test_traps_are_warned_of(policy: Any) -> None:
    answer = await policy("exists (select from members where team = team)", role="user")
    assert any("compared with itself" in warning for warning in answer["warnings"])
    answer = await policy("", using_expression=None, with_check_expression="rank = 1", policy_name="c")
    assert any("Without using_expression nobody" in warning for warning in answer["warnings"])
    answer = await policy("true", table="teams", restrictive=True)
    assert any("only narrows" in warning for warning in answer["warnings"])
