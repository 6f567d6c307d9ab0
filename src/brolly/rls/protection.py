"""How a table is protected: flags, policies, owner trigger, what anonymous callers may try.

An action says what the protection shall be; ``statements`` is the way from one to the
other, and so also the way back that is kept with each recorded change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from brolly.pg.catalog import Policy
from brolly.pg.identifiers import derived_name, literal, quote
from brolly.pg.pool import Connection

ANON, USER, SERVICE = "butterbase_anon", "butterbase_user", "butterbase_service"

_READ = """
select json_build_object(
    'enabled', c.relrowsecurity,
    'forced', c.relforcerowsecurity,
    'anon', has_table_privilege('butterbase_anon', c.oid, 'select'),
    'policies', coalesce((
        select json_agg(json_build_object(
            'name', p.polname,
            'command', case p.polcmd when '*' then 'ALL' when 'r' then 'SELECT' when 'a' then 'INSERT'
                when 'w' then 'UPDATE' else 'DELETE' end,
            'permissive', p.polpermissive,
            'roles', (select coalesce(json_agg(r.rolname order by r.rolname), '[]')
                      from pg_roles r where r.oid = any (p.polroles)),
            'using', pg_get_expr(p.polqual, p.polrelid),
            'check', pg_get_expr(p.polwithcheck, p.polrelid)) order by p.polname)
        from pg_policy p where p.polrelid = c.oid), '[]'),
    'trigger', coalesce((
        select json_build_array(pg_get_functiondef(t.tgfoid), pg_get_triggerdef(t.oid))
        from pg_trigger t where t.tgrelid = c.oid and t.tgname = $2), '[]'))
from pg_class c
where c.oid = $1
"""


@dataclass(frozen=True, slots=True)
class Protection:
    """The state of one table. ``trigger`` holds the statements that make the trigger function and the trigger."""

    table: str
    enabled: bool
    forced: bool
    anon: bool
    policies: Mapping[str, Policy]
    trigger: tuple[str, ...]

    @property
    def bypass(self) -> str:
        """The name of the policy that lets the service role pass."""
        return bypass_name(self.table)


def bypass_name(table: str) -> str:
    """The name, on that table, of the policy that lets the service role pass."""
    return derived_name(table, "_service_bypass")


def trigger_name(table: str) -> str:
    """The name of the trigger that writes the caller's id into new rows."""
    return derived_name(table, "_set_user_id_trigger")


def function_name(table: str) -> str:
    """The name of that trigger's function, which no other table has."""
    return derived_name(table, "_set_user_id")


async def read_protection(conn: Connection, table: str, oid: int) -> Protection:
    """The table's protection as it is now, in one statement."""
    found = json.loads(await conn.fetchval(_READ, oid, trigger_name(table)))
    return Protection(
        table,
        enabled=found["enabled"],
        forced=found["forced"],
        anon=found["anon"],
        policies={row["name"]: _policy(row) for row in found["policies"]},
        trigger=tuple(found["trigger"]),
    )


def _policy(row: dict[str, Any]) -> Policy:
    roles = tuple(row["roles"])
    return Policy(row["name"], row["command"], row["permissive"], roles, row["using"], row["check"])


def under_rls(now: Protection) -> Protection:
    """The same, under row-level security: the service role passes, others need a policy.

    Anonymous callers may now try: from here on the policies decide what they get.
    """
    bypass = Policy(now.bypass, "ALL", True, (SERVICE,), "true", "true")
    return replace(now, enabled=True, forced=True, anon=True, policies={**now.policies, bypass.name: bypass})


def open_to_users(now: Protection) -> Protection:
    """The same without row-level security, and closed to anonymous callers."""
    return replace(now, enabled=False, forced=False, anon=False, policies={}, trigger=())


def with_policies(now: Protection, *policies: Policy, without: tuple[str, ...] = ()) -> Protection:
    """The same with these policies, and without those named."""
    kept = {name: p for name, p in now.policies.items() if name not in without}
    return replace(now, policies={**kept, **{p.name: p for p in policies}})


def with_trigger(now: Protection, column: str) -> Protection:
    """The same with the trigger that writes a signed-in caller's id into that column of new rows.

    It looks at the role itself, which a caller cannot set, and at the caller's id, which
    the service role and anonymous callers do not have. It names the column in a text, so
    that rows can still be stored when the column has been dropped.
    """
    function, table = f"public.{quote(function_name(now.table))}", f"public.{quote(now.table)}"
    body = f"""
begin
    if current_user = '{USER}' or public.current_user_id() is not null then
        new := jsonb_populate_record(new, jsonb_build_object({literal(column)}, public.current_user_id()));
    end if;
    return new;
end
"""
    made = (
        f"create or replace function {function}() returns trigger language plpgsql security invoker "
        f"set search_path = pg_catalog, pg_temp as {literal(body)}",
        f"create or replace trigger {quote(trigger_name(now.table))} before insert on {table} "
        f"for each row execute function {function}()",
    )
    return replace(now, trigger=made)


def statements(old: Protection, new: Protection) -> list[str]:
    """What leads from ``old`` to ``new``. What is made comes before what is opened."""
    table = f"public.{quote(new.table)}"
    made = [_drop(table, p) for name, p in old.policies.items() if new.policies.get(name) != p]
    made += [_create(table, p) for name, p in new.policies.items() if old.policies.get(name) != p]
    if old.trigger != new.trigger:
        if old.trigger:
            made.append(f"drop trigger {quote(trigger_name(new.table))} on {table}")
            made.append(f"drop function public.{quote(function_name(new.table))}()")
        made += new.trigger
    if old.enabled != new.enabled:
        made.append(f"alter table {table} {'enable' if new.enabled else 'disable'} row level security")
    if old.forced != new.forced:
        made.append(f"alter table {table} {'force' if new.forced else 'no force'} row level security")
    if old.anon != new.anon:
        verb, to = ("grant", "to") if new.anon else ("revoke", "from")
        made.append(f"{verb} select, insert, update, delete on {table} {to} {ANON}")
    return made


def _drop(table: str, policy: Policy) -> str:
    return f"drop policy {quote(policy.name)} on {table}"


def _create(table: str, policy: Policy) -> str:
    parts = [f"create policy {quote(policy.name)} on {table}"]
    if not policy.permissive:
        parts.append("as restrictive")
    parts.append(f"for {policy.command.lower()} to {', '.join(map(quote, policy.roles)) or 'public'}")
    if policy.using is not None:
        parts.append(f"using ({policy.using})")
    if policy.check is not None:
        parts.append(f"with check ({policy.check})")
    return " ".join(parts)
