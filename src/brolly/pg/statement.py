"""SQL that the app's owner writes whole: the query of a view, the body of a function.

What it may reach is decided by the roles that run it. What is looked for here is what roles cannot decide: the
door's login may take on every caller's role, so nothing that runs behind it may change role or claims, nor build a
statement from a text, in which a caller's words could do so. Read as Postgres's lexer reads it; keywords cannot be
quoted, and a text that this lexer might read otherwise than Postgres is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from brolly.pg.expression import DENIED

MAX_LENGTH = 20_000

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f\v]+|--[^\r\n]*)
    |(?P<comment>/\*)
    |(?P<unicode>[uU]&['"])
    |(?P<text>[eE]'(?:[^'\\]|\\.|'')*'|[bBxXnN]?'(?:[^']|'')*')
    |(?P<name>"(?:[^"]|"")+")
    |(?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    |(?P<number>\$?[0-9](?:[0-9A-Za-z_]|\.(?!\.))*)
    |(?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    |(?P<sign>.)""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Token:
    """A word in lower case, a name as it stands between double quotes, a text, or a sign."""

    kind: Literal["word", "name", "text", "sign"]
    text: str
    at: int


def tokens(text: str) -> list[Token]:
    """The text without space and comments. Raises ``ValueError`` for what does not end, or could be read otherwise."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it has {len(text)} characters, {MAX_LENGTH} are allowed")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("it holds a character that Postgres cannot store (zero byte or half a surrogate pair)")
    found: list[Token] = []
    at = 0
    while at < len(text):
        part = _TOKEN.match(text, at)
        assert part is not None  # noqa: S101 - the last way takes any character
        token = _token(text, part)
        at = _end(text, part)
        if token is None:
            continue
        if token.kind == "text" and found and found[-1].kind == "text":
            raise ValueError(f"the text at {place(text, token.at)} continues another; join the two with ||")
        found.append(token)
    return found


def _token(text: str, part: re.Match[str]) -> Token | None:
    kind, said, start = part.lastgroup, part.group(), part.start()
    if kind == "unicode" or (kind == "sign" and said in "'\""):
        raise ValueError(f"the quotes at {place(text, start)} do not end, or have escapes that are not read here")
    if kind in ("dollar", "text"):
        return Token("text", "", start)
    if kind == "name":
        return Token("name", said[1:-1].replace('""', '"'), start)
    if kind == "word":
        return Token("word", said.lower(), start)
    return None if kind in ("space", "comment") else Token("sign", said, start)


def _end(text: str, part: re.Match[str]) -> int:
    if part.lastgroup == "comment":
        return _after_comment(text, part.end())
    if part.lastgroup != "dollar":
        return part.end()
    end = text.find(part.group(), part.end())
    if end < 0:
        raise ValueError(f"the text that starts with {part.group()} does not end")
    return end + len(part.group())


def _after_comment(text: str, at: int) -> int:
    depth = 1
    while depth:
        sign = _COMMENT.search(text, at)
        if sign is None:
            raise ValueError("a comment does not end")
        depth += 1 if sign.group() == "/*" else -1
        at = sign.end()
    return at


def place(text: str, at: int) -> str:
    """Where the character is, for an author."""
    line = text.count("\n", 0, at) + 1
    return f"line {line}, character {at - text.rfind(chr(10), 0, at)}"


def check_query(text: str) -> str:
    """The text, if it is one query as far as words tell."""
    text = text.strip().removesuffix(";").rstrip()
    found = tokens(text)
    first = next((t.text for t in found if t.text != "("), "")
    if first not in ("select", "with", "values"):
        raise ValueError("it must be a query that begins with select, with or values")
    if ends := [t for t in found if t.kind == "sign" and t.text == ";"]:
        raise ValueError(f"it is more than one statement: there is a semicolon at {place(text, ends[0].at)}")
    return text


# After these a statement begins; in PL/pgSQL a declaration or expression may, which is no harm.
_BEFORE = frozenset((";", "begin", "then", "else", "loop", ">"))
_STATEMENTS = frozenset((
    "set", "reset", "do", "copy", "create", "alter", "drop", "grant", "revoke", "prepare", "deallocate", "load",
    "listen", "unlisten", "notify", "commit", "rollback", "savepoint", "release", "discard", "import", "reassign",
    "security", "vacuum", "analyze", "cluster", "reindex", "checkpoint", "refresh", "comment", "truncate", "lock",
    "call", "start", "abort", "end_transaction",
))  # fmt: skip
_CALLS = re.compile(DENIED)
# Harmless in a function, whose author answers for what it is given.
_ALLOWED = frozenset(("format", "repeat", "lpad", "rpad", "array_fill", "nextval", "setval"))
_OF_POSTGRES = frozenset(("pg_catalog", "pg_typeof", "pg_column_size", "pg_input_is_valid"))


def check_body(text: str) -> str:
    """The text, if it neither changes who acts, nor runs a text as a statement, nor looks beyond the app."""
    found = tokens(text)
    if not found:
        raise ValueError("it is empty")
    for why, token in _refused(found):
        raise ValueError(f"{why} ({place(text, token.at)})")
    return text


def _refused(found: Sequence[Token]) -> Iterator[tuple[str, Token]]:
    before = ";"
    for token, after in zip(found, [*found[1:], Token("sign", "", 0)], strict=True):
        name = token.text if token.kind in ("word", "name") else ""
        if token.kind == "word" and name == "execute":
            yield (
                "execute runs a text as a statement, which is not allowed; write the statement, with parameters",
                token,
            )
        elif _begins(token, name, before, after):
            yield f"{name} is not allowed in a function: it reads and changes rows, and nothing else", token
        elif after.text == "(" and name not in _ALLOWED and _CALLS.match(name):
            yield f"{name}() may not be called", token
        elif name == "information_schema" or name == "regrole" or (name[:3] == "pg_" and name not in _OF_POSTGRES):
            yield f"{name} tells about the database itself, which a function may not read", token
        before = token.text if token.kind in ("word", "sign") else ""


def _begins(token: Token, name: str, before: str, after: Token) -> bool:
    """Whether a statement that is refused begins here. ``then do nothing`` is a part of merge."""
    if token.kind != "word" or name not in _STATEMENTS or before not in _BEFORE:
        return False
    return after.text not in (":", "=") and (name, after.kind, after.text) != ("do", "word", "nothing")


def words(text: str) -> frozenset[str]:
    """The names in it; those of tables, views and functions that it uses are among them."""
    return frozenset(t.text for t in tokens(text) if t.kind in ("word", "name"))
