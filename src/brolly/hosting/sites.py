"""Sites as requests need them: which app a host names, and which file a path, from memory while nothing changes.

What is kept belongs to one record of the app in the registry. A switch, like every change of an app, makes a new
record: at once in the process that switched, before it answers, and as soon as Postgres has told the others, which
takes milliseconds. A process that cannot hear Postgres keeps nothing.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from weakref import WeakKeyDictionary

import anyio

from brolly.core.settings import Settings
from brolly.deps import Deps
from brolly.hosting.addresses import label_of, named, preview_label
from brolly.hosting.compress import ENCODINGS
from brolly.hosting.matching import Matcher
from brolly.hosting.media import is_hashed
from brolly.hosting.rules import rules_of
from brolly.registry import App, Registry

SITES_KEPT = 200
FILES_KEPT = 400_000
HOSTS_KEPT = 10_000
UNKNOWN_SECONDS = 1.0
"""For how long a host that nothing answers to is not looked up again."""

_FILES = (
    "select f.path, f.content_type, b.key, b.sha256, b.size, b.br_size, b.gzip_size, b.zstd_size "
    "from brolly.deployment_files f join brolly.site_blobs b on b.id = f.blob_id where f.deployment_id = $1"
)
_LIVE = (
    "select s.deployment_id, s.former_id, s.turn, s.switched_at, d.slug, d.framework, d.rules::text "
    "from brolly.sites s join brolly.deployments d on d.id = s.deployment_id where s.app_id = $1"
)
_PREVIEW = (
    "select id as deployment_id, null::uuid as former_id, turn, completed_at as switched_at, slug, framework, "
    "rules::text from brolly.deployments where app_id = $1 and id = $2 and status = 'READY'"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: where its bytes lie in the store, as they are and in each encoding (offset and length)."""

    path: str
    key: str
    digest: str
    content_type: str
    size: int
    encoded: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Site:
    """One deployment, ready to serve. ``former`` are files of the one before whose names hold a hash: pages that are
    open still ask for them. ``prepared`` is for the one who serves, and goes with the site."""

    app_id: str
    deployment_id: UUID
    framework: str | None
    changed: str
    turn: int
    preview: bool
    assets: Mapping[str, Asset]
    former: Mapping[str, Asset]
    rules: Matcher
    prepared: dict[Any, Any] = field(default_factory=dict[Any, Any])


@dataclass(frozen=True, slots=True)
class Found:
    """What a host names. Without an app, a site that does not exist; ``deployment_id`` is a preview's."""

    app: App | None
    deployment_id: UUID | None = None


