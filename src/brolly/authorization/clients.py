"""Programs that ask to be let in: known by the address of a document about them, or registered for a time."""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx

from brolly.authorization import limits
from brolly.authorization.failure import OAuthError
from brolly.authorization.redirects import check_redirect
from brolly.deps import Deps

LARGEST_DOCUMENT = 64 * 1024
LARGEST_REGISTRATION = 16 * 1024
_FETCH_SECONDS = 8
_DOCUMENT_SECONDS = 600
_UNUSED_SECONDS = 86400
USED_SECONDS = 90 * 86400
_MOST_UNUSED = 1000
_MOST_REDIRECTS = 20
_NAME_LENGTH = 80
# What could be read as two addresses is none: no user, no fragment, no query, no dots to climb with.
_DOCUMENT = re.compile(r"https://[a-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9\-._~/@!$&()*+,=%]+")


@dataclass(frozen=True, slots=True)
class Client:
    """A program. ``host`` is the site that vouches for its name; empty when it named itself."""

    id: str
    name: str
    redirect_uris: tuple[str, ...]
    host: str


def is_document(client_id: str) -> bool:
    """Whether the id is the address of a document about the program."""
    return client_id.startswith("https://")


def plain_name(value: Any, otherwise: str) -> str:
    """A name fit to be shown: short, one line, without signs that cannot be seen or that turn text around."""
    text = unicodedata.normalize("NFKC", value) if isinstance(value, str) else ""
    text = "".join(c for c in text if unicodedata.category(c)[0] not in "CZ" or c == " ")
    return " ".join(text.split())[:_NAME_LENGTH] or otherwise


def _redirects(value: Any) -> list[str]:
    given = cast(list[Any], value) if isinstance(value, list) else []
    if not 1 <= len(given) <= _MOST_REDIRECTS:
        raise OAuthError("invalid_redirect_uri", f"redirect_uris must hold 1 to {_MOST_REDIRECTS} addresses.")
    for each in given:
        try:
            check_redirect(each if isinstance(each, str) else "")
        except ValueError as error:
            raise OAuthError("invalid_redirect_uri", f"A redirect URI {error}.") from None
    return list(dict.fromkeys(cast(list[str], given)))


async def find_client(deps: Deps, client_id: str) -> Client:
    """The program of that id; raises ``invalid_client`` where there is none."""
    row = await deps.control.fetchrow(
        "select client_id, name, redirect_uris from brolly.oauth_clients where client_id = $1 and expires_at > now()",
        client_id[:1000].replace("\0", ""),
    )
    if row is not None:
        host = urlsplit(client_id).netloc if is_document(client_id) else ""
        return Client(row["client_id"], row["name"], tuple(row["redirect_uris"]), host)
    if is_document(client_id):
        return await _from_document(deps, client_id)
    raise OAuthError(
        "invalid_client",
        "This program is not known here, or its registration has run out. Let it register anew, for example by "
        "removing it from your agent's list of servers and adding it again.",
    )


def _check_address(client_id: str) -> None:
    parts = urlsplit(client_id)
    steps = parts.path.lower().replace("%2e", ".").split("/")
    if len(client_id) > 500 or not _DOCUMENT.fullmatch(client_id) or "." in steps or ".." in steps:
        raise OAuthError("invalid_client", "client_id is not a plain https address of a document.")


async def _from_document(deps: Deps, client_id: str) -> Client:
    _check_address(client_id)
    host = urlsplit(client_id).netloc
    found = await _fetch(deps, client_id)
    if found.get("client_id") != client_id:
        raise OAuthError("invalid_client", f"The document at {host} is about another client_id.")
    if found.get("token_endpoint_auth_method", "none") != "none" or "client_secret" in found:
        raise OAuthError("invalid_client", "Programs prove themselves by PKCE here: token_endpoint_auth_method none.")
    client = Client(
        client_id, plain_name(found.get("client_name"), host), tuple(_redirects(found.get("redirect_uris"))), host
    )
    await deps.control.execute(
        "insert into brolly.oauth_clients (client_id, name, redirect_uris, used, expires_at) "
        "values ($1, $2, $3, true, now() + make_interval(secs => $4)) on conflict (client_id) do update set "
        "name = excluded.name, redirect_uris = excluded.redirect_uris, expires_at = excluded.expires_at",
        client.id,
        client.name,
        list(client.redirect_uris),
        _DOCUMENT_SECONDS,
    )
    return client


async def _fetch(deps: Deps, address: str) -> dict[str, Any]:
    """The JSON object at the address. Of what went wrong no more is said than that: it may lie in some network."""
    host = urlsplit(address).netloc
    body = bytearray()
    try:
        with anyio.fail_after(_FETCH_SECONDS):
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            async with deps.outgoing.guarded.stream("GET", address, headers=headers) as response:
                packed = response.headers.get("content-encoding", "identity") != "identity"
                if response.status_code != 200 or packed:
                    raise OAuthError("invalid_client", f"{host} does not answer with the program's document.")
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > LARGEST_DOCUMENT:
                        raise OAuthError("invalid_client", f"The document at {host} is too long.")
        found = json.loads(bytes(body))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError):
        raise OAuthError("invalid_client", f"The program's document at {host} cannot be fetched.") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise OAuthError("invalid_client", f"The program's document at {host} is not a JSON object.")
    return cast(dict[str, Any], found)


async def register(deps: Deps, ip: str | None, asked: Any) -> dict[str, Any]:
    """Register a program (RFC 7591). It has no secret; unused registrations end after a day, and are bounded."""
    if not isinstance(asked, dict):
        raise OAuthError("invalid_client_metadata", "The body must be a JSON object.")
    given = cast(dict[str, Any], asked)
    redirects = _redirects(given.get("redirect_uris"))
    name = plain_name(given.get("client_name"), "A program without a name")
    if (wait := await limits.admit_registration(deps, ip)) is not None:
        raise OAuthError("temporarily_unavailable", "Too many registrations.", 429, wait)
    client_id = f"bb_client_{secrets.token_urlsafe(18)}"
    await deps.control.execute("delete from brolly.oauth_clients where expires_at <= now()")
    made = await deps.control.fetchval(
        "insert into brolly.oauth_clients (client_id, name, redirect_uris, expires_at) "
        "values ($1, $2, $3, now() + make_interval(secs => $4)) returning extract(epoch from created_at)::bigint",
        client_id,
        name,
        redirects,
        _UNUSED_SECONDS,
    )
    await deps.control.execute(
        "delete from brolly.oauth_clients where client_id in (select client_id from brolly.oauth_clients "
        "where not used order by created_at desc offset $1)",
        _MOST_UNUSED,
    )
    return {
        "client_id": client_id,
        "client_id_issued_at": made,
        "client_name": name,
        "redirect_uris": redirects,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    }


async def keep_client(deps: Deps, client_id: str) -> None:
    """A registration that is used lasts on."""
    if not is_document(client_id):
        await deps.control.execute(
            "update brolly.oauth_clients set used = true, expires_at = now() + make_interval(secs => $2) "
            "where client_id = $1",
            client_id,
            USED_SECONDS,
        )
