"""How long the body of a request may be, by where it goes."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brolly.core.errors import AppError
from brolly.core.settings import Settings

# These routes take bodies of any length and bound them themselves, as they arrive.
_STREAMED = re.compile(r"/mcp|/objects/|/uploads/|/storage/[^/]+/tus(?:/|$)")
_FUNCTION = re.compile(r"/v1/[^/]+/fn/")
# Pictures travel inside these.
_MODELS = re.compile(r"/v1/(?:[^/]+/)?(?:ai/)?(?:chat/completions|embeddings)")
_MODELS_LIMIT = 25 * 1024 * 1024


class BodyLimit:
    """Refuses bodies over the limit, whether announced or not. Routes that stream have their own limits."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _STREAMED.match(scope["path"]):
            await self.app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        announced = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"content-length"), "") or "0"
        if not announced.isdigit() or int(announced) > limit:
            raise _too_large(limit)
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, limited, send)

    def _limit(self, path: str) -> int:
        if _FUNCTION.match(path):
            return self.settings.function_body_limit
        usual = self.settings.body_limit
        return max(usual, _MODELS_LIMIT) if _MODELS.fullmatch(path) else usual


def _too_large(limit: int) -> AppError:
    return AppError("REQUEST_TOO_LARGE", f"The body is larger than {limit} bytes.")
