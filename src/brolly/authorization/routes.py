"""The HTTP side of the authorization server: metadata, the pages for the owner, tokens, registration."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from brolly.authorization import owner, pages, service
from brolly.authorization.asked import (
    SCOPES,
    Asked,
    Refused,
    answer,
    issuer,
    narrowed,
    once,
    read_request,
    resource_in,
)
from brolly.authorization.clients import LARGEST_REGISTRATION, register
from brolly.authorization.failure import OAuthError
from brolly.authorization.redirects import origin_source
from brolly.core.audit_event import PLATFORM, AuditEvent
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tokens import derive
from brolly.deps import Deps
from brolly.endpoint import caller_of, deps_of

_LARGEST_FORM = 16 * 1024
_NOT_KEPT = {"Cache-Control": "no-store"}


async def _metadata(request: Request) -> Response:
    base = issuer(deps_of(request))
    return JSONResponse(
        {
            "issuer": base,
            "authorization_endpoint": f"{base}/oauth/authorize",
            "token_endpoint": f"{base}/oauth/token",
            "registration_endpoint": f"{base}/oauth/register",
            "revocation_endpoint": f"{base}/oauth/revoke",
            "scopes_supported": list(SCOPES),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
            "client_id_metadata_document_supported": True,
            "authorization_response_iss_parameter_supported": True,
            "service_documentation": f"{base}/docs/mcp",
        }
    )


def _cookie(deps: Deps) -> tuple[str, bool]:
    secure = deps.settings.base_url.startswith("https://")
    return ("__Host-brolly_owner" if secure else "brolly_owner"), secure


def _proof(deps: Deps, request: Request, session: owner.Session | None) -> str:
    """What a form must bring along: made for this very request and this browser's session, by nobody but us."""
    said = f"{session.token if session else ''}\n{request.scope['query_string'].decode('latin-1')}"
    return hmac.new(derive(deps.secret, "authorization-form").encode(), said.encode(), sha256).hexdigest()


def _is_from_here(deps: Deps, request: Request) -> bool:
    """Whether a page of this server sent the form. Browsers say so; who is none has no session to abuse."""
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    return origin is None or origin == "{0.scheme}://{0.netloc}".format(urlsplit(deps.settings.base_url))


def _source(request: Request) -> str:
    """Where the form's answer may lead in the end, lest the browser stop there; empty where nothing of it is right."""
    try:
        return origin_source(once(request.url.query).get("redirect_uri", ""))
    except (OAuthError, ValueError):
        return ""


def _page(text: str, request: Request, status: int = 200) -> Response:
    return HTMLResponse(text, status, headers=pages.security_headers(_source(request)))


def _leave(location: str) -> Response:
    # 303: the browser must not send the form, and the password in it, along.
    return RedirectResponse(location, 303, headers={**_NOT_KEPT, "Referrer-Policy": "no-referrer"})


async def _authorize(request: Request) -> Response:
    deps = deps_of(request)
    if not await owner.is_enabled(deps):
        return _page(pages.disabled_page(), request, 503)
    form = await _form(request) if request.method == "POST" else {}
    if request.method == "POST" and not _is_from_here(deps, request):
        return _page(pages.failure_page("The form was sent from another site."), request, 403)
    session = await owner.session_of(deps, request.cookies.get(_cookie(deps)[0]))
    if form.get("step") == "sign_in":
        return await _sign_in(request, form)
    if session is None:
        return _page(pages.sign_in_page(_proof(deps, request, None), await owner.needs_code(deps)), request)
    asked = await read_request(deps, request.url.query)
    if request.method == "POST":
        return await _decide(request, session, asked, form)
    before = await service.remembered(deps, session.account_id, asked.client.id)
    if before is not None and before == asked.scope and _vouched_for(asked) and "prompt" not in once(request.url.query):
        return await _allow(request, session, asked, before)
    apps = await _apps(deps, session)
    return _page(pages.consent_page(asked, _proof(deps, request, session), apps, before is not None), request)


def _vouched_for(asked: Asked) -> bool:
    """Whether nobody else can receive the code: the program's document and its return address are of one site."""
    return bool(asked.client.host) and asked.redirect_uri.startswith(f"https://{asked.client.host}/")


async def _apps(deps: Deps, session: owner.Session) -> list[tuple[str, str]]:
    rows = await deps.control.fetch(
        "select id, name from brolly.apps where account_id = $1 and status = 'ready' order by name limit 500",
        session.account_id,
    )
    return [(row["id"], row["name"]) for row in rows]


async def _sign_in(request: Request, form: dict[str, str]) -> Response:
    deps = deps_of(request)
    if not hmac.compare_digest(form.get("proof", "").encode(), _proof(deps, request, None).encode()):
        return _page(pages.failure_page("The form is not of this request. Begin again."), request, 403)
    try:
        session = await owner.sign_in(deps, caller_of(request).ip, form.get("password", ""), form.get("code", ""))
    except AppError as error:
        await _note(deps, caller_of(request), "owner_sign_in", None, error.code)
        wait = max(1, round((error.retry_after or 0) / 60))
        text = f"Too many attempts. Wait {wait} minutes, or run brolly owner password on the server's machine."
        page = _page(pages.failure_page(text), request, 429)
        page.headers["Retry-After"] = str(error.retry_after or 60)
        return page
    needs_code = await owner.needs_code(deps)
    if session is None:
        await _note(deps, caller_of(request), "owner_sign_in", None, "AUTH_INVALID_CREDENTIALS")
        failed = f"Password{' or code' if needs_code else ''} is not right."
        return _page(pages.sign_in_page(_proof(deps, request, None), needs_code, failed), request, 401)
    await _note(deps, caller_of(request), "owner_sign_in", session.account_id)
    name, secure = _cookie(deps)
    done = _leave(f"{deps.settings.base_url}/oauth/authorize?{request.url.query}")
    done.set_cookie(
        name, session.token, max_age=owner.SESSION_SECONDS, path="/", secure=secure, httponly=True, samesite="lax"
    )
    return done


