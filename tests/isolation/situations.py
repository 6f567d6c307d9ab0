"""Policy situations, each with a model of who may do what, written from the intention and not from the code.

The table ``things`` has the columns id, owner (uuid or text), body, shown, team; ``members`` says
which user belongs to which team.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.isolation.callers import TEXTS, UUIDS, Who
from tests.isolation.doors import Row

Rule = Callable[[Who, Row], bool]
Call = dict[str, Any]


def never(_who: Who, _row: Row) -> bool:
    return False


def always(_who: Who, _row: Row) -> bool:
    return True


def users(who: Who, _row: Row) -> bool:
    return who.is_user


def mine(who: Who, row: Row) -> bool:
    return who.is_user and row["owner"] == who.id


def shown(_who: Who, row: Row) -> bool:
    return row["shown"] is True


def my_team(who: Who, row: Row) -> bool:
    # A is a member of team 1, B of team 2.
    return row["team"] is not None and row["team"] == {"A": 1, "B": 2}.get(who.name)


def team_one(_who: Who, row: Row) -> bool:
    return row["team"] == 1


def either(*rules: Rule) -> Rule:
    return lambda who, row: any(rule(who, row) for rule in rules)


def both(*rules: Rule) -> Rule:
    return lambda who, row: all(rule(who, row) for rule in rules)


@dataclass(frozen=True)
class Situation:
    """Calls of ``manage_rls`` and what they are to mean.

    ``sees``: rows that are read. ``adds``: rows that may come to be. ``changes``: rows that may be
    changed, provided they are seen; ``keeps``: what a changed row may look like, provided it is
    then still seen (default: ``changes``). ``deletes``: rows that may go, provided they are seen.
    ``stamps``: a new row gets the signed-in caller's id, whatever was sent. Service keys may all.
    """

    name: str
    calls: tuple[Call, ...]
    sees: Rule = never
    adds: Rule = never
    changes: Rule = never
    deletes: Rule = never
    keeps: Rule | None = None
    stamps: bool = False
    owner_type: str = "uuid"
    members: tuple[Call, ...] = field(default=())

    @property
    def people(self) -> tuple[Who, Who]:
        return UUIDS if self.owner_type == "uuid" else TEXTS

    def may_see(self, who: Who, row: Row) -> bool:
        return who.is_service or self.sees(who, row)

    def after_insert(self, who: Who, row: Row) -> Row | None:
        """The row as stored, or None when it is refused."""
        if self.stamps and who.is_user:
            row = {**row, "owner": who.id}
        return row if who.is_service or self.adds(who, row) else None

    def after_update(self, who: Who, row: Row, values: Row) -> Row | None:
        """The row as it then is, or None when it stays as it was."""
        new = {**row, **values}
        if who.is_service:
            return new
        keeps = self.keeps or self.changes
        may = self.sees(who, row) and self.changes(who, row) and keeps(who, new) and self.sees(who, new)
        return new if may else None

    def may_delete(self, who: Who, row: Row) -> bool:
        return who.is_service or (self.sees(who, row) and self.deletes(who, row))


ISOLATE: Call = {"action": "create_user_isolation", "user_column": "owner"}
ISOLATE_SHOWN: Call = {**ISOLATE, "public_read_column": "shown"}
MY_TEAM = "team in (select m.team from members m where m.user_id = current_user_id()::uuid)"
IS_MINE = "owner = current_user_id()::uuid"


def policy(name: str, command: str, **rest: Any) -> Call:
    return {"action": "create_policy", "policy_name": name, "command": command, **rest}


OWN: Call = {"adds": mine, "changes": mine, "deletes": mine, "stamps": True}
ALL: Call = {"sees": users, "adds": users, "changes": users, "deletes": users}

SITUATIONS = [
    Situation("without_rls", (), **ALL),
    Situation("enabled_without_policy", ({"action": "enable"},)),
    Situation("isolation_by_uuid", (ISOLATE,), sees=mine, **OWN),
    Situation("isolation_by_text", (ISOLATE,), sees=mine, owner_type="text", **OWN),
    Situation("isolation_with_public_read", (ISOLATE_SHOWN,), sees=either(mine, shown), **OWN),
    Situation("isolation_repeated_without_public_read", (ISOLATE_SHOWN, ISOLATE), sees=mine, **OWN),
    Situation(
        "membership",
        (
            policy("team_read", "SELECT", role="user", using_expression=MY_TEAM),
            policy("team_add", "INSERT", role="user", with_check_expression=MY_TEAM),
        ),
        sees=my_team,
        adds=my_team,
        members=({"action": "create_user_isolation", "user_column": "user_id"},),
    ),
    Situation(
        "anonymous_reads",
        (policy("anon_read", "SELECT", role="anon", using_expression="shown"),),
        sees=lambda who, row: not who.is_user and shown(who, row),
    ),
    Situation(
        "restrictive_on_top",
        (ISOLATE_SHOWN, policy("only_one", "ALL", restrictive=True, using_expression="team = 1")),
        sees=both(either(mine, shown), team_one),
        adds=both(mine, team_one),
        changes=both(mine, team_one),
        deletes=both(mine, team_one),
        stamps=True,
    ),
    Situation("restrictive_alone", (policy("only_one", "ALL", restrictive=True, using_expression="team = 1"),)),
    Situation(
        "restrictive_for_anonymous",
        (
            policy("all_read", "SELECT", using_expression="true"),
            policy("anon_one", "SELECT", role="anon", restrictive=True, using_expression="team = 1"),
        ),
        sees=lambda who, row: who.is_user or team_one(who, row),
    ),
    Situation(
        "by_role",
        (
            policy("anon_all", "ALL", role="anon", using_expression="shown", with_check_expression="shown"),
            policy("user_read", "SELECT", role="user", using_expression="team = 1"),
        ),
        sees=lambda who, row: team_one(who, row) if who.is_user else shown(who, row),
        adds=lambda who, row: not who.is_user and shown(who, row),
        changes=lambda who, row: not who.is_user and shown(who, row),
        deletes=lambda who, row: not who.is_user and shown(who, row),
    ),
    Situation(
        "everybody",
        (policy("open", "ALL", using_expression="true"),),
        sees=always,
        adds=always,
        changes=always,
        deletes=always,
    ),
    Situation(
        "stamped_by_a_policy",
        (
            policy("read", "SELECT", role="user", using_expression="true"),
            policy("add", "INSERT", role="user", with_check_expression=IS_MINE, user_column="owner"),
            policy("change", "UPDATE", role="user", using_expression=IS_MINE),
        ),
        sees=users,
        adds=mine,
        changes=mine,
        stamps=True,
    ),
    Situation(
        "check_differs_from_using",
        (
            policy("read", "SELECT", role="user", using_expression="true"),
            policy("adopt", "UPDATE", role="user", using_expression="owner is null", with_check_expression=IS_MINE),
        ),
        sees=users,
        changes=lambda _who, row: row["owner"] is None,
        keeps=mine,
    ),
    Situation(
        "updated",
        (
            policy("read", "ALL", using_expression="true"),
            {
                "action": "update_policy",
                "policy_name": "read",
                "command": "SELECT",
                "role": "user",
                "using_expression": "team = 1",
            },
        ),
        sees=both(users, team_one),
    ),
    Situation(
        "policy_deleted",
        (ISOLATE, {"action": "delete", "policy_name": "things_user_isolation"}),
        stamps=True,
    ),
    Situation("switched_off", (ISOLATE_SHOWN, {"action": "delete", "confirm": True}), **ALL),
    Situation(
        "composite",
        (
            ISOLATE_SHOWN,
            policy("team_read", "SELECT", role="user", using_expression=MY_TEAM),
            policy("team_change", "UPDATE", role="user", using_expression=MY_TEAM, with_check_expression=MY_TEAM),
            policy("keep_shown", "DELETE", restrictive=True, using_expression="not shown"),
        ),
        sees=either(mine, shown, my_team),
        adds=mine,
        changes=either(mine, my_team),
        deletes=both(mine, lambda _who, row: row["shown"] is False),
        stamps=True,
        members=({"action": "create_user_isolation", "user_column": "user_id"},),
    ),
]
