"""A slice: what one feature adds to the product."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from brolly.core.openapi import Part
from brolly.core.tool import Tool
from brolly.core.worker import Worker

AppHook = Callable[[Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Slice:
    """One feature's tools, HTTP routes, workers and life-cycle hooks.

    ``routes`` are Starlette routes (the kernel does not know HTTP); ``last_routes`` are matched
    after every slice's ``routes``, since they take any name in their path. ``workers`` makes
    the loops once ``Deps`` is open. ``app_created`` and ``app_deleted`` are called with
    ``(deps, app)``; ``app_created`` before the app is announced as ready, ``app_deleted``
    after its database is gone, and again when a deletion is resumed, so both must bear repetition.
    ``serving`` is entered with ``Deps`` for the time in which requests are answered, on every server, even one that
    does no work in the background.
    ``provides`` are capabilities that ``Deps`` offers to other slices by name.
    ``openapi`` is called with ``(deps, app, snapshot, caller)`` for the feature's part of the app's document; what it
    answers may depend on app and snapshot alone (what else changes is announced with ``Registry.changed``, which
    makes a new app of it), and on no more of the caller than the kind.
    """

    name: str
    tools: Sequence[Tool] = ()
    routes: Sequence[Any] = ()
    last_routes: Sequence[Any] = ()
    workers: Callable[[Any], Sequence[Worker]] = field(default=lambda _deps: ())
    app_created: AppHook | None = None
    app_deleted: AppHook | None = None
    openapi: Callable[[Any, Any, Any, Any], Awaitable[Part]] | None = None
    serving: Callable[[Any], AbstractAsyncContextManager[None]] | None = None
    provides: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Callable[..., Any]])
