"""Make the virtual environment from the pinned, hashed files; needs nothing but Python.

Usage: bootstrap.py VENV runtime|dev. `make` calls it. An environment whose pins have not changed is
kept; any other is made anew, so that it never holds a package that the files do not name.
(This file must parse on old Pythons too, to be able to tell them that they are too old.)
"""

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = {"runtime": ["constraints.txt"], "dev": ["constraints.txt", "constraints-dev.txt"]}
ANOTHER = "Name another one: make PYTHON=/path/to/python3"
NO_PIP = f"""\
{sys.executable} cannot make an environment with pip in it.
On Debian and Ubuntu: apt install python3-venv. {ANOTHER}"""


def digest(level: str) -> str:
    """A fingerprint of everything that decides what is installed."""
    import tomllib  # Python 3.11

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    parts = [repr(project["build-system"]), repr(project["project"]["scripts"]), sys.version, str(ROOT)]
    parts += [(ROOT / name).read_text("utf-8") for name in PINS[level]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def pip_for(venv: Path) -> "list[str]":
    """The command that installs into venv: its own pip, or this Python's where Debian left ensurepip out."""
    python = str(venv / "bin" / "python")
    if importlib.util.find_spec("ensurepip"):
        return [python, "-m", "pip"]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", python]
    sys.exit(NO_PIP)


def install(venv: Path, level: str) -> None:
    """Install the pins of level and this checkout itself."""
    pip = [*pip_for(venv), "--disable-pip-version-check", "--no-input", "--quiet"]
    pins = [flag for name in PINS[level] for flag in ("-r", str(ROOT / name))]
    subprocess.run([*pip, "install", "--require-hashes", *pins], check=True)
    # Hashes cannot be asked of a folder, so the checkout comes after, and may bring nothing along.
    subprocess.run([*pip, "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    subprocess.run([*pip, "check"], check=True, stdout=sys.stderr)


def is_current(venv: Path, level: str) -> bool:
    """Does venv hold exactly what the files name at this level?"""
    stamp = venv / ("." + level)
    return stamp.exists() and stamp.read_text("utf-8") == digest(level)


def ensure(venv: Path, level: str) -> None:
    """Bring venv to level and leave the stamp that make looks at."""
    stamp = venv / ("." + level)
    if is_current(venv, level):
        stamp.touch()
        return
    if stamp.exists() or not is_current(venv, "runtime"):
        print("Making", venv, "with Python", sys.version.split()[0], flush=True)
        flags = [] if importlib.util.find_spec("ensurepip") else ["--without-pip"]
        subprocess.run([sys.executable, "-m", "venv", "--clear", *flags, str(venv)], check=True)
    print(f"Installing the pinned packages ({level}) …", flush=True)
    install(venv, level)
    (venv / ".runtime").write_text(digest("runtime"), "utf-8")
    stamp.write_text(digest(level), "utf-8")


def main() -> None:
    """Check the Python, then the arguments, then do it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - make may find an older one first
        version = sys.version.split()[0]
        sys.exit(f"Brolly needs Python 3.11 or newer; {sys.executable} is {version}.\n{ANOTHER}")
    if len(sys.argv) != 3 or sys.argv[2] not in PINS:
        sys.exit("usage: bootstrap.py VENV runtime|dev")
    lock = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once: the second waits and finds it done
    try:
        ensure(Path(sys.argv[1]), sys.argv[2])
    except subprocess.CalledProcessError as error:
        sys.exit(f"Failed: {' '.join(map(str, error.cmd))}")


if __name__ == "__main__":
    main()
