"""A function as it is deployed, and why a call of it is refused or ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brolly.core.errors import AppError
from brolly.engines.deno.client import Body
from brolly.engines.deno.host import HostCalls


@dataclass(frozen=True, slots=True)
class Program:
    """A function as deployed. ``timeout`` in seconds is for one call, its body included;
    ``memory_mb`` is for all its calls together."""

    app_id: str
    name: str
    code: str
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timeout: float = 30.0
    memory_mb: int = 128
    version: str = field(init=False)
    """Changes with all that an isolate is made of, so that a changed function gets a new one."""

    def __post_init__(self) -> None:
        seen = json.dumps([self.name, self.code, dict(self.env), dict(self.about), self.memory_mb], sort_keys=True)
        object.__setattr__(self, "version", hashlib.sha256(seen.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call: the request as the handler sees it, who calls (``ctx.user``, ``ctx.caller``), what it may ask."""

    method: str
    url: str
    headers: Sequence[tuple[str, str]]
    body: Body
    about: Mapping[str, Any]
    calls: HostCalls


def busy() -> AppError:
    """Too many calls at once."""
    return AppError("FUNCTION_BUSY", "Concurrency limit reached", retry_after=5)


def full(program: Program) -> AppError:
    """The function held more than it may."""
    return AppError(
        "FUNCTION_MEMORY",
        f"The function {program.name} needs more than its {program.memory_mb} MB of memory, or than its app's process "
        "had left, and was ended.",
    )


def late(program: Program, *, blocked: bool) -> AppError:
    """The call took too long."""
    why = (
        "kept its isolate busy without ever awaiting, and was ended"
        if blocked
        else f"took more than {program.timeout:g} s"
    )
    return AppError("FUNCTION_TIMEOUT", f"The function {program.name} {why}.")
