"""HTTP route of regions: public, since a client asks before it has a key."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.endpoint import caller_of, deps_of, query_arguments
from brolly.regions import service
from brolly.regions.tool import LIST_REGIONS


async def _list(request: Request) -> Response:
    LIST_REGIONS.parse("", query_arguments(request))
    return JSONResponse(await service.list_regions(deps_of(request), caller_of(request), service.ListRegions()))


routes = [Route("/v1/regions", _list, methods=["GET"])]
