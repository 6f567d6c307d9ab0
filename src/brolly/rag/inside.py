"""What an app's functions ask of its collections, as whoever they act for: the rules are those of the routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.rag.access import SIGN_IN, visit_of
from brolly.rag.ingest import ingest_document
from brolly.rag.routes import audited, refuse_readers
from brolly.rag.search import RAG_QUERY, search_collection
from brolly.rag.tool import MANAGE_RAG_CONTENT
from brolly.registry import App


async def app_query(deps: Deps, caller: Caller, app: App, body: Mapping[str, Any]) -> dict[str, Any]:
    """``rag_query`` for who is known to may use the app."""
    _require_somebody(caller)
    params: Any = RAG_QUERY.parse("", {**body, "app_id": app.id})
    return await search_collection(visit_of(deps, caller, app, params.as_role, params.as_user), params)


async def app_ingest(deps: Deps, caller: Caller, app: App, body: Mapping[str, Any]) -> dict[str, Any]:
    """``ingest_document``, likewise."""
    _require_somebody(caller)
    refuse_readers(deps, caller)
    at = visit_of(deps, caller, app)
    arguments = {**body, "app_id": app.id}

    async def run() -> dict[str, Any]:
        params: Any = MANAGE_RAG_CONTENT.parse("ingest_document", arguments)
        return await ingest_document(at, params)

    return await audited(at, "ingest_document", arguments, run)


def _require_somebody(caller: Caller) -> None:
    if caller.kind == "anonymous":
        raise AppError(
            "AUTH_REQUIRED",
            "Nobody is signed in here, and collections are for service keys and signed-in users.",
            remediation=f'{SIGN_IN[:-1]}; or set run_as: "service" in the config of the http trigger with '
            "deploy_function if everybody may ask.",
        )
