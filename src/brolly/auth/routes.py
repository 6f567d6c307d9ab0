"""HTTP routes of signing in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.auth import mfa, recovery, service
from brolly.auth.mail import deliver
from brolly.auth.requests import read_body
from brolly.auth.tool import MANAGE_AUTH_CONFIG, MANAGE_AUTH_USERS
from brolly.core.caller import Caller
from brolly.core.errors import AppError, error_body
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.endpoint import Arguments, Endpoint, caller_of, deps_of, endpoint, json_body

_NO_STORE = {"Cache-Control": "no-store"}


def _answers(
    run: Callable[[Deps, Caller, Any], Awaitable[service.Reply]], model: type[AppParams], status: int = 200
) -> Endpoint:
    """An endpoint for anybody: the body as the model, the reply as it comes."""

    async def answer(request: Request) -> Response:
        deps = deps_of(request)
        if deps.settings.read_only and request.method != "GET":
            raise AppError(
                "AUTH_FORBIDDEN",
                "This server is in read-only mode; nobody signs up, in or out.",
                remediation="Use a server that is not read-only; manage_auth_users list works as it is.",
            )
        params = read_body(model, request.path_params["app_id"], await json_body(request))
        try:
            reply = await run(deps, caller_of(request), params)
        except AppError as error:
            if error.code != "MFA_REQUIRED":
                raise
            return JSONResponse({**error_body(error, deps.settings.base_url), **error.details}, 403, _NO_STORE)
        mail = BackgroundTask(deliver, deps, reply.app, reply.mail) if reply.mail else None
        return JSONResponse(reply.body, status, _NO_STORE, background=mail)

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


_JWT_SPELLINGS = {"access_token_ttl": "accessTokenTtl", "refresh_token_ttl_days": "refreshTokenTtlDays"}
_USERS = "/v1/{app_id}/admin/auth/users"


def _update(arguments: Arguments) -> tuple[str, Arguments]:
    # Over HTTP the body is what is set.
    ids = ("app_id", "user_id")
    changes = {k: v for k, v in arguments.items() if k not in ids}
    return "update", {**{k: arguments[k] for k in ids}, "set": changes}


def _post(path: str, endpoint: Endpoint) -> Route:
    return Route(f"/auth/{{app_id}}/{path}", endpoint, methods=["POST"])


routes = [
    _post("signup", _answers(service.sign_up, service.Signup, 201)),
    _post("login", _answers(service.log_in, service.Login)),
    _post("refresh", _answers(service.refresh, service.Refresh)),
    _post("logout", _for_user(service.log_out, AppParams)),
    _post("verify-email", _answers(recovery.verify_email, recovery.Code)),
    _post("verify-email/resend", _answers(recovery.resend_verification, recovery.Address)),
    _post("forgot-password", _answers(recovery.forgot_password, recovery.Address)),
    _post("reset-password", _answers(recovery.reset_password, recovery.NewPassword)),
    _post("magic-link", _answers(recovery.send_magic_link, recovery.Address)),
    _post("magic-link/verify", _answers(recovery.verify_magic_link, recovery.Code)),
    _post("mfa/enroll", _for_user(mfa.enroll, AppParams)),
    _post("mfa/activate", _for_user(mfa.activate, mfa.FactorCode)),
    _post("mfa/verify", _answers(mfa.verify, mfa.Challenge)),
    Route("/auth/{app_id}/mfa", _for_user(mfa.remove, mfa.FactorCode), methods=["DELETE"]),
    Route("/auth/{app_id}/me", _for_user(service.get_me, AppParams), methods=["GET"]),
    Route("/auth/{app_id}/.well-known/jwks.json", _keys, methods=["GET"]),
    Route(_USERS, endpoint(MANAGE_AUTH_USERS, "list"), methods=["GET"]),
    Route(_USERS, endpoint(MANAGE_AUTH_USERS, "import"), methods=["POST"]),
    Route(_USERS + "/{user_id}", endpoint(MANAGE_AUTH_USERS, "get"), methods=["GET"]),
    Route(_USERS + "/{user_id}", endpoint(MANAGE_AUTH_USERS, prepare=_update), methods=["PATCH"]),
    Route(_USERS + "/{user_id}", endpoint(MANAGE_AUTH_USERS, "delete"), methods=["DELETE"]),
    Route("/v1/{app_id}/auth/outbox", endpoint(MANAGE_AUTH_USERS, "outbox"), methods=["GET"]),
    Route(
        "/v1/{app_id}/config/jwt",
        endpoint(MANAGE_AUTH_CONFIG, "update_jwt", rename=_JWT_SPELLINGS),
        methods=["PATCH"],
    ),
    Route("/v1/{app_id}/config/auth-hooks", endpoint(MANAGE_AUTH_CONFIG, "configure_auth_hook"), methods=["PATCH"]),
]