class Sites:
    """The sites of one process."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._hosts: OrderedDict[str, tuple[Found | None, float]] = OrderedDict()
        self._sites: OrderedDict[tuple[str, UUID | None], tuple[App, Site | None]] = OrderedDict()
        self._loading: dict[tuple[str, UUID | None], anyio.Lock] = {}
        self._files = 0
        base = urlsplit(deps.settings.base_url).hostname or ""
        own = [base, "localhost", deps.settings.host, *deps.settings.allowed_hosts]
        self._own = frozenset(host.partition(":")[0].strip("[]").lower() for host in own)

    async def find(self, host: str) -> Found | None:
        """What the host names; None when it is the platform's own address."""
        if (known := self._hosts.get(host)) is not None:
            found, until = known
            if found is None or found.app is None:
                if time.monotonic() < until:
                    return found
            elif await self._deps.registry.find(found.app.id) is found.app:
                return found
        if host.strip("[]") in self._own or _is_address(host):
            return None
        found = await self._look_up(host)
        self._hosts[host] = found, time.monotonic() + UNKNOWN_SECONDS
        self._hosts.move_to_end(host)
        if len(self._hosts) > HOSTS_KEPT:
            self._hosts.popitem(last=False)
        return found

    def forget(self, host: str) -> None:
        """Look the host up anew; other processes do within ``UNKNOWN_SECONDS``."""
        self._hosts.pop(host, None)

    async def _look_up(self, host: str) -> Found | None:
        label = label_of(self._deps.settings, host)
        if label is not None:
            for each in named(label):
                found = await (self._preview if each.slug else self._subdomain)(each.slug or each.subdomain, label)
                if found is not None:
                    return found
            return Found(None)
        app_id = await self._deps.control.fetchval(
            "select app_id from brolly.custom_domains where hostname = $1 and status = 'active'", host
        )
        app = await self._deps.registry.find(app_id) if app_id else None
        return Found(app) if app is not None else None

    async def _subdomain(self, subdomain: str, _label: str) -> Found | None:
        app_id = await self._deps.control.fetchval("select id from brolly.apps where subdomain = $1", subdomain)
        app = await self._deps.registry.find(app_id) if app_id else None
        return Found(app) if app is not None and app.subdomain == subdomain else None

    async def _preview(self, slug: str, label: str) -> Found | None:
        row = await self._deps.control.fetchrow(
            "select app_id, id from brolly.deployments where slug = $1 and status = 'READY'", slug
        )
        app = await self._deps.registry.find(row["app_id"]) if row else None
        if row is None or app is None or preview_label(slug, app.subdomain) != label:
            return None
        return Found(app, row["id"])

    async def open(self, app: App, deployment_id: UUID | None = None) -> Site | None:
        """The app's live site, or that deployment; None when there is none."""
        name = app.id, deployment_id
        known = self._sites.get(name)
        if known is not None and known[0] is app:
            return known[1]
        # One at a time reads a site, the others take what it read.
        lock = self._loading.setdefault(name, anyio.Lock())
        async with lock:
            known = self._sites.get(name)
            if known is None or known[0] is not app:
                site = await self._read(app, deployment_id, known[1] if known else None)
                self._keep(name, app, site)
            else:
                site = known[1]
        if not lock.statistics().tasks_waiting:
            self._loading.pop(name, None)
        return site

    def _keep(self, name: tuple[str, UUID | None], app: App, site: Site | None) -> None:
        self._drop(name)
        self._sites[name] = app, site
        self._files += len(site.assets) + len(site.former) if site else 0
        while len(self._sites) > 1 and (len(self._sites) > SITES_KEPT or self._files > FILES_KEPT):
            self._drop(next(iter(self._sites)))

    def _drop(self, name: tuple[str, UUID | None]) -> None:
        found = self._sites.pop(name, None)
        if found is not None and found[1] is not None:
            self._files -= len(found[1].assets) + len(found[1].former)

    async def _read(self, app: App, deployment_id: UUID | None, known: Site | None) -> Site | None:
        control = self._deps.control
        if deployment_id is None:
            row = await control.fetchrow(_LIVE, app.id)
        else:
            row = await control.fetchrow(_PREVIEW, app.id, deployment_id)
        if row is None:
            return None
        # Something else about the app has changed.
        if known is not None and (known.deployment_id, known.turn) == (row["deployment_id"], row["turn"]):
            return known
        assets = {each["path"]: _asset(each) for each in await control.fetch(_FILES, row["deployment_id"])}
        former: dict[str, Asset] = {}
        if row["former_id"] is not None:
            rows = await control.fetch(_FILES, row["former_id"])
            former = {r["path"]: _asset(r) for r in rows if r["path"] not in assets and is_hashed(r["path"])}
        return Site(
            app_id=app.id,
            deployment_id=row["deployment_id"],
            framework=row["framework"],
            changed=_http_date(row["switched_at"]),
            turn=row["turn"],
            preview=deployment_id is not None,
            assets=assets,
            former=former,
            rules=Matcher(rules_of(json.loads(row["rules"]))),
        )


def _asset(row: Any) -> Asset:
    encoded: dict[str, tuple[int, int]] = {}
    offset = row["size"]
    for name in ENCODINGS:
        length = row[f"{name}_size"]
        if length is not None:
            encoded[name] = offset, length
            offset += length
    return Asset(row["path"], row["key"], row["sha256"].hex()[:32], row["content_type"], row["size"], encoded)


def _http_date(when: datetime) -> str:
    return format_datetime(when.replace(microsecond=0), usegmt=True)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return not host
    return True


_SITES: WeakKeyDictionary[Registry, dict[Settings, Sites]] = WeakKeyDictionary()


def sites_of(deps: Deps) -> Sites:
    """The sites of this process, at the addresses that the settings say."""
    found = _SITES.setdefault(deps.registry, {})
    if deps.settings not in found:
        found[deps.settings] = Sites(deps)
    return found[deps.settings]
