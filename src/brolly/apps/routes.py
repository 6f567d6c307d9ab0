"""HTTP routes of apps."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.apps.service import describe_app
from brolly.apps.tool import APP_STATUS, INIT_APP_OVER_HTTP, MANAGE_APP
from brolly.endpoint import Arguments, caller_of, deps_of, endpoint


def _all(arguments: Arguments) -> tuple[str, Arguments]:
    # Programs that list apps do not page; 1,000 is the limit on this path.
    return "list", {"limit": 1000, **arguments}


def _cors(arguments: Arguments) -> tuple[str, Arguments]:
    # The published command line sends these along; the lists are fixed for all apps.
    kept = {k: v for k, v in arguments.items() if k not in ("allowedMethods", "allowedHeaders", "allowCredentials")}
    return "update_cors", kept


async def _address(request: Request) -> Response:
    found = await describe_app(deps_of(request), caller_of(request), request.path_params["app_id"])
    return JSONResponse(found)


routes = [
    Route("/init", endpoint(INIT_APP_OVER_HTTP, status=lambda r: 201 if r["created"] else 200), methods=["POST"]),
    Route("/apps", endpoint(MANAGE_APP, prepare=_all), methods=["GET"]),
    Route("/apps/{app_id}/status", endpoint(APP_STATUS), methods=["GET"]),
    Route("/apps/{app_id}", endpoint(MANAGE_APP, "delete"), methods=["DELETE"]),
    Route("/v1/{app_id}/config", endpoint(MANAGE_APP, "get_config"), methods=["GET"]),
    Route("/v1/{app_id}/config/pause", endpoint(MANAGE_APP, "pause"), methods=["PATCH"]),
    Route("/v1/{app_id}/config/access-mode", endpoint(MANAGE_APP, "update_access_mode"), methods=["PATCH"]),
    Route(
        "/v1/{app_id}/config/cors",
        endpoint(MANAGE_APP, rename={"allowedOrigins": "allowed_origins"}, prepare=_cors),
        methods=["PATCH"],
    ),
    Route("/v1/{app_id}/secure", endpoint(MANAGE_APP, "secure"), methods=["POST"]),
]

# After /v1/regions and its like, which no app is named.
last_routes = [Route("/v1/{app_id}", _address, methods=["GET"])]
