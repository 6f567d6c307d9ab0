"""The repository keeps its shape, and every rule of scripts/shape.py catches what it is for."""

from pathlib import Path

import pytest

from scripts import shape

ROOT = Path(__file__).resolve().parents[2]
INIT = '"""Notes."""\n\nfrom brolly.core.slice import Slice\n\nSLICE = Slice("notes")\n'
GOOD = {
    "src/brolly/__init__.py": '"""Brolly."""\n',
    "src/brolly/core/tool.py": '"""The tool table; core is no slice."""\n',
    "src/brolly/notes/__init__.py": INIT,
    "src/brolly/notes/service.py": '"""Notes: rules."""\n',
    "src/brolly/notes/routes.py": '"""Notes: routes."""\n',
    "src/brolly/notes/tool.py": '"""Notes: the action table."""\n',
    "src/brolly/notes/note_pages.py": '"""A further noun."""\n',
    "src/brolly/notes/template/page.html": "<p>",
    "tests/unit/test_notes.py": "def test_one():\n" + "    pass\n" * 59,
    "constraints.txt": "# pins\nanyio==4.16.0 \\\n    --hash=sha256:00\n",
    ".venv/lib/utils.lock": "https://example.org\n",
}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_repository_keeps_its_shape() -> None:
    violations = shape.check(ROOT)
    assert not violations, "\n".join(map(str, violations))


def test_good_tree_passes(tmp_path: Path) -> None:
    plant(tmp_path, GOOD)
    assert shape.check(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("src/brolly/long.py", '"""Long."""\n' + "x = 1\n" * 400, 401, "401 lines, 400 are allowed"),
        ("bench/long.py", "x = 1\n" * 401, 401, "401 lines"),
        ("src/brolly/f.py", '"""F."""\n\ndef f():\n' + "    pass\n" * 60, 3, "f has 61 lines, 60 are allowed"),
        ("tests/unit/test_f.py", "class T:\n    async def f():\n" + "        pass\n" * 60, 2, "f has 61 lines"),
        ("src/brolly/bare.py", "x = 1\n", 1, "no docstring"),
        ("src/brolly/notes/utils.py", '"""U."""\n', 1, "utils says nothing"),
        ("tests/misc/test_x.py", "", 1, "misc says nothing"),
        ("scripts/common.py", "", 1, "common says nothing"),
        ("bench/test_helpers.py", "", 1, "test_helpers says nothing"),
        ("src/brolly/notes/parts/__init__.py", '"""P."""\n', 1, "modules, not packages"),
        ("src/brolly/notes/Note.py", '"""N."""\n', 1, "lower-case noun"),
        ("src/brolly/notes/__init__.py", INIT + "LIMIT = 3\n", 6, "only imports and SLICE"),
        ("src/brolly/notes/__init__.py", INIT + "\ndef f(): ...\n", 7, "only imports and SLICE"),
        ("src/brolly/notes/__init__.py", '"""Notes."""\n', 1, "not declared"),
        ("constraints.txt", "--index-url x\n", 1, "registry's address"),
        ("constraints-dev.txt", "anyio==4.16.0\nx @ https://example.org/x.whl\n", 2, "registry's address"),
        ("docs/package-lock.json", '{"resolved": "https://registry.npmjs.org/x"}', 1, "registry's address"),
        ("uv.lock", 'source = { registry = "https://pypi.org/simple" }', 1, "registry's address"),
    ],
)
def test_violation_is_caught(tmp_path: Path, name: str, text: str, line: int, reason: str) -> None:
    plant(tmp_path, GOOD | {name: text})
    found = shape.check(tmp_path)
    assert [(v.path, v.line) for v in found] == [(name, line)]
    assert reason in found[0].reason


def test_lone_tool_is_a_slice(tmp_path: Path) -> None:
    plant(tmp_path, GOOD | {"src/brolly/lone/tool.py": '"""A tool."""\n'})
    assert [v.path for v in shape.check(tmp_path)] == ["src/brolly/lone/__init__.py", "src/brolly/lone/service.py"]


def test_slice_without_tool_is_a_slice(tmp_path: Path) -> None:
    plant(tmp_path, GOOD)
    for name in ("tool.py", "service.py"):
        (tmp_path / "src/brolly/notes" / name).unlink()
    assert [v.path for v in shape.check(tmp_path)] == ["src/brolly/notes/service.py"]


def test_main_prints_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, GOOD | {"src/brolly/bare.py": "x = 1\n"})
    monkeypatch.setattr("sys.argv", ["shape.py", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        shape.main()
    assert stop.value.code == 1
    assert capsys.readouterr().out == "src/brolly/bare.py:1: the module has no docstring; one line is enough\n"
