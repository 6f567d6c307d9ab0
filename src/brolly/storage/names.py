"""Names of files and folders, and content types: what may be kept as one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from uuid import UUID

from brolly.core.errors import AppError

NAME_LIMIT = 255
FOLDER_LIMIT = 1024
TYPE_LIMIT = 255

# What reads as a slash without being one: a name that shows them looks like a path.
_SLASHES = frozenset("/\\\u2044\u2215\u2216\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c\u0337\u0338")
# Line and paragraph separators, controls, what is invisible or turns the direction of reading, half characters.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Joiners are part of how words and pictures are written.
_JOINERS = frozenset("\u200c\u200d")
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]{1,127}"  # noqa: S105 - the grammar's word
_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(?:; ?charset=[\w-]{{1,40}})?", re.ASCII)
_PATTERN = re.compile(rf"\*/\*|{_TOKEN}/(?:\*|{_TOKEN})", re.ASCII)


def _refuse(what: str, name: str, why: str) -> AppError:
    return AppError(
        "VALIDATION_INVALID_NAME",
        f"The {what} {name[:80]!a} {why}.",
        remediation="Send a filename such as photo.png to manage_storage upload_url, and a folder such as albums/2026.",
        details={"field": what},
    )


def _part(what: str, text: str) -> str:
    """One name in the one form in which it is kept (NFC); raises for what is no name, or poses as another."""
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise _refuse(what, text, "is empty")
    if len(name) > NAME_LIMIT:
        raise _refuse(what, name, f"is longer than {NAME_LIMIT} characters")
    if name in (".", ".."):
        raise _refuse(what, name, "is a path, not a name")
    for char in name:
        if char in _SLASHES:
            raise _refuse(what, name, f"holds {char!a}; a name holds no slashes")
        if unicodedata.category(char) in _HIDDEN and char not in _JOINERS:
            raise _refuse(what, name, f"holds the invisible character {char!a}")
    return name


def file_name(text: str) -> str:
    """A file's name as it is kept. It is for display: no path is ever made of it."""
    return _part("filename", text)


def folder_name(text: str) -> str:
    """A folder as it is kept: ``""`` for the top, else ``albums/2026/``."""
    trimmed = text.strip().strip("/")
    if not trimmed:
        return ""
    folder = "".join(_part("folder", part) + "/" for part in trimmed.split("/"))
    if len(folder) > FOLDER_LIMIT:
        raise _refuse("folder", folder, f"is longer than {FOLDER_LIMIT} characters")
    return folder


def object_key(app_id: str, object_id: UUID) -> str:
    """Where an object's bytes are: nothing of it comes from a user."""
    return f"{app_id}/{object_id}"


def app_prefix(app_id: str) -> str:
    """What the keys of all of an app's bytes begin with."""
    return f"{app_id}/"


def essence(content_type: str) -> str:
    """The type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def declared_type(text: str) -> str:
    """The content type as the PUT will have to send it; raises unless it has the form of one."""
    stripped = text.strip()
    if len(stripped) > TYPE_LIMIT or not _TYPE.fullmatch(stripped):
        raise AppError(
            "VALIDATION_INVALID_TYPE",
            f"{stripped[:80]!a} is not a content type.",
            remediation="Repeat manage_storage upload_url with a content_type such as image/png.",
        )
    return stripped


def is_pattern(text: str) -> bool:
    """Whether the text may stand in a list of allowed types: ``image/png``, ``image/*``, ``*/*``."""
    return len(text) <= TYPE_LIMIT and _PATTERN.fullmatch(text) is not None


def is_allowed(content_type: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits the type."""
    kind = essence(content_type)
    return any(pattern.lower() in ("*/*", f"{kind.partition('/')[0]}/*", kind) for pattern in patterns)
