"""The keys under which the object store holds what belongs to sites: a namespace of their own per app."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import cast
from uuid import UUID

from brolly.blob.store import BlobStore

_ENDING = "-site"


def namespace(app_id: str) -> str:
    """Where an app's site lies; apart from its users' files, which another sweep looks after."""
    return app_id + _ENDING


def app_of_namespace(name: str) -> str | None:
    """The app whose site lies there, or None when it is no site's."""
    return name.removesuffix(_ENDING) if name.startswith("app_") and name.endswith(_ENDING) else None


def upload_name(app_id: str, deployment_id: UUID, attempt: str) -> str:
    """Where a zip lies until it is unpacked."""
    return f"{namespace(app_id)}/zip-{deployment_id.hex}-{attempt}"


def blob_name(app_id: str, sha256: bytes) -> str:
    """A new key for contents of that hash; never one that was used before."""
    return f"{namespace(app_id)}/{sha256.hex()}-{secrets.token_hex(4)}"


def stored_bytes(blob: BlobStore, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
    """What the store holds under the key, to be closed when left early."""
    return cast(AsyncGenerator[bytes], blob.read(key, start, length))
