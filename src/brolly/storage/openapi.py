"""The routes of files as a part of an app's OpenAPI document."""

from __future__ import annotations

from typing import Any

from brolly.core.openapi import USUAL, Json, Part, answer, body_of, errors, fields_of, header, object_of, ref
from brolly.core.tool import AppParams
from brolly.storage import listing, service
from brolly.storage.tus import VERSION

_TEXT: Json = {"type": "string"}
_MAYBE: Json = {"type": ["string", "null"]}
_ID: Json = {"type": "string", "format": "uuid"}
_TIME: Json = {"type": "string", "format": "date-time"}
_URL: Json = {"type": "string", "format": "uri"}
_BYTES: Json = {"type": "integer", "minimum": 0}
_IDS: Json = {"type": "array", "items": _TEXT}
_JSON = "application/json"

_ROOM = object_of(
    resource_info=object_of(
        storage_used_bytes=_BYTES,
        storage_limit_bytes=_BYTES,
        storage_used_percent={"type": "number"},
        files_count=_BYTES,
    )
)
_FILE = object_of(
    id=_ID,
    object_id=_ID,
    user_id=_MAYBE,
    key={**_TEXT, "description": "Where the store has the bytes; it is no URL."},
    object_key=_TEXT,
    folder=_TEXT,
    filename=_TEXT,
    content_type=_TEXT,
    size_bytes=_BYTES,
    public={"type": "boolean"},
    status={"enum": ["pending", "ready"]},
    etag=_MAYBE,
    sha256=_MAYBE,
    created_at=_TIME,
    uploaded_at={**_MAYBE, "format": "date-time"},
)
_FILES: Json = object_of(
    untrusted={"const": True},
    objects={"type": "array", "items": ref("schemas", "File")},
    next_cursor={**_MAYBE, "description": "cursor of the next page."},
    _meta=_ROOM,
)
_FILES["properties"]["folders"] = {**_IDS, "description": "With folder: the folders directly in it."}
_LINK: Json = object_of(download_url=_URL, filename=_TEXT, content_type=_TEXT, expires_at=_TIME, expiresIn=_BYTES)
_LINK["properties"]["size_bytes"] = _BYTES
_SCHEMAS: dict[str, Json] = {
    "File": _FILE,
    "FileList": _FILES,
    "FileUpload": object_of(
        upload_url={**_URL, "description": "Where the bytes are to be PUT, with the headers."},
        method={"const": "PUT"},
        headers={"type": "object", "additionalProperties": _TEXT},
        object_id=_ID,
        objectKey=_TEXT,
        expires_at=_TIME,
        expiresIn=_BYTES,
        _meta=_ROOM,
    ),
    "FileLink": _LINK,
    "FilesDeleted": object_of(deleted=_BYTES, object_ids=_IDS, missing=_IDS),
}

# Method, path, name, parameters, status, answer.
_ROUTES: tuple[tuple[str, str, str, type[AppParams], int, str], ...] = (
    ("post", "upload", "upload", service.UploadUrl, 200, "FileUpload"),
    ("get", "objects", "list", listing.ListFiles, 200, "FileList"),
    ("post", "delete", "delete_many", service.DeleteFiles, 200, "FilesDeleted"),
    ("get", "download/{object_id}", "link", service.DownloadUrl, 200, "FileLink"),
    ("get", "objects/{object_id}", "get", service.ObjectRef, 200, "File"),
    ("patch", "objects/{object_id}", "update", service.UpdateFile, 200, "File"),
    ("delete", "objects/{object_id}", "delete", service.ObjectRef, 204, ""),
    ("post", "objects/{object_id}/complete", "complete", service.ObjectRef, 200, "File"),
    ("post", "objects/{object_id}/copy", "copy", service.UpdateFile, 201, "File"),
    ("get", "{object_id}", "open", service.DownloadUrl, 302, ""),
    ("delete", "{object_id}", "remove", service.ObjectRef, 204, ""),
)
_SUMMARIES = {
    "upload": "Reserve a file and get a URL for its bytes",
    "list": "List files",
    "delete_many": "Delete files",
    "link": "Get a URL of a file, or of a picture in another form",
    "get": "Read what is known of a file",
    "update": "Rename, move, publish a file",
    "delete": "Delete a file",
    "complete": "Say that the bytes have come",
    "copy": "Copy a file",
    "open": "Go to a file: an address that stays",
    "remove": "Delete a file by the address that stays",
}
_STATUSES = (*USUAL, 429)


