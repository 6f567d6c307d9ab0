"""The limits on the shape of the code that no other tool knows: sizes, names, and the files of a slice.

Usage: shape.py [ROOT]. Prints each violation as file:line: reason, and exits with 1 if there is one.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
CODE_FOLDERS = ("src", "scripts", "tests", "bench")
PACKAGE = "src/brolly"
NO_NOUNS = {"common", "helper", "helpers", "misc", "util", "utils"}
SLICE_NEEDS = ("__init__.py", "service.py")
LOCK_FILES = ("constraints*.txt", "requirements*.txt", "*.lock", "package-lock.json", "npm-shrinkwrap.json")
ADDRESS = re.compile(r"[a-z+]+://|^\s*(?:-i|-f|--(?:extra-)?index-url|--find-links)\b|\b(?:pypi|npmjs)\.org\b")


@dataclass(frozen=True, order=True)
class Violation:
    """One line that breaks a limit, and how."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """A Python file, read and parsed once."""

    path: Path
    name: str  # relative to the root, with forward slashes
    lines: int
    tree: ast.Module


Found = Iterator[Violation]


def read_sources(root: Path) -> list[Source]:
    """Every Python file of the code folders."""
    sources: list[Source] = []
    for folder in CODE_FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text("utf-8")
            name = path.relative_to(root).as_posix()
            sources.append(Source(path, name, len(text.splitlines()), ast.parse(text, name)))
    return sources


def check_file_lengths(sources: list[Source]) -> Found:
    """No file is longer than a reader can hold."""
    for source in sources:
        if source.lines > MAX_FILE_LINES:
            reason = f"{source.lines} lines, {MAX_FILE_LINES} are allowed; split the file by noun"
            yield Violation(source.name, source.lines, reason)


def check_function_lengths(sources: list[Source]) -> Found:
    """No function is longer than a screen, counted from its def line to its last."""
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                reason = f"{node.name} has {lines} lines, {MAX_FUNCTION_LINES} are allowed; name its steps"
                yield Violation(source.name, node.lineno, reason)


def check_names(sources: list[Source]) -> Found:
    """Modules and packages are named after what they hold."""
    for source in sources:
        for part in Path(source.name).with_suffix("").parts:
            if NO_NOUNS.intersection(part.split("_")):
                yield Violation(source.name, 1, f"{part} says nothing of what is in it; name the noun")


def check_docstrings(sources: list[Source]) -> Found:
    """Every module of the package says in its first line what it is."""
    for source in sources:
        if source.name.startswith(f"{PACKAGE}/") and not ast.get_docstring(source.tree):
            yield Violation(source.name, 1, "the module has no docstring; one line is enough")


def assigns_slice(tree: ast.Module) -> bool:
    """Does the module set SLICE?"""
    return any(is_slice_assignment(node) for node in tree.body)


def is_slice_assignment(node: ast.stmt) -> bool:
    """Is it `SLICE = …` or `SLICE: Slice = …`?"""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [ast.unparse(target) for target in targets] == ["SLICE"]


def find_slices(root: Path, sources: list[Source]) -> list[Path]:
    """The folders of the package that have a tool.py, or whose __init__.py sets SLICE."""
    package = root / PACKAGE
    slices = {source.path.parent for source in sources if source.path.name == "tool.py"}
    slices |= {
        source.path.parent for source in sources if source.path.name == "__init__.py" and assigns_slice(source.tree)
    }
    return sorted(folder for folder in slices if folder.parent == package and folder.name != "core")


def check_slice_files(root: Path, sources: list[Source]) -> Found:
    """A slice is one flat folder that has the files every slice has."""
    for folder in find_slices(root, sources):
        name = folder.relative_to(root).as_posix()
        for needed in SLICE_NEEDS:
            if not (folder / needed).is_file():
                yield Violation(f"{name}/{needed}", 1, "every slice has this file")
        for source in sources:
            if folder in source.path.parents and source.path.parent != folder:
                yield Violation(source.name, 1, "a slice holds modules, not packages")
            elif source.path.parent == folder and not re.fullmatch(r"__init__|[a-z][a-z0-9_]*", source.path.stem):
                yield Violation(source.name, 1, "a module is a lower-case noun")


def check_slice_inits(root: Path, sources: list[Source]) -> Found:
    """The __init__.py of a slice holds a docstring, imports and SLICE."""
    inits = {folder / "__init__.py" for folder in find_slices(root, sources)}
    for source in sources:
        if source.path not in inits:
            continue
        if not assigns_slice(source.tree):
            yield Violation(source.name, 1, "the slice is not declared; set SLICE = Slice(…)")
        for index, node in enumerate(source.tree.body):
            docstring = index == 0 and isinstance(node, ast.Expr)
            if not (docstring or isinstance(node, ast.Import | ast.ImportFrom) or is_slice_assignment(node)):
                yield Violation(
                    source.name, node.lineno, "only imports and SLICE may stand here; move it to service.py"
                )


def check_lock_files(root: Path) -> Found:
    """Pins name packages, versions and hashes; where they come from is the reader's own setting."""
    for path in sorted({path for pattern in LOCK_FILES for path in root.rglob(pattern)}):
        relative = path.relative_to(root)
        if any(part.startswith(".") or part == "node_modules" for part in relative.parts):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if ADDRESS.search(line):
                yield Violation(
                    relative.as_posix(), number, "names a registry's address; keep name, version and hash only"
                )


def check(root: Path) -> list[Violation]:
    """All violations below root, in reading order."""
    sources = read_sources(root)
    return sorted(
        [
            *check_file_lengths(sources),
            *check_function_lengths(sources),
            *check_names(sources),
            *check_docstrings(sources),
            *check_slice_files(root, sources),
            *check_slice_inits(root, sources),
            *check_lock_files(root),
        ]
    )


def main() -> None:
    """Check the repository, or the folder given."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    violations = check(root.resolve())
    for violation in violations:
        print(violation)
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
