"""Under which addresses a site answers, and what an address of that kind names."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from brolly.core.settings import Settings

LONGEST_LABEL = 63
_PREVIEW = re.compile(r"([0-9a-f]{12})--(.+)")


@dataclass(frozen=True, slots=True)
class Named:
    """What a host's first label says: a subdomain, and the deployment that is to be shown instead of the live one."""

    subdomain: str
    slug: str = ""


def is_local(host: str) -> bool:
    """Whether the host is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def suffixes(settings: Settings) -> tuple[str, ...]:
    """The domains below which sites answer; the first is the one that is told."""
    found = [settings.site_suffix, "localhost"]
    return tuple(dict.fromkeys(found))


def host_of(header: str) -> str:
    """The host of a ``Host`` header: small letters, without port and final dot."""
    host = header.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def label_of(settings: Settings, host: str) -> str | None:
    """The label below a domain of sites, or None when the host is none of these."""
    for suffix in suffixes(settings):
        if host.endswith("." + suffix):
            label = host.removesuffix("." + suffix)
            return label if "." not in label else None
    return None


def named(label: str) -> tuple[Named, ...]:
    """What the label may stand for, the first that exists being meant."""
    whole = Named(label)
    if (found := _PREVIEW.fullmatch(label)) is not None:
        return Named(found[2], found[1]), whole
    return (whole,)


def site_url(settings: Settings, subdomain: str) -> str:
    """The address of an app's site."""
    return settings.site_url(subdomain)


def preview_label(slug: str, subdomain: str) -> str:
    """The label of one deployment's own address; a long subdomain is cut, since the slug alone is enough."""
    return f"{slug}--{subdomain}"[:LONGEST_LABEL].rstrip("-")


def preview_url(settings: Settings, slug: str, subdomain: str) -> str:
    """The address at which one deployment answers, live or not."""
    return settings.site_url(preview_label(slug, subdomain))


def is_public(settings: Settings) -> bool:
    """Whether others than this machine can reach the sites by name."""
    return not is_local(urlsplit(settings.site_url("x")).hostname or "")
