"""Where a browser may be sent: addresses are compared by their parts, and what two programs could read differently
is refused before that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from brolly.core.errors import AppError
from brolly.registry import App

LONGEST = 2000
_PORTS = {"http": 80, "https": 443}
# The characters of RFC 3986, without the backslash about which browsers differ; other hosts are written as xn--….
_PLAIN = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\]")
_AUTHORITY = re.compile(r"(?P<host>[^:\[\]]+|\[[^\[\]]+\])(?::(?P<port>[0-9]{1,5}))?")
_OURS = {
    "access_token", "refresh_token", "expires_in", "token_type", "error", "error_description", "mfa_token",
    "provider_error",
}  # fmt: skip


def split(text: str) -> SplitResult:
    """The parts of a web address that has no user, no fragment and a plain host. ``ValueError`` for all others."""
    if len(text) > LONGEST or not _PLAIN.fullmatch(text):
        raise ValueError("has characters that do not belong in an address, or is too long")
    parts = urlsplit(text)
    if parts.scheme not in _PORTS or not text.lower().startswith(f"{parts.scheme}://"):
        raise ValueError("is not an http or https address")
    if "#" in text:
        raise ValueError("has a fragment")
    match = _AUTHORITY.fullmatch(parts.netloc)
    if match is None or not _HOST.fullmatch(match["host"].lower()) or int(match["port"] or 1) not in range(1, 65536):
        raise ValueError("has something else than a host and a port before its path")
    return parts


def origin_of(parts: SplitResult) -> str:
    """Scheme, host and port as browsers write an origin."""
    host, _, port = parts.netloc.lower().rpartition(":") if parts.port is not None else (parts.netloc.lower(), "", "")
    return f"{parts.scheme}://{host}" + ("" if not port or int(port) == _PORTS[parts.scheme] else f":{int(port)}")


def check_redirect_to(app: App, text: str) -> str:
    """The page that gets the tokens. Raises unless its origin is one of the app's."""
    try:
        parts = split(text)
        clash = sorted(_OURS & {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)})
        if clash:
            raise ValueError(f"already has {', '.join(clash)}")
    except ValueError as error:
        raise AppError("VALIDATION_INVALID_SCHEMA", f"redirect_to {error}.", details={"field": "redirect_to"}) from None
    if origin_of(parts) not in app.allowed_origins:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"redirect_to leads to {origin_of(parts)}, which is not one of the app's allowed origins.",
            remediation="Let the app's owner add the origin with manage_app update_cors.",
            details={"field": "redirect_to"},
        )
    return text


def check_redirect_uri(allowed: Sequence[str], wanted: str | None, own: str) -> str:
    """Where the provider sends the browser: the one wanted, else this server's own callback if it is in the list,
    else the first in it. Raises for one that is not in the list.
    """
    if wanted is None:
        return own if own in allowed else allowed[0]
    if wanted not in allowed:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "redirect_uri is not one of the provider's redirect_uris, letter by letter.",
            remediation="Let the app's owner add it with manage_oauth update.",
            details={"field": "redirect_uri"},
        )
    return wanted


def with_query(address: str, values: Mapping[str, str]) -> str:
    """The address with these parameters after its own."""
    return f"{address}{'&' if '?' in address else '?'}{urlencode(values)}"
