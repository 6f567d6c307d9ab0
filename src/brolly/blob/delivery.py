"""How a stored file is handed to a browser: under which name, as which type, shown or saved."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

_SHOWN = ("image/", "audio/", "video/")
_SHOWN_EXACTLY = ("application/pdf", "text/plain")
_NEVER_SHOWN = ("image/svg+xml",)
# A page would load the last two from here even where the server has them saved: nosniff needs another type.
_ACTIVE = ("text/html", "application/xhtml+xml", "text/xml", "application/xml", "application/wasm", "text/css")
_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}(?:; ?charset=[\w-]{1,40})?", re.IGNORECASE)


def may_be_shown(content_type: str) -> bool:
    """Whether a browser may render the type: it must not be able to run script in the origin that serves it."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind not in _NEVER_SHOWN and (kind.startswith(_SHOWN) or kind in _SHOWN_EXACTLY)


def safe_content_type(content_type: str) -> str:
    """The type to send: a well-formed one that cannot run script, else ``application/octet-stream``."""
    if not _TYPE.fullmatch(content_type):
        return "application/octet-stream"
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _ACTIVE or kind.endswith("+xml") or "javascript" in kind or "ecmascript" in kind:
        return "application/octet-stream"
    return content_type


def content_disposition(filename: str, *, inline: bool) -> str:
    """The header of RFC 6266: an ASCII name for old clients, the real one in UTF-8 beside it."""
    kind = "inline" if inline else "attachment"
    name = unicodedata.normalize("NFC", filename)
    # Control signs, bidirectional overrides and separators have no place in a name that is shown or saved.
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    name = re.split(r"[/\\]", name)[-1].strip(" .")
    if not name:
        return kind
    plain = re.sub(r'[^\x20-\x7e]|["\\%;]', "_", name)
    if plain == name:
        return f'{kind}; filename="{plain}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def delivered(filename: str, content_type: str, *, inline: bool) -> tuple[str, str]:
    """The type (empty: the stored one, which was checked when it was stored) and disposition to send."""
    kind = safe_content_type(content_type) if content_type else ""
    shown = inline and kind == content_type and may_be_shown(kind)
    return kind, content_disposition(filename, inline=shown)
