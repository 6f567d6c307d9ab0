"""HTTP routes of front ends, for an app's owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from brolly.endpoint import Arguments, deps_of, endpoint
from brolly.hosting import build_routes, domains, upload
from brolly.hosting.tool import CREATE_FRONTEND_DEPLOYMENT, FRONTEND_OVER_HTTP, MANAGE_FRONTEND

_APP = "/v1/{app_id}/frontend"
_ONE = _APP + "/deployments/{deployment_id}"


def _env(arguments: Arguments) -> tuple[str, Arguments]:
    """Clients send the variables by themselves, not below a name."""
    app_id = arguments.pop("app_id")
    given: Any = arguments["vars"] if isinstance(arguments.get("vars"), dict) else arguments
    return "set_env", {"app_id": app_id, "vars": given}


def _domain(action: str) -> Callable[[Arguments], tuple[str, Arguments]]:
    def prepare(arguments: Arguments) -> tuple[str, Arguments]:
        return "configure_custom_domain", {**arguments, "domain_action": action}

    return prepare


async def _ask(request: Request) -> Response:
    """For the front server: whether to get a certificate for the name."""
    known = await domains.is_ours(deps_of(request), request.query_params.get("domain", "")[:300])
    return PlainTextResponse("yes" if known else "no", 200 if known else 404)


_DOMAINS = "/v1/{app_id}/custom-domains"
_DOMAIN = _DOMAINS + "/{domain_id}"
routes = [
    Route("/domains/ask", _ask, methods=["GET"]),
    Route(_DOMAINS, endpoint(MANAGE_FRONTEND, prepare=_domain("add"), status=201), methods=["POST"]),
    Route(_DOMAINS, endpoint(MANAGE_FRONTEND, prepare=_domain("list")), methods=["GET"]),
    Route(_DOMAIN, endpoint(MANAGE_FRONTEND, prepare=_domain("remove")), methods=["DELETE"]),
    Route(_DOMAIN + "/status", endpoint(MANAGE_FRONTEND, prepare=_domain("status")), methods=["GET"]),
    Route(_DOMAIN + "/verify", endpoint(MANAGE_FRONTEND, prepare=_domain("verify")), methods=["POST"]),
    Route(_APP + "/deployments", endpoint(CREATE_FRONTEND_DEPLOYMENT), methods=["POST"]),
    Route(_APP + "/deployments", endpoint(MANAGE_FRONTEND, "list_deployments"), methods=["GET"]),
    Route(_APP + "/rollback", endpoint(MANAGE_FRONTEND, "rollback"), methods=["POST"]),
    Route(_ONE, endpoint(FRONTEND_OVER_HTTP, "get"), methods=["GET"]),
    Route(_ONE, endpoint(FRONTEND_OVER_HTTP, "delete"), methods=["DELETE"]),
    Route(_ONE + "/start", endpoint(MANAGE_FRONTEND, "start_deployment"), methods=["POST"]),
    Route(_ONE + "/sync", endpoint(FRONTEND_OVER_HTTP, "get"), methods=["POST"]),
    Route(_ONE + "/cancel", endpoint(FRONTEND_OVER_HTTP, "cancel"), methods=["POST"]),
    Route(_ONE + "/promote", endpoint(MANAGE_FRONTEND, "promote"), methods=["POST"]),
    Route(_APP + "/env", endpoint(FRONTEND_OVER_HTTP, "get_env"), methods=["GET"]),
    Route(_APP + "/env", endpoint(MANAGE_FRONTEND, prepare=_env), methods=["PUT", "PATCH"]),
    *build_routes.routes,
    *upload.routes,
]
