"""What can be done with row-level security."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.pg.catalog import Policy, Table
from brolly.pg.identifiers import derived_name, quote
from brolly.pg.session import as_caller
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App
from brolly.rls.change import Change, changing, known_table
from brolly.rls.expressions import Trial
from brolly.rls.policies import (
    PUBLIC_READ,
    check_form,
    isolation,
    known_user_column,
    public_read,
    refuse_reserved,
    refuse_unknown,
    warnings_of_isolation,
    warnings_of_policy,
)
from brolly.rls.protection import ANON, USER, bypass_name, open_to_users, under_rls, with_policies, with_trigger
from brolly.rls.reads import judge_reads, refuse_unsafe
from brolly.rls.writers import judge_writers

Command = Literal["SELECT", "INSERT", "UPDATE", "DELETE", "ALL"]

_ROLES: dict[str | None, tuple[str, ...]] = {None: (), "anon": (ANON,), "user": (USER,)}
_COUNT_LIMIT = 10_000


class OneTable(AppParams):
    """Parameters of enable."""

    table_name: str


class PutPolicy(OneTable):
    """Parameters of create_policy and update_policy."""

    policy_name: str
    command: Command = "ALL"
    role: Literal["anon", "user"] | None = None
    using_expression: str | None = None
    with_check_expression: str | None = None
    restrictive: bool = False
    user_column: str | None = None

    @field_validator("command", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class UserIsolation(OneTable):
    """Parameters of create_user_isolation."""

    user_column: str
    public_read_column: str | None = None


class Delete(OneTable):
    """Parameters of delete."""

    policy_name: str | None = None


async def enable_rls(deps: Deps, caller: Caller, params: OneTable) -> dict[str, Any]:
    """Put a table under row-level security: whoever no policy allows gets nothing."""
    app = await deps.registry.get(caller, params.app_id)
    async with changing(deps, app, params.table_name, f"rls_{params.table_name}_enable") as change:
        await change.make(under_rls(change.before))
    result: dict[str, Any] = {"success": True, "table": params.table_name, "rls_enabled": True}
    if change.before.policies.keys() <= {change.before.bypass}:
        result["warnings"] = [
            f"{params.table_name} has no policy yet, so only service keys reach its rows. "
            "Add one with manage_rls create_user_isolation or create_policy."
        ]
    return result


async def create_user_isolation(deps: Deps, caller: Caller, params: UserIsolation) -> dict[str, Any]:
    """Let each user reach only their own rows, and others read those that are public."""
    app = await deps.registry.get(caller, params.app_id)
    name = params.table_name
    public_names = tuple(derived_name(name, suffix) for suffix, _ in PUBLIC_READ)
    async with changing(deps, app, name, f"rls_{name}_user_isolation") as change:
        policy = isolation(change.table, params.user_column)
        public = public_read(change.table, params.public_read_column) if params.public_read_column else []
        wanted = with_policies(under_rls(change.before), policy, *public, without=public_names)
        await change.make(with_trigger(wanted, params.user_column))
        lets_in = await judge_writers(change.conn, change.snapshot, change.table, policy.name)
    result: dict[str, Any] = {
        "success": True,
        "table": name,
        "user_column": params.user_column,
        "policy_name": policy.name,
    }
    if public:
        result["public_read_policies"] = [p.name for p in public]
    if warnings := [*lets_in, *warnings_of_isolation(change, {policy.name, *public_names})]:
        result["warnings"] = warnings
    return {**result, "_meta": {"next_actions": _next_actions(change.table, params.user_column)}}


async def isolate(
    deps: Deps,
    caller: Caller,
    app_id: str,
    *,
    table_name: str,
    user_column: str,
    public_read_column: str | None = None,
) -> dict[str, Any]:
    """``create_user_isolation`` for other slices."""
    return await create_user_isolation(
        deps,
        caller,
        UserIsolation(
            app_id=app_id, table_name=table_name, user_column=user_column, public_read_column=public_read_column
        ),
    )


def _next_actions(table: Table, column: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"action": "test", "tool": "select_rows", "description": "Read as a user: as_role user, as_user their id."}
    ]
    if not any(index.columns[:1] == (column,) for index in table.indexes):
        steps.append(
            {"action": "apply", "tool": "manage_schema", "description": f"Index {column}: every query uses it."}
        )
    return steps


async def create_policy(deps: Deps, caller: Caller, params: PutPolicy) -> dict[str, Any]:
    """Add a policy, or replace the one of that name; puts the table under row-level security if it is not."""
    _check_form(params, "create_policy")
    app = await deps.registry.get(caller, params.app_id)
    async with _changing_policy(deps, app, params) as change:
        warnings = await _put(deps, app, caller, change, params)
    return _put_result(change, params, warnings)


async def update_policy(deps: Deps, caller: Caller, params: PutPolicy) -> dict[str, Any]:
    """Replace a policy as a whole; what is left out returns to its default. A trigger stays as it is."""
    _check_form(params, "update_policy")
    app = await deps.registry.get(caller, params.app_id)
    async with _changing_policy(deps, app, params) as change:
        refuse_unknown(change.before, params.policy_name)
        warnings = await _put(deps, app, caller, change, params)
    return _put_result(change, params, warnings)


def _check_form(params: PutPolicy, action: str) -> None:
    check_form(
        action,
        params.table_name,
        params.policy_name,
        params.command,
        params.using_expression,
        params.with_check_expression,
    )


def _changing_policy(deps: Deps, app: App, params: PutPolicy) -> Any:
    return changing(deps, app, params.table_name, f"rls_policy_{params.table_name}_{params.policy_name}")


async def _put(deps: Deps, app: App, caller: Caller, change: Change, params: PutPolicy) -> list[str]:
    """Try the expressions as a narrow role, store the policy, judge what was stored; warnings."""
    trial = Trial(deps, app, caller, change.snapshot, change.table)
    using = check = None
    if params.using_expression is not None:
        using = await trial.check(params.using_expression, "using_expression")
    if params.with_check_expression is not None:
        check = await trial.check(params.with_check_expression, "with_check_expression")
    roles = _ROLES[params.role]
    if params.restrictive and not roles:
        # One for everybody would bind the service role as well.
        roles = (ANON, USER)
    policy = Policy(params.policy_name, params.command, not params.restrictive, roles, using, check)
    wanted = with_policies(under_rls(change.before), policy)
    if params.user_column is not None:
        wanted = with_trigger(wanted, known_user_column(change.table, params.user_column).name)
    await change.make(wanted)
    await refuse_unsafe(change.conn, change.table, policy.name)
    reads = await judge_reads(change.conn, change.snapshot, change.table, policy)
    lets_in = await judge_writers(change.conn, change.snapshot, change.table, policy.name)
    return [*lets_in, *warnings_of_policy(change, policy), *reads]


def _put_result(change: Change, params: PutPolicy, warnings: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"success": True, "policy_name": params.policy_name, "table": params.table_name}
    if not change.before.enabled:
        result["rls_enabled"] = True
    return {**result, "warnings": warnings} if warnings else result


async def list_policies(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """The policies of all tables, and which tables are under row-level security."""
    app = await deps.registry.get(caller, params.app_id)
    async with deps.pools.reader(app) as conn:
        snapshot = await read_snapshot(conn)
    tables = snapshot.tables.values()
    under = [t for t in tables if t.rls_enabled]
    return {
        "summary": f"{len(under)} of {len(tables)} tables are under row-level security. "
        "tables_with_rls names only those of them that have no policy of their own.",
        "tables": [{"table": t.name, "rls_enabled": t.rls_enabled, "policy_count": len(t.policies)} for t in tables],
        "tables_without_rls": [t.name for t in tables if not t.rls_enabled],
        "policies": [_listed(table, policy) for table in tables for policy in table.policies],
        "tables_with_rls": [t.name for t in under if {p.name for p in t.policies} <= {bypass_name(t.name)}],
    }


def _listed(table: Table, policy: Policy) -> dict[str, Any]:
    return {
        "schemaname": "public",
        "tablename": table.name,
        "policyname": policy.name,
        "permissive": "PERMISSIVE" if policy.permissive else "RESTRICTIVE",
        "roles": list(policy.roles) or ["public"],
        "cmd": policy.command,
        "qual": policy.using,
        "with_check": policy.check,
    }


async def delete(deps: Deps, caller: Caller, params: Delete) -> dict[str, Any]:
    """Remove one policy (the table stays closed), or all of them and row-level security itself."""
    app = await deps.registry.get(caller, params.app_id)
    if params.policy_name is not None:
        return await _delete_policy(deps, app, params.table_name, params.policy_name)
    async with changing(deps, app, params.table_name, f"rls_{params.table_name}_disable") as change:
        _refuse_nothing(change.table)
        await change.make(open_to_users(change.before))
        lets_in = await judge_writers(change.conn, change.snapshot, change.table)
    result: dict[str, Any] = {
        "message": f"Row-level security is off on {params.table_name}: every signed-in user reaches every row, "
        "anonymous callers none.",
        "table": params.table_name,
        "policies_removed": len(change.before.policies),
    }
    return {**result, "warnings": lets_in} if lets_in else result


async def _delete_policy(deps: Deps, app: App, table: str, name: str) -> dict[str, Any]:
    refuse_reserved(table, name)
    async with changing(deps, app, table, f"rls_policy_{table}_{name}_delete") as change:
        refuse_unknown(change.before, name)
        await change.make(with_policies(change.before, without=(name,)))
    left = sorted(change.before.policies.keys() - {name})
    result: dict[str, Any] = {
        "message": f"Policy {name} was deleted; {table} stays under row-level security.",
        "table": table,
        "policy_name": name,
        "remaining_policies": len(left),
    }
    if not [n for n in left if n != change.before.bypass and change.before.policies[n].permissive]:
        result["warnings"] = [f"No permissive policy is left, so only service keys reach the rows of {table}."]
    return result


def _refuse_nothing(table: Table) -> None:
    if not table.rls_enabled and not table.policies:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"{table.name} is not under row-level security and has no policies.",
            remediation="Nothing needs doing; manage_rls list shows which tables are under it.",
        )


async def what_delete_loses(deps: Deps, caller: Caller, params: Delete) -> str | None:
    """The question before access gets wider; None where it only gets narrower."""
    app = await deps.registry.get(caller, params.app_id)
    async with deps.pools.reader(app) as conn:
        table = known_table(await read_snapshot(conn), params.table_name)
    if params.policy_name is None:
        _refuse_nothing(table)
        return (
            f"Switch row-level security off on {table.name}, and remove its {len(table.policies)} policies? "
            f"{await _count(deps, app, caller, table)} rows then become visible to every signed-in user, "
            "who may also change and delete them."
        )
    refuse_reserved(table.name, params.policy_name)
    policy = next((p for p in table.policies if p.name == params.policy_name), None)
    if policy is None or policy.permissive:
        return None
    return (
        f"Delete the restrictive policy {policy.name} of {table.name}? What it holds back "
        f"({policy.command}: {policy.using or policy.check}) is then up to the other policies alone."
    )


async def _count(deps: Deps, app: App, caller: Caller, table: Table) -> str:
    """How many rows, exactly as far as that is cheap. The service role sees all of them."""
    async with as_caller(deps.pools.door(app), caller, read_only=True) as conn:
        exact: int = await conn.fetchval(
            f"select count(*) from (select from public.{quote(table.name)} limit {_COUNT_LIMIT + 1}) t"
        )
    if exact <= _COUNT_LIMIT:
        return str(exact)
    return f"About {max(table.estimated_rows or 0, exact)}"
