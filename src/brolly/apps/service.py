"""What can be done with apps."""

from __future__ import annotations

import json
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.apps import provision
from brolly.apps.size import size_of
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams, Params
from brolly.deps import Deps
from brolly.registry import COLUMNS, App, app_of, not_found

NAME_LIMIT = 63
_PORTS = {"http": 80, "https": 443}


class InitApp(Params):
    """Parameters of init_app."""

    name: str
    region: str | None = None
    organization_id: str | None = None


class InitAppAt(InitApp):
    """Parameters of init_app over HTTP, where a program may choose the subdomain."""

    subdomain: str | None = Field(None, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


class ListApps(Params):
    """Parameters of list."""

    limit: int = Field(20, ge=1, le=1000)
    offset: int = Field(0, ge=0)


class Pause(AppParams):
    """Parameters of pause."""

    paused: bool
    reason: SkipJsonSchema[str | None] = Field(None, max_length=500)


class AccessMode(AppParams):
    """Parameters of update_access_mode."""

    access_mode: Literal["public", "authenticated"]


class SecureTable(Params):
    """One table to isolate by user."""

    table_name: str
    user_column: str
    public_read_column: str | None = None


class Secure(AppParams):
    """Parameters of secure."""

    # Advertised without its keys: the action's hint names them in fewer words.
    tables: list[SecureTable] = Field(
        default_factory=list[SecureTable], max_length=50, json_schema_extra={"items": {"type": "object"}}
    )


class Cors(AppParams):
    """Parameters of update_cors."""

    allowed_origins: list[str] = Field(min_length=1, max_length=100)

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, values: list[str]) -> list[str]:
        return list(dict.fromkeys(_origin(value) for value in values))


def _origin(text: str) -> str:
    """The origin as browsers send it: lower case, without the scheme's own port."""
    try:
        parts = urlsplit(text.strip())
        port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    except ValueError:
        raise ValueError(f"{text!r} is not an origin such as https://example.com") from None
    host = parts.hostname
    if parts.scheme not in _PORTS or not host or "*" in parts.netloc or "@" in parts.netloc:
        raise ValueError(f"{text!r} is not an origin such as https://example.com")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{text!r} has more than scheme, host and port")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def slug(name: str) -> str:
    """The name as it is kept: lower case, ``[a-z0-9_-]``, starting with a letter or digit, at most 63."""
    kept = re.sub(r"[^a-z0-9_-]", "", re.sub(r"\s+", "-", name.strip().lower()))
    kept = kept.lstrip("_-")[:NAME_LIMIT].rstrip("-")
    if not kept:
        raise AppError(
            "VALIDATION_INVALID_NAME",
            f"{name!r} has no letters a-z or digits to make a name from.",
            remediation="Call init_app with a name such as my-blog.",
        )
    return kept


async def init_app(deps: Deps, caller: Caller, params: InitApp) -> dict[str, Any]:
    """Create an app with its database, or give back the account's app of that name."""
    account = caller.require_account()
    if params.organization_id not in (None, account):
        raise AppError("AUTH_ORG_FORBIDDEN", "This key does not belong to that organization.")
    region = params.region or deps.settings.regions[0]
    if region not in deps.settings.regions:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"Region {region!r} is not offered.",
            remediation="Call list_regions for the regions that this server offers, or leave region out.",
            details={"allowed": list(deps.settings.regions)},
        )
    subdomain = params.subdomain if isinstance(params, InitAppAt) else None
    app_id, created = await provision.create(deps, account, slug(params.name), region, subdomain)
    app = await deps.registry.get(caller, app_id)
    api = f"{deps.settings.base_url}/v1/{app.id}"
    return {
        "app_id": app.id,
        "name": app.name,
        "created": created,
        "db_provisioned": True,
        "provisioning_status": app.status,
        "region": app.region,
        "api_base": api,
        "api_url": api,
        "subdomain": app.subdomain,
        "url": deps.settings.site_url(app.subdomain),
        "created_at": iso(app.created_at),
        "_meta": {"next_actions": _next_actions()},
    }


def _next_actions() -> list[dict[str, Any]]:
    return [
        {
            "action": "apply",
            "tool": "manage_schema",
            "description": "Create tables; try dry_run first.",
            "recommended": True,
        },
        {
            "action": "create_user_isolation",
            "tool": "manage_rls",
            "description": "Let each user see only their own rows.",
            "when": "after the tables exist",
        },
    ]


def _listed(deps: Deps, app: App) -> dict[str, Any]:
    return {
        "app_id": app.id,
        "id": app.id,
        "name": app.name,
        "subdomain": app.subdomain,
        "url": deps.settings.site_url(app.subdomain),
        "db_name": app.db_name,
        "db_provisioned": app.status == "ready",
        "provisioning_status": app.status,
        "paused": app.paused_at is not None,
        "region": app.region,
        "visibility": app.visibility,
        "listed": app.listed,
        "template_source_app_id": None,
        "fork_count": 0,
        "organization_id": app.account_id,
        "created_at": iso(app.created_at),
    }


async def list_apps(deps: Deps, caller: Caller, params: ListApps) -> dict[str, Any]:
    """The apps that this key may manage, newest first, a page at a time."""
    rows = await deps.control.fetch(
        f"select {COLUMNS} from brolly.apps "
        "where account_id = $1 and status <> 'deleting' and (cardinality($2::text[]) = 0 or id = any($2)) "
        "order by created_at desc, id limit $3 offset $4",
        caller.account_id,
        sorted(caller.app_scopes),
        params.limit + 1,
        params.offset,
    )
    page: dict[str, Any] = {"apps": [_listed(deps, app_of(row)) for row in rows[: params.limit]]}
    if len(rows) > params.limit:
        page["next_offset"] = params.offset + params.limit
    return page


