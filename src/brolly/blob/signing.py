"""Signed URLs of the folder store: what a URL grants is in it, and only we can have written it."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from brolly.blob.store import KEY
from brolly.core.errors import AppError
from brolly.core.tokens import derive

PATH = "/objects/"
"""Where the storage slice serves the URLs."""
_KNOWN = {"expires", "size", "type", "sha256", "disposition", "signature"}
_RENEW = "Ask for a new URL; butterbase_docs explains files under storage."


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid URL allows: one method on one key, with the rest as it was signed."""

    method: str
    key: str
    content_type: str = ""
    size: int = 0
    sha256: bytes | None = None
    disposition: str = ""


class UrlSigner:
    """Makes and verifies URLs with a key that every replica derives from the installation secret."""

    def __init__(self, secret: str, base_url: str, now: Callable[[], float] = time.time) -> None:
        self._key = bytes.fromhex(derive(secret, "object-urls"))
        self._base = base_url.rstrip("/") + PATH
        self._now = now

    def url(self, grant: Grant, expires_s: int) -> tuple[str, int]:
        """The URL, and when it expires in seconds of the epoch."""
        expires = int(self._now()) + expires_s
        values = {"expires": str(expires), "type": grant.content_type, "disposition": grant.disposition}
        if grant.method == "PUT":
            values["size"] = str(grant.size)
        if grant.sha256 is not None:
            values["sha256"] = grant.sha256.hex()
        query = {name: value for name, value in values.items() if value}
        query["signature"] = self._signature(grant.method, grant.key, query)
        return f"{self._base}{grant.key}?{urlencode(query)}", expires

    def verify(self, method: str, key: str, query: str) -> Grant:
        """What the URL grants for the method (GET stands for HEAD too); raises ``AUTH_FORBIDDEN``.

        The same answer for whatever is wrong, but for a URL that was good and has expired.
        """
        pairs = parse_qsl(query, keep_blank_values=True)
        values = dict(pairs)
        given = values.pop("signature", "")
        well_formed = len(values) + 1 == len(pairs) and values.keys() <= _KNOWN and KEY.fullmatch(key) is not None
        expected = self._signature(method, key, values)
        if not well_formed or not hmac.compare_digest(given.encode(), expected.encode()):
            raise AppError("AUTH_FORBIDDEN", "The URL's signature is not valid for this request.", remediation=_RENEW)
        if int(values["expires"]) <= self._now():
            raise AppError("AUTH_FORBIDDEN", "The URL has expired.", remediation=_RENEW)
        digest = values.get("sha256")
        return Grant(
            method,
            key,
            content_type=values.get("type", ""),
            size=int(values.get("size", "0")),
            sha256=bytes.fromhex(digest) if digest else None,
            disposition=values.get("disposition", ""),
        )

    def _signature(self, method: str, key: str, values: Mapping[str, str]) -> str:
        text = "\n".join((method, key, urlencode(sorted(values.items()))))
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
