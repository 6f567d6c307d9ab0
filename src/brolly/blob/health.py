"""Whether the object store can be used, known soon and asked seldom."""

from __future__ import annotations

import anyio

from brolly.blob.store import BlobStore
from brolly.core.errors import AppError

KEPT_SECONDS = 10.0
PATIENCE_SECONDS = 2.0


class StoreHealth:
    """The last answer of ``check``. Who asks while one runs waits for it, but none runs long."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = anyio.Lock()
        self._known, self._until = "", 0.0

    async def ask(self) -> str:
        """``ok``, or what is wrong."""
        async with self._lock:
            if anyio.current_time() >= self._until:
                self._known = await self._check()
                self._until = anyio.current_time() + KEPT_SECONDS
            return self._known

    async def _check(self) -> str:
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                await self._store.check()
        except AppError as error:
            return error.message
        except TimeoutError:
            return "The object store does not answer."
        return "ok"
