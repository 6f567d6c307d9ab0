"""What this process holds for the slice: how many passwords are hashed at once, and what it has read of keys."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import anyio

from brolly.deps import Deps
from brolly.registry import Registry


@dataclass(slots=True)
class State:
    """``hashing`` bounds memory and processor time; ``key_sets`` are those of the apps used last, ``published``
    what sign-in providers publish about themselves, by its address.
    """

    hashing: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(max(2, min(4, os.cpu_count() or 2)))
    )
    key_sets: OrderedDict[str, Any] = field(default_factory=OrderedDict[str, Any])
    published: OrderedDict[str, Any] = field(default_factory=OrderedDict[str, Any])


_STATES: WeakKeyDictionary[Registry, State] = WeakKeyDictionary()


def state_of(deps: Deps) -> State:
    """This process's state; it lives as long as the registry against whose apps key sets are checked."""
    state = _STATES.get(deps.registry)
    if state is None:
        state = _STATES[deps.registry] = State()
    return state
