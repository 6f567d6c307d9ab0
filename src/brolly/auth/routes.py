"""HTTP routes of signing in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from brolly.auth import mfa, oauth, recovery, service
from brolly.auth.mail import deliver
from brolly.auth.oauth_states import SECONDS, cookie_name
from brolly.auth.requests import read_body
from brolly.auth.tool import MANAGE_AUTH_CONFIG, MANAGE_AUTH_USERS, MANAGE_OAUTH
from brolly.core.caller import Caller
from brolly.core.errors import AppError, error_body
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.endpoint import Arguments, Endpoint, caller_of, deps_of, endpoint, json_body, query_arguments

_NO_STORE = {"Cache-Control": "no-store"}


def _require_writable(deps: Deps) -> None:
    if deps.settings.read_only:
        raise AppError(
            "AUTH_FORBIDDEN",
            "This server is in read-only mode; nobody signs up, in or out.",
            remediation="Use a server that is not read-only; manage_auth_users list works as it is.",
        )


def _second_factor(deps: Deps, error: AppError) -> Response:
    """The question for the second factor, with its token beside the error; any other error goes on."""
    if error.code != "MFA_REQUIRED":
        raise error
    return JSONResponse({**error_body(error, deps.settings.base_url), **error.details}, 403, _NO_STORE)


def _answers(
    run: Callable[[Deps, Caller, Any], Awaitable[service.Reply]], model: type[AppParams], status: int = 200
) -> Endpoint:
    """An endpoint for anybody: the body as the model, the reply as it comes."""

    async def answer(request: Request) -> Response:
        deps = deps_of(request)
        if request.method != "GET":
            _require_writable(deps)
        params = read_body(model, request.path_params["app_id"], await json_body(request))
        try:
            reply = await run(deps, caller_of(request), params)
        except AppError as error:
            return _second_factor(deps, error)
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


# A page must not tell the next one its address, in which the tokens stand.
_AWAY = {**_NO_STORE, "Referrer-Policy": "no-referrer"}
_RETURNED = set(oauth.Return.model_fields) - {"app_id", "provider"}


def _cookie_of(request: Request, state: str) -> dict[str, Any]:
    """Name and place of the cookie that binds a sign-in to the browser. ``lax``: it comes along when the provider
    sends the browser back, and with no other site's requests.
    """
    base = urlsplit(deps_of(request).settings.base_url)
    app_id, provider = request.path_params["app_id"], request.path_params["provider"]
    return {
        "key": cookie_name(state),
        "path": f"{base.path}/auth/{app_id}/oauth/{provider}",
        "secure": base.scheme == "https",
        "httponly": True,
        "samesite": "lax",
    }


def _refuse_head(request: Request) -> None:
    """Starlette takes HEAD for GET; what only looks must not begin a sign-in or use one up."""
    if request.method == "HEAD":
        raise HTTPException(405, headers={"Allow": "GET"})


async def _oauth_start(request: Request) -> Response:
    _refuse_head(request)
    deps = deps_of(request)
    _require_writable(deps)
    values = {**query_arguments(request), "provider": request.path_params["provider"]}
    params = read_body(oauth.Start, request.path_params["app_id"], values)
    departure = await oauth.start(deps, caller_of(request), params)
    response = RedirectResponse(departure.address, 302, _AWAY)
    if departure.begun is not None:
        cookie = _cookie_of(request, departure.begun.state)
        response.set_cookie(value=departure.begun.browser, max_age=SECONDS, **cookie)
    return response


async def _oauth_return(request: Request) -> Response:
    _refuse_head(request)
    deps = deps_of(request)
    _require_writable(deps)
    values = _returned(request.query_params.multi_items())
    params = read_body(
        oauth.Return, request.path_params["app_id"], {**values, "provider": request.path_params["provider"]}
    )
    state = params.state or ""
    try:
        landing = await oauth.finish(deps, caller_of(request), params, request.cookies.get(cookie_name(state)))
    except AppError as error:
        return _second_factor(deps, error)
    mail = None
    if landing.reply is not None and landing.reply.mail:
        mail = BackgroundTask(deliver, deps, landing.reply.app, landing.reply.mail)
    if landing.address:
        response: Response = RedirectResponse(landing.address, 302, _AWAY, background=mail)
    else:
        body = landing.reply.body if landing.reply is not None else {}
        response = JSONResponse(body, 200, _NO_STORE, background=mail)
    response.delete_cookie(**_cookie_of(request, state))
    return response


async def _oauth_posted(request: Request) -> Response:
    """Apple has the browser post its answer here from Apple's own page, so no cookie of ours comes along. Sent on
    as a GET, it does.
    """
    body = await request.body()
    if len(body) > 16384:
        raise AppError("REQUEST_TOO_LARGE", "A provider's answer has 16384 bytes at most.")
    values = _returned(parse_qsl(body.decode("utf-8", "replace")))
    return RedirectResponse(f"?{urlencode(values)}", 303, _AWAY)


def _returned(pairs: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
    """What we know of a provider's answer. Providers add their own, which is passed over."""
    known = [(name, value) for name, value in pairs if name in _RETURNED]
    if len(known) != len(dict(known)):
        raise AppError("VALIDATION_INVALID_SCHEMA", "The provider's answer holds a parameter twice.")
    return dict(known)


