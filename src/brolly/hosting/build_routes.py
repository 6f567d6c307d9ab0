"""HTTP routes of builds from source, for an app's owner."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from brolly.endpoint import arguments_of, caller_of, deps_of, endpoint
from brolly.hosting.source import follow_log
from brolly.hosting.tool import BUILD_LOG, MANAGE_FRONTEND

_APP = "/v1/{app_id}/frontend"
_STREAM = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
_SPELLINGS = {
    "buildCommand": "build_command",
    "outputDir": "output_dir",
    "packageManager": "package_manager",
    "lockfileHash": "lockfile_hash",
    "userEnv": "user_env",
}


async def _logs(request: Request) -> Response:
    """What the build prints, from the line ``offset`` on, until it is over."""
    deps = deps_of(request)
    arguments = await arguments_of(request)
    app, build = await BUILD_LOG.run(deps, caller_of(request), "", arguments)
    last = request.headers.get("last-event-id") or str(arguments.get("offset", "0"))
    after = int(last[:9]) if last.isascii() and last.isdigit() else 0
    return StreamingResponse(follow_log(deps, app, build, after), 200, _STREAM, "text/event-stream")


routes = [
    Route(
        _APP + "/deployments/from-source", endpoint(MANAGE_FRONTEND, "create_from_source", status=201), methods=["POST"]
    ),
    Route(
        _APP + "/deployments/from-source/{deployment_id}/start",
        endpoint(MANAGE_FRONTEND, "start_from_source", status=202, rename=_SPELLINGS),
        methods=["POST"],
    ),
    Route(_APP + "/builds/{build_id}/logs", _logs, methods=["GET"]),
]
