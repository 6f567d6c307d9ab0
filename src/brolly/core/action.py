"""One row of a tool's table: what an action takes, what it does to data, and what running it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from brolly.core.audit_event import AuditEvent, Said
from brolly.core.caller import Caller
from brolly.core.settings import Settings


class Effect(StrEnum):
    """What an action does to what is stored."""

    READ = "read"
    WRITE = "write"
    DESTROY = "destroy"


READ, WRITE, DESTROY = Effect.READ, Effect.WRITE, Effect.DESTROY
READ_BY_CLIENT = "read:client"
"""Stands beside the scope ``read`` where the client asked for it and the key has it not."""


class Params(BaseModel):
    """Base of every parameters model: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AppParams(Params):
    """Parameters of an action on one app."""

    app_id: str = Field(max_length=64)


class Host(Protocol):
    """What running an action needs of its surroundings; ``Deps`` fulfils it."""

    @property
    def settings(self) -> Settings: ...

    async def record(self, event: AuditEvent) -> None: ...


Run = Callable[[Any, Caller, Any], Awaitable[Any]]
Confirm = Callable[[str, bool, str], Awaitable[None]]
"""Asks the person the question; ``True`` says that the call carried ``confirm: true``, the last text names
the call (``manage_schema apply``). Returns when they agreed, raises ``AppError`` or ``Pending`` otherwise."""


class Pending(Exception):  # noqa: N818 - not a failure
    """The call stops to ask the person; nothing was done. ``request`` is what the entrance sends them."""

    def __init__(self, request: Any) -> None:
        super().__init__("waiting for an answer")
        self.request = request


@dataclass(frozen=True, slots=True)
class Action:
    """One row of a tool's table.

    ``hint`` follows the signature in the tool's description, only where the name is
    not enough. ``loses`` (for DESTROY) says what would be lost, in numbers, or None
    when nothing would. ``event`` and ``verb`` name the action in the audit log, ``target``
    the parameter that holds the id of what it acts on (a callable gives the id itself);
    ``platform`` files it with the account's own, whatever app it names. ``untrusted`` says that
    models get its result as users' data, where the result does not say so itself.
    """

    run: Run
    params: type[Params]
    hint: str = ""
    effect: Effect = WRITE
    idempotent: bool = True
    loses: Callable[[Any, Caller, Any], Awaitable[str | None]] | None = None
    event: Said = ""
    verb: Said = ""
    target: Said = ""
    platform: bool = False
    untrusted: bool = False