async def _keys(request: Request) -> Response:
    keys = await service.get_keys(deps_of(request), request.path_params["app_id"])
    return JSONResponse(keys, headers={"Cache-Control": "public, max-age=300"})


_JWT_SPELLINGS = {"access_token_ttl": "accessTokenTtl", "refresh_token_ttl_days": "refreshTokenTtlDays"}
_USERS = "/v1/{app_id}/admin/auth/users"
_OAUTH = "/auth/{app_id}/oauth/{provider}"
_PROVIDERS = "/v1/{app_id}/auth/oauth-config"


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
    Route(_OAUTH, _oauth_start, methods=["GET"]),
    Route(_OAUTH + "/callback", _oauth_return, methods=["GET"]),
    Route(_OAUTH + "/callback", _oauth_posted, methods=["POST"]),
    Route("/auth/{app_id}/.well-known/jwks.json", _keys, methods=["GET"]),
    Route(_USERS, endpoint(MANAGE_AUTH_USERS, "list"), methods=["GET"]),
    Route(_USERS, endpoint(MANAGE_AUTH_USERS, "import"), methods=["POST"]),
    Route(_USERS + "/{user_id}", endpoint(MANAGE_AUTH_USERS, "get"), methods=["GET"]),
    Route(_USERS + "/{user_id}", endpoint(MANAGE_AUTH_USERS, prepare=_update), methods=["PATCH"]),
    Route(_USERS + "/{user_id}", endpoint(MANAGE_AUTH_USERS, "delete"), methods=["DELETE"]),
    Route(_PROVIDERS, endpoint(MANAGE_OAUTH, "configure"), methods=["POST"]),
    Route(_PROVIDERS, endpoint(MANAGE_OAUTH, "get"), methods=["GET"]),
    Route(_PROVIDERS + "/{provider}", endpoint(MANAGE_OAUTH, "get"), methods=["GET"]),
    Route(_PROVIDERS + "/{provider}", endpoint(MANAGE_OAUTH, "update"), methods=["PATCH"]),
    Route(_PROVIDERS + "/{provider}", endpoint(MANAGE_OAUTH, "delete"), methods=["DELETE"]),
    Route("/v1/{app_id}/auth/outbox", endpoint(MANAGE_AUTH_USERS, "outbox"), methods=["GET"]),
    Route(
        "/v1/{app_id}/config/jwt",
        endpoint(MANAGE_AUTH_CONFIG, "update_jwt", rename=_JWT_SPELLINGS),
        methods=["PATCH"],
    ),
    Route("/v1/{app_id}/config/auth-hooks", endpoint(MANAGE_AUTH_CONFIG, "configure_auth_hook"), methods=["PATCH"]),
]
