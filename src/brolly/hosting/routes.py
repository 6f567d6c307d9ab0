"""HTTP routes of front ends, for an app's owner."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from brolly.endpoint import Arguments, endpoint
from brolly.hosting import build_routes, upload
from brolly.hosting.tool import CREATE_FRONTEND_DEPLOYMENT, FRONTEND_OVER_HTTP, MANAGE_FRONTEND

_APP = "/v1/{app_id}/frontend"
_ONE = _APP + "/deployments/{deployment_id}"


def _env(arguments: Arguments) -> tuple[str, Arguments]:
    """Clients send the variables by themselves, not below a name."""
    app_id = arguments.pop("app_id")
    given: Any = arguments["vars"] if isinstance(arguments.get("vars"), dict) else arguments
    return "set_env", {"app_id": app_id, "vars": given}


routes = [
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
