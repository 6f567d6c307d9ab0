"""The REST API of an app's tables: parse, run, respond."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast
from urllib.parse import quote, urlencode

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.core.reserved import ROUTE_WORDS
from brolly.data import batch, reading, tabular, writing
from brolly.data.negotiation import formed, media_type, spoken
from brolly.data.query_string import MAX_STORED, RowsQuery, not_single, parse_query, refuse, too_many_rows
from brolly.data.reading import RowsPage
from brolly.data.visit import Visit, visit
from brolly.data.writing import Changed
from brolly.endpoint import caller_of, deps_of

_VARY = "Authorization, Accept, X-Butterbase-As-Role, X-Butterbase-As-User"
READ_HEADERS = {"Cache-Control": "private, no-cache", "Vary": _VARY}

Handler = Callable[[Request, Visit, RowsQuery], Awaitable[Response]]


async def visit_of(request: Request) -> Visit:
    """Who uses which app's data, from the path and the headers that choose a role."""
    headers = request.headers
    role, user = headers.get("x-butterbase-as-role") or None, headers.get("x-butterbase-as-user") or None
    return await visit(deps_of(request), caller_of(request), request.path_params["app_id"], role, user)


def _endpoint(handlers: Mapping[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
    async def run(request: Request) -> Response:
        app_id, table = request.path_params["app_id"], request.path_params["table"]
        if not app_id.startswith("app_") or table in ROUTE_WORDS:
            raise HTTPException(404)
        headers, at = request.headers, await visit_of(request)
        pairs = request.query_params.multi_items()
        ranged = headers.get("range", "") if request.method == "GET" else ""
        asked = parse_query(table, pairs, ",".join(headers.getlist("prefer")), ranged)
        asked = replace(asked, preferences=spoken(headers, asked.preferences))
        return await handlers["GET" if request.method == "HEAD" else request.method](request, at, asked)

    return run


async def body_of(request: Request) -> Any:
    """The body as JSON, or the rows of CSV."""
    raw = await request.body()
    if _has_csv(request):
        return tabular.read(raw)
    if not raw.strip():
        return {}
    try:
        return json.loads(raw)
    except RecursionError:
        raise refuse("The body is nested too deeply.") from None
    except ValueError as error:
        raise refuse(f"The body is not JSON: {str(error)[:200]}.") from None


def _has_csv(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("text/csv")


def _wants_csv(request: Request) -> bool:
    return request.headers.get("accept", "").startswith("text/csv")


def _rows(request: Request, body: bytes, names: tuple[str, ...], status: int, headers: dict[str, str]) -> Response:
    if _wants_csv(request):
        return Response(tabular.write(body, names), status, headers, "text/csv; charset=utf-8")
    kind = media_type(request.headers)
    if kind is not None:
        return Response(formed(body, kind), status, headers, f"{kind}; charset=utf-8")
    return Response(body, status, headers, "application/json")


async def _list(request: Request, at: Visit, asked: RowsQuery) -> Response:
    return listed(request, at, asked, await reading.read_page(at, asked))


def listed(request: Request, at: Visit, asked: RowsQuery, page: RowsPage) -> Response:
    """The answer that a page of rows is."""
    count = page.shown + (page.more and not asked.request.limited)
    if asked.preferences.single and count != 1:
        raise not_single(count)
    total = "*" if page.total is None else str(page.total)
    span = f"{page.offset}-{page.offset + page.shown - 1}" if page.shown else "*"
    headers = {**READ_HEADERS, "Content-Range": f"{span}/{total}"}
    if page.more:
        headers["Link"] = f'<{_next_page(request, at, asked, page)}>; rel="next"'
        if page.next:
            headers["X-Next-Cursor"] = page.next
    ranged = request.method == "GET" and "range" in request.headers and (page.more or page.offset > 0)
    return _rows(request, page.body, page.names, 206 if ranged and page.shown else 200, headers)


def _next_page(request: Request, at: Visit, asked: RowsQuery, page: RowsPage) -> str:
    gone = ("cursor", "offset", "limit")
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name not in gone]
    pairs.append(("limit", str(asked.request.limit)))
    pairs.append(("cursor", page.next) if page.next else ("offset", str(page.offset + page.shown)))
    path = quote(request.url.path, safe="/%")
    return f"{at.deps.settings.base_url}{path}?{urlencode(pairs, safe='*(),.:!')}"


async def _get(request: Request, at: Visit, asked: RowsQuery) -> Response:
    page = await reading.read_one(at, asked, request.path_params["id"])
    body = page.body if _wants_csv(request) else page.body[1:-1]
    tag = f'W/"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {**READ_HEADERS, "ETag": tag}
    known = [part.strip() for part in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return _rows(request, body, page.names, 200, headers)


async def _create(request: Request, at: Visit, asked: RowsQuery) -> Response:
    await writing.require_door(at, asked.request.table)
    given = await body_of(request)
    rows = cast("list[Any]", given) if isinstance(given, list) else [given]
    if len(rows) > MAX_STORED:
        raise too_many_rows()
    if not all(isinstance(row, dict) for row in rows):
        raise refuse("The body must be a JSON object, or an array of them.")
    columns = _columns(request)
    if columns:
        rows = [{name: value for name, value in row.items() if name in columns} for row in rows]
    done = await writing.create(at, asked, rows, texts=_has_csv(request))
    headers = {**_applied(asked), "Content-Range": f"*/{done.found if asked.preferences.count else '*'}"}
    if asked.preferences.returning == "headers-only":
        return Response(status_code=201, headers={**headers, **_location(request, done)})
    if asked.preferences.returning == "minimal":
        return Response(status_code=201, headers=headers)
    status = 201 if done.found else 200
    # Who asks for a representation in so many words gets PostgREST's, which is an array for one row too.
    if isinstance(given, list) or _wants_csv(request) or asked.preferences.returning == "representation":
        return _rows(request, done.body or b"[]", done.names, status, headers)
    body = (done.body or b"[]")[1:-1] or b"null"
    return Response(body, status, {**headers, **_location(request, done)}, "application/json")


def _columns(request: Request) -> frozenset[str]:
    """Some clients name the columns of a bulk insert in the query string; other keys then do not count."""
    return frozenset(part.strip().strip('"') for part in request.query_params.get("columns", "").split(",") if part)


def _location(request: Request, done: Changed) -> dict[str, str]:
    rows: list[dict[str, Any]] = json.loads(done.body or b"[]")
    if len(rows) != 1 or len(done.keys) != 1 or rows[0].get(done.keys[0]) is None:
        return {}
    return {"Location": f"{quote(request.url.path, safe='/%')}/{quote(str(rows[0][done.keys[0]]), safe='')}"}


def _applied(asked: RowsQuery) -> dict[str, str]:
    found = {"return": asked.preferences.returning, "resolution": asked.preferences.resolution}
    said = ", ".join(f"{name}={value}" for name, value in found.items() if value)
    return {"Preference-Applied": said} if said else {}


async def _values(request: Request) -> dict[str, Any]:
    given = await body_of(request)
    if not isinstance(given, dict):
        raise refuse("The body must be a JSON object with the columns to change.")
    return cast("dict[str, Any]", given)


async def _change(request: Request, at: Visit, asked: RowsQuery) -> Response:
    done = await writing.change(at, asked, await _values(request))
    headers = {**_applied(asked), "Content-Range": f"*/{done.found}"}
    if asked.preferences.returning in ("minimal", "headers-only"):
        return Response(status_code=204, headers=headers)
    return _rows(request, done.body or b"[]", done.names, 200, headers)


async def _change_one(request: Request, at: Visit, asked: RowsQuery) -> Response:
    done = await writing.change(at, asked, await _values(request), request.path_params["id"])
    if asked.preferences.returning in ("minimal", "headers-only"):
        return Response(status_code=204, headers=_applied(asked))
    return Response((done.body or b"[]")[1:-1] or b"null", 200, _applied(asked), "application/json")


async def _remove(request: Request, at: Visit, asked: RowsQuery) -> Response:
    done = await writing.remove(at, asked)
    headers = {**_applied(asked), "Content-Range": f"*/{done.found}"}
    if asked.preferences.returning in ("minimal", "headers-only"):
        return Response(status_code=204, headers=headers)
    if done.body is not None:
        return _rows(request, done.body, done.names, 200, headers)
    return JSONResponse({"deleted": True, "count": done.found}, headers=headers)


async def _remove_one(request: Request, at: Visit, asked: RowsQuery) -> Response:
    done = await writing.remove(at, asked, request.path_params["id"])
    if asked.preferences.returning in ("minimal", "headers-only"):
        return Response(status_code=204, headers=_applied(asked))
    if done.body is not None:
        return Response(done.body[1:-1], 200, _applied(asked), "application/json")
    return JSONResponse({"deleted": True})


async def _batch(request: Request) -> Response:
    at = await visit_of(request)
    writing.require_writing(at)
    if request.query_params:
        raise refuse("A batch takes no query parameters; filters stand in its steps.")
    return Response(await batch.run(at, batch.parse(await body_of(request))), media_type="application/json")


_COLLECTION: Mapping[str, Handler] = {"GET": _list, "POST": _create, "PATCH": _change, "DELETE": _remove}
_SINGLE: Mapping[str, Handler] = {"GET": _get, "PATCH": _change_one, "DELETE": _remove_one}
# Small answers gain nothing from compression; the highest levels cost more time than they save.
MIDDLEWARE = [Middleware(GZipMiddleware, minimum_size=4096, compresslevel=4)]


def _route(path: str, handlers: Mapping[str, Handler]) -> Route:
    return Route(path, _endpoint(handlers), methods=list(handlers), middleware=MIDDLEWARE)


routes = [Route("/v1/{app_id}/batch", _batch, methods=["POST"], middleware=MIDDLEWARE)]

# Matched after every other feature's routes: a table may have any other name.
last_routes = [_route("/v1/{app_id}/{table}", _COLLECTION), _route("/v1/{app_id}/{table}/{id}", _SINGLE)]
