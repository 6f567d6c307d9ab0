"""ctx.ai and ctx.rag: models and documents for a running function, as whoever the function acts for."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import Params
from brolly.deps import Deps
from brolly.registry import App

MOST_STREAMS = 8


class Ask(Params):
    """ai.chat, ai.embed and ai.open: a request in OpenAI's form. rag.query and rag.ingest: as over HTTP."""

    body: dict[str, Any]


class Part(Params):
    """ai.next and ai.close."""

    stream: str


@dataclass(slots=True)
class Models:
    """The streams that one invocation has open."""

    _open: dict[str, tuple[Any, AsyncGenerator[Any]]] = field(default_factory=dict[str, Any])

    async def ask(self, deps: Deps, app: App, caller: Caller, what: str, params: Ask) -> Any:
        """A whole answer."""
        return await _capability(deps, caller, what)(deps, caller, app, params.body)

    async def open(self, deps: Deps, app: App, caller: Caller, params: Ask) -> Any:
        """Begin a stream; its name."""
        if len(self._open) >= MOST_STREAMS:
            raise AppError("VALIDATION_INVALID_SCHEMA", f"{MOST_STREAMS} answers at once are the most.")
        stream = await _capability(deps, caller, "open_chat")(deps, caller, app, {**params.body, "stream": True})
        name = secrets.token_hex(8)
        self._open[name] = stream, stream.chunks()
        return {"stream": name}

    async def next(self, params: Part) -> Any:
        """The next chunk; none at the end."""
        _, chunks = self._opened(params.stream)
        try:
            async for chunk in chunks:
                return {"chunk": chunk}
        except AppError:
            await self.close(params)
            raise
        await self.close(params)
        return {"chunk": None}

    async def close(self, params: Part) -> Any:
        """Hang up."""
        found = self._open.pop(params.stream, None)
        if found is not None:
            stream, chunks = found
            with suppress(RuntimeError):
                await chunks.aclose()
            await stream.end()

    async def close_all(self) -> None:
        """The invocation has ended."""
        for name in list(self._open):
            await self.close(Part(stream=name))

    def _opened(self, name: str) -> tuple[Any, AsyncGenerator[Any]]:
        if (found := self._open.get(name)) is None:
            raise AppError("RESOURCE_CONFLICT", "The answer has ended.")
        return found


def _capability(deps: Deps, caller: Caller, name: str) -> Any:
    if caller.kind == "anonymous":
        raise AppError(
            "AUTH_REQUIRED",
            "Nobody is signed in here, and models answer to users and keys alone.",
            remediation='Set run_as: "service" in the config of the http trigger with deploy_function if anybody may '
            "spend the owner's money on models.",
        )
    found = deps.capabilities.get(name)
    if found is None:
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            "This server has no gateway to models.",
            remediation="Update Brolly; manage_app get_config shows what the app has.",
        )
    return found


async def ask_documents(deps: Deps, app: App, caller: Caller, what: str, params: Ask) -> Any:
    """What the rag slice answers."""
    found = deps.capabilities.get(what)
    if found is None:
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            "This server keeps no documents.",
            remediation="Update Brolly; manage_app get_config shows what the app has.",
        )
    return await found(deps, caller, app, params.body)
