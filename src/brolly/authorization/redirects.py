"""Where a browser may be sent with a code: addresses that a program names beforehand, compared letter by letter.

Only the port of this machine's own addresses is free, since programs there take whichever they get (RFC 8252).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlencode, urlsplit

LONGEST = 500
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
# The characters of RFC 3986, without the backslash, the quote and the semicolon, which others read differently.
_PLAIN = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&()*+,=%]+")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\]")
_SCHEME = re.compile(r"[a-z][a-z0-9.+-]{1,50}")
# Schemes that browsers themselves act upon, or that lead elsewhere than into a program.
_NOT_PROGRAMS = {
    "javascript", "data", "vbscript", "file", "filesystem", "blob", "about", "view-source", "ws", "wss", "ftp",
    "mailto", "tel", "sms", "chrome", "edge", "intent", "ms-appinstaller", "search-ms", "ms-msdt", "jar",
}  # fmt: skip
_OURS = frozenset(("code", "state", "iss", "error", "error_description", "error_uri"))


def _host(parts: SplitResult) -> str:
    host, _, port = parts.netloc.rpartition(":") if parts.port is not None else (parts.netloc, "", "")
    return host or port


def check_redirect(text: str) -> SplitResult:
    """The parts of an address that may be registered; ``ValueError`` for all others."""
    if len(text) > LONGEST or not _PLAIN.fullmatch(text):
        raise ValueError("has characters that do not belong in it, or is too long")
    parts = urlsplit(text)
    if not _SCHEME.fullmatch(parts.scheme) or not text.startswith(f"{parts.scheme}:"):
        raise ValueError("has no scheme in small letters")
    if {pair.partition("=")[0] for pair in parts.query.split("&")} & _OURS:
        raise ValueError("already has a parameter of the answer")
    if parts.scheme not in ("http", "https"):
        if parts.scheme in _NOT_PROGRAMS or not text.startswith((f"{parts.scheme}://", f"{parts.scheme}:/")):
            raise ValueError("has a scheme that leads to no program")
        return parts
    try:
        host, _ = _host(parts), parts.port
    except ValueError:
        raise ValueError("has a port that is none") from None
    if not _HOST.fullmatch(host) or "@" in parts.netloc:
        raise ValueError("has something else than a host and a port before its path")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ValueError("is neither https nor on the machine that asks")
    return parts


def matches(allowed: Iterable[str], wanted: str) -> bool:
    """Whether the address is one of those; of this machine's own the port does not count."""
    try:
        parts = check_redirect(wanted)
    except ValueError:
        return False
    return any(wanted == each or _same_but_port(each, parts) for each in allowed)


def _same_but_port(text: str, wanted: SplitResult) -> bool:
    known = urlsplit(text)
    if known.scheme != "http" or wanted.scheme != "http" or _host(wanted) not in LOOPBACK:
        return False
    return (_host(known), known.path, known.query) == (_host(wanted), wanted.path, wanted.query)


def is_local(text: str) -> bool:
    """Whether it leads to a program on the person's own machine."""
    return urlsplit(text).scheme != "https"


def origin_source(text: str) -> str:
    """The address's origin as a source for a Content-Security-Policy; for programs' own schemes the scheme."""
    parts = check_redirect(text)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else f"{parts.scheme}:"


def shown(text: str) -> str:
    """What a person is told about where the browser goes."""
    parts = urlsplit(text)
    if parts.scheme == "https":
        return parts.netloc
    if parts.scheme == "http":
        return f"a program on your computer ({parts.netloc})"
    return f"a program on your computer ({parts.scheme}:)"


def with_answer(address: str, answer: dict[str, str]) -> str:
    """The address with the answer after its own query."""
    return f"{address}{'&' if '?' in address else '?'}{urlencode(answer)}"
