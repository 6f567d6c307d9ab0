"""A site's answer to one request: which file, in which encoding, with which headers."""

from __future__ import annotations

import re
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from urllib.parse import quote

from starlette.types import Scope, Send

from brolly.deps import Deps
from brolly.hosting.matching import Match
from brolly.hosting.media import is_asset, is_hashed
from brolly.hosting.names import stored_bytes
from brolly.hosting.sites import Asset, Site

FALLS_BACK = ("react-vite", "nextjs-static")
_PREFERRED = {"br": 3, "zstd": 2, "gzip": 1}
_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*")
_PREPARED_KEPT = 4000
PAGE = "no-cache"
_ALWAYS_ASK = "public, max-age=0, must-revalidate"
_FOR_EVER = "public, max-age=31536000, immutable"
_SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
    "x-frame-options": "SAMEORIGIN",
}
SHARED_ORIGIN = {
    # All apps and the management routes share this origin: a page here must not act in it.
    "content-security-policy": "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads",
    # Its scripts and fonts are then asked for by an origin without a name.
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "x-robots-tag": "noindex",
}
"""Headers of the form /sites/{app}/, over all others."""

RawHeaders = list[tuple[bytes, bytes]]


class Bodies:
    """Files' bytes in memory, the longest unused going first."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self.largest = most_bytes // 16

    def get(self, name: tuple[str, str]) -> bytes | None:
        """The bytes, if they are kept."""
        found = self._kept.get(name)
        if found is not None:
            self._kept.move_to_end(name)
        return found

    def keep(self, name: tuple[str, str], data: bytes) -> None:
        """Keep them, unless they are large."""
        if len(data) > self.largest or name in self._kept:
            return
        self._kept[name] = data
        self._bytes += len(data)
        while self._bytes > self._most:
            self._bytes -= len(self._kept.popitem(last=False)[1])


@dataclass(frozen=True, slots=True)
class Target:
    """A file that answers, with which status; ``path`` is what rules for headers go by."""

    asset: Asset
    path: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is the same for each request for a file in one encoding. ``headers`` are without the length."""

    headers: RawHeaders
    etag: str
    offset: int
    length: int
    encoding: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request decides about the answer."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    prefix: str = ""

    def header(self, name: bytes) -> str:
        """The header, or an empty text."""
        return self.headers.get(name, b"").decode("latin-1")


def asked_of(scope: Scope, path: str, prefix: str = "") -> Asked:
    """What a request asks of a site whose paths begin after ``prefix``."""
    query = scope.get("query_string", b"").decode("latin-1")
    return Asked(scope["method"], path, query, dict(scope["headers"]), prefix)


def choose(site: Site, asked: Asked) -> Target | Match | str | None:
    """The file, the rule that decides, or the path to redirect to; None when there is nothing of that name."""
    path = asked.path
    if site.rules.has_redirects and (match := site.rules.redirect(path, asked.query, forced=True)):
        return match
    found = find_file(site, path)
    if found is None and (former := site.former.get(path[1:])):
        found = Target(former, path)
    if found is None and site.rules.has_redirects:
        found = site.rules.redirect(path, asked.query, forced=False)
    if found is None and site.framework in FALLS_BACK and not is_asset(path):
        index = site.assets.get("index.html")
        found = Target(index, path) if index else None
    return found


def find_file(site: Site, path: str) -> Target | str | None:
    """The file that the path names, with clean addresses: /about is about.html, /docs/ is docs/index.html."""
    name = path[1:]
    assets = site.assets
    if name and not name.endswith("/"):
        if (asset := assets.get(name)) is not None:
            return Target(asset, path)
        if (asset := assets.get(name + ".html")) is not None:
            return Target(asset, path)
        # With the slash, so that the page's relative links work.
        return path + "/" if name + "/index.html" in assets else None
    if (asset := assets.get(name + "index.html")) is not None:
        return Target(asset, path)
    return path[:-1] if name and name[:-1] + ".html" in assets else None


def not_found_page(site: Site, path: str) -> Target | None:
    """The site's own 404.html, the nearest above the path."""
    folder = path[1:].rpartition("/")[0]
    while True:
        if (asset := site.assets.get(f"{folder}/404.html" if folder else "404.html")) is not None:
            return Target(asset, path, 404)
        if not folder:
            return None
        folder = folder.rpartition("/")[0]


@lru_cache(1024)
def accepted(text: str) -> tuple[str, ...]:
    """The encodings that an Accept-Encoding names, the best first: by its weights, then the smaller."""
    weights: dict[str, float] = {}
    for part in text.lower().split(",")[:20]:
        name, _, parameter = part.strip().partition(";")
        key, _, value = parameter.strip().partition("=")
        try:
            weight = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weight = 0.0
        weights[{"x-gzip": "gzip"}.get(name.strip(), name.strip())] = weight
    rest = weights.get("*", 0.0)
    found = {name: weights.get(name, rest) for name in _PREFERRED}
    return tuple(sorted((n for n, w in found.items() if w > 0), key=lambda n: (-found[n], -_PREFERRED[n])))


