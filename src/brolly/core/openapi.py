"""The words of OpenAPI that every feature's part of an app's document shares: errors, headers, ways to say who asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter

from brolly.core.errors import CODES

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """What one feature adds to an app's document. ``components`` are by kind (``schemas``, ``parameters``) and name."""

    paths: Mapping[str, Json] = field(default_factory=dict[str, Json])
    components: Mapping[str, Mapping[str, Json]] = field(default_factory=dict[str, Mapping[str, Json]])
    tags: tuple[Json, ...] = ()


USUAL = (400, 401, 403, 404, 409, 410, 413, 500, 503, 504)
"""The statuses that an error may have at any route of an app."""

_NAMES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Gone",
    413: "ContentTooLarge",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
_ALWAYS = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}


def ref(kind: str, name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def errors(statuses: Iterable[int] = USUAL) -> Json:
    """The answers of an operation that failed."""
    return {str(status): ref("responses", _NAMES[status]) for status in statuses}


def answer(
    description: str, content: Mapping[str, Json] | None = None, headers: Mapping[str, Json] | None = None
) -> Json:
    """An answer of an operation; ``content`` is a schema for each media type."""
    found: Json = {"description": description, "headers": {**_ALWAYS, **(headers or {})}}
    if content:
        found["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    return found


def either(*options: Json) -> Json:
    """One schema of several."""
    return options[0] if len(options) == 1 else {"anyOf": list(options)}


def fields_of(model: type[BaseModel], *left_out: str) -> dict[str, Json]:
    """The schema of each field by its name outside, with those of which the list of tools does not tell."""
    found: dict[str, Json] = {}
    for name, one in model.model_fields.items():
        if name in left_out:
            continue
        told = [each for each in one.metadata if type(each).__name__ != "SkipJsonSchema"]
        kind: Any = Annotated[one.annotation, *told] if told else one.annotation
        schema: Json = TypeAdapter[Any](kind).json_schema()
        # Zero and empty stand for what was left out.
        found[one.alias or name] = (
            {**schema, "default": one.default} if one.default and not one.is_required() else schema
        )
    return found


def body_of(model: type[BaseModel], *left_out: str) -> Json:
    """The model as the schema of a body, without what stands in the path."""
    fields = model.model_fields
    required = [one.alias or name for name, one in fields.items() if one.is_required() and name not in left_out]
    found: Json = {"type": "object", "properties": fields_of(model, *left_out)}
    return {**found, "required": required} if required else found


def object_of(**properties: Json) -> Json:
    """An object with all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


def header(description: str, *, required: bool = False, **schema: Any) -> Json:
    """A header of an answer."""
    return {"description": description, "required": required, "schema": schema or {"type": "string"}}


def shared() -> Json:
    """The components to which all parts refer."""
    return {
        "schemas": {"ErrorCode": _code(), "Error": _error()},
        "headers": {"X-Request-Id": header("Names this request in the server's log.", required=True)},
        "responses": {_NAMES[status]: _failure(status) for status in _NAMES},
        "securitySchemes": {
            "serviceKey": {
                "type": "http",
                "scheme": "bearer",
                "description": "A service key (bb_sk_…): sees and changes all rows. It never belongs in a browser.",
            },
            "accessToken": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "An end user's access token, as the sign-in routes answer it.",
            },
        },
    }


def _code() -> Json:
    return {"type": "string", "enum": sorted(name for name, code in CODES.items() if not code.retired)}


def _error() -> Json:
    text = {"type": "string"}
    inner: Json = {
        "type": "object",
        "required": ["code", "message", "remediation", "documentation_url"],
        "properties": {
            "code": ref("schemas", "ErrorCode"),
            "message": {**text, "description": "What was wrong."},
            "remediation": {**text, "description": "What to do next."},
            "documentation_url": {**text, "format": "uri"},
            "details": {"description": "Data about the error; its form depends on the code."},
        },
    }
    beside: Json = {
        name: {**text, "description": "At the routes of rows, as PostgREST's clients read it."}
        for name in ("code", "message")
    }
    return {"type": "object", "required": ["error"], "properties": {"error": inner, **beside}}


def _failure(status: int) -> Json:
    codes = [name for name, code in sorted(CODES.items()) if code.status == status and not code.retired]
    headers: Json = {}
    if status == 401:
        headers["WWW-Authenticate"] = header("The scheme that is wanted.", required=True)
    if status in (409, 429, 503):
        headers["Retry-After"] = header("After how many seconds to try again.", type="integer")
    return answer(f"{', '.join(codes)}.", {"application/json": ref("schemas", "Error")}, headers)
