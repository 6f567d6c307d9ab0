"""HTTP routes of an app's own functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brolly.data import rpc
from brolly.data.negotiation import spoken
from brolly.data.query_string import parse_query, refuse
from brolly.data.routes import MIDDLEWARE, READ_HEADERS, body_of, listed, visit_of


async def _call(request: Request) -> Response:
    app_id, name = request.path_params["app_id"], request.path_params["function"]
    if not app_id.startswith("app_"):
        raise HTTPException(404)
    at = await visit_of(request)
    found = await rpc.functions_of(at, name)
    reads = request.method != "POST"
    pairs = request.query_params.multi_items()
    given: Mapping[str, Any]
    if reads:
        names = {a.name for f in found for a in f.arguments}
        given = {n: value for n, value in pairs if n in names}
        pairs = [(n, value) for n, value in pairs if n not in names]
        if any(f.volatility == "volatile" for f in found):
            raise HTTPException(405, headers={"Allow": "POST"})
    else:
        body = await body_of(request)
        if not isinstance(body, dict):
            raise refuse("The body must be a JSON object with the function's arguments by name.")
        given = cast("dict[str, Any]", body)
    asked = parse_query(name, pairs, ",".join(request.headers.getlist("prefer")))
    asked = replace(asked, preferences=spoken(request.headers, asked.preferences))
    call = rpc.choose(at, found, given, texts=reads)
    answer = await rpc.perform(at, call, asked, read_only=reads)
    if answer.page is not None:
        return listed(request, at, asked, answer.page)
    if answer.body is None:
        return Response(status_code=204)
    return Response(answer.body, 200, READ_HEADERS, "application/json")


routes = [Route("/v1/{app_id}/rpc/{function}", _call, methods=["GET", "POST"], middleware=MIDDLEWARE)]