async def _decide(request: Request, session: owner.Session, asked: Asked, form: dict[str, str]) -> Response:
    deps = deps_of(request)
    if not hmac.compare_digest(form.get("proof", "").encode(), _proof(deps, request, session).encode()):
        return _page(pages.failure_page("The form is not of this request. Begin again."), request, 403)
    if form.get("decision") != "allow":
        values = {"error": "access_denied", "error_description": "The owner refused."}
        return _leave(answer(deps, asked.redirect_uri, asked.state, values))
    apps = [app_id for app_id, _ in await _apps(deps, session)]
    return await _allow(request, session, asked, narrowed(asked, form.get("access", ""), form.get("app", ""), apps))


async def _allow(request: Request, session: owner.Session, asked: Asked, scope: str) -> Response:
    deps, client = deps_of(request), asked.client
    allowed = service.Allowed(
        session.account_id, client.id, client.name, asked.redirect_uri, asked.code_challenge, asked.resource, scope
    )
    code = await service.make_code(deps, allowed)
    await _note(deps, caller_of(request), "allow", session.account_id, data={"client_id": client.id, "scope": scope})
    return _leave(answer(deps, asked.redirect_uri, asked.state, {"code": code}))


async def _note(
    deps: Deps, caller: Caller, event: str, account: str | None, error: str | None = None, **more: Any
) -> None:
    """Record ``oauth.<event>`` of the owner's account."""
    account = account or await deps.control.fetchval("select account_id::text from brolly.owner_logins limit 1")
    await deps.record(
        AuditEvent(
            account_id=account,
            app_id=PLATFORM,
            category="auth",
            event_type=f"oauth.{event}",
            action=event,
            resource_type="oauth_client",
            resource_id=more.get("data", {}).get("client_id"),
            caller=replace(caller, kind="service") if error is None else caller,
            event_data={**more.get("data", {}), **({"code": error} if error else {})},
            success=error is None,
            error_message=error,
            durable=False,
        )
    )


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if kind != "application/x-www-form-urlencoded" or len(body) > _LARGEST_FORM:
        raise OAuthError("invalid_request", "The body must be a form (application/x-www-form-urlencoded).")
    return once(body.decode("latin-1"))


async def _token(request: Request) -> Response:
    deps, form = deps_of(request), await _form(request)
    if "resource" in form:
        form["resource"] = resource_in(deps, form)
    if not form.get("client_id"):
        raise OAuthError("invalid_client", "client_id is missing.", 401)
    if form.get("grant_type") == "authorization_code":
        done = await service.redeem_code(deps, form)
    elif form.get("grant_type") == "refresh_token":
        done = await service.refresh_tokens(deps, form)
    else:
        raise OAuthError("unsupported_grant_type", "grant_type must be authorization_code or refresh_token.")
    return JSONResponse(done, headers={**_NOT_KEPT, "Pragma": "no-cache"})


async def _revoke(request: Request) -> Response:
    form = await _form(request)
    if not form.get("token") or not form.get("client_id"):
        raise OAuthError("invalid_request", "token and client_id are needed.")
    await service.revoke(deps_of(request), form)
    return Response(status_code=200, headers=_NOT_KEPT)


async def _register(request: Request) -> Response:
    body = await request.body()
    if len(body) > LARGEST_REGISTRATION:
        raise OAuthError("invalid_client_metadata", "The body is too long.")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise OAuthError("invalid_client_metadata", "The body is not JSON.") from None
    done = await register(deps_of(request), caller_of(request).ip, asked)
    return JSONResponse(done, 201, headers=_NOT_KEPT)


Handler = Callable[[Request], Awaitable[Response]]


def _for_programs(handler: Handler) -> Handler:
    """Failures as RFC 6749 has them, for programs."""

    @wraps(handler)
    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except OAuthError as error:
            headers = dict(_NOT_KEPT)
            if error.retry_after is not None:
                headers["Retry-After"] = str(error.retry_after)
            return JSONResponse({"error": error.code, "error_description": error.description}, error.status, headers)

    return run


def _for_people(handler: Handler) -> Handler:
    """Failures as a page, or told to the program where its address is known."""

    @wraps(handler)
    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as refused:
            return _leave(refused.location)
        except OAuthError as error:
            return _page(pages.failure_page(error.description), request, error.status)

    return run


routes = [
    Route("/.well-known/oauth-authorization-server", _metadata, methods=["GET"]),
    Route("/.well-known/openid-configuration", _metadata, methods=["GET"]),
    Route("/oauth/authorize", _for_people(_authorize), methods=["GET", "POST"]),
    Route("/oauth/token", _for_programs(_token), methods=["POST"]),
    Route("/oauth/register", _for_programs(_register), methods=["POST"]),
    Route("/oauth/revoke", _for_programs(_revoke), methods=["POST"]),
]
