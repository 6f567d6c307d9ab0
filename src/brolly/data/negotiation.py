"""The form of an answer, and what programs written for PostgREST expect without saying so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from brolly.core.postgrest import ARRAY, OBJECT, is_client
from brolly.data.query_string import Preferences, refuse

_FORM = re.compile(rf"({re.escape(OBJECT)}|{re.escape(ARRAY)})(?:\+json)?\s*(;\s*nulls=stripped)?")


def _form(headers: Mapping[str, str]) -> re.Match[str] | None:
    return _FORM.match(headers.get("accept", "").strip().lower())


def spoken(headers: Mapping[str, str], asked: Preferences) -> Preferences:
    """The preferences, with those that other headers express. Writes of PostgREST's clients answer rows only where
    they are asked for."""
    for name in ("accept-profile", "content-profile"):
        if headers.get(name, "public") != "public":
            raise refuse(f"{name.title()} names a schema that is not there; an app has one, public.")
    found = _form(headers)
    return replace(
        asked,
        returning=asked.returning or ("minimal" if is_client(headers) else None),
        single=found is not None and found.group(1) == OBJECT,
        stripped=found is not None and found.group(2) is not None,
    )


def media_type(headers: Mapping[str, str]) -> str | None:
    """PostgREST's own media type, where it is asked for."""
    found = _form(headers)
    return None if found is None else f"{found.group(1)}+json" + (";nulls=stripped" if found.group(2) else "")


def formed(body: bytes, kind: str) -> bytes:
    """The JSON array in that form."""
    return body[1:-1] if kind.startswith(OBJECT) else body
