"""How far a long action has come, told to whoever asked to hear it; nothing where nobody did."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import anyio

Tell = Callable[[float, float | None, str], Awaitable[None]]

PATIENCE_SECONDS = 45.0
"""How long an action waits for work that goes on in the background: clients give a call a minute."""
_BETWEEN_SECONDS = 0.4
_END_SECONDS = 5.0


@dataclass(slots=True)
class Listener:
    """Who hears of an action's progress. ``left`` says whether they took the call back."""

    tell: Tell | None
    left: Callable[[], bool]
    told: float = field(default=-1.0)


@dataclass(frozen=True, slots=True)
class Step:
    """How far work in the background is; where nothing counts it, the seconds are told."""

    over: bool
    message: str
    done: float | None = None
    total: float | None = None


_LISTENER: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)


@contextmanager
def listening(listener: Listener) -> Generator[None]:
    """Tell them, in the block, what is reported."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def wanted() -> bool:
    """Whether somebody listens, so that waiting for the end is better than answering at once."""
    listener = _LISTENER.get()
    return listener is not None and listener.tell is not None


async def report(message: str, done: float, total: float | None = None) -> None:
    """Tell how far it is. What is not further than before is left out, as the protocol wants it to grow."""
    listener = _LISTENER.get()
    if listener is not None and listener.tell is not None and done > listener.told:
        listener.told = done
        await listener.tell(done, total, message)


async def follow(look: Callable[[], Awaitable[Step]]) -> None:
    """Report work that goes on in the background until it is over, or for as long as a call should last."""
    began = time.monotonic()
    while wanted() and time.monotonic() - began < PATIENCE_SECONDS:
        step = await look()
        if step.over:
            return
        done = round(time.monotonic() - began, 1) if step.done is None else step.done
        await report(step.message, done, step.total)
        await anyio.sleep(_BETWEEN_SECONDS)


@asynccontextmanager
async def taken_back(undo: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """End what the block waits for if the caller takes the call back; not if this server is ending."""
    try:
        yield
    except anyio.get_cancelled_exc_class():
        listener = _LISTENER.get()
        if listener is not None and listener.left():
            with anyio.move_on_after(_END_SECONDS, shield=True):
                await undo()
        raise
