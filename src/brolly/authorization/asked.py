"""What a program asks for when it sends a browser here, checked in the order in which it may be trusted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from brolly.authorization.clients import Client, find_client
from brolly.authorization.failure import OAuthError
from brolly.authorization.redirects import matches, with_answer
from brolly.core.settings import APP_ID
from brolly.deps import Deps

_CHALLENGE = re.compile(r"[A-Za-z0-9\-_]{43}")
_LONGEST = 4000
SCOPES = ("mcp", "mcp:read")
# What programs of OpenID add to every request; it gives nothing here, and harms nothing.
_PASSED_OVER = frozenset(("openid", "profile", "email", "offline_access"))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to be let in whose program and return address are known to belong together."""

    client: Client
    redirect_uri: str
    state: str
    code_challenge: str
    scope: str
    resource: str


class Refused(Exception):  # noqa: N818
    """What is wrong may be told to the program: its return address is known."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


def issuer(deps: Deps) -> str:
    """The name of this authorization server."""
    return deps.settings.base_url


def resource_of(deps: Deps) -> str:
    """What tokens are for."""
    return f"{deps.settings.base_url}/mcp"


def once(query: str) -> dict[str, str]:
    """The parameters; raises for one that is there twice, since programs differ in which they read."""
    if len(query) > _LONGEST:
        raise OAuthError("invalid_request", "The request is too long.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=40, errors="strict")
    except ValueError:
        raise OAuthError("invalid_request", "The request cannot be read.") from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise OAuthError("invalid_request", "A parameter is given more than once.")
    # Postgres stores no such sign, and no parameter has reason to hold one.
    if any("\0" in value for _, value in pairs):
        raise OAuthError("invalid_request", "The request cannot be read.")
    return {name: value for name, value in pairs if value}


def answer(deps: Deps, redirect_uri: str, state: str, values: Mapping[str, str]) -> str:
    """Where the browser goes with the answer; ``iss`` tells programs of several servers whose it is (RFC 9207)."""
    return with_answer(redirect_uri, {**values, **({"state": state} if state else {}), "iss": issuer(deps)})


async def read_request(deps: Deps, query: str) -> Asked:
    """What is asked. Raises ``OAuthError`` where nobody may be told but the person, else ``Refused``."""
    given = once(query)
    if not given.get("client_id"):
        raise OAuthError("invalid_request", "The request does not say which program it is from (client_id).")
    client = await find_client(deps, given["client_id"])
    redirect_uri = given.get("redirect_uri", "")
    if not matches(client.redirect_uris, redirect_uri):
        raise OAuthError(
            "invalid_request", "The address to return to (redirect_uri) is not one that the program named."
        )
    try:
        return Asked(
            client,
            redirect_uri,
            given.get("state", ""),
            _challenge(given),
            read_scope(given.get("scope", "")),
            resource_in(deps, given),
        )
    except OAuthError as error:
        values = {"error": error.code, "error_description": error.description}
        raise Refused(answer(deps, redirect_uri, given.get("state", ""), values)) from None


def _challenge(given: Mapping[str, str]) -> str:
    if "request" in given or "request_uri" in given:
        raise OAuthError("request_not_supported", "Requests go in parameters.")
    if given.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code.")
    if given.get("response_mode", "query") != "query":
        raise OAuthError("invalid_request", "response_mode must be query.")
    if given.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "PKCE is needed: code_challenge_method must be S256.")
    if not _CHALLENGE.fullmatch(given.get("code_challenge", "")):
        raise OAuthError("invalid_request", "PKCE is needed: code_challenge must be a SHA-256 in base64url.")
    return given["code_challenge"]


def read_scope(text: str) -> str:
    """The scopes in their one form; raises for one that is not known."""
    parts = [part for part in dict.fromkeys(text.split()) if part not in _PASSED_OVER]
    apps = [part for part in parts if part.startswith("app:")]
    wrong = [part for part in parts if part not in SCOPES and not (part in apps and APP_ID.fullmatch(part[4:]))]
    if wrong or len(apps) > 1:
        raise OAuthError("invalid_scope", f"Scopes are {' and '.join(SCOPES)}, and one app:app_….")
    return scope_of("mcp:read" not in parts or "mcp" in parts, apps[0][4:] if apps else "")


def scope_of(full: bool, app_id: str) -> str:
    """The scopes for all or reads alone, of every app or one."""
    return ("mcp" if full else "mcp:read") + (f" app:{app_id}" if app_id else "")


def resource_in(deps: Deps, given: Mapping[str, str]) -> str:
    """The one resource, however it is named; raises for another. Programs of old name none."""
    named = given.get("resource", resource_of(deps))
    if named.rstrip("/") not in (resource_of(deps), issuer(deps)):
        raise OAuthError("invalid_target", f"Tokens are given for {resource_of(deps)} alone.")
    return resource_of(deps)


def narrowed(asked: Asked, access: str, app_id: str, apps: Sequence[str]) -> str:
    """The scopes that the owner chose; raises for more than was asked for."""
    whole = asked.scope.split()
    if access not in ("full", "read") or (access == "full" and "mcp" not in whole):
        raise OAuthError("invalid_scope", "The program did not ask for that much.")
    named = next((part[4:] for part in whole if part.startswith("app:")), "")
    if (named and app_id != named) or (app_id and app_id not in apps):
        raise OAuthError("invalid_scope", "The program did not ask for that app, or there is no such app.")
    return scope_of(access == "full", app_id)
