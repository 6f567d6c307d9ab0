"""HTTP routes of signing in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.auth import service
from brolly.auth.requests import read_body
from brolly.core.caller import Caller
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.endpoint import Endpoint, caller_of, deps_of, json_body

_NO_STORE = {"Cache-Control": "no-store"}


def _answers(
    run: Callable[[Deps, Caller, Any], Awaitable[service.Reply]], model: type[AppParams], status: int = 200
) -> Endpoint:
    """An endpoint for anybody: the body as the model, the reply as it comes."""

    async def answer(request: Request) -> Response:
        params = read_body(model, request.path_params["app_id"], await json_body(request))
        reply = await run(deps_of(request), caller_of(request), params)
        return JSONResponse(reply.body, status, _NO_STORE)

    return answer


def _for_user(run: Callable[[Deps, Caller, Any], Awaitable[service.Reply]], model: type[AppParams]) -> Endpoint:
    """As ``_answers``, for the user who is signed in: a credential that did not hold is refused here."""
    answer = _answers(run, model)

    async def checked(request: Request) -> Response:
        refused = getattr(request.state, "refused", None)
        if refused is not None:
            raise refused
        return await answer(request)

    return checked


async def _keys(request: Request) -> Response:
    keys = await service.get_keys(deps_of(request), request.path_params["app_id"])
    return JSONResponse(keys, headers={"Cache-Control": "public, max-age=300"})


def _post(path: str, endpoint: Endpoint) -> Route:
    return Route(f"/auth/{{app_id}}/{path}", endpoint, methods=["POST"])


routes = [
    _post("signup", _answers(service.sign_up, service.Signup, 201)),
    _post("login", _answers(service.log_in, service.Login)),
    _post("refresh", _answers(service.refresh, service.Refresh)),
    _post("logout", _for_user(service.log_out, AppParams)),
    Route("/auth/{app_id}/me", _for_user(service.get_me, AppParams), methods=["GET"]),
    Route("/auth/{app_id}/.well-known/jwks.json", _keys, methods=["GET"]),
]
