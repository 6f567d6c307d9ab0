"""The files ``_headers`` and ``_redirects``, in the grammar that Netlify and Cloudflare Pages have in common.

A line that cannot be kept is left out and named in a warning, as both do: a deployment does not fail by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HEADERS_FILE, REDIRECTS_FILE = "_headers", "_redirects"
RULE_FILES = (HEADERS_FILE, REDIRECTS_FILE)
MOST_REDIRECTS = 2000
MOST_HEADER_RULES = 200
LONGEST_LINE = 2000
LONGEST_FILE = 512 * 1024
STATUSES = (200, 301, 302, 303, 307, 308, 404)
MOST_WARNINGS = 20
# The server's own business: a wrong one breaks the connection, not the page.
_OURS = frozenset((
    "connection", "content-encoding", "content-length", "content-range", "date", "keep-alive", "server", "te",
    "trailer", "transfer-encoding", "upgrade", "set-cookie2", "x-request-id",
))  # fmt: skip
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_PLACEHOLDER = re.compile(r":([A-Za-z]\w*)")


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """Headers for the paths of a pattern. A value of None takes the header away."""

    pattern: str
    headers: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class RedirectRule:
    """Another address for the paths of a pattern. Status 200 and 404 answer with what is there, others lead there."""

    source: str
    target: str
    status: int
    forced: bool = False
    query: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """Both files of a deployment, with what was wrong in them."""

    headers: tuple[HeaderRule, ...] = ()
    redirects: tuple[RedirectRule, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def as_json(self) -> dict[str, Any]:
        """As it is kept beside the deployment."""
        return {
            "headers": [[rule.pattern, [list(pair) for pair in rule.headers]] for rule in self.headers],
            "redirects": [
                [rule.source, rule.target, rule.status, rule.forced, [list(pair) for pair in rule.query]]
                for rule in self.redirects
            ],
        }


def rules_of(kept: Mapping[str, Any]) -> Rules:
    """The rules that ``as_json`` made."""
    return Rules(
        tuple(HeaderRule(pattern, tuple((n, v) for n, v in headers)) for pattern, headers in kept.get("headers", ())),
        tuple(
            RedirectRule(source, target, status, forced, tuple((n, v) for n, v in query))
            for source, target, status, forced, query in kept.get("redirects", ())
        ),
    )


def read_rules(files: Mapping[str, Path]) -> Rules:
    """The rules of a deployment's files. Blocks."""
    texts = [_text(files[name]) if name in files else "" for name in RULE_FILES]
    headers, wrong = parse_headers(texts[0])
    redirects, wrong_too = parse_redirects(texts[1])
    warnings = [*wrong, *wrong_too]
    if len(warnings) > MOST_WARNINGS:
        warnings = [*warnings[:MOST_WARNINGS], f"and {len(warnings) - MOST_WARNINGS} more lines like these"]
    return Rules(tuple(headers), tuple(redirects), tuple(warnings))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(LONGEST_FILE).decode("utf-8", "replace").removeprefix("\ufeff")


def parse_headers(text: str) -> tuple[list[HeaderRule], list[str]]:
    """``_headers``: a path on a line of its own, then its headers, indented."""
    rules: list[HeaderRule] = []
    warnings: list[str] = []
    pattern, headers = "", list[tuple[str, str | None]]()

    def end() -> None:
        if pattern and headers and len(rules) < MOST_HEADER_RULES:
            rules.append(HeaderRule(pattern, tuple(headers)))

    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        why = ""
        if line[0] not in " \t":
            end()
            headers = []
            pattern, why = _pattern(stripped)
        elif pattern:
            pair, why = _header(stripped)
            headers += [pair] if pair else []
        else:
            why = "there is no path above it"
        if why:
            warnings.append(f"_headers line {number}: {why}")
    end()
    return rules, warnings


def _pattern(text: str) -> tuple[str, str]:
    if len(text) > LONGEST_LINE:
        return "", "it is too long"
    if text.startswith(("http://", "https://")):
        # Cloudflare allows a host. Ours are many: the rule holds for all of them.
        text = urlsplit(text).path or "/"
    if not text.startswith("/"):
        return "", f"{text[:80]!r} is no path that begins with /"
    if text.count("*") > 1:
        return "", "only one * is possible"
    return text, ""


def _header(text: str) -> tuple[tuple[str, str | None] | None, str]:
    if text.startswith("!"):
        name = text[1:].strip()
        return ((name.lower(), None), "") if _HEADER_NAME.fullmatch(name) else (None, f"{name[:80]!r} is no header")
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _HEADER_NAME.fullmatch(name) or len(text) > LONGEST_LINE:
        return None, f"{text[:80]!r} is not of the form Name: value"
    if name.lower() in _OURS:
        return None, f"{name} is set by the server alone"
    if not value.isprintable() or not value.isascii():
        return None, f"the value of {name} has other than printable ASCII characters"
    return (name.lower(), value), ""


def parse_redirects(text: str) -> tuple[list[RedirectRule], list[str]]:
    """``_redirects``: from, parameters of the query, to, status; separated by blanks."""
    rules: list[RedirectRule] = []
    warnings: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = re.split(r"\s#", line.strip())[0].split()
        if not words or words[0].startswith("#"):
            continue
        rule, why = _redirect(words)
        if rule is not None and len(rules) >= MOST_REDIRECTS:
            rule, why = None, f"more than {MOST_REDIRECTS} rules"
        if rule is not None:
            rules.append(rule)
        else:
            warnings.append(f"_redirects line {number}: {why}")
    return rules, warnings


def _redirect(words: Sequence[str]) -> tuple[RedirectRule | None, str]:
    source, why = _pattern(words[0])
    if why:
        return None, why
    rest = list(words[1:])
    query: list[tuple[str, str]] = []
    while rest and not rest[0].startswith(("/", "http://", "https://")) and "=" in rest[0]:
        name, _, value = rest.pop(0).partition("=")
        query.append((name, value))
    if not rest:
        return None, "it names no address to go to"
    target, *more = rest
    status, forced, why = _status(more)
    why = why or _wrong_target(source, target, status, [value[1:] for _, value in query if value.startswith(":")])
    if why:
        return None, why
    return RedirectRule(source, target, status, forced, tuple(query)), ""


def _status(words: Sequence[str]) -> tuple[int, bool, str]:
    status, forced = 301, False
    if words and re.fullmatch(r"\d{3}!?", words[0]):
        status, forced = int(words[0][:3]), words[0].endswith("!")
        words = words[1:]
    if status not in STATUSES:
        return status, forced, f"the status {status} is not one of {', '.join(map(str, STATUSES))}"
    if words:
        return status, forced, f"conditions such as {words[0][:80]} are not supported"
    return status, forced, ""


def _wrong_target(source: str, target: str, status: int, taken: Sequence[str]) -> str:
    if not target.isprintable() or len(target) > LONGEST_LINE:
        return "its address has characters that no address has"
    if target.startswith(("http://", "https://")):
        host = urlsplit(target).hostname or ""
        if status in (200, 404):
            return f"{host} is another server; only the app's own paths can be shown in place of others"
        return "" if host else f"{target[:80]!r} is no address"
    if not target.startswith("/") or target.startswith("//"):
        return f"{target[:80]!r} is neither a path nor an http address"
    if status not in (200, 404) and target == source:
        return "it leads to itself"
    known = {*_PLACEHOLDER.findall(source), *(["splat"] if "*" in source else []), *taken}
    unknown = [name for name in _PLACEHOLDER.findall(urlsplit(target).path) if name not in known]
    return f"it has no :{unknown[0]} in the path it comes from" if unknown else ""
