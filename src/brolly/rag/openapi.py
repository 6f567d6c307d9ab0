"""The routes of collections and documents as a part of an app's OpenAPI document."""

from __future__ import annotations

from typing import Any

from brolly.core.openapi import Json, Part, answer, body_of, errors, object_of, ref
from brolly.rag.documents import MOST_LISTED
from brolly.rag.ingest import Ingest
from brolly.rag.service import STATUSES, CreateCollection

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_MAYBE: Json = {"type": ["string", "null"]}
_ANY: Json = {"type": "object"}
_ID: Json = {"type": "string", "format": "uuid"}


def _collection() -> Json:
    return object_of(
        id=_ID,
        name=_TEXT,
        description=_MAYBE,
        access_mode={"type": "string", "enum": ["private", "shared", "custom"]},
        embedding_model=_TEXT,
        embedding_dimensions=_COUNT,
        chunk_size=_COUNT,
        chunk_overlap=_COUNT,
        language=_TEXT,
        table={**_TEXT, "description": "The table of its chunks, which policies of the mode custom are written for."},
        created_at={"type": "string", "format": "date-time"},
    )


def _document() -> Json:
    return object_of(
        id=_ID,
        filename=_TEXT,
        content_type=_MAYBE,
        source_type={"type": "string", "enum": ["text", "storage"]},
        status={"type": "string", "enum": list(STATUSES)},
        error_message={**_MAYBE, "description": "Why it failed, and what to do."},
        chunk_count=_COUNT,
        metadata=_ANY,
        created_at={"type": "string", "format": "date-time"},
    )


def _operation(name: str, summary: str, keys: bool, *answers: tuple[int, Json], **more: Any) -> Json:
    return {
        "operationId": f"rag_{name}",
        "tags": ["documents"],
        "summary": summary,
        "security": [{"accessToken": []}, *([{"serviceKey": []}] if keys else [])],
        "responses": {**{str(status): said for status, said in answers}, **errors()},
        **more,
    }


def _body(schema: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, **schema: Any) -> Json:
    return {"name": name, "in": "query", "schema": {"type": "integer", **schema}}


def _json(text: str, schema: Json) -> Json:
    return answer(text, {"application/json": schema})


def _collection_paths(base: str, keys: bool) -> dict[str, Json]:
    one = ref("schemas", "rag.Collection")
    every: Json = {"type": "array", "items": one}
    paths: dict[str, Json] = {
        base: {"get": _operation("collections", "List the collections", keys, (200, _json("By name.", every)))},
        f"{base}/{{collection}}": {
            "parameters": [_NAMED],
            "get": _operation("collection", "Show a collection", keys, (200, _json("With counts.", one))),
        },
    }
    if keys:
        paths[base]["post"] = _operation(
            "create_collection",
            "Make a collection",
            keys,
            (201, _json("It is there.", one)),
            requestBody=_body(body_of(CreateCollection, "app_id")),
        )
        paths[f"{base}/{{collection}}"]["delete"] = _operation(
            "delete_collection", "Delete a collection with its documents", keys, (204, answer("It is gone."))
        )
    return paths


def _document_paths(base: str, keys: bool) -> dict[str, Json]:
    one = ref("schemas", "rag.Document")
    every: Json = {"type": "array", "items": one}
    begun = object_of(document_id=_ID, documentId=_ID, status=_TEXT, collection=_TEXT)
    return {
        f"{base}/{{collection}}/ingest": {
            "parameters": [_NAMED],
            "post": _operation(
                "ingest",
                "Take a document in, from a text or a stored file",
                keys,
                (202, _json("It is read in the background.", begun)),
                requestBody=_body(body_of(Ingest, "app_id", "collection")),
            ),
        },
        f"{base}/{{collection}}/documents": {
            "parameters": [_NAMED],
            "get": _operation(
                "documents",
                "List the documents that the caller may know of",
                keys,
                (200, _json("Newest first.", every)),
                parameters=[_query("limit", minimum=1, maximum=MOST_LISTED), _query("offset", minimum=0)],
            ),
        },
        f"{base}/{{collection}}/documents/{{document_id}}": {
            "parameters": [_NAMED, _path("document_id", _ID)],
            "get": _operation("document", "Show a document", keys, (200, _json("How far it has come.", one))),
            "delete": _operation("delete_document", "Delete a document", keys, (204, answer("It is gone."))),
        },
    }


_NAMED = _path("collection", {"type": "string", "pattern": "^[a-z0-9_-]{1,100}$"})


async def describe_documents(_deps: Any, app: Any, _snapshot: Any, who: Any) -> Part:
    """What a signed-in user does, and what a service key does besides."""
    if who.kind == "anonymous":
        return Part()
    keys = who.kind == "service"
    base = f"/v1/{app.id}/rag/collections"
    schemas = {"rag.Collection": _collection(), "rag.Document": _document()}
    return Part(
        _collection_paths(base, keys) | _document_paths(base, keys), {"schemas": schemas}, ({"name": "documents"},)
    )
