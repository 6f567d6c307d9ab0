"""Types of files by their names, which of them are worth compressing, and which names never mean other contents."""

from __future__ import annotations

import re

_UTF8 = "; charset=utf-8"
_TYPES = {
    "html": "text/html" + _UTF8, "htm": "text/html" + _UTF8, "xhtml": "application/xhtml+xml" + _UTF8,
    "css": "text/css" + _UTF8, "js": "text/javascript" + _UTF8, "mjs": "text/javascript" + _UTF8,
    "cjs": "text/javascript" + _UTF8, "json": "application/json" + _UTF8, "map": "application/json" + _UTF8,
    "jsonld": "application/ld+json" + _UTF8, "webmanifest": "application/manifest+json" + _UTF8,
    "xml": "application/xml" + _UTF8, "rss": "application/rss+xml" + _UTF8, "atom": "application/atom+xml" + _UTF8,
    "txt": "text/plain" + _UTF8, "md": "text/markdown" + _UTF8, "csv": "text/csv" + _UTF8,
    "ics": "text/calendar" + _UTF8, "vtt": "text/vtt" + _UTF8, "yaml": "application/yaml", "yml": "application/yaml",
    "svg": "image/svg+xml" + _UTF8, "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif",
    "webp": "image/webp", "avif": "image/avif", "ico": "image/x-icon", "bmp": "image/bmp", "jxl": "image/jxl",
    "woff": "font/woff", "woff2": "font/woff2", "ttf": "font/ttf", "otf": "font/otf",
    "eot": "application/vnd.ms-fontobject",
    "mp4": "video/mp4", "webm": "video/webm", "ogv": "video/ogg", "mov": "video/quicktime", "m4v": "video/mp4",
    "mp3": "audio/mpeg", "ogg": "audio/ogg", "oga": "audio/ogg", "opus": "audio/ogg", "wav": "audio/wav",
    "m4a": "audio/mp4", "flac": "audio/flac", "aac": "audio/aac",
    "m3u8": "application/vnd.apple.mpegurl", "ts": "video/mp2t", "mpd": "application/dash+xml",
    "pdf": "application/pdf", "wasm": "application/wasm", "zip": "application/zip", "gz": "application/gzip",
    "glb": "model/gltf-binary", "gltf": "model/gltf+json", "usdz": "model/vnd.usdz+zip", "rtf": "application/rtf",
    "epub": "application/epub+zip", "apk": "application/vnd.android.package-archive",
}  # fmt: skip
_NAMED = {"apple-app-site-association": "application/json" + _UTF8}
_COMPRESSED = ("image/svg", "image/x-icon", "image/bmp", "font/ttf", "font/otf", "model/gltf", "application/wasm")
_NOT_COMPRESSED = ("application/zip", "application/gzip", "application/pdf", "application/epub", "application/vnd")

_HASHED_FOLDERS = ("_next/static/", "_app/immutable/")
# Vite, Rollup, esbuild: eight or more signs of base64url or base32 behind a dash or dot, in the folder of its output.
_BUNDLED = re.compile(
    r"(?:^|/)(?:assets|_astro|chunks|static|build)/(?:.*/)?[^/]*?[.-]([A-Za-z0-9_-]{8,20})\.[a-z0-9]+$"
)
# Webpack, Parcel and others: hex, anywhere.
_HEX = re.compile(r"[.-](?=[0-9a-f]*[0-9])[0-9a-f]{8,64}\.(?:[a-z]+\.)*[a-z0-9]+$")


def content_type_of(path: str) -> str:
    """The type of a file of that name."""
    name = path.rpartition("/")[2]
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    return _NAMED.get(name) or _TYPES.get(ending, "application/octet-stream")


def is_compressible(content_type: str) -> bool:
    """Whether files of the type get smaller by compression."""
    kind = content_type.partition(";")[0]
    if kind.startswith(_NOT_COMPRESSED):
        return kind == "application/vnd.ms-fontobject"
    if kind.startswith(("text/", *_COMPRESSED)):
        return True
    return kind.startswith("application/") and kind != "application/octet-stream"


def is_hashed(path: str) -> bool:
    """Whether the name holds a hash of the contents, so that it never means others. When in doubt, it does not:
    then clients ask each time, which is slower and never wrong."""
    if path.startswith(_HASHED_FOLDERS) or _HEX.search(path):
        return True
    found = _BUNDLED.search(path)
    return found is not None and _looks_random(found[1])


def _looks_random(text: str) -> bool:
    # "painting" and "MyWidget" are names; a hash of eight signs nearly always has a digit or two capitals in a row.
    tail = text[-8:]
    return any(c.isdigit() for c in tail) or re.search(r"[A-Z]{2}|[a-z][A-Z]$|_", tail) is not None


def is_asset(path: str) -> bool:
    """Whether the path names a file rather than a page: a page must never be sent in its place."""
    name = path.rpartition("/")[2]
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    return ending in _TYPES and ending not in ("html", "htm", "xhtml")
