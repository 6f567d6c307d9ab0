"""What a role may do with a table, as far as the catalog tells, in words that say how to change it."""

from __future__ import annotations

from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.pg.catalog import Policy, Table

_WHO = {"service": "the service role", "user": "signed-in users", "anonymous": "anonymous callers"}
_ROLE = {"user": "user", "anonymous": "anon"}


def is_closed(table: Table, who: Caller) -> bool:
    """Whether the caller is refused for want of row-level security: anonymous callers then hold no privilege.
    Views that do not run as their caller are for the service role alone."""
    if table.view is not None and not table.view.sealed and who.kind != "service":
        return True  # it would read with its owner's rights, whatever the policies say
    return who.kind == "anonymous" and not table.rls_enabled


def policies_for(table: Table, who: Caller, command: str) -> list[Policy]:
    """The permissive policies of that command which apply to the caller's role."""
    return [
        p
        for p in table.policies
        if p.permissive and p.command in (command, "ALL") and (not p.roles or who.role in p.roles)
    ]


def read_warnings(table: Table, who: Caller) -> list[str]:
    """What would mislead if it went unsaid: rows that are missing, or open, because of how the table is protected."""
    if table.view is not None:
        return _view_warnings(table, who)
    if is_closed(table, who):
        return [
            f"No row-level security on {table.name}, so anonymous callers are refused. To let them read, call "
            f"manage_rls with action create_policy, table_name {table.name}, command SELECT, role anon and a "
            "using_expression."
        ]
    if not table.rls_enabled:
        return open_warnings(table, who)
    if not policies_for(table, who, "SELECT"):
        return [
            f"No SELECT policy on {table.name} is for {_WHO[who.kind]}, so they see no rows. "
            + _how_to_allow(table, who, "SELECT")
        ]
    return []


def _view_warnings(table: Table, who: Caller) -> list[str]:
    assert table.view is not None  # noqa: S101 - asked before
    if not table.view.sealed and who.kind != "service":
        return [
            f"{table.name} reads with the rights of its owner, so it is closed to all but the service role. To let "
            "it run as its caller, send it once more with manage_schema apply."
        ]
    return [warning for base in table.view.bases for warning in read_warnings(base, who)]


def open_warnings(table: Table, who: Caller) -> list[str]:
    """A table without row-level security belongs to every signed-in user."""
    if table.rls_enabled or who.kind != "user" or table.view is not None:
        return []
    return [
        f"No row-level security on {table.name}: every signed-in user reads and changes all of its rows. If that is "
        f"not meant, call manage_rls with action create_user_isolation, table_name {table.name} and user_column."
    ]


def _how_to_allow(table: Table, who: Caller, command: str) -> str:
    if who.kind == "service":
        return f"Call manage_rls with action enable and table_name {table.name}; it lets the service role pass."
    expression = "with_check_expression" if command == "INSERT" else "using_expression"
    return (
        f"Call manage_rls with action create_policy, table_name {table.name}, command {command}, "
        f"role {_ROLE[who.kind]} and {expression}."
    )


def refusal(table: Table, who: Caller, command: str, reason: str = "") -> AppError:
    """The error for what the policies, or the want of them, refuse. ``reason`` is Postgres's own message.

    Only who acts with a key of the app's account, be it as another role, is told about policies.
    """
    if who.account_id is None:
        return AppError("AUTH_RLS_POLICY_VIOLATION", f"You may not {command} this row of {table.name}.")
    details: dict[str, Any] = {"table": table.name, "role": who.role, "command": command}
    if reason:
        details["reason"] = reason
    if table.view is not None:
        said = "; ".join(read_warnings(table, who)) or f"The policies of its tables refuse this {command}."
        hint = "Call manage_rls with action list for the policies of the tables that the view reads."
        return AppError(
            "AUTH_RLS_POLICY_VIOLATION", f"{table.name} is a view. {said}", remediation=hint, details=details
        )
    policies = policies_for(table, who, command)
    remediation = _how_to_allow(table, who, command)
    if is_closed(table, who):
        message = f"No row-level security on {table.name}, so anonymous callers are refused."
    elif not policies:
        message = f"No {command} policy on {table.name} is for {_WHO[who.kind]}."
    else:
        details["policies"] = [{"name": p.name, "using": p.using, "with_check": p.check} for p in policies]
        message = f"The policies of {table.name} refuse this {command} by {_WHO[who.kind]}."
        remediation = (
            "Compare the row with the policies in details; change it or them (manage_rls, action update_policy). "
            "manage_rls with action list shows restrictive policies too."
        )
    return AppError("AUTH_RLS_POLICY_VIOLATION", message, remediation=remediation, details=details)
