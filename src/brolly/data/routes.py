"""The REST API of an app's tables: parse, run, respond."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
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
from starlette.types import Receive, Scope, Send

from brolly.core.reserved import ROUTE_WORDS
from brolly.data import batch, reading, tabular, writing
from brolly.data.negotiation import formed, media_type, spoken
from brolly.data.query_string import MAX_STORED, RowsQuery, not_single, parse_query, refuse, too_many_rows
from brolly.data.reading import Prepared, RowsPage
from brolly.data.visit import Visit, visit
from brolly.data.writing import Changed
from brolly.endpoint import caller_of, deps_of

_VARY = "Authorization, Accept, Accept-Encoding, X-Butterbase-As-Role, X-Butterbase-As-User"
READ_HEADERS = {"Cache-Control": "private, no-cache", "Vary": _VARY}
_RAW_READ_HEADERS = [(name.lower().encode(), value.encode()) for name, value in READ_HEADERS.items()]
# All headers that what is asked depends on.
_ASKED_BY = (b"prefer", b"range", b"accept", b"accept-profile", b"content-profile", b"x-client-info")
_LARGE = 4096
"""From so many bytes on, an answer is compressed for those who accept it."""
_KEPT_QUESTIONS, _LONGEST_KEPT = 500, 1000
_prepared: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
_questions: OrderedDict[tuple[Any, ...], RowsQuery] = OrderedDict()

Prepare = Callable[[Visit, RowsQuery], Awaitable[Prepared]]
Handler = Callable[[Request, Visit, RowsQuery], Awaitable[Response]]


class RowsResponse(Response):
    """Bytes that are JSON already, with headers in the form that goes out."""

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.body, self.status_code, self.background = body, status, None
        self.raw_headers = [
            *headers,
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]


async def visit_of(request: Request) -> Visit:
    """Who uses which app's data, from the path and the headers that choose a role."""
    role = user = None
    for name, value in request.scope["headers"]:
        if name == b"x-butterbase-as-role":
            role = role or value.decode("latin-1") or None
        elif name == b"x-butterbase-as-user":
            user = user or value.decode("latin-1") or None
    return await visit(deps_of(request), caller_of(request), request.path_params["app_id"], role, user)


