"""HTTP routes of the schema."""

import hashlib

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.core.errors import AppError
from brolly.endpoint import Arguments, arguments_of, caller_of, deps_of, endpoint
from brolly.schema.tool import MANAGE_SCHEMA


def _choose(arguments: Arguments) -> tuple[str, Arguments]:
    rest = {key: value for key, value in arguments.items() if key != "dry_run"}
    preview = arguments.get("dry_run", False)
    if not isinstance(preview, bool):
        # "false" as a text must not mean yes, nor a mistake be taken for no.
        raise AppError("VALIDATION_INVALID_SCHEMA", "dry_run must be true or false.")
    if preview:
        # A preview is not recorded, so a label for the migration says nothing.
        return "dry_run", {key: value for key, value in rest.items() if key != "name"}
    return "apply", rest


def _all(arguments: Arguments) -> tuple[str, Arguments]:
    # Programs that list migrations do not page; 1,000 is the limit on this path.
    return "list_migrations", {"limit": 1000, **arguments}


async def _get(request: Request) -> Response:
    result = await MANAGE_SCHEMA.run(deps_of(request), caller_of(request), "get", await arguments_of(request))
    return _module(request, result) if isinstance(result, str) else JSONResponse(result)


async def _types(request: Request) -> Response:
    arguments = await arguments_of(request)
    if "format" in arguments:
        raise AppError("VALIDATION_INVALID_SCHEMA", "types.ts takes no format; GET /v1/{app_id}/schema does.")
    arguments["format"] = "typescript"
    return _module(request, await MANAGE_SCHEMA.run(deps_of(request), caller_of(request), "get", arguments))


def _module(request: Request, text: str) -> Response:
    tag = f'W/"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    if tag in (part.strip() for part in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    return Response(text, headers=headers, media_type="application/typescript; charset=utf-8")


routes = [
    Route("/v1/{app_id}/schema", _get, methods=["GET"]),
    Route("/v1/{app_id}/types.ts", _types, methods=["GET"]),
    Route("/v1/{app_id}/schema/apply", endpoint(MANAGE_SCHEMA, prepare=_choose), methods=["POST"]),
    Route("/v1/{app_id}/migrations", endpoint(MANAGE_SCHEMA, prepare=_all), methods=["GET"]),
]
