"""The table of error codes, the code that raises them, the advice they give and the tests that see them agree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from brolly.core.errors import CODES, AppError, error_body
from brolly.core.habits import INSTEAD
from brolly.deps import Deps
from brolly.pg.errors import translated
from scripts.schemas import scratch_database
from tests.conftest import http_client
from tests.contract.mentions import TOOLS, named_tools, wrong_names

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "src/brolly/core/errors.py"
SOURCES = {path: ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "src").rglob("*.py")) if path != TABLE}

# For the person at the command line, or a client that has not reached the server: no tool can help there.
TO_THE_OPERATOR = {"CONFIG_INVALID"}
BEFORE_THE_SERVER = ("src/brolly/bridge/", "src/brolly/commands/", "src/brolly/authorization/owner.py")
COMMAND = re.compile(
    r"\bbrolly (connect|demo|deploy|doctor|down|keys|logs|mcp|migrate|owner|serve|status|up)\b|\bBROLLY_[A-Z_]+"
)
# What stands in an f-string for the name of a tool.
TOOL_IN_BRACES = {"self.name", "', '.join(names)", "self._form(label, one_app)", "', '.join(tools)", "call"}


def raised() -> set[str]:
    """Every code that stands as a text somewhere in the package."""
    texts = (node.value for tree in SOURCES.values() for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and text in CODES}


def wording(node: ast.expr) -> Iterator[str]:
    """The texts that an expression can give; what stands in braces becomes a tool or a blank."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [
            str(part.value) if isinstance(part, ast.Constant) else braces(part)
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        ]
        yield "".join(parts)
    elif isinstance(node, ast.IfExp):
        yield from wording(node.body)
        yield from wording(node.orelse)
    elif isinstance(node, ast.BinOp):
        yield "".join(text for side in (node.left, node.right) for text in wording(side))


def braces(part: ast.FormattedValue) -> str:
    return "list_regions" if ast.unparse(part.value) in TOOL_IN_BRACES else "…"


def remedies() -> Iterator[tuple[str, str, str]]:
    """Place, code and text of every remediation written beside the error that carries it."""
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                first = node.args[0] if node.args else None
                code = first.value if isinstance(first, ast.Constant) else ""
                for keyword in node.keywords:
                    if keyword.arg == "remediation":
                        for text in wording(keyword.value):
                            yield f"{path.relative_to(ROOT)}:{keyword.value.lineno}", str(code), text


def helps(place: str, code: str, text: str) -> bool:
    """Whether the text names a tool, or for the operator a command or a setting."""
    if place.startswith(BEFORE_THE_SERVER):
        return bool(named_tools(text) or COMMAND.search(text))
    return bool(code in TO_THE_OPERATOR or named_tools(text))


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_code_is_raised_somewhere(code: str) -> None:
    if CODES[code].retired:
        assert code not in raised(), "a retired code is never raised again"
    else:
        assert code in raised(), "remove it from core/errors.py, or mark it retired if it was ever published"


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_code_says_what_it_means_and_names_a_tool(code: str) -> None:
    entry = CODES[code]
    assert entry.meaning, "say in core/errors.py what it means"
    assert 400 <= entry.status < 600
    assert not list(wrong_names(entry.remediation))
    assert code in TO_THE_OPERATOR or named_tools(entry.remediation), entry.remediation


def test_each_remedy_in_the_code_names_a_tool_that_exists() -> None:
    found = list(remedies())
    assert found
    wrong = [f"{place}: {what}" for place, _, text in found for what in wrong_names(text)]
    wrong += [f"{place}: names no tool: {text}" for place, code, text in found if not helps(place, code, text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_each_habit_is_answered_with_a_tool_and_action_that_exist(name: str) -> None:
    assert name not in TOOLS
    assert named_tools(INSTEAD[name])
    assert not list(wrong_names(INSTEAD[name]))


def test_each_code_is_seen_by_a_test() -> None:
    seen = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [code for code in CODES if not CODES[code].retired and not re.search(rf"\b{code}\b", seen)]
    assert not missing, f"no test reaches: {', '.join(missing)}"


def test_the_envelope_has_the_same_keys_everywhere() -> None:
    error = AppError("APP_PAUSED", "Paused.", details={"paused_reason": None}, retry_after=60)
    body = error_body(error, "http://brolly.test")["error"]
    assert list(body) == ["code", "message", "remediation", "documentation_url", "details"]
    assert body["documentation_url"] == "http://brolly.test/docs/errors#app-paused"
    assert "details" not in error_body(AppError("APP_PAUSED", "Paused."))["error"]


async def test_a_policy_that_needs_a_user_says_so(deps: Deps) -> None:
    async with scratch_database(deps) as connection:
        await connection.execute(
            "create function current_user_id() returns text language sql return 'x'; "
            "revoke all on function current_user_id() from public"
        )
        await connection.execute("set role butterbase_anon")
        with pytest.raises(AppError) as failed, translated():
            await connection.execute("select public.current_user_id()")
        await connection.execute("reset role")
    assert failed.value.code == "AUTH_RLS_REQUIRES_USER_JWT"


async def refused(deps: Deps, request: httpx.Request) -> tuple[int, dict[str, str], httpx.Headers]:
    async with http_client(deps) as client:
        answer = await client.send(request)
    return answer.status_code, answer.json()["error"], answer.headers


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "AUTH_REQUIRED"),
        ("Basic dXNlcjpwdw==", "AUTH_INVALID_TOKEN"),
        ("Bearer", "AUTH_INVALID_TOKEN"),
        ("Bearer hunter2", "AUTH_INVALID_TOKEN"),
        ("Bearer bb_sk_" + "0" * 39, "AUTH_INVALID_TOKEN"),
        ("Bearer bb_sk_" + "0" * 40, "AUTH_INVALID_API_KEY"),
    ],
)
@pytest.mark.parametrize("path", ["/apps", "/mcp"])
async def test_missing_and_wrong_credentials_are_told_apart(
    deps: Deps, header: str | None, code: str, path: str
) -> None:
    headers = {"Authorization": header} if header else {}
    request = httpx.Request("POST" if path == "/mcp" else "GET", f"http://brolly.test{path}", headers=headers)
    status, error, answer = await refused(deps, request)
    assert (status, error["code"]) == (401, code)
    assert answer["WWW-Authenticate"].startswith("Bearer ")
    assert "hunter2" not in str(error)


async def test_a_body_over_the_limit_is_refused(deps: Deps, owner_key: str) -> None:
    request = httpx.Request(
        "POST",
        "http://brolly.test/init",
        headers={"Authorization": f"Bearer {owner_key}"},
        content=b" " * (deps.settings.body_limit + 1),
    )
    status, error, _ = await refused(deps, request)
    assert (status, error["code"]) == (413, "REQUEST_TOO_LARGE")


async def test_each_code_has_its_place_on_the_page(anon_http: httpx.AsyncClient) -> None:
    page = (await anon_http.get("/docs/errors")).text
    for code in CODES:
        slug = error_body(AppError(code, "x"))["error"]["documentation_url"].split("#")[1]
        assert page.count(f'id="{slug}"') == 1
