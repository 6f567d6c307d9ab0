"""Where the server is and with which key: found or started on this machine, or named by BROLLY_URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import httpx

from brolly import __version__
from brolly.bridge.stdio import say
from brolly.core.errors import AppError
from brolly.core.settings import Settings
from brolly.daemon import ensure_running

_START_SECONDS = 25.0  # then the client hears that it still starts; many give up after 30
_IDLE_SECONDS = 4.0  # proxies close idle connections after 5; a request sent just then is lost
_FORGIVE_SECONDS = 2.0  # how long a failed start is remembered


class Server:
    """The server that messages go to."""

    def __init__(self, settings: Settings, *, port_given: bool) -> None:
        self._settings = settings
        self._local = not settings.url
        # This client's limits are its own affair: the server is shared.
        self._options = ["--no-read-only", "--tools", "", *([] if port_given else ["--any-port"])]
        self._base = _address(settings.url)
        self._lock = anyio.Lock()
        self._failed: tuple[float, AppError] | None = None

    async def base(self) -> str:
        """The address; raises ``AppError`` when no server can be had."""
        if self._base:
            return self._base
        with anyio.move_on_after(_START_SECONDS):
            async with self._lock:
                if not self._base:
                    self._base = await self._start()
                return self._base
        raise AppError(
            "EXTERNAL_DB_ERROR",
            "The server is still starting; its database may be recovering from a crash.",
            remediation="Wait half a minute and repeat the call; brolly status tells the operator more.",
        )

    async def _start(self) -> str:
        if self._failed is not None and anyio.current_time() - self._failed[0] < _FORGIVE_SECONDS:
            raise self._failed[1]
        try:
            running = await ensure_running(self._settings, options=self._options)
        except AppError as error:
            say(error.message)
            self._failed = (anyio.current_time(), error)
            raise
        if running.version != __version__:
            say(f"the running server is version {running.version}, this is {__version__}; restart it with brolly down")
        say(f"server at {running.url}")
        return running.url

    def lost(self, base: str) -> None:
        """That address does not answer: look again, and start the server if it was on this machine."""
        if self._local and self._base == base:
            self._base = ""

    def key(self) -> str:
        """The service key; raises ``AppError`` when there is none."""
        if self._settings.api_key:
            return self._settings.api_key
        path = self._settings.home / "owner.key"
        if not self._local and not _is_here(self._base):
            # The local owner's key is nobody else's business.
            raise AppError(
                "AUTH_REQUIRED",
                f"No key is set for {self._base}.",
                remediation="Set BROLLY_API_KEY in this client's MCP configuration to a key made there with "
                "brolly keys create.",
            )
        try:
            return path.read_text().strip()
        except OSError:
            raise AppError(
                "AUTH_REQUIRED",
                f"No service key is set and {path} cannot be read.",
                remediation="Make one with brolly keys create NAME and set BROLLY_API_KEY to it in this client's MCP "
                "configuration.",
            ) from None

    def limits(self) -> dict[str, str]:
        """Headers by which the server narrows what this client is offered."""
        headers: dict[str, str] = {}
        if self._settings.read_only:
            headers["X-Brolly-Read-Only"] = "1"
        if self._settings.tools:
            headers["X-Brolly-Tools"] = ",".join(self._settings.tools)
        if self._settings.app:
            headers["X-Brolly-App"] = self._settings.app
        return headers

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient]:
        """An HTTP client: no limit on how long an answer takes or how many are awaited."""
        async with httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=10),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=_IDLE_SECONDS),
            # On this machine there is neither a proxy nor TLS; not loading the certificates saves start-up time.
            trust_env=not self._local,
            verify=not self._local,
            headers={"User-Agent": f"brolly-mcp/{__version__}", **self.limits()},
        ) as client:
            yield client


def _address(url: str) -> str:
    """What paths are put behind; raises ``CONFIG_INVALID`` where that would bury what the person wrote there."""
    mark = next((sign for sign in url if sign in "?#"), "")
    if mark:
        # Not repeated in the message: a key may be among it.
        raise AppError(
            "CONFIG_INVALID",
            f"BROLLY_URL goes on after a {mark}, which brolly mcp does not pass on.",
            remediation=f"End BROLLY_URL before the {mark}{_instead(url.partition(mark)[2])}.",
        )
    return url.rstrip("/").removesuffix("/mcp")


def _instead(parameters: str) -> str:
    """The settings that do what the parameters of ``/mcp`` do."""
    said = parameters.lower()
    settings = [
        words
        for part, words in (
            ("read", "BROLLY_READ_ONLY=1 or --read-only"),
            ("tools", "BROLLY_TOOLS or --tools"),
            ("app", "BROLLY_APP or --app"),
        )
        if part in said
    ]
    return f" and use {' and '.join(settings)}" if settings else ""


def _is_here(url: str) -> bool:
    return (urlsplit(url).hostname or "") in ("127.0.0.1", "::1", "localhost")
