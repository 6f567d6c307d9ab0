"""Custom domains: anybody may name one, who proves to hold it gets it, and then it leads to their site alone.

Certificates are the front server's: before it gets one it asks at ``/domains/ask`` whether the name is ours.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from uuid import UUID
from weakref import WeakKeyDictionary

import anyio
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.hosting.addresses import host_of, label_of
from brolly.hosting.entrance import CHALLENGES
from brolly.hosting.resolver import NetworkResolver, Resolver, UnresolvedError
from brolly.hosting.sites import sites_of
from brolly.registry import App, Registry

MOST_DOMAINS = 50
PENDING_DAYS = 7
"""For how long we look by ourselves for a domain's proof; later somebody must ask."""
LOOKED_AT_ONCE = 10
RECORD = "_brolly-challenge"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# The pause between two looks grows with the time for which a domain waits: a minute first, some hours at the end.
_NEXT = "coalesce(checked_at, created_at) + greatest(interval '1 minute', (checked_at - created_at) / 16)"
_WAITS = f"status = 'pending' and created_at > now() - make_interval(days => {PENDING_DAYS})"
_COLUMNS = (
    "id, app_id, hostname, method, token, error, checked_at, verified_at, created_at, "
    f"case when status = 'active' or {_WAITS} then status else 'expired' end as status, "
    f"case when {_WAITS} then {_NEXT} end as next_check_at, "
    f"case when status = 'pending' then created_at + make_interval(days => {PENDING_DAYS}) end as expires_at"
)
_DUE = (
    f"update brolly.custom_domains set checked_at = now() where id in (select id from brolly.custom_domains "
    f"where {_WAITS} and {_NEXT} <= now() order by checked_at nulls first limit $1 for update skip locked) "
    f"returning {_COLUMNS}"
)
RESOLVERS: WeakKeyDictionary[Registry, Resolver] = WeakKeyDictionary()
"""Who is asked, per process; another than the network's is set by tests."""


class Domain(AppParams):
    """Parameters of configure_custom_domain."""

    domain_action: Literal["add", "list", "status", "verify", "remove"]
    hostname: str | None = None
    validation_method: SkipJsonSchema[Literal["txt", "http"] | None] = None
    domain_id: str | None = None


async def configure(deps: Deps, caller: Caller, params: Domain) -> dict[str, Any]:
    """One of the five things that can be done with domains."""
    app = await deps.registry.get(caller, params.app_id)
    if params.domain_action == "list":
        return await _list(deps, app)
    if params.domain_action == "add":
        return await _add(deps, app, params)
    if params.domain_id is None:
        raise AppError(
            "VALIDATION_MISSING_FIELD",
            f"{params.domain_action} needs domain_id.",
            remediation="Take it from manage_frontend configure_custom_domain with domain_action list.",
        )
    row = await _find(deps, app, params.domain_id)
    return await _WITH_ID[params.domain_action](deps, app, row)


def checked(deps: Deps, hostname: str | None) -> str:
    """The name as it is kept; raises for what is no name of the public network, and for our own."""
    name = (hostname or "").strip().rstrip(".").lower()
    try:
        name = name.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if not 4 <= len(name) <= 253 or len(labels) < 2 or not all(_LABEL.fullmatch(each) for each in labels):
        raise _wrong(f"{(hostname or '')[:80]!r} is not a name such as www.example.com")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        raise _wrong(f"{name} is an address, not a name")
    own = host_of(deps.settings.base_url.partition("://")[2])
    if name in (own, deps.settings.site_suffix) or label_of(deps.settings, name) is not None:
        raise _wrong(f"{name} belongs to this server")
    return name


def _wrong(why: str) -> AppError:
    return AppError(
        "VALIDATION_INVALID_INPUT",
        f"hostname: {why}.",
        remediation="Give a name of your own, such as www.example.com, to manage_frontend configure_custom_domain.",
    )


def _taken(hostname: str) -> AppError:
    return AppError(
        "RESOURCE_ALREADY_EXISTS",
        f"{hostname} is in use by another site of this server.",
        remediation="Remove it there first (manage_frontend configure_custom_domain with domain_action remove), or "
        "ask the operator of this server if that site is not yours.",
    )


async def _add(deps: Deps, app: App, params: Domain) -> dict[str, Any]:
    hostname = checked(deps, params.hostname)
    method = params.validation_method or "txt"
    if await deps.control.fetchval(
        "select 1 from brolly.custom_domains where hostname = $1 and status = 'active' and app_id <> $2",
        hostname,
        app.id,
    ):
        raise _taken(hostname)
    if await deps.control.fetchval(
        "select count(*) >= $2 from brolly.custom_domains where app_id = $1", app.id, MOST_DOMAINS
    ):
        raise _wrong(f"an app has at most {MOST_DOMAINS} domains")
    row = await deps.control.fetchrow(
        "insert into brolly.custom_domains as d (app_id, hostname, method, token) values ($1, $2, $3, $4) "
        "on conflict (app_id, hostname) do update set method = excluded.method, error = null, created_at = "
        f"case when d.status = 'active' then d.created_at else now() end returning {_COLUMNS}",
        app.id,
        hostname,
        method,
        secrets.token_hex(20),
    )
    return _with_records(deps, app, row)


