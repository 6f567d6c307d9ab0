"""One chat call: which model, how much of it, its answer whole or as it comes, and what it cost."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

import anyio
import httpx

from brolly.ai.access import Visit, count_call
from brolly.ai.bodies import keep_body
from brolly.ai.models import Target, chat_targets
from brolly.ai.prices import Usage, cost_of
from brolly.ai.request import ChatRequest, guess_prompt
from brolly.ai.spending import release, reserve, settle
from brolly.ai.sse import Event, EventReader, TooLong
from brolly.ai.upstream import UpstreamError, json_of, opened, told
from brolly.ai.wire import BrokenAnswer, Object, ProviderFailed, Reader, objects, text_of, usage_chunk
from brolly.core.errors import AppError

T = TypeVar("T")

LIMIT_UNDER_CAP = 4096
"""Tokens of an answer that are reckoned with, and allowed, where a cap holds and nobody named a number."""
_BROKEN = (httpx.HTTPError, TimeoutError, BrokenAnswer)


async def _prepared(at: Visit, request: ChatRequest) -> list[Target]:
    await count_call(at)
    wanted = [name for name in (request.model, *(request.models or ())) if name]
    return await chat_targets(at.deps, at.providers, at.config, list(dict.fromkeys(wanted)))


def _limit(at: Visit, request: ChatRequest) -> int | None:
    """The most tokens of the answer: what was asked for, within what the app allows."""
    most = at.config.max_tokens or (LIMIT_UNDER_CAP if at.config.cap is not None and not request.limit else None)
    if most is None or request.limit is None:
        return request.limit or most
    return min(request.limit, most)


async def _reserve(at: Visit, request: ChatRequest, target: Target) -> str | None:
    cap = at.config.cap
    if cap is None or at.app is None:
        return None
    expected = Usage(prompt=guess_prompt(request), completion=(_limit(at, request) or 0) * (request.n or 1))
    cost = cost_of(target.provider, target.model, expected, at.config)
    if cost is None:
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            f"Nobody knows what {target.name} costs, and the app has a spending cap.",
            remediation=f"Say it with manage_ai update_config, config {{prices: {{{target.name!r}: {{input: USD, "
            "output: USD}}}}}}, for a million tokens each; 0 for a model that costs nothing.",
        )
    return await reserve(at.deps, at.app, cost, cap)


async def _first_of(targets: list[Target], attempt: Callable[[Target], Awaitable[T]]) -> T:
    """What the first model gives that answers; the first one's failure when none does."""
    failure: AppError | None = None
    for target in targets:
        try:
            return await attempt(target)
        except UpstreamError as error:
            failure = failure or error
            if not error.elsewhere:
                raise
    raise failure or AssertionError("no model was asked")


async def _counted(at: Visit, request: ChatRequest, given: Usage | None, said: str, whole: bool) -> Usage:
    """What was used: as the provider told, or counted here where it did not, or was not let finish."""
    if given is not None and whole:
        return given
    count = at.deps.local_model.count_tokens
    completion = await count(said) if said else 0
    if given is not None:
        return replace(given, completion=max(given.completion, completion), estimated=True)
    asked = "\n".join(text_of(message.get("content")) for message in request.messages)
    # What is no text, pictures and tools, is guessed as for the cap.
    prompt = max(await count(asked), guess_prompt(request) if request.tools else 0)
    return Usage(prompt=prompt, completion=completion, estimated=True)


async def _close_account(
    at: Visit, target: Target, usage: Usage, reservation: str | None, kept: tuple[ChatRequest, str]
) -> None:
    cost = cost_of(target.provider, target.model, usage, at.config)
    await settle(at.deps, at.account, target.name, usage, cost, reservation)
    await keep_body(at, target.name, *kept)


async def chat(at: Visit, request: ChatRequest) -> Object:
    """The answer as a chat completion."""
    targets = await _prepared(at, request)

    async def ask(target: Target) -> Object:
        call = target.wire.chat(target.provider, target.model, request.body(), _limit(at, request), stream=False)
        reservation = await _reserve(at, request, target)
        try:
            with anyio.fail_after(at.deps.settings.ai_timeout * 2):
                async with opened(at.deps, target, call) as response:
                    answer, usage = target.wire.answer(await json_of(response), target.name)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await release(at.deps, reservation)
            if isinstance(error, _BROKEN):
                raise told(target, error) from None
            raise
        said = "".join(text_of(choice["message"].get("content")) for choice in objects(answer.get("choices")))
        used = await _counted(at, request, usage, said, usage is not None)
        answer.setdefault("usage", used.openai())
        await _close_account(at, target, used, reservation, (request, said))
        return answer

    return await _first_of(targets, ask)


