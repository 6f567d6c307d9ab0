"""What a folder of source is: its framework, its package manager, where its build puts the site. Blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Manager = Literal["deno", "npm", "pnpm", "yarn"]
LOCKFILES = ("deno.lock", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock")
DEFAULT_COMMAND = "npm run build"
_ANYWHERE = ("dist", "build", "out", ".output/public", "public", "_site", "www")
_LARGEST_DOCUMENT = 1024 * 1024
# By the first of these that it depends on: the framework's name, and where its build puts the site.
_FRAMEWORKS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("next", "Next.js", ("out",)),
    ("@sveltejs/kit", "SvelteKit", ("build",)),
    ("astro", "Astro", ("dist",)),
    ("nuxt", "Nuxt", (".output/public", "dist")),
    ("gatsby", "Gatsby", ("public",)),
    ("vitepress", "VitePress", (".vitepress/dist", "docs/.vitepress/dist")),
    ("@11ty/eleventy", "Eleventy", ("_site",)),
    ("react-scripts", "Create React App", ("build",)),
    ("@angular/core", "Angular", ("dist",)),
    ("vite", "Vite", ("dist",)),
    ("parcel", "Parcel", ("dist",)),
)


class BuildFailedError(Exception):
    """The build ended without a site; the text says why, for whoever wrote the source."""


@dataclass(frozen=True, slots=True)
class Project:
    """``kind`` is the framework as deployments name it; ``has_script`` whether package.json has the script build."""

    folder: Path
    framework: str
    kind: str
    outputs: tuple[str, ...]
    lockfile: str
    document: dict[str, Any] | None

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to install or run."""
        return self.document is None

    @property
    def scripts(self) -> dict[str, Any]:
        """The scripts of package.json."""
        found: Any = (self.document or {}).get("scripts")
        return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]

    @property
    def needs(self) -> bool:
        """Whether there are packages to install."""
        names = ("dependencies", "devDependencies", "optionalDependencies", "workspaces")
        return any((self.document or {}).get(name) for name in names)


def find_project(source: Path) -> Project:
    """Look at the source: at its top, or in the only folder that it has."""
    folder = source
    if not (folder / "package.json").exists() and not (folder / "index.html").exists():
        below = [each for each in folder.iterdir() if not each.name.startswith(".")]
        if len(below) == 1 and below[0].is_dir():
            folder = below[0]
    document = _document(folder)
    if document is None:
        if not (folder / "index.html").exists():
            raise BuildFailedError(
                "The source has neither a package.json nor an index.html at its top. Zip the project's own folder."
            )
        return Project(folder, "plain HTML", "static", ("",), "", None)
    names = {
        *document.get("dependencies", {}),
        *document.get("devDependencies", {}),
    }
    lockfile = next((name for name in LOCKFILES if (folder / name).is_file()), "")
    for package, framework, outputs in _FRAMEWORKS:
        if package in names:
            return Project(folder, framework, _kind(package, names), (*outputs, *_ANYWHERE), lockfile, document)
    return Project(folder, "another framework", "other", _ANYWHERE, lockfile, document)


def _kind(package: str, names: set[str]) -> str:
    if package == "vite" and "react" in names:
        return "react-vite"
    return {"next": "nextjs-static", "vite": "other"}.get(package, "static")


def _document(folder: Path) -> dict[str, Any] | None:
    path = folder / "package.json"
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LARGEST_DOCUMENT:
            raise ValueError("it is too long")
        found: Any = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        for name in ("dependencies", "devDependencies"):
            if not isinstance(found.get(name, {}), dict):  # pyright: ignore[reportUnknownMemberType]
                raise ValueError(f"its {name} are no object")
    except ValueError as error:
        raise BuildFailedError(f"package.json cannot be read: {error}.") from None
    return found  # pyright: ignore[reportUnknownVariableType]


def find_output(project: Project, asked: str | None) -> Path:
    """The folder with the site, which lies in the project and is reached without links."""
    if project.is_plain and not asked:
        return project.folder
    candidates: Sequence[str] = (asked,) if asked else project.outputs
    for name in candidates:
        found = _inside(project.folder, name)
        if found is not None and (found / "index.html").is_file():
            return found
    raise BuildFailedError(_no_output(project, asked))


def _inside(folder: Path, name: str) -> Path | None:
    """The folder of that name below; None when there is none, or the way leads through a link."""
    at = folder
    for part in Path(name).parts:
        at = at / part
        if part in ("..", "/") or at.is_symlink() or not at.is_dir():
            return None
    return at


def _no_output(project: Project, asked: str | None) -> str:
    hints = {
        "Next.js": " Set output: 'export' in next.config; pages that need a server cannot be hosted this way.",
        "SvelteKit": " Use @sveltejs/adapter-static in place of another adapter, and prerender = true.",
    }
    found = sorted(
        str(page.parent.relative_to(project.folder))
        for pattern in ("*/index.html", "*/*/index.html", "*/*/*/index.html")
        for page in project.folder.glob(pattern)
        if "node_modules" not in page.parts
    )
    where = f"no index.html in {asked}" if asked else f"no folder with an index.html ({', '.join(project.outputs[:3])})"
    hint = f" There is one in {found[0]}: set output_dir to it." if found else hints.get(project.framework, "")
    return f"The build ended well, but left {where}.{hint}"
