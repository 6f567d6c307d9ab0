"""Documents for search: collections, what comes into them in the background, and queries over them."""

from brolly.core.slice import Slice
from brolly.rag import search
from brolly.rag.inside import app_ingest, app_query
from brolly.rag.openapi import describe_documents
from brolly.rag.routes import routes
from brolly.rag.tool import MANAGE_RAG_CONTENT
from brolly.rag.worker import workers

SLICE = Slice(
    "rag",
    tools=(MANAGE_RAG_CONTENT, *search.tools),
    routes=[*routes, *search.routes],
    workers=workers,
    openapi=describe_documents,
    provides={"app_query": app_query, "app_ingest": app_ingest},
)
