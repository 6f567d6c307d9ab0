"""HTTP routes of the documentation: public pages for people."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from brolly.core.errors import AppError
from brolly.docs import site
from brolly.docs.service import page


def _html(text: str) -> Response:
    return HTMLResponse(text, headers=site.security_headers())


def _plain(request: Request) -> None:
    if request.query_params:
        names = ", ".join(sorted(request.query_params))
        raise AppError("VALIDATION_INVALID_SCHEMA", f"{request.url.path} takes no parameters, but was given: {names}.")


async def _index(request: Request) -> Response:
    _plain(request)
    return _html(site.index_html())


async def _errors(request: Request) -> Response:
    _plain(request)
    return _html(site.errors_html())


async def _page(request: Request) -> Response:
    _plain(request)
    name = request.path_params["topic"]
    try:
        page(name)
    except AppError as error:
        raise AppError(
            "RESOURCE_NOT_FOUND", error.message, remediation="Open /docs for the list, or call butterbase_docs."
        ) from None
    return _html(site.page_html(name))


routes = [
    Route("/docs", _index, methods=["GET"]),
    Route("/docs/errors", _errors, methods=["GET"]),
    Route("/docs/{topic}", _page, methods=["GET"]),
]