async def describe_files(_deps: Any, app: Any, _snapshot: Any, who: Any) -> Part:
    """Files are the same for every caller; who may see which is judged for each."""
    acting = [ref("parameters", "As-Role"), ref("parameters", "As-User")] if who.kind == "service" else []
    paths: dict[str, Json] = {}
    for method, path, name, model, status, answered in _ROUTES:
        item = paths.setdefault(f"/storage/{app.id}/{path}", {})
        if "{object_id}" in path:
            item["parameters"] = [{"name": "object_id", "in": "path", "required": True, "schema": _ID}]
        content = {_JSON: ref("schemas", answered)} if answered else None
        headers = (
            {"Location": header("A URL of the bytes, good for an hour.", required=True)} if status == 302 else None
        )
        operation: Json = {
            "operationId": f"files_{name}",
            "tags": ["files"],
            "summary": _SUMMARIES[name],
            "parameters": [*(_query(model) if method == "get" else []), *acting],
            "responses": {str(status): answer("It is done.", content, headers), **errors(_STATUSES)},
        }
        body = body_of(model, "app_id", "object_id")
        if method in ("post", "patch") and body["properties"]:
            operation["requestBody"] = {"required": "required" in body, "content": {_JSON: {"schema": body}}}
        item[method] = operation
    return Part({**paths, **_resumable(app.id, acting)}, {"schemas": _SCHEMAS}, ({"name": "files"},))


def _query(model: type[AppParams]) -> list[Json]:
    fields = fields_of(model, "app_id", "object_id")
    return [{"name": name, "in": "query", "schema": _present(schema)} for name, schema in fields.items()]


def _present(schema: Json) -> Json:
    """A query string has no null."""
    if "anyOf" not in schema:
        return schema
    others = [each for each in schema["anyOf"] if each.get("type") != "null"]
    return others[0] if len(others) == 1 else {**schema, "anyOf": others}


def _resumable(app_id: str, acting: list[Json]) -> dict[str, Json]:
    """The two addresses of the tus protocol, which a client of it speaks by itself."""
    version = _header("Tus-Resumable", {"const": VERSION})
    number: Json = {"type": "integer", "minimum": 0}
    told = {
        "Tus-Resumable": header("The version.", required=True),
        "Upload-Offset": header("How many bytes have come.", required=True, **number),
        "X-Object-Id": header("The file's id.", required=True, **_ID),
    }
    place = {"Location": header("Where the pieces go.", required=True)}
    piece: Json = {
        "required": True,
        "content": {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    one: Json = {"name": "object_id", "in": "path", "required": True, "schema": _ID}
    size = _header("Upload-Length", {**number, "minimum": 1})
    metadata = _header("Upload-Metadata", _TEXT, required=False)
    begin = _tus("begin", {"201": answer("It has begun.", None, {**told, **place})}, [version, size, metadata, *acting])
    add = _tus(
        "add", {"204": answer("The piece has come.", None, told)}, [version, _header("Upload-Offset", number), *acting]
    )
    add["requestBody"] = piece
    for operation in (begin, add):
        for status, why in ((415, "Not the type of a piece."), (460, "The piece has another checksum.")):
            operation["responses"][str(status)] = answer(why, {_JSON: ref("schemas", "Error")})
    given_up = {"Tus-Resumable": told["Tus-Resumable"]}
    drop = _tus("drop", {"204": answer("It is given up.", None, given_up)}, [version, *acting])
    return {
        f"/storage/{app_id}/tus": {"post": begin},
        f"/storage/{app_id}/tus/{{object_id}}": {"parameters": [one], "patch": add, "delete": drop},
    }


def _tus(name: str, responses: Json, parameters: list[Json]) -> Json:
    said = "A resumable upload: tus 1.0.0, which Uppy and tus-js-client speak."
    return {
        "operationId": f"files_tus_{name}",
        "tags": ["files"],
        "description": said,
        "parameters": parameters,
        "responses": {**responses, **errors(_STATUSES)},
    }


def _header(name: str, schema: Json, *, required: bool = True) -> Json:
    return {"name": name, "in": "header", "required": required, "schema": schema}