class ChatStream:
    """An answer as it comes. ``begin``, then ``chunks``; ``end`` in any case, also when the reader has gone."""

    def __init__(self, at: Visit, request: ChatRequest) -> None:
        self._at, self._request = at, request
        self._stack = AsyncExitStack()
        self._target: Target | None = None
        self._reader: Reader | None = None
        self._events: AsyncGenerator[list[Event]] | None = None
        self._first: list[Object] = []
        self._reservation: str | None = None
        self._said: list[str] = []

    @property
    def model(self) -> str:
        """The model that answers."""
        return self._target.name if self._target else ""

    async def begin(self) -> None:
        """Ask the models in turn until one has begun to answer; raises as ``chat`` does."""
        targets = await _prepared(self._at, self._request)
        await _first_of(targets, self._ask)

    async def _ask(self, target: Target) -> None:
        at, request = self._at, self._request
        call = target.wire.chat(target.provider, target.model, request.body(), _limit(at, request), stream=True)
        self._reservation = await _reserve(at, request, target)
        self._target, self._reader = target, target.wire.reader(target.name)
        try:
            response = await self._stack.enter_async_context(opened(at.deps, target, call))
            kind = response.headers.get("content-type", "text/event-stream")
            if "text/event-stream" not in kind:
                raise BrokenAnswer(f"it is no stream of events but {kind[:100]}")
            self._events = _events_of(response)
            # The model counts as answering once it has said something: until then another one may.
            while not self._first and (events := await anext(self._events, None)) is not None:
                self._take(events, self._first)
            if not self._first and not self._reader.done:
                raise BrokenAnswer("it ended before it began")
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._close()
                await release(at.deps, self._reservation)
            self._reservation = self._target = None
            raise self._failure(target, error) or error from None

    def _take(self, events: list[Event], into: list[Object]) -> None:
        if self._reader is None:
            raise _not_begun()
        for event in events:
            for chunk in self._reader.feed(event):
                for choice in objects(chunk.get("choices")):
                    delta: Any = choice.get("delta") or {}
                    self._said += [str(delta[part]) for part in ("reasoning_content", "content") if delta.get(part)]
                    for tool in objects(delta.get("tool_calls")):
                        function: Any = tool.get("function") or {}
                        self._said.append(str(function.get("arguments") or ""))
                into.append(chunk)

    def _failure(self, target: Target, error: BaseException) -> AppError | None:
        if isinstance(error, ProviderFailed):
            return UpstreamError("MODEL_UNAVAILABLE", f"{target.provider.name} stopped: {error}")
        if isinstance(error, TooLong):
            return told(target, BrokenAnswer("a part of it has no end"))
        return told(target, error) if isinstance(error, _BROKEN) else None

    async def chunks(self) -> AsyncGenerator[Object]:
        """The chunks; raises ``AppError`` when the provider breaks off."""
        if self._events is None or self._reader is None or self._target is None:
            raise _not_begun()
        for chunk in self._first:
            yield chunk
        last = self._first[-1] if self._first else {}
        self._first = []
        try:
            async for events in self._events:
                made: list[Object] = []
                self._take(events, made)
                for chunk in made:
                    last = chunk
                    yield chunk
        except (*_BROKEN, ProviderFailed, TooLong) as error:
            raise self._failure(self._target, error) or error from None
        if not self._reader.done:
            raise told(self._target, BrokenAnswer("it ended in the middle"))
        if self._request.wants_usage:
            used = await _counted(self._at, self._request, self._reader.usage, self._text, whole=True)
            yield usage_chunk(str(last.get("id", "")), self._target.name, used)

    @property
    def _text(self) -> str:
        return "".join(self._said)

    async def end(self) -> None:
        """Hang up and count: all of it, or what was seen."""
        with anyio.CancelScope(shield=True):
            await self._close()
            target, reader = self._target, self._reader
            if target is None or reader is None:
                return
            self._target = None
            usage = await _counted(self._at, self._request, reader.usage, self._text, reader.done)
            await _close_account(self._at, target, usage, self._reservation, (self._request, self._text))

    async def _close(self) -> None:
        if self._events is not None:
            with contextlib.suppress(*_BROKEN):
                await self._events.aclose()
            self._events = None
        await self._stack.aclose()


async def _events_of(response: httpx.Response) -> AsyncGenerator[list[Event]]:
    reader = EventReader()
    async for piece in response.aiter_bytes():
        if events := reader.feed(piece):
            yield events
    if events := reader.end():
        yield events


def _not_begun() -> RuntimeError:
    return RuntimeError("the stream has not begun")
