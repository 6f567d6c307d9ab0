"""manage_rag_content: collections and their documents."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from brolly.core.caller import Caller
from brolly.core.tool import DESTROY, READ, Action, AppParams, Tool
from brolly.deps import Deps
from brolly.rag import documents, ingest, reembed, service
from brolly.rag.access import Visit, visit

P = TypeVar("P", bound=AppParams)
Core = Callable[[Visit, P], Awaitable[Any]]


def for_key(core: Core[P]) -> Callable[[Deps, Caller, P], Awaitable[Any]]:
    """The action as a service key runs it."""

    async def run(deps: Deps, caller: Caller, params: P) -> Any:
        return await core(await visit(deps, caller, params.app_id), params)

    return run


MANAGE_RAG_CONTENT = Tool(
    "manage_rag_content",
    "Documents",
    "Documents to search.",
    {
        "create_collection": Action(
            for_key(service.create_collection), service.CreateCollection, idempotent=False, target="name"
        ),
        "list_collections": Action(for_key(service.list_collections), AppParams, effect=READ, untrusted=True),
        "get_collection": Action(
            for_key(service.get_collection), service.CollectionRef, effect=READ, target="name", untrusted=True
        ),
        "delete_collection": Action(
            for_key(service.delete_collection),
            service.CollectionRef,
            effect=DESTROY,
            loses=service.what_delete_loses,
            target="name",
        ),
        "ingest_document": Action(
            for_key(ingest.ingest_document),
            ingest.Ingest,
            idempotent=False,
            verb="create",
            target=lambda _, made: made and made["document_id"],
        ),
        "list_documents": Action(
            for_key(documents.list_documents),
            documents.ListDocuments,
            effect=READ,
            target="collection",
            untrusted=True,
        ),
        "get_document_status": Action(
            for_key(documents.get_document),
            documents.DocumentRef,
            effect=READ,
            target="document_id",
            untrusted=True,
        ),
        "delete_document": Action(
            for_key(documents.delete_document),
            documents.DocumentRef,
            effect=DESTROY,
            loses=documents.what_delete_loses,
            target="document_id",
        ),
        "reembed": Action(for_key(reembed.reembed), reembed.Reembed, verb="update", target="name"),
    },
    resource="rag",
)
