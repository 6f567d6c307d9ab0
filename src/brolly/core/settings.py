"""Settings: read once from the environment, frozen, passed on. The only reader of ``os.environ``."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from brolly.core.errors import AppError

PREFIX = "BROLLY_"
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
APP_ID = re.compile(r"app_[a-z0-9]{1,60}")
DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
AI_PROVIDER = re.compile(r"[a-z][a-z0-9-]{0,30}")
REGION = re.compile(r"^[a-z]+(-[a-z0-9]+)+$")


def _setting(default: Any, doc: str, *, hidden: bool = False) -> Any:
    """``hidden`` keeps a secret out of the record's text form, which may reach a log."""
    return field(default=default, metadata={"doc": doc}, repr=not hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting. ``BROLLY_<NAME>`` in the environment sets the field of that name."""

    home: Path = _setting(  # noqa: RUF009
        None, "Data folder; default: the platform's user data folder (root: /var/lib/brolly/home)."
    )
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(4000, "Port to listen on.")
    public_url: str = _setting("", "Base URL under which clients reach the server; default http://{host}:{port}.")
    database_url: str = _setting(
        "", "DSN of an external Postgres >= 15 with pgvector; empty: the embedded one.", hidden=True
    )
    secret: str = _setting(
        "", "Installation secret (>= 32 characters); default: the file secret.key in the data folder.", hidden=True
    )
    read_only: bool = _setting(False, "Offer and accept only actions that change nothing.")
    tools: tuple[str, ...] = _setting((), "Only these MCP tools, separated by commas; empty: all.")
    app: str = _setting("", "Hold brolly mcp to this app, by its id: calls need not name it and reach no other.")
    allowed_hosts: tuple[str, ...] = _setting((), "Further Host header values to accept, separated by commas.")
    allowed_origins: tuple[str, ...] = _setting((), "Origins whose pages may call /mcp and the management routes.")
    regions: tuple[str, ...] = _setting(
        ("self-hosted",), "Region names that this server offers; the first is the default."
    )
    workers: bool = _setting(True, "Run background workers in this process.")
    body_limit: int = _setting(1_048_576, "Largest JSON request body in bytes.")
    app_connections: int = _setting(8, "Most database connections per app in this process.")
    total_connections: int = _setting(80, "Most app database connections of this process together.")
    statement_timeout: int = _setting(15, "Seconds after which a caller's statement is ended.")
    rate_limit_key: int = _setting(6000, "Requests a minute of one service key; 0: no limit.")
    rate_limit_user: int = _setting(1200, "Requests a minute of one end user; 0: no limit.")
    rate_limit_address: int = _setting(3000, "Requests a minute of one address without credentials; 0: no limit.")
    rate_limit_bypass: str = _setting(
        "", "Token (>= 16 characters) that lifts these limits when sent as X-Rate-Limit-Bypass.", hidden=True
    )
    auth_limit_factor: int = _setting(1, "Times by which the limits on sign-in attempts are raised.")
    allow_private_network: bool = _setting(
        False, "Let addresses that owners give (sign-in providers) be http, and lie in this machine's own network."
    )
    smtp_url: str = _setting(
        "",
        "Mail server, smtp://user:password@host:587 or smtps://…; empty: mail stays in each app's outbox.",
        hidden=True,
    )
    mail_from: str = _setting("", "Sender of mail to end users, such as Shop <no-reply@example.com>.")
    storage_limit_mb: int = _setting(1_048_576, "Most megabytes of files that an app's owner may allow it.")
    s3_bucket: str = _setting("", "Bucket that holds the files; empty: the folder objects in the data folder.")
    s3_endpoint: str = _setting("", "Address of the S3 service; empty: Amazon's.")
    s3_public_endpoint: str = _setting("", "Address under which browsers reach it; default: the same.")
    s3_region: str = _setting("us-east-1", "Region of the bucket.")
    s3_access_key: str = _setting("", "Access key; empty: from where Amazon's own tools look.")
    s3_secret_key: str = _setting("", "Secret of the access key.", hidden=True)
    s3_force_path_style: bool = _setting(True, "Name the bucket in the path of a given endpoint, not in its host.")
    function_log_days: int = _setting(14, "Days for which calls of functions are kept in their logs.")
    function_memory_mb: int = _setting(512, "Memory in MB above which an app's function process is ended.")
    function_private_network: bool = _setting(
        False, "Let functions reach this machine and private networks; only for code that you trust as yourself."
    )
    function_body_limit: int = _setting(10_485_760, "Largest request body in bytes that a function is given.")
    function_ipv6: bool = _setting(
        False,
        "Let functions use IPv6, whose private networks cannot be closed to them; needed on machines without IPv4.",
    )
    realtime_frame_kb: int = _setting(256, "Largest message in KB that a WebSocket may send.")
    realtime_queue_kb: int = _setting(1024, "Most KB that wait for a WebSocket whose client reads slowly.")
    realtime_app_sockets: int = _setting(10_000, "WebSockets that an app may have open at each server.")
    realtime_address_sockets: int = _setting(1_000, "WebSockets that one address may have open at an app.")
    realtime_retention: int = _setting(300, "Seconds for which changes are kept for clients that come back.")
    sites_domain: str = _setting(
        "", "Domain below which sites answer, as shop.{domain}; default: the public URL's host, or localhost."
    )
    deployment_limit_mb: int = _setting(100, "Most megabytes of a front end's zip.")
    deployment_unpacked_mb: int = _setting(500, "Most megabytes that a front end may be when unpacked.")
    deployment_files: int = _setting(20_000, "Most files of a front end.")
    source_limit_mb: int = _setting(50, "Most megabytes of the zip of a front end's source.")
    builds_at_once: int = _setting(1, "Builds of front ends that this process does at once.")
    build_seconds: int = _setting(600, "Seconds after which a build is ended.")
    build_memory_mb: int = _setting(2048, "Memory in MB above which a build is ended.")
    build_disk_mb: int = _setting(2048, "Most megabytes that a build may write.")
    build_cache_mb: int = _setting(4096, "Most megabytes of dependencies that are kept for builds to come.")
    build_private_network: bool = _setting(False, "Let builds reach this machine's own network.")
    build_unconfined: bool = _setting(
        False, "Run builds where the system cannot shut them in; only for code that you trust as yourself."
    )
    deployments_kept: int = _setting(10, "Finished deployments that are kept per app, for rollback.")
    site_storage_mb: int = _setting(
        5120, "Most megabytes of front ends per app, all kept deployments together, each content once."
    )
    site_memory_mb: int = _setting(64, "Megabytes of sites' files that are kept in memory.")
    dns_server: str = _setting(
        "", "Address of the name server that is asked about custom domains; default: the system's."
    )
    ai_providers: tuple[str, ...] = _setting(
        (),
        "Model providers, separated by commas: openai=KEY, anthropic=KEY, google=KEY, openrouter=KEY, ollama, "
        "or a name and address, lab=https://:KEY@llm.example.com/v1.",
        hidden=True,
    )
    ai_model: str = _setting("", "Model for chat, provider/model; default: the first provider's.")
    ai_embedding_model: str = _setting("", "Model for embeddings, provider/model; default: a provider's, else local.")
    ai_timeout: int = _setting(120, "Seconds to wait for a model's answer, or for the next part of one.")
    rag_user_documents: int = _setting(1000, "Documents that one end user may have in an app's collections.")
    rag_user_mb: int = _setting(100, "MB that these may have together, as they were sent.")
    audit_days: int = _setting(90, "Days for which audit rows are kept.")
    log_level: str = _setting("info", "debug, info, warning or error.")
    url: str = _setting("", "Server that brolly mcp talks to; default: the one on this machine, started if none runs.")
    api_key: str = _setting(
        "", "Service key that brolly mcp uses; default: the file owner.key in the data folder.", hidden=True
    )

    @property
    def base_url(self) -> str:
        """The address that goes into answers, without a slash at the end."""
        if self.public_url:
            return self.public_url.rstrip("/")
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def site_suffix(self) -> str:
        """The domain below which sites answer."""
        if self.sites_domain:
            return self.sites_domain
        host = urlsplit(self.base_url).hostname or ""
        # An address has no names below it, but browsers know what lies below localhost.
        return "localhost" if not host or ":" in host or re.fullmatch(r"[0-9.]+", host) else host

    def site_url(self, label: str) -> str:
        """The address of the site of that name."""
        base = urlsplit(self.base_url)
        return f"{base.scheme}://{label}.{self.site_suffix}" + (f":{base.port}" if base.port else "")


def default_home() -> Path:
    """The data folder when none is set: the platform's for users, ``/var/lib/brolly/home`` for root.

    Root's own home is closed to the unprivileged account that Postgres must run as.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/brolly/home")
    import platformdirs

    return Path(platformdirs.user_data_dir("brolly", appauthor=False))


def _bool(name: str, text: str) -> bool:
    low = text.strip().lower()
    if low in ("1", "true", "yes", "on"):
        return True
    if low in ("", "0", "false", "no", "off"):
        return False
    raise _invalid(name, text, "1, true, yes, on, 0, false, no or off")


def _int(name: str, text: str, low: int = 1, high: int = 2**31) -> int:
    try:
        value = int(text)
    except ValueError:
        raise _invalid(name, text, "a whole number") from None
    if not low <= value <= high:
        raise _invalid(name, text, f"a number from {low} to {high}")
    return value


def _invalid(name: str, text: str, expected: str) -> AppError:
    return AppError(
        "CONFIG_INVALID",
        f"{PREFIX}{name.upper()} is {text!r}; expected {expected}.",
        remediation=f"Set {PREFIX}{name.upper()} to {expected}, or unset it; brolly serve --help lists the settings.",
    )


def _parse(name: str, kind: str, text: str) -> Any:
    if kind == "bool":
        return _bool(name, text)
    if kind == "int":
        if name == "port":
            return _int(name, text, 0, 65535)
        return _int(name, text, 0 if name.startswith("rate_limit_") else 1)
    if kind == "Path":
        return Path(text).expanduser().absolute()
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text.strip()


def _refuse_unknown(environ: Mapping[str, str], known: set[str]) -> None:
    """A mistyped name must not silently mean the default: read-only would become read-write."""
    for key in environ:
        if key.upper().startswith(PREFIX) and key not in known:
            # Without the prefix, which would make every name look near.
            names = sorted(name.removeprefix(PREFIX) for name in known)
            near = difflib.get_close_matches(key.upper().removeprefix(PREFIX), names, 1)
            raise AppError(
                "CONFIG_INVALID",
                f"Unknown setting {key}." + (f" Did you mean {PREFIX}{near[0]}?" if near else ""),
                remediation="Correct or unset the variable; brolly serve --help lists the settings.",
            )


def _check(settings: Settings) -> Settings:
    for region in settings.regions:
        if not REGION.match(region):
            raise _invalid("regions", region, "names such as eu-central-1")
    if not settings.regions:
        raise _invalid("regions", "", "at least one name such as eu-central-1")
    if settings.secret and len(settings.secret) < 32:
        raise AppError("CONFIG_INVALID", "BROLLY_SECRET is shorter than 32 characters.")
    if settings.rate_limit_bypass and len(settings.rate_limit_bypass) < 16:
        raise AppError("CONFIG_INVALID", "BROLLY_RATE_LIMIT_BYPASS is shorter than 16 characters.")
    if settings.app and not APP_ID.fullmatch(settings.app):
        raise _invalid("app", settings.app, "the id of an app, app_…, as init_app and manage_app list give it")
    if settings.sites_domain and not DOMAIN.fullmatch(settings.sites_domain):
        raise _invalid("sites_domain", settings.sites_domain, "a domain such as example.com, in small letters")
    _check_mail(settings)
    _check_s3(settings)
    _check_ai(settings)
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise _invalid("log_level", settings.log_level, "debug, info, warning or error")
    return settings


def _check_mail(settings: Settings) -> None:
    if not settings.smtp_url:
        return
    # The address holds a password, so no message repeats it.
    try:
        url = urlsplit(settings.smtp_url)
        valid = url.scheme in ("smtp", "smtps") and bool(url.hostname) and url.port != 0
        valid = valid and url.query in ("", "tls=off")
    except ValueError:
        valid = False
    if not valid:
        raise AppError(
            "CONFIG_INVALID",
            "BROLLY_SMTP_URL is not an address of the form smtp://user:password@host:587 or smtps://user:password@host.",
        )
    if "@" not in settings.mail_from or not settings.mail_from.isprintable():
        raise AppError("CONFIG_INVALID", "BROLLY_SMTP_URL needs BROLLY_MAIL_FROM, the address that sends.")


def _check_s3(settings: Settings) -> None:
    given = [f.name for f in fields(Settings) if f.name.startswith("s3_") and getattr(settings, f.name) != f.default]
    if given and not settings.s3_bucket:
        # Files must not go to a folder while the operator believes them in a bucket.
        raise AppError("CONFIG_INVALID", f"{PREFIX}{given[0].upper()} needs BROLLY_S3_BUCKET.")
    if settings.s3_bucket and not BUCKET.fullmatch(settings.s3_bucket):
        raise _invalid("s3_bucket", settings.s3_bucket, "a bucket's name")
    for name in ("s3_endpoint", "s3_public_endpoint"):
        address = getattr(settings, name)
        if address and not _is_origin(address):
            # It may hold a password, so the message does not repeat it.
            raise AppError(
                "CONFIG_INVALID", f"{PREFIX}{name.upper()} is not an address such as https://s3.example.com."
            )
    if bool(settings.s3_access_key) != bool(settings.s3_secret_key):
        raise AppError("CONFIG_INVALID", "BROLLY_S3_ACCESS_KEY and BROLLY_S3_SECRET_KEY go together; one is missing.")


def _check_ai(settings: Settings) -> None:
    for entry in settings.ai_providers:
        name, _, value = entry.partition("=")
        if not AI_PROVIDER.fullmatch(name) or ("://" in value and not _is_service(value)):
            # What stands behind the sign is a key, so no message repeats it.
            raise AppError(
                "CONFIG_INVALID",
                f"BROLLY_AI_PROVIDERS has an entry for {name[:40]!a} that is neither name=KEY nor "
                "name=https://:KEY@host/path, with a name of small letters, digits and -.",
            )


def _is_service(address: str) -> bool:
    try:
        url = urlsplit(address)
        protocol, _, scheme = url.scheme.rpartition("+")
        known = protocol in ("", "openai", "anthropic", "google") and scheme in ("http", "https")
        return known and bool(url.hostname) and url.port != 0 and not (url.query or url.fragment)
    except ValueError:
        return False


def _is_origin(address: str) -> bool:
    try:
        url = urlsplit(address)
        plain = not (url.username or url.password or url.query or url.fragment or url.path.strip("/"))
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and plain
    except ValueError:
        return False


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment; ``overrides`` (command-line options, None = not given) win.

    Raises ``CONFIG_INVALID`` for an unknown ``BROLLY_`` name or a value that does not parse.
    """
    environ = os.environ if environ is None else environ
    known = {PREFIX + f.name.upper(): f for f in fields(Settings)}
    _refuse_unknown(environ, set(known))
    values: dict[str, Any] = {}
    for key, spec in known.items():
        if environ.get(key, "") != "":
            values[spec.name] = _parse(spec.name, str(spec.type), environ[key])
    # Clients of the published product set this name.
    if "api_key" not in values and environ.get("BUTTERBASE_API_KEY"):
        values["api_key"] = environ["BUTTERBASE_API_KEY"].strip()
    values.update({name: value for name, value in overrides.items() if value is not None})
    if "home" not in values:
        values["home"] = default_home()
    return _check(Settings(**values))


def is_set(name: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the environment sets that setting, be it to its default."""
    environ = os.environ if environ is None else environ
    return environ.get(PREFIX + name.upper(), "") != ""


_FOR_CHILDREN = (
    "PATH", "LANG", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "NPM_CONFIG_REGISTRY",
)  # fmt: skip


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs that fetch from the network need of the environment, and nothing else of it."""
    environ = os.environ if environ is None else environ
    return {name: environ[name] for name in _FOR_CHILDREN if name in environ}


def own_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """All of it, for programs that are the person's own, such as their editor's command line."""
    return dict(os.environ if environ is None else environ)


def client_variables(environ: Mapping[str, str] | None = None) -> dict[str, Path | None]:
    """Where the environment says that MCP clients keep their settings; None where it says nothing."""
    environ = os.environ if environ is None else environ
    given = {name: environ.get(name) for name in ("CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME")}
    return {name: Path(path) if path else None for name, path in given.items()}


def describe_settings() -> list[dict[str, Any]]:
    """Name, type, default and meaning of each setting, for ``schemas/settings.json`` and ``--help``."""
    return [
        {
            "name": PREFIX + f.name.upper(),
            "type": str(f.type),
            "default": f.default,
            "doc": f.metadata["doc"],
        }
        for f in fields(Settings)
    ]
