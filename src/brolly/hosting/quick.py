"""The short way for files that were just asked for: the answer as it was, without what finds out which it is.

An answer is kept for a host, a path without a query and an ``Accept-Encoding``, as long as the registry has the same
record of the app: every switch, pause and change of an address makes a new one. Ranges and conditions go the long way.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from random import getrandbits
from weakref import WeakKeyDictionary

from starlette.types import ASGIApp, Receive, Scope, Send

from brolly.core.settings import Settings
from brolly.deps import Deps
from brolly.hosting.serving import Bodies, RawHeaders
from brolly.registry import App, Registry

log = logging.getLogger("brolly.web")

KEPT = 4000
_LONG_WAY = frozenset((b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match", b"upgrade"))
_Name = tuple[bytes, str, bytes]


@dataclass(frozen=True, slots=True)
class _Answer:
    app: App
    headers: RawHeaders
    body: tuple[str, str]


class Answers:
    """What this process has answered, and the files' bytes."""

    def __init__(self, deps: Deps) -> None:
        self.bodies = Bodies(deps.settings.site_memory_mb * 1_048_576)
        self.kept: dict[_Name, _Answer] = {}

    def keep(self, scope: Scope, app: App, headers: RawHeaders, body: tuple[str, str]) -> None:
        """Answer the same request so again. Its bytes stay in ``bodies`` or are no longer known."""
        if scope["query_string"]:
            return
        if len(self.kept) >= KEPT:
            self.kept.clear()
        given = dict(scope["headers"])
        name = given.get(b"host", b""), scope["path"], given.get(b"accept-encoding", b"")
        self.kept[name] = _Answer(app, headers, body)


_ANSWERS: WeakKeyDictionary[Registry, dict[Settings, Answers]] = WeakKeyDictionary()


def answers_of(deps: Deps) -> Answers:
    """The answers of this process, at the addresses that the settings say."""
    found = _ANSWERS.setdefault(deps.registry, {})
    if deps.settings not in found:
        found[deps.settings] = Answers(deps)
    return found[deps.settings]


class QuickFiles:
    """Outside of all else: sends what was answered before, with an id and a log line as all answers have."""

    def __init__(self, app: ASGIApp, deps: Deps) -> None:
        self.app, self.registry, self.answers = app, deps.registry, answers_of(deps)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            await self.app(scope, receive, send)
            return
        host = encoding = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"accept-encoding":
                encoding = value
            elif name in _LONG_WAY:
                host = b""
                break
        answer = self.answers.kept.get((host, scope["path"], encoding)) if host else None
        body = None
        if answer is not None and self.registry.is_current(answer.app):
            body = self.answers.bodies.get(answer.body)
        if answer is None or body is None:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = f"{getrandbits(64):016x}"
        headers = [*answer.headers, (b"x-request-id", request_id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        took = (time.perf_counter() - started) * 1000
        log.info("GET %s 200 %.1fms %s", ascii(scope["path"])[1:-1], took, request_id)
