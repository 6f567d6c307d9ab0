"""Which policies there may be: their names, what goes with which command, and what each lacks."""

from __future__ import annotations

import re

from brolly.core.errors import AppError
from brolly.pg.catalog import Column, Policy, Table
from brolly.pg.identifiers import MAX_BYTES, derived_name, quote
from brolly.rls.change import Change, known_column
from brolly.rls.protection import ANON, USER, Protection, bypass_name

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_UUID, _BOOLEAN = 2950, 16
_TEXTS = frozenset({25, 1043})
# As Postgres prints it back.
_SAME = re.compile(r"(?<![\w.\"])([\w.\"]+) = \1(?![\w.\"(])")

PUBLIC_READ = (("_public_read_user", USER), ("_public_read_anon", ANON))


def isolation(table: Table, user_column: str) -> Policy:
    """The policy by which signed-in callers reach the rows that carry their id, and no others."""
    cast = "::uuid" if known_user_column(table, user_column).base_oid == _UUID else ""
    own = f"{quote(user_column)} = public.current_user_id(){cast}"
    return Policy(derived_name(table.name, "_user_isolation"), "ALL", True, (USER,), own, own)


def public_read(table: Table, name: str) -> list[Policy]:
    """The policies by which everybody reads the rows in which that column is true."""
    column = known_column(table, name, "public_read_column")
    if column.base_oid != _BOOLEAN:
        raise AppError(
            "VALIDATION_INVALID_TYPE",
            f"public_read_column {table.name}.{column.name} is {column.type}; it must be boolean.",
            remediation="Name a boolean column, or use manage_rls create_policy with command SELECT and a "
            "using_expression on this one.",
            details={"column": column.name, "type": column.type},
        )
    shown = f"{quote(column.name)} = true"
    return [
        Policy(derived_name(table.name, suffix), "SELECT", True, (role,), shown, None) for suffix, role in PUBLIC_READ
    ]


def known_user_column(table: Table, name: str) -> Column:
    """The column that holds users' ids; raises unless it is uuid or text and can be written."""
    column = known_column(table, name, "user_column")
    if (column.base_oid != _UUID and column.base_oid not in _TEXTS) or not column.writable:
        kind = column.type if column.writable else "computed by Postgres"
        raise AppError(
            "VALIDATION_INVALID_TYPE",
            f"user_column {table.name}.{name} is {kind}; it must be uuid or text, as users' ids are.",
            remediation="Add a uuid column for the user's id with manage_schema apply and name that one.",
            details={"column": name, "type": column.type},
        )
    return column


def check_form(action: str, table: str, name: str, command: str, using: str | None, check: str | None) -> None:
    """Raise unless name and expressions can go together with the command."""
    refuse_reserved(table, name)
    if not _NAME.fullmatch(name) or len(name) > MAX_BYTES:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"policy_name {name!r} is not accepted.",
            remediation="Use lower-case letters, digits and underscores, a letter first, at most 63 characters, "
            f"in manage_rls {action}.",
        )
    if using is None and check is None:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"{action} needs using_expression (which rows are seen), with_check_expression (which may be written), "
            "or both.",
            remediation=f"Repeat manage_rls {action} with an expression such as user_id = current_user_id()::uuid.",
        )
    wrong = None
    if command == "INSERT" and using is not None:
        wrong = ("using_expression", "with_check_expression", "a new row is checked, none is looked up")
    elif command in ("SELECT", "DELETE") and check is not None:
        wrong = ("with_check_expression", "using_expression", "it writes no row")
    if wrong is not None:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"A policy for {command} takes no {wrong[0]}: {wrong[2]}.",
            remediation=f"Repeat manage_rls {action} with {wrong[1]} alone, or with command ALL.",
        )


def refuse_reserved(table: str, policy: str) -> None:
    """Raise for the name of the policy that lets service keys pass."""
    if policy == bypass_name(table):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"{policy} is the policy that lets service keys pass; it comes and goes with row-level security.",
            remediation="Use another policy_name, or manage_rls delete without policy_name to switch it all off.",
        )


def refuse_unknown(now: Protection, name: str) -> None:
    """Raise unless the table has a policy of that name."""
    if name not in now.policies:
        names = sorted(now.policies.keys() - {now.bypass})
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"{now.table} has no policy {name!r}; it has: " + (", ".join(names) or "none of its own") + ".",
            remediation="Name one of those; manage_rls list shows each with what it says.",
            details={"policies": names},
        )


def warnings_of_isolation(change: Change, mine: set[str]) -> list[str]:
    """What still lets users reach the rows of others."""
    others = [p.name for p in change.before.policies.values() if p.permissive]
    others = [name for name in others if name not in mine | {change.before.bypass}]
    if not others:
        return []
    return [
        f"Other permissive policies of {change.table.name} stay, and what they allow stays allowed: "
        f"{', '.join(others)}. Remove one with manage_rls delete and its policy_name."
    ]


def warnings_of_policy(change: Change, policy: Policy) -> list[str]:
    """What the policy, as stored, does otherwise than one may expect."""
    table = change.table.name
    said: list[str] = []
    if not change.before.enabled:
        said.append(
            f"Row-level security was off on {table} and is on now: signed-in and anonymous callers no longer see "
            "rows that no policy allows them."
        )
    if policy.permissive and policy.command in ("ALL", "UPDATE") and policy.using is None:
        verbs = "reads, changes or deletes" if policy.command == "ALL" else "changes"
        said.append(f"Without using_expression nobody {verbs} a row by this policy; it only checks new rows.")
    after = change.after or change.before
    stored = after.policies[policy.name]
    for same in _SAME.finditer(f"{stored.using} {stored.check}"):
        said.append(
            f"{same[1]} is compared with itself, which is true for every row: in a sub-select a bare column is the "
            f"sub-select's own; write {table}.column for the row that the policy is about."
        )
    if not policy.permissive:
        allowing = [p for name, p in after.policies.items() if p.permissive and name != after.bypass]
        for role in policy.roles:
            if not any(not p.roles or role in p.roles for p in allowing):
                said.append(f"A restrictive policy only narrows, and no permissive policy lets {role} do anything yet.")
    return said
