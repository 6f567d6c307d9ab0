"""Which rule a request's path falls under."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl, quote

from brolly.hosting.rules import HeaderRule, RedirectRule, Rules

_WORD = re.compile(r":([A-Za-z]\w*)|\*")


@dataclass(frozen=True, slots=True)
class Match:
    """The rule that holds for a request, and the address that it leads to."""

    rule: RedirectRule
    target: str


def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as an expression that takes a time in proportion to the path."""
    made, at, seen = "", 0, set[str]()
    for found in _WORD.finditer(pattern):
        made += re.escape(pattern[at : found.start()])
        name = found[1]
        if name is None:
            made += "(?P<splat>.*)"
        elif name in seen:
            made += "[^/]+"
        else:
            made += f"(?P<{name}>[^/]+)"
            seen.add(name)
        at = found.end()
    made += re.escape(pattern[at:])
    if made.endswith("/(?P<splat>.*)"):
        # /news/* is also for /news.
        made = made.removesuffix("/(?P<splat>.*)") + "(?:/(?P<splat>.*))?"
    elif len(pattern) > 1:
        made = made.removesuffix("/") + "/?"
    return re.compile(made, re.DOTALL)


class Matcher:
    """A deployment's rules, ready for requests."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    @cached_property
    def _headers(self) -> Sequence[tuple[re.Pattern[str], HeaderRule]]:
        return [(_compiled(rule.pattern), rule) for rule in self._rules.headers]

    @cached_property
    def _redirects(self) -> Sequence[tuple[re.Pattern[str], RedirectRule]]:
        return [(_compiled(rule.source), rule) for rule in self._rules.redirects]

    @cached_property
    def has_redirects(self) -> bool:
        """Whether there is any rule of ``_redirects``."""
        return bool(self._rules.redirects)

    def headers(self, path: str, given: Mapping[str, str]) -> dict[str, str]:
        """The headers with those of all rules that hold for the path, in the order of the file.

        A rule replaces what the server set by itself, adds to what rules above it set, and takes away with ``!``.
        """
        headers, ours = dict(given), set[str]()
        for pattern, rule in self._headers:
            if (found := pattern.fullmatch(path)) is None:
                continue
            for name, value in rule.headers:
                if value is None:
                    headers.pop(name, None)
                    continue
                filled = _filled(value, found.groupdict(), quoted=True)
                headers[name] = f"{headers[name]}, {filled}" if name in ours and name in headers else filled
                ours.add(name)
        return headers

    def redirect(self, path: str, query: str, *, forced: bool) -> Match | None:
        """The first rule that holds for the path. ``forced`` asks for those alone that hold even where a file is."""
        for pattern, rule in self._redirects:
            if (forced and not rule.forced) or (found := pattern.fullmatch(path)) is None:
                continue
            values = {name: value or "" for name, value in found.groupdict().items()}
            if rule.query:
                asked = dict(parse_qsl(query, keep_blank_values=True))
                if (taken := _parameters(rule, asked)) is None:
                    continue
                values |= taken
            return Match(rule, _target(rule, values, query))
        return None


def _parameters(rule: RedirectRule, asked: Mapping[str, str]) -> dict[str, str] | None:
    taken: dict[str, str] = {}
    for name, wanted in rule.query:
        if name not in asked:
            return None
        if wanted.startswith(":"):
            taken[wanted[1:]] = asked[name]
        elif asked[name] != wanted:
            return None
    return taken


def _target(rule: RedirectRule, values: Mapping[str, str], query: str) -> str:
    target = _filled(rule.target, values, quoted=rule.status not in (200, 404))
    if target.startswith("//"):
        # Made by an empty or hostile placeholder: it would lead to another server.
        target = "/" + target.lstrip("/")
    if query and "?" not in target and not rule.query:
        target += "?" + query
    return target


def _filled(text: str, values: Mapping[str, str | None], *, quoted: bool) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or "splat"
        if values.get(name) is None or found[0] == "*":
            return found[0]
        kept = values[name] or ""
        return quote(kept, safe="/-._~!$&'()*+,;=:@%") if quoted else re.sub(r"[\r\n\0]", "", kept)

    return _WORD.sub(value, text)