async def get_status(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """Whether the app is ready; clients poll this after creating one."""
    app = await deps.registry.find(params.app_id)
    if app is None or not caller.may_see(app.id, app.account_id):
        raise not_found(params.app_id)
    return {
        "app_id": app.id,
        "name": app.name,
        "db_provisioned": app.status == "ready",
        "provisioning_status": app.status,
        "provisioning_error": None,
    }


async def describe_app(deps: Deps, caller: Caller, app_id: str) -> dict[str, Any]:
    """What stands behind an app's address, for whoever opens it; settings for those who may manage the app alone."""
    app = await deps.registry.find(app_id)
    manages = app is not None and caller.may_see(app.id, app.account_id)
    foreign = (caller.kind == "service" and not manages) or (
        caller.kind == "user" and caller.claims.get("app_id") != app_id
    )
    if app is None or foreign:
        raise not_found(app_id)
    base = deps.settings.base_url
    answer: dict[str, Any] = {"app_id": app.id, "provisioning_status": app.status, "paused": app.paused_at is not None}
    if manages:
        answer |= {"name": app.name, "region": app.region, "access_mode": app.access_mode}
    answer["rows"] = f"{base}/v1/{app.id}/{{table}}"
    answer["auth"] = f"{base}/auth/{app.id}"
    answer["documentation"] = [f"{base}/docs/rest", f"{base}/docs/auth"]
    return answer


async def what_delete_loses(deps: Deps, caller: Caller, params: AppParams) -> str | None:
    """The question before an app is deleted, with its size in numbers."""
    app = await deps.registry.get(caller, params.app_id)
    size = await size_of(deps, app, caller)
    return f"Delete app {app.name} ({app.id}) for good, with {size} and its API address?"


async def delete_app(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """Delete the app and its database for good."""
    app = await deps.registry.get(caller, params.app_id)
    await provision.delete(deps, app)
    return {"message": f"App {app.name} was deleted.", "app_id": app.id, "db_name": app.db_name}


async def _update(deps: Deps, app: App, assignment: str, *values: Any) -> None:
    await deps.control.execute(
        f"update brolly.apps set {assignment}, updated_at = now() where id = $1",
        app.id,
        *values,
    )
    await deps.registry.changed(app.id)


async def pause_app(deps: Deps, caller: Caller, params: Pause) -> dict[str, Any]:
    """Stop or resume serving data; management stays possible."""
    app = await deps.registry.get(caller, params.app_id)
    if params.paused:
        await _update(deps, app, "paused_at = coalesce(paused_at, now()), paused_reason = $2", params.reason)
    else:
        await _update(deps, app, "paused_at = null, paused_reason = null")
    app = await deps.registry.get(caller, params.app_id)
    return {
        "message": f"App {app.name} is {'paused' if params.paused else 'serving'}.",
        "app_id": app.id,
        "paused": app.paused_at is not None,
        "paused_at": iso(app.paused_at),
        "paused_reason": app.paused_reason,
    }


async def get_config(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """The app's settings; token lifetimes are not part of it."""
    app = await deps.registry.get(caller, params.app_id)
    return {
        **_listed(deps, app),
        "allowed_origins": list(app.allowed_origins),
        "storage_config": json.loads(json.dumps(app.storage_config)),
        "auth_hook_function": app.auth_hook_function,
        "access_mode": app.access_mode,
        "paused_at": iso(app.paused_at),
        "paused_reason": app.paused_reason,
        "updated_at": iso(app.updated_at),
    }


async def update_access_mode(deps: Deps, caller: Caller, params: AccessMode) -> dict[str, Any]:
    """Whether callers who are not signed in are served at all."""
    app = await deps.registry.get(caller, params.app_id)
    await _update(deps, app, "access_mode = $2", params.access_mode)
    return {
        "message": f"Access mode is {params.access_mode}.",
        "app_id": app.id,
        "access_mode": params.access_mode,
    }


async def secure_app(deps: Deps, caller: Caller, params: Secure) -> dict[str, Any]:
    """Serve signed-in users alone, and isolate the named tables by user."""
    app = await deps.registry.get(caller, params.app_id)
    await _update(deps, app, "access_mode = 'authenticated'")
    secured: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for table in params.tables:
        try:
            done = await deps.capabilities["isolate"](deps, caller, app.id, **table.model_dump())
            entry = {"table": table.table_name, "policy": done["policy_name"]}
            if done.get("public_read_policies"):
                entry["public_read_policies"] = done["public_read_policies"]
            secured.append(entry)
        except AppError as error:
            failed.append(
                {
                    "table": table.table_name,
                    "code": error.code,
                    "error": error.message,
                    "remediation": error.remediation,
                }
            )
    result: dict[str, Any] = {
        "message": "Only signed-in users are served now; anonymous callers are refused. To let them in again: "
        "manage_app update_access_mode with access_mode public.",
        "app_id": app.id,
        "access_mode": "authenticated",
        "tables_secured": secured,
    }
    if failed:
        result["table_errors"] = failed
    open_tables = [t.name for t in (await deps.catalog.get(app)).tables.values() if not t.rls_enabled]
    if open_tables:
        result["warnings"] = [
            f"{name} has no row-level security: every signed-in user sees and changes every row. "
            f"Fix: manage_rls create_user_isolation with table_name {name}."
            for name in open_tables
        ]
    return result


async def update_cors(deps: Deps, caller: Caller, params: Cors) -> dict[str, Any]:
    """Replace the list of origins whose pages may call the app."""
    app = await deps.registry.get(caller, params.app_id)
    await _update(deps, app, "allowed_origins = $2", params.allowed_origins)
    return {
        "message": "The list of allowed origins was replaced.",
        "app_id": app.id,
        "allowed_origins": params.allowed_origins,
    }
