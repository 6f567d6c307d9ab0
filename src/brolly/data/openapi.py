"""An app's API as an OpenAPI document, made of the tables as they are and of what each feature says of itself."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from brolly import __version__
from brolly.core.caller import Caller
from brolly.core.openapi import Json, Part, shared
from brolly.data.response import compact
from brolly.data.visit import Visit
from brolly.deps import Deps
from brolly.pg.catalog import Snapshot
from brolly.registry import App

MAX_KEPT = 32 * 1024 * 1024
"""How many bytes of documents are kept."""

_SAID = (
    "Rows are read and written as the caller's role; row-level security decides who sees and changes what. "
    "A path or method that is not here answers 404 or 405."
)


@dataclass(frozen=True, slots=True)
class Written:
    """A document as it goes out, with what it was made from."""

    body: bytes
    tag: str
    snapshot: Snapshot
    app: App


class Documents:
    """The documents made last. One holds as long as the tables and the app are those it was made from; who may
    touch which table is part of the tables, so there is one for each kind of caller."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Written] = OrderedDict()

    def find(self, key: tuple[str, str], snapshot: Snapshot, app: App) -> Written | None:
        """The document, if it still holds."""
        found = self._kept.get(key)
        if found is None or found.snapshot is not snapshot or found.app is not app:
            return None
        self._kept.move_to_end(key)
        return found

    def keep(self, key: tuple[str, str], written: Written) -> None:
        """Keep the document; those asked for longest ago make room."""
        self._kept[key] = written
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(len(one.body) for one in self._kept.values()) > MAX_KEPT:
            self._kept.popitem(last=False)


_DOCUMENTS = Documents()


async def document(at: Visit) -> Written:
    """The document for the caller's role."""
    snapshot = await at.tables()
    key = (at.app.id, at.who.kind)
    found = _DOCUMENTS.find(key, snapshot, at.app)
    if found is None:
        body = compact(await describe(at.deps, at.app, snapshot, at.who)).encode()
        tag = f'W/"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        found = Written(body, tag, snapshot, at.app)
        _DOCUMENTS.keep(key, found)
    return found


async def describe(deps: Deps, app: App, snapshot: Snapshot, who: Caller) -> Json:
    """The document: what each slice says of its routes for the app."""
    paths: Json = {}
    components: dict[str, Json] = shared()
    tags: list[Json] = []
    for one in deps.slices:
        if one.openapi is None:
            continue
        part: Part = await one.openapi(deps, app, snapshot, who)
        _add(paths, part.paths)
        for kind, named in part.components.items():
            _add(components.setdefault(kind, {}), named)
        tags += part.tags
    return {
        "openapi": "3.1.0",
        "info": {"title": app.name, "version": __version__, "description": _SAID},
        "externalDocs": {"url": f"{deps.settings.base_url}/docs/rest"},
        "servers": [{"url": deps.settings.base_url}],
        "security": _security(app, who),
        "tags": tags,
        "paths": paths,
        "components": components,
    }


def _add(to: Json, named: Any) -> None:
    twice = to.keys() & named.keys()
    if twice:
        raise RuntimeError(f"two parts of the document name {sorted(twice)[0]}")
    to.update(named)


def _security(app: App, who: Caller) -> list[Json]:
    """Who may call: to whom service keys are unknown, they are not named."""
    found: list[Json] = [] if app.access_mode == "authenticated" else [{}]
    found.append({"accessToken": []})
    return [*found, {"serviceKey": []}] if who.kind == "service" else found
