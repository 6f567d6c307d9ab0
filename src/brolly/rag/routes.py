"""HTTP routes of collections and documents: for service keys and the app's users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.core.audit_event import AuditEvent, kept
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import READ, Tool
from brolly.deps import Deps
from brolly.endpoint import Arguments, arguments_of, caller_of, deps_of
from brolly.rag import documents, ingest, reembed, service
from brolly.rag.access import Visit, visit
from brolly.rag.tool import MANAGE_RAG_CONTENT

Core = Callable[[Visit, Any], Awaitable[Any]]
Shape = Callable[[Any], Response]

_SPELLINGS = {
    "accessMode": "access_mode",
    "chunkSize": "chunk_size",
    "chunkOverlap": "chunk_overlap",
    "embeddingModel": "embedding_model",
    "storageObjectId": "storage_object_id",
    "documentId": "document_id",
}
_PRIVATE = {"Cache-Control": "private, no-store", "Vary": "Authorization"}


def body(status: int = 200) -> Shape:
    """The result as JSON, for nobody else to keep."""
    return lambda result: JSONResponse(result, status, _PRIVATE)


def _nothing(_result: Any) -> Response:
    return Response(status_code=204)


def route(
    method: str,
    path: str,
    tool: Tool,
    label: str,
    core: Core,
    shape: Shape | None = None,
    spellings: Mapping[str, str] = _SPELLINGS,
) -> Route:
    """One action, for whoever asks. A key's call is the tool's own; a user's is judged by the rules for documents."""
    respond = shape or body()

    async def answer(request: Request) -> Response:
        arguments = await arguments_of(request)
        for theirs, ours in spellings.items():
            if theirs in arguments:
                arguments.setdefault(ours, arguments.pop(theirs))
        role, user = (request.headers.get(f"x-butterbase-as-{name}") or None for name in ("role", "user"))
        caller = caller_of(request)
        if caller.kind == "service" and role is None and user is None:
            return respond(await tool.run(deps_of(request), caller, label, arguments))
        return respond(await _as_user(request, tool, label, core, arguments, (role, user)))

    return Route(f"/v1/{{app_id}}/rag/{path}", answer, methods=[method])


async def _as_user(
    request: Request, tool: Tool, label: str, core: Core, arguments: Arguments, acting: tuple[str | None, str | None]
) -> Any:
    deps, caller = deps_of(request), caller_of(request)
    reads = tool.actions[label].effect is READ
    if not reads:
        refuse_readers(deps, caller)
    at = await visit(deps, caller, arguments["app_id"], *acting)

    async def run() -> Any:
        return await core(at, tool.parse(label, arguments))

    return await (run() if reads else audited(at, label, arguments, run))


def refuse_readers(deps: Deps, caller: Caller) -> None:
    """Raise where nothing may be changed."""
    if deps.settings.read_only or caller.read_only:
        raise AppError(
            "AUTH_FORBIDDEN",
            "This server or key is in read-only mode; no document is added or deleted.",
            remediation="Use a server and key that may write; manage_rag_content list_documents works as it is.",
        )


async def audited(at: Visit, label: str, arguments: Mapping[str, Any], run: Callable[[], Awaitable[Any]]) -> Any:
    """The result of a change, which leaves an audit row, as does its failure."""
    error: AppError | None = None
    result: Any = None
    try:
        result = await run()
        return result
    except AppError as refused:
        error = refused
        raise
    finally:
        made = result.get("document_id") if isinstance(result, dict) else None  # pyright: ignore
        await _note(at, label, arguments.get("document_id") or made, error)


async def _note(at: Visit, label: str, document_id: Any, error: AppError | None) -> None:
    """Leave an audit row of what a user did with a document."""
    await at.deps.record(
        AuditEvent(
            account_id=at.app.account_id,
            app_id=at.app.id,
            category="admin",
            event_type=f"rag.{label}",
            action="delete" if label.startswith("delete") else "create",
            resource_type="rag",
            resource_id=kept(document_id),
            caller=at.who,
            event_data={"code": error.code} if error else {},
            success=error is None,
            error_message=error.message if error else None,
            durable=False,
        )
    )


_ALL, _ONE = "collections", "collections/{name}"
_DOCUMENTS = "collections/{collection}/documents"
_TOOL = MANAGE_RAG_CONTENT

routes = [
    route("POST", _ALL, _TOOL, "create_collection", service.create_collection, body(201)),
    route("GET", _ALL, _TOOL, "list_collections", service.list_collections),
    route("GET", _ONE, _TOOL, "get_collection", service.get_collection),
    route("DELETE", _ONE, _TOOL, "delete_collection", service.delete_collection, _nothing),
    route("POST", _ONE + "/reembed", _TOOL, "reembed", reembed.reembed, body(202)),
    route("POST", "collections/{collection}/ingest", _TOOL, "ingest_document", ingest.ingest_document, body(202)),
    route("GET", _DOCUMENTS, _TOOL, "list_documents", documents.list_documents),
    route("GET", _DOCUMENTS + "/{document_id}", _TOOL, "get_document_status", documents.get_document),
    route("DELETE", _DOCUMENTS + "/{document_id}", _TOOL, "delete_document", documents.delete_document, _nothing),
]