def _with_records(deps: Deps, app: App, row: Any) -> dict[str, Any]:
    target = _cname_target(deps, app)
    record = _record(row)
    where = f"{record['type']} {record['name']} = {record['value']}"
    return {
        "domain": _shown(row),
        "domain_id": str(row["id"]),
        "cname_target": target,
        "validation_method": row["method"],
        "verification_records": [record],
        "ownership_verification": record,
        "instructions": [
            f"At your DNS provider make a record CNAME {row['hostname']} = {target} (an apex name: ALIAS or A).",
            f"Prove that the name is yours: {where}."
            if row["method"] == "txt"
            else "With that record in place the name leads here, which proves that it is yours.",
            f"It is looked for again and again for {PENDING_DAYS} days; manage_frontend configure_custom_domain with "
            "domain_action verify looks at once.",
        ],
    }


def _record(row: Any) -> dict[str, str]:
    if row["method"] == "txt":
        return {"type": "TXT", "name": f"{RECORD}.{row['hostname']}", "value": row["token"]}
    return {"type": "HTTP", "name": f"http://{row['hostname']}{CHALLENGES}{row['token']}", "value": row["token"]}


def _cname_target(deps: Deps, app: App) -> str:
    return deps.settings.site_url(app.subdomain).partition("://")[2].partition(":")[0]


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "hostname": row["hostname"],
        "status": row["status"],
        "validation_method": row["method"],
        "error": row["error"],
        "checked_at": iso(row["checked_at"]),
        "next_check_at": iso(row["next_check_at"]),
        "expires_at": iso(row["expires_at"]),
        "verified_at": iso(row["verified_at"]),
        "created_at": iso(row["created_at"]),
    }


async def _list(deps: Deps, app: App) -> dict[str, Any]:
    rows = await deps.control.fetch(
        f"select {_COLUMNS} from brolly.custom_domains where app_id = $1 order by created_at, id", app.id
    )
    return {"domains": [_shown(row) for row in rows], "cname_target": _cname_target(deps, app)}


async def _find(deps: Deps, app: App, domain_id: str) -> Any:
    try:
        wanted = UUID(domain_id)
    except ValueError:
        wanted = None
    row = await deps.control.fetchrow(
        f"select {_COLUMNS} from brolly.custom_domains where id = $1 and app_id = $2", wanted, app.id
    )
    if row is None:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"The app has no domain {domain_id[:80]!r}.",
            remediation="Call manage_frontend configure_custom_domain with domain_action list for the ids.",
        )
    return row


async def _status(deps: Deps, app: App, row: Any) -> dict[str, Any]:
    return _with_records(deps, app, row)


async def _verify(deps: Deps, app: App, row: Any) -> dict[str, Any]:
    """Look whether the proof is there; the answer says what is missing."""
    if row["status"] != "active":
        why = await _missing_proof(deps, row)
        # Only one app's row can become active, whoever else proves the same.
        done = await deps.control.fetchrow(
            "update brolly.custom_domains d set error = $2, checked_at = now(), "
            "status = case when $2::text is null then 'active' else d.status end, "
            "verified_at = case when $2::text is null then now() else d.verified_at end "
            "where d.id = $1 and ($2::text is not null or not exists (select 1 from brolly.custom_domains o "
            f"where o.hostname = d.hostname and o.status = 'active' and o.id <> d.id)) returning {_COLUMNS}",
            row["id"],
            why,
        )
        if done is None:
            raise _taken(row["hostname"])
        row = done
        await deps.registry.changed(app.id)
        sites_of(deps).forget(row["hostname"])
    return _with_records(deps, app, row)


async def recheck(deps: Deps) -> int:
    """Look again for the proof of domains that wait for it and whose time it is; how many were looked at.

    A row that is looked at is not due again for a while, so that several processes share the work.
    """
    rows = await deps.control.fetch(_DUE, LOOKED_AT_ONCE)

    async def look(row: Any) -> None:
        app = await deps.registry.find(row["app_id"])
        if app is None:
            return
        try:
            await _verify(deps, app, row)
        except AppError as error:
            await deps.control.execute(
                "update brolly.custom_domains set error = $2 where id = $1", row["id"], error.message
            )

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(look, row)
    return len(rows)


async def _missing_proof(deps: Deps, row: Any) -> str | None:
    record, resolver = _record(row), resolver_of(deps)
    try:
        if row["method"] == "txt":
            found = await resolver.txt(record["name"])
            if record["value"] in found:
                return None
            seen = f"; it has {', '.join(each[:60] for each in found[:3])}" if found else ""
            return f"{record['name']} has no TXT record {record['value']}{seen}"
        if await resolver.page(row["hostname"], CHALLENGES + row["token"]) == row["token"]:
            return None
        return f"{row['hostname']} is answered by another server"
    except UnresolvedError as error:
        return str(error)


def resolver_of(deps: Deps) -> Resolver:
    """Who is asked about names."""
    found = RESOLVERS.get(deps.registry)
    if found is None:
        found = RESOLVERS[deps.registry] = NetworkResolver(deps.settings)
    return found


async def _remove(deps: Deps, app: App, row: Any) -> dict[str, Any]:
    await deps.control.execute("delete from brolly.custom_domains where id = $1", row["id"])
    await deps.registry.changed(app.id)
    return {"message": f"{row['hostname']} no longer leads here.", "domain_id": str(row["id"]), "deleted": True}


async def is_ours(deps: Deps, hostname: str) -> bool:
    """Whether a site answers under that name, so that a certificate for it may be asked for."""
    found = await sites_of(deps).find(host_of(hostname))
    return found is not None and found.app is not None and found.app.status == "ready"


_WITH_ID: dict[str, Callable[[Deps, App, Any], Awaitable[dict[str, Any]]]] = {
    "status": _status,
    "verify": _verify,
    "remove": _remove,
}
