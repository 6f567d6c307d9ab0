"""Tables that decide who passes a policy, and who may write them."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed

TABLES = """
create table notes (id serial primary key, team int, project uuid, body text);
create table members (id serial primary key, team int, user_id uuid);
create table projects (id uuid primary key default gen_random_uuid(), user_id uuid);
"""
EVE = {"as_role": "user", "as_user": "eeeeeeee-0000-4000-8000-00000000000e"}
MY_TEAM = "team in (select m.team from members m where m.user_id = current_user_id()::uuid)"
MINE = "user_id = current_user_id()::uuid"
SELF_SERVICE = "anybody can let themselves in"


class Team:
    """manage_rls on an app with notes of teams, and what a stranger reaches there."""

    def __init__(self, app: App, mcp: Any) -> None:
        self.app, self.mcp = app, mcp

    async def __call__(self, action: str, table: str, **arguments: Any) -> list[str]:
        done = await self.mcp("manage_rls", action=action, app_id=self.app.id, table_name=table, **arguments)
        return done.get("warnings", [])

    async def policy(self, table: str, name: str, expression: str, **arguments: Any) -> list[str]:
        arguments = {"role": "user", "command": "SELECT", "using_expression": expression, **arguments}
        return await self("create_policy", table, policy_name=name, **arguments)

    async def notes(self) -> int:
        return len((await self.mcp("select_rows", app_id=self.app.id, table="notes", **EVE))["rows"])

    async def join(self) -> None:
        row = {"team": 1, "user_id": EVE["as_user"]}
        await self.mcp("insert_row", app_id=self.app.id, table="members", data=row, **EVE)


@pytest.fixture
async def team(deps: Deps, app: App, mcp: Any) -> Team:
    async with deps.pools.owner(app) as conn:
        await conn.execute(TABLES)
        await conn.execute("insert into notes (team, body) values (1, 'secret')")
    await deps.catalog.changed(app)
    return Team(app, mcp)


async def test_whoever_writes_memberships_joins_any_team_and_the_answer_says_so(team: Team) -> None:
    await team("create_user_isolation", "members", user_column="user_id")
    warnings = await team.policy("notes", "team", MY_TEAM)
    assert warnings[0].startswith("members decides who passes this policy, and signed-in users may write")
    assert SELF_SERVICE in warnings[0]
    # The warning is true …
    assert await team.notes() == 0
    await team.join()
    assert await team.notes() == 1
    # … and the calls that it names are the remedy.
    assert (
        f'table_name="members" policy_name="members_read" command="SELECT" role="user" using_expression="{MINE}"'
        in (warnings[0])
    )
    assert 'manage_rls delete table_name="members" policy_name="members_user_isolation"' in warnings[0]
    await team.policy("members", "members_read", MINE)
    await team("delete", "members", policy_name="members_user_isolation")
    with pytest.raises(ToolFailed) as refused:
        await team.join()
    assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION"
    assert not [w for w in await team.policy("notes", "team", MY_TEAM) if SELF_SERVICE in w]


async def test_memberships_that_are_read_alone_need_no_warning(team: Team) -> None:
    await team.policy("members", "members_read", MINE)
    warnings = await team.policy("notes", "team", MY_TEAM)
    assert not [w for w in warnings if "members" in w]
    with pytest.raises(ToolFailed):
        await team.join()
    assert await team.notes() == 0


async def test_a_table_without_row_level_security_decides_nothing_safely(team: Team) -> None:
    warnings = await team.policy("notes", "team", MY_TEAM)
    assert SELF_SERVICE in warnings[0]
    assert 'create_policy table_name="members" policy_name="members_read"' in warnings[0]
    await team.join()
    assert await team.notes() == 1


@pytest.mark.parametrize(
    "policy",
    [
        {"command": "INSERT", "using_expression": None, "with_check_expression": MINE},
        {"command": "UPDATE"},
        {"command": "ALL", "role": None},
    ],
)
async def test_it_is_said_too_when_the_writing_is_allowed_later(team: Team, policy: dict[str, Any]) -> None:
    await team.policy("members", "members_read", MINE)
    await team.policy("notes", "team", MY_TEAM)
    assert SELF_SERVICE not in str(await team.policy("members", "again", MINE))
    warnings = await team.policy("members", "write", MINE, **policy)
    assert warnings[0].startswith("members decides who passes policy team of notes, and signed-in users may")
    assert SELF_SERVICE in warnings[0]
    assert SELF_SERVICE in str(await team("update_policy", "members", policy_name="write", using_expression=MINE))


async def test_isolating_or_opening_the_looked_up_table_is_told(team: Team) -> None:
    await team.policy("members", "members_read", MINE)
    await team.policy("notes", "team", MY_TEAM)
    assert SELF_SERVICE in (await team("create_user_isolation", "members", user_column="user_id"))[0]
    assert SELF_SERVICE in (await team("delete", "members", confirm=True))[0]


async def test_a_restrictive_writer_or_another_role_lets_nobody_in(team: Team) -> None:
    await team.policy("members", "members_read", MINE)
    await team.policy("members", "narrow", MINE, command="ALL", restrictive=True)
    await team.policy("members", "anon", "team = 1", command="ALL", role="anon")
    await team.policy("members", "never", "false", command="ALL")
    assert SELF_SERVICE not in str(await team.policy("notes", "team", MY_TEAM))


async def test_own_rows_behind_a_unique_column_are_named_without_alarm(team: Team) -> None:
    """Nobody can have a second row for another's project, so users may keep making projects of their own."""
    await team("create_user_isolation", "projects", user_column="user_id")
    expression = "project in (select p.id from projects p where p.user_id = current_user_id()::uuid)"
    warnings = await team.policy("notes", "project", expression)
    assert SELF_SERVICE not in str(warnings)
    assert "projects decides who passes this policy" in warnings[0]
    # Where anybody may write every row, a unique column keeps nobody out.
    await team.policy("projects", "open", "true", command="UPDATE")
    assert SELF_SERVICE in (await team.policy("notes", "project", expression))[0]


async def test_a_policy_for_the_admins_is_named_without_alarm(team: Team) -> None:
    await team.policy("members", "members_read", MINE)
    admins = "exists (select from projects p where p.user_id = current_user_id()::uuid)"
    await team.policy("members", "admins", admins, command="ALL")
    warnings = await team.policy("notes", "team", MY_TEAM)
    assert SELF_SERVICE not in str(warnings)
    assert "(by admins): see that nobody lets themselves in" in warnings[0]
