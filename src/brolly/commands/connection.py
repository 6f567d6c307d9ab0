"""Commands that ask the running server, as any client does."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from brolly.core.errors import AppError
from brolly.core.settings import Settings

if TYPE_CHECKING:
    import httpx

QUIET_SECONDS = 60.0
"""A server says at least this often that it is still there."""


@contextmanager
def server(settings: Settings) -> Generator[httpx.Client]:
    """A client of the server that BROLLY_URL names, else of the one of this data folder, with the owner's key."""
    import httpx

    from brolly.daemon import find_server

    running = find_server(settings.home)
    url = settings.url or (running.url if running else "")
    if not url:
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            "No server runs that could be asked.",
            remediation="Start it with brolly up, or name one elsewhere with BROLLY_URL and BROLLY_API_KEY.",
        )
    key = settings.api_key
    if not key:
        with suppress(OSError):
            key = (settings.home / "owner.key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    local = not settings.url
    with httpx.Client(base_url=url, headers=headers, timeout=QUIET_SECONDS, trust_env=not local) as client:
        try:
            yield client
        except httpx.HTTPError as error:
            raise AppError(
                "EXTERNAL_NETWORK_ERROR",
                f"The server at {url} does not answer, or ended: {error}.",
                remediation="See brolly status, start it with brolly up and repeat.",
            ) from error


def ask(http: httpx.Client, path: str, query: Mapping[str, str]) -> Any:
    """What the server answers to a GET; raises what it refuses."""
    answer = http.get(path, params=query)
    if not answer.is_success:
        raise refusal(answer)
    return answer.json()


def refusal(answer: httpx.Response) -> AppError:
    """The error that a server answered with."""
    try:
        error = answer.json()["error"]
        return AppError(error["code"], error["message"], remediation=error["remediation"])
    except (ValueError, KeyError, TypeError):
        return AppError("INTERNAL_ERROR", f"The server answered {answer.status_code}: {answer.text[:200]}")


def app_id(http: httpx.Client, app: str) -> str:
    """The id; apps may be named by their name as well, if only one has it."""
    if app.startswith("app_"):
        return app
    found: list[str] = []
    offset = 0
    while True:
        page = ask(http, "/apps", {"limit": "1000", "offset": str(offset)})
        found += [each["id"] for each in page["apps"] if each["name"] == app]
        offset += len(page["apps"])
        if "next_offset" not in page:
            break
    if len(found) == 1:
        return found[0]
    said = "more than one app has that name" if found else "there is none of that name"
    raise AppError(
        "RESOURCE_NOT_FOUND",
        f"No app {app!r}: {said}.",
        remediation="Give the app's id (app_…), which the tool manage_app lists.",
    )
