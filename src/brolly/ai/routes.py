"""HTTP routes in OpenAI's form: an app's own, and the account's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.ai.access import Visit, visit_account, visit_app
from brolly.ai.chat import ChatStream, chat
from brolly.ai.models import list_models
from brolly.ai.request import ChatRequest, EmbeddingRequest, parse
from brolly.ai.service import embeddings
from brolly.ai.streaming import ClientGone, EventStream, while_connected
from brolly.ai.tool import MANAGE_AI
from brolly.core.errors import AppError, error_body
from brolly.endpoint import Arguments, caller_of, deps_of, endpoint, json_body, query_arguments

Core = Callable[[Request, Visit], Awaitable[Response]]

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def _body_of(request: Request, error: AppError) -> dict[str, Any]:
    """Our error, with the keys besides that OpenAI's clients read."""
    body = error_body(error, deps_of(request).settings.base_url)
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    body["error"] |= {"type": kind, "param": None}
    return body


def _route(method: str, path: str, core: Core) -> Route:
    async def answer(request: Request) -> Response:
        deps, caller = deps_of(request), caller_of(request)
        try:
            if query_arguments(request):
                raise AppError("VALIDATION_INVALID_SCHEMA", f"{request.url.path} takes no query parameters.")
            app_id = request.path_params.get("app_id")
            at = visit_account(deps, caller) if app_id is None else await visit_app(deps, caller, app_id)
            return await core(request, at)
        except ClientGone:
            return Response(status_code=499)
        except AppError as error:
            headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return JSONResponse(_body_of(request, error), error.status, headers)

    return Route(path, answer, methods=[method])


async def _chat(request: Request, at: Visit) -> Response:
    asked: ChatRequest = parse(ChatRequest, await json_body(request))
    if not asked.stream:
        answer = await while_connected(request, lambda: chat(at, asked))
        router = answer["model"].encode("ascii", "replace").decode()
        return JSONResponse(answer, headers={"Cache-Control": "no-store", "x-butterbase-router": router})
    stream = ChatStream(at, asked)
    try:
        await while_connected(request, stream.begin)
    except BaseException:
        await stream.end()
        raise
    return EventStream(stream, lambda error: _body_of(request, error))


async def _embeddings(request: Request, at: Visit) -> Response:
    asked: EmbeddingRequest = parse(EmbeddingRequest, await json_body(request))
    return JSONResponse(await while_connected(request, lambda: embeddings(at, asked)))


async def _models(_request: Request, at: Visit) -> Response:
    return JSONResponse(await list_models(at.deps, at.providers, at.config))


def _config(arguments: Arguments) -> tuple[str, Arguments]:
    app_id = arguments.pop("app_id")
    inner = arguments.get("config", arguments)
    return "update_config", {"app_id": app_id, "config": inner}


routes = [
    _route("POST", "/v1/chat/completions", _chat),
    _route("POST", "/v1/embeddings", _embeddings),
    _route("GET", "/v1/models", _models),
    _route("POST", "/v1/{app_id}/chat/completions", _chat),
    _route("POST", "/v1/{app_id}/embeddings", _embeddings),
    # Under one address, for clients that are given a base URL: /v1/{app_id}/ai.
    _route("POST", "/v1/{app_id}/ai/chat/completions", _chat),
    _route("POST", "/v1/{app_id}/ai/embeddings", _embeddings),
    _route("GET", "/v1/{app_id}/ai/models", _models),
    Route("/v1/{app_id}/ai/config", endpoint(MANAGE_AI, "get_config"), methods=["GET"]),
    Route("/v1/{app_id}/ai/config", endpoint(MANAGE_AI, prepare=_config), methods=["PUT"]),
    Route("/v1/{app_id}/ai/usage", endpoint(MANAGE_AI, "get_usage"), methods=["GET"]),
]