class _Rows:
    """The data API at a path, as an ASGI application."""

    def __init__(self, handlers: Mapping[str, Handler], prepare: Prepare) -> None:
        self._handlers, self._prepare = handlers, prepare
        # Small answers gain nothing from compression; the highest levels cost more time than they save.
        self._compressed = GZipMiddleware(self._answer, minimum_size=_LARGE, compresslevel=4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gzip = any(name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"])
        await (self._compressed if gzip else self._answer)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        app_id, table = scope["path_params"]["app_id"], scope["path_params"]["table"]
        if not app_id.startswith("app_") or table in ROUTE_WORDS:
            raise HTTPException(404)
        at = await visit_of(request)
        if scope["method"] in ("GET", "HEAD"):
            response = await self._read(request, at, table)
        else:
            response = await self._handlers[scope["method"]](request, at, _asked_before(request, table))
        await response(scope, receive, send)

    async def _read(self, request: Request, at: Visit, table: str) -> Response:
        """What was prepared for the same question before is used again while the table is the same."""
        key = (self, at.app.id, at.who.kind, *_question(request, table))
        prepared = _prepared.get(key)
        if prepared is not None and (await at.tables()).tables.get(table) is prepared.plan.table:
            _prepared.move_to_end(key)
        else:
            prepared = await self._prepare(at, _asked(request, table))
            _keep(_prepared, key, prepared)
        return await (_get if prepared.slot is not None else _list)(request, at, prepared)


def _question(request: Request, table: str) -> tuple[Any, ...]:
    """All that decides what is asked: the query string comes last."""
    scope = request.scope
    headers = tuple(pair for pair in scope["headers"] if pair[0] in _ASKED_BY)
    return scope["method"], table, headers, scope["query_string"]


def _keep(known: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...], found: Any) -> None:
    if len(key[-1]) <= _LONGEST_KEPT:
        known[key] = found
    if len(known) > _KEPT_QUESTIONS:
        known.popitem(last=False)


def _asked(request: Request, table: str) -> RowsQuery:
    headers, pairs = request.headers, request.query_params.multi_items()
    ranged = headers.get("range", "") if request.method == "GET" else ""
    asked = parse_query(table, pairs, ",".join(headers.getlist("prefer")), ranged)
    return replace(asked, preferences=spoken(headers, asked.preferences))


def _asked_before(request: Request, table: str) -> RowsQuery:
    """As ``_asked``, and the same object for the same question."""
    key = _question(request, table)
    asked = _questions.get(key)
    if asked is None:
        asked = _asked(request, table)
        _keep(_questions, key, asked)
    else:
        _questions.move_to_end(key)
    return asked


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


def _header(request: Request, wanted: bytes) -> str:
    """The first header of that name."""
    return next((value.decode("latin-1") for name, value in request.scope["headers"] if name == wanted), "")


def _wants_csv(request: Request) -> bool:
    return _header(request, b"accept").startswith("text/csv")


def _rows(request: Request, body: bytes, names: tuple[str, ...], status: int, headers: dict[str, str]) -> Response:
    if _wants_csv(request):
        return Response(tabular.write(body, names), status, headers, "text/csv; charset=utf-8")
    kind = media_type(request.headers)
    if kind is not None:
        return Response(formed(body, kind), status, headers, f"{kind}; charset=utf-8")
    return Response(body, status, headers, "application/json")


async def _list(request: Request, at: Visit, prepared: Prepared) -> Response:
    return listed(request, at, prepared.asked, await reading.read_page(at, prepared))


def listed(request: Request, at: Visit, asked: RowsQuery, page: RowsPage) -> Response:
    """The answer that a page of rows is."""
    count = page.shown + (page.more and not asked.request.limited)
    if asked.preferences.single and count != 1:
        raise not_single(count)
    total = "*" if page.total is None else str(page.total)
    span = f"{page.offset}-{page.offset + page.shown - 1}" if page.shown else "*"
    headers = [*_RAW_READ_HEADERS, (b"content-range", f"{span}/{total}".encode())]
    if page.more:
        link = f'<{_next_page(request, at, asked, page)}>; rel="next"'
        headers.append((b"link", link.encode("latin-1")))
        if page.next:
            headers.append((b"x-next-cursor", page.next.encode("latin-1")))
    ranged = (page.more or page.offset > 0) and request.method == "GET" and "range" in request.headers
    return _read_rows(request, page, 206 if ranged and page.shown else 200, headers)


def _next_page(request: Request, at: Visit, asked: RowsQuery, page: RowsPage) -> str:
    gone = ("cursor", "offset", "limit")
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name not in gone]
    pairs.append(("limit", str(asked.request.limit)))
    pairs.append(("cursor", page.next) if page.next else ("offset", str(page.offset + page.shown)))
    path = quote(request.url.path, safe="/%")
    return f"{at.deps.settings.base_url}{path}?{urlencode(pairs, safe='*(),.:!')}"


async def _get(request: Request, at: Visit, prepared: Prepared) -> Response:
    page = await reading.read_one(at, prepared, request.path_params["id"])
    body = page.body if _wants_csv(request) else page.body[1:-1]
    tag = f'W/"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = [*_RAW_READ_HEADERS, (b"etag", tag.encode())]
    asked = _header(request, b"if-none-match")
    if asked:
        known = [part.strip() for part in asked.split(",")]
        if tag in known or "*" in known:
            return Response(status_code=304, headers={**READ_HEADERS, "ETag": tag})
    return _read_rows(request, page, 200, headers, body)


def _read_rows(
    request: Request, page: RowsPage, status: int, headers: list[tuple[bytes, bytes]], single: bytes | None = None
) -> Response:
    """The page as it was asked for; ``single`` is its one row, where no array is."""
    if page.limits:
        headers = [*headers, (b"x-embedded-limits", page.limits.encode("ascii"))]
    accepted = _header(request, b"accept")
    if accepted and (_wants_csv(request) or media_type(request.headers)):
        said = {name.decode(): value.decode("latin-1") for name, value in headers}
        return _rows(request, page.body, page.names, status, said)
    return RowsResponse(page.body if single is None else single, status, headers)


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


_COLLECTION: Mapping[str, Handler] = {"POST": _create, "PATCH": _change, "DELETE": _remove}
_SINGLE: Mapping[str, Handler] = {"PATCH": _change_one, "DELETE": _remove_one}


def _route(path: str, handlers: Mapping[str, Handler], prepare: Prepare) -> Route:
    return Route(path, _Rows(handlers, prepare), methods=["GET", *handlers])


MIDDLEWARE = [Middleware(GZipMiddleware, minimum_size=_LARGE, compresslevel=4)]
routes = [Route("/v1/{app_id}/batch", _batch, methods=["POST"], middleware=MIDDLEWARE)]

# Matched after every other feature's routes: a table may have any other name.
last_routes = [
    _route("/v1/{app_id}/{table}", _COLLECTION, reading.prepare_page),
    _route("/v1/{app_id}/{table}/{id}", _SINGLE, reading.prepare_one),
]