async def send_file(
    deps: Deps, bodies: Bodies, site: Site, target: Target, asked: Asked, send: Send
) -> tuple[RawHeaders, tuple[str, str]] | None:
    """The file, what of it was asked for, or that it has not changed.

    Gives the headers and the name in ``bodies`` when a whole file was sent from memory.
    """
    text = asked.header(b"accept-encoding")
    ranged = target.status == 200 and b"range" in asked.headers
    prepared = _prepare(site, target, asked, () if ranged else accepted(text))
    headers = prepared.headers
    if target.status == 200 and _is_current(site, prepared, asked):
        await _send(send, 304, [pair for pair in headers if pair[0] != b"content-type"], b"")
        return None
    start, end, status = 0, prepared.length, target.status
    if ranged and _same_version(site, prepared, asked) and (span := _span(asked.header(b"range"), end)):
        if span == (0, 0):
            await _send(send, 416, [*headers, (b"content-range", f"bytes */{end}".encode())], b"")
            return None
        start, end, status = *span, 206
        headers = [*headers, (b"content-range", f"bytes {start}-{end - 1}/{prepared.length}".encode())]
    headers = [*headers, (b"content-length", b"%d" % (end - start))]
    if asked.method == "HEAD":
        await _send(send, status, headers, b"", sized=True)
        return None
    kept = await _send_bytes(deps, bodies, target.asset, prepared, (start, end), (status, headers), send)
    return (headers, (target.asset.key, prepared.encoding)) if kept and status == 200 else None


def _prepare(site: Site, target: Target, asked: Asked, encodings: tuple[str, ...]) -> _Prepared:
    name = (target.path, target.asset.path, target.status, encodings, asked.prefix)
    found = site.prepared.get(name)
    if found is None:
        if len(site.prepared) >= _PREPARED_KEPT:
            site.prepared.clear()
        found = site.prepared[name] = _made(site, target, asked, encodings)
    return found


def _made(site: Site, target: Target, asked: Asked, encodings: tuple[str, ...]) -> _Prepared:
    asset = target.asset
    encoding = next((name for name in encodings if name in asset.encoded), "")
    offset, length = asset.encoded[encoding] if encoding else (0, asset.size)
    etag = f'"{asset.digest}{"-" + encoding if encoding else ""}"'
    headers = {
        "content-type": asset.content_type,
        "cache-control": _caching(target),
        "etag": etag,
        "last-modified": site.changed,
        "accept-ranges": "bytes",
        **_SECURITY,
    }
    if asset.encoded:
        headers["vary"] = "Accept-Encoding"
    if site.preview:
        headers["x-robots-tag"] = "noindex"
    headers = site.rules.headers(target.path, headers)
    if encoding:
        headers["content-encoding"] = encoding
    if asked.prefix:
        headers |= SHARED_ORIGIN
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return _Prepared(raw, headers.get("etag", ""), offset, length, encoding)


def _caching(target: Target) -> str:
    if target.asset.content_type.startswith("text/html") or target.status != 200:
        return PAGE
    return _FOR_EVER if is_hashed(target.asset.path) else _ALWAYS_ASK


def _is_current(site: Site, prepared: _Prepared, asked: Asked) -> bool:
    if given := asked.header(b"if-none-match"):
        return given.strip() == "*" or any(
            each.strip().removeprefix("W/") == prepared.etag for each in given.split(",")
        )
    # The very date: after a rollback an earlier one is not older contents.
    return asked.header(b"if-modified-since") == site.changed


def _same_version(site: Site, prepared: _Prepared, asked: Asked) -> bool:
    version = asked.header(b"if-range")
    return not version or version in (prepared.etag, site.changed)


def _span(text: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; (0, 0) when no byte of it exists, None when the whole is to be sent."""
    found = _RANGE.fullmatch(text)
    if found is None or not (found[1] or found[2]):
        return None
    first, last = (int(each[:18]) if each else None for each in found.groups())
    if first is None:
        length = min(last or 0, size)
        return (size - length, size) if length else (0, 0)
    if last is not None and last < first:
        return None
    return (first, min(size, size if last is None else last + 1)) if first < size else (0, 0)


async def _send_bytes(
    deps: Deps,
    bodies: Bodies,
    asset: Asset,
    prepared: _Prepared,
    span: tuple[int, int],
    head: tuple[int, RawHeaders],
    send: Send,
) -> bool:
    """Send them; whether from memory."""
    start, end = span
    name = (asset.key, prepared.encoding)
    data = bodies.get(name)
    if data is None and prepared.length <= bodies.largest:
        async with aclosing(stored_bytes(deps.blob, asset.key, prepared.offset, prepared.length)) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        bodies.keep(name, data)
    if data is not None:
        await _send(send, *head, data if (start, end) == (0, len(data)) else data[start:end], sized=True)
        return True
    async with aclosing(stored_bytes(deps.blob, asset.key, prepared.offset + start, end - start)) as chunks:
        first = await anext(chunks, b"")
        # Only now: what the store cannot read can still become an error.
        await send({"type": "http.response.start", "status": head[0], "headers": head[1]})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    return False


async def _send(send: Send, status: int, headers: RawHeaders, body: bytes, *, sized: bool = False) -> None:
    if not sized and status != 304:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_redirect(send: Send, status: int, target: str, asked: Asked) -> None:
    """Lead to another address."""
    if target.startswith("/"):
        target = asked.prefix + target
    headers = [
        (b"location", quote(target, safe="/-._~!$&'()*+,;=:@%?#[]").encode()),
        (b"cache-control", PAGE.encode()),
    ]
    await _send(send, status, headers, b"")


_MESSAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title><style>body{{font:1.1rem/1.5 system-ui,sans-serif;margin:20vh auto;max-width:32rem;"
    "padding:0 1rem;color-scheme:light dark}}</style><h1>{title}</h1><p>{text}</p></html>"
)


async def send_message(send: Send, status: int, title: str, text: str, method: str, retry_after: int = 0) -> None:
    """A page of our own, where the site has none to say it."""
    body = _MESSAGE.format(title=escape(title), text=escape(text)).encode()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; sandbox"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", b"%d" % len(body)),
    ]
    if retry_after:
        headers.append((b"retry-after", b"%d" % retry_after))
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    await _send(send, status, headers, b"" if method == "HEAD" else body, sized=True)
