"""HTTP routes of files: for service keys, an app's users, and anybody where a file is public."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from brolly.core.audit_event import AuditEvent, kept
from brolly.core.errors import AppError
from brolly.core.tool import READ
from brolly.endpoint import Arguments, arguments_of, caller_of, deps_of, endpoint
from brolly.storage import listing, service
from brolly.storage.access import Visit, visit
from brolly.storage.tool import MANAGE_STORAGE, STORAGE_OVER_HTTP

Core = Callable[[Visit, Any], Awaitable[dict[str, Any]]]
Shape = Callable[[dict[str, Any]], Response]

_SPELLINGS = {
    "contentType": "content_type",
    "sizeBytes": "size_bytes",
    "objectId": "object_id",
    "objectIds": "object_ids",
    "userId": "user_id",
    "expiresIn": "expires_in",
}
_CONFIG = {
    "public_read_enabled": "publicReadEnabled",
    "storage_limit_bytes": "storageLimitBytes",
    "max_file_size_mb": "maxFileSizeMb",
    "max_bytes_per_user": "maxBytesPerUser",
    "allowed_content_types": "allowedContentTypes",
}
_EVENTS = {"upload_url": ("storage.upload", "create"), "copy": ("storage.copy", "create")}
_PRIVATE = {"Cache-Control": "private, no-store", "Vary": "Authorization"}


def _body(status: int = 200) -> Shape:
    return lambda result: JSONResponse(result, status, _PRIVATE)


def _nothing(_result: dict[str, Any]) -> Response:
    return Response(status_code=204)


def _redirect(result: dict[str, Any]) -> Response:
    return RedirectResponse(result["download_url"], 302, _PRIVATE)


def _route(method: str, path: str, label: str, core: Core, shape: Shape | None = None, **fixed: Any) -> Route:
    """One action, for whoever asks. A key's call is the tool's own; a user's is judged by the rules for files."""
    respond = shape or _body()

    async def answer(request: Request) -> Response:
        arguments = _spelled(await arguments_of(request), _SPELLINGS) | fixed
        role, user = (request.headers.get(f"x-butterbase-as-{name}") or None for name in ("role", "user"))
        caller = caller_of(request)
        if caller.kind == "service" and role is None and user is None:
            return respond(await STORAGE_OVER_HTTP.run(deps_of(request), caller, label, arguments))
        return respond(await _as_user(request, label, core, arguments, (role, user)))

    return Route(f"/storage/{{app_id}}/{path}", answer, methods=[method])


async def _as_user(
    request: Request, label: str, core: Core, arguments: Arguments, acting: tuple[str | None, str | None]
) -> dict[str, Any]:
    deps, caller = deps_of(request), caller_of(request)
    reads = STORAGE_OVER_HTTP.actions[label].effect is READ
    if not reads and (deps.settings.read_only or caller.read_only):
        raise AppError(
            "AUTH_FORBIDDEN",
            "This server or key is in read-only mode; no file is sent, changed or deleted.",
            remediation="Use a server and key that are not read-only; manage_storage list works as it is.",
        )
    at = await visit(deps, caller, arguments["app_id"], *acting)
    error: AppError | None = None
    result: dict[str, Any] = {}
    try:
        result = await core(at, STORAGE_OVER_HTTP.parse(label, arguments))
        return result
    except AppError as refused:
        error = refused
        raise
    finally:
        if not reads:
            await note(at, label, arguments.get("object_id") or result.get("object_id"), error)


async def note(at: Visit, label: str, object_id: Any, error: AppError | None) -> None:
    """Leave an audit row of what a user did with a file."""
    event, verb = _EVENTS.get(label, (f"storage.{label.removesuffix('_many')}", "update"))
    await at.deps.record(
        AuditEvent(
            account_id=at.app.account_id,
            app_id=at.app.id,
            category="admin",
            event_type=event,
            action="delete" if event == "storage.delete" else verb,
            resource_type="storage",
            resource_id=kept(object_id),
            caller=at.who,
            event_data={"code": error.code} if error else {},
            success=error is None,
            error_message=error.message if error else None,
            durable=False,
        )
    )


def _spelled(arguments: Arguments, names: Mapping[str, str]) -> Arguments:
    for theirs, ours in names.items():
        if theirs in arguments:
            arguments.setdefault(ours, arguments.pop(theirs))
    return arguments


_ONE = "objects/{object_id}"

routes = [
    _route("POST", "upload", "upload_url", service.create_upload),
    _route("GET", "objects", "list", listing.list_files),
    _route("GET", "download/{object_id}", "download_url", service.create_download),
    _route("POST", "delete", "delete_many", service.delete_files),
    _route("GET", _ONE, "get", service.get_file),
    _route("PATCH", _ONE, "update", service.update_file),
    _route("DELETE", _ONE, "delete", service.delete_file, _nothing),
    _route("POST", f"{_ONE}/complete", "complete", service.complete_upload),
    _route("POST", f"{_ONE}/copy", "copy", service.copy_file, _body(201)),
    Route("/v1/{app_id}/config/storage", endpoint(MANAGE_STORAGE, "update_config", rename=_CONFIG), methods=["PATCH"]),
]

# After every route with a fixed word in that place.
last_routes = [
    _route("GET", "{object_id}", "download_url", service.create_download, _redirect),
    _route("DELETE", "{object_id}", "delete", service.delete_file, _nothing),
]
