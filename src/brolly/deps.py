"""What is open: the first argument of every service function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from brolly.blob.store import BlobStore
from brolly.core.settings import Settings
from brolly.core.slice import Slice
from brolly.core.tool import AuditEvent, Tool
from brolly.engines.deno import Engine
from brolly.engines.embedding import LocalModel
from brolly.engines.outgoing import Outgoing
from brolly.pg.catalogs import Catalogs
from brolly.pg.databases import Databases
from brolly.pg.listen import Listener
from brolly.pg.pool import AppPools, Database
from brolly.rate_limit import RateLimits
from brolly.registry import Registry


@dataclass(frozen=True, slots=True)
class Deps:
    """Everything that is open in this process. ``secret`` is the installation secret."""

    settings: Settings
    secret: str = field(repr=False)
    control: Database
    databases: Databases
    listener: Listener
    registry: Registry
    rates: RateLimits
    pools: AppPools
    catalog: Catalogs
    blob: BlobStore
    deno: Engine
    local_model: LocalModel
    outgoing: Outgoing
    slices: tuple[Slice, ...]
    tools: Mapping[str, Tool]
    capabilities: Mapping[str, Callable[..., Any]]

    async def record(self, event: AuditEvent) -> None:
        """Write an audit row (the audit slice's capability)."""
        await self.capabilities["record"](self, event)
