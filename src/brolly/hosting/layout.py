"""What is in an unpacked folder: which part of it is the site, what is left out, what is wrong with it. Blocks."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from brolly.hosting.archive import BadArchiveError, Bounds

BUILD_FOLDERS = ("dist", "build", "out", "public", "_site", ".output/public", "www", "output")
_KEPT_DOTS = (".well-known",)
_SOURCE = re.compile(r"""<script[^>]+src=["']?/?src/[^"'>]+\.(?:tsx?|jsx?|mts|vue|svelte)""")
_LEFT_OUT = ("node_modules", ".git")
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Layout:
    """The site's files by their paths below ``root``, which is below the folder ("" when it is the folder)."""

    root: str
    files: dict[str, Path]
    warnings: tuple[str, ...]


def inspect(folder: Path, bounds: Bounds, *, search: bool = True) -> Layout:
    """Find the site in the folder. Raises ``BadArchiveError`` when there is none, or more than is allowed.

    ``search`` looks for it in the folders where builds put it, when it is not at the top.
    """
    files = _files(folder, bounds)
    if not files:
        raise BadArchiveError("There are no files to serve.")
    root = _root(files) if search else ""
    if root is None or (root == "" and "index.html" not in files):
        raise BadArchiveError(_no_index(files))
    if root == "" and "package.json" in files:
        _refuse_source(files)
    kept, left_out = _kept({p.removeprefix(root + "/" if root else ""): f for p, f in files.items() if _below(p, root)})
    return Layout(root, kept, tuple(_warnings(root, left_out)))


def _files(folder: Path, bounds: Bounds) -> dict[str, Path]:
    found: dict[str, Path] = {}
    total, open_folders = 0, [folder]
    while open_folders:
        for entry in sorted(os.scandir(open_folders.pop()), key=lambda e: e.name):
            path = Path(entry.path)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                if entry.name not in _LEFT_OUT:
                    open_folders.append(path)
                continue
            name = path.relative_to(folder).as_posix()
            if not stat.S_ISREG(mode):
                raise BadArchiveError(f"{ascii(name)[:120]} is not a plain file; links are not served.")
            total += entry.stat(follow_symlinks=False).st_size
            found[name] = path
            if len(found) > bounds.files or total > bounds.total_bytes:
                raise BadArchiveError(
                    f"There are more than {bounds.files} files, or {bounds.total_bytes // 1_048_576} MB, to serve."
                )
    return found


def _below(path: str, root: str) -> bool:
    return not root or path.startswith(root + "/")


def _root(files: dict[str, Path]) -> str | None:
    """Where the site begins: at the top, in the only folder, or where builds put it; None when nowhere."""
    if "index.html" in files:
        return ""
    top = ""
    while True:
        firsts = {path.removeprefix(top).split("/", 1)[0] for path in files if path.startswith(top)}
        if len(firsts) != 1:
            break
        only = f"{top}{next(iter(firsts))}"
        if f"{only}/index.html" in files:
            return only
        if only in files:
            return None
        top = only + "/"
    return next((top + name for name in BUILD_FOLDERS if f"{top}{name}/index.html" in files), None)


def _no_index(files: dict[str, Path]) -> str:
    tops = Counter(path.split("/", 1)[0] + ("/" if "/" in path else "") for path in files)
    shown = ", ".join(sorted(tops)[:MOST_NAMED])
    if len(files) == 1 and shown.lower().endswith(".zip"):
        return f"The zip holds only another zip, {shown}. Send that one."
    where = next((path for path in sorted(files, key=len) if path.endswith("/index.html")), None)
    hint = f" There is {where}: zip the content of that folder." if where else ""
    if "package.json" in files:
        hint = " This is the source of a project: build it, and zip the content of its output folder (dist, out)."
    return f"There is no index.html at the top, where {shown} is.{hint}"


def _refuse_source(files: dict[str, Path]) -> None:
    with files["index.html"].open("rb") as page:
        text = page.read(65_536).decode("utf-8", "replace")
    if _SOURCE.search(text):
        raise BadArchiveError(
            "This is the source of a project, whose index.html loads files that browsers cannot run. Build it "
            "(npm run build), and zip the content of its output folder (dist)."
        )


def _kept(files: dict[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """Without hidden files: among them are those with secrets, such as .env and .git."""
    kept: dict[str, Path] = {}
    left_out: list[str] = []
    for path, file in files.items():
        hidden = any(p.startswith(".") and p not in _KEPT_DOTS for p in path.split("/"))
        if hidden:
            left_out.append(path)
        else:
            kept[path] = file
    return kept, sorted(left_out)


def _warnings(root: str, left_out: list[str]) -> list[str]:
    found: list[str] = []
    if root:
        found.append(f"Not the content of {root} but the folder was sent; {root} is served as the site's top.")
    if left_out:
        more = f" and {len(left_out) - MOST_NAMED} more" if len(left_out) > MOST_NAMED else ""
        found.append(f"Hidden files are not served: {', '.join(left_out[:MOST_NAMED])}{more}.")
    return found
