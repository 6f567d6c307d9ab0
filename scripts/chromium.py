"""See that there is a Chromium for the tests that open pages: found, or installed where that is possible.

Usage: chromium.py. `make test` calls it. As root on Debian and its like it installs the package chromium; elsewhere
it says what to install, and fails.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = """\
The tests open pages in Chromium, and there is none on the PATH (looked for: {}).
On Debian: apt-get install chromium. On Fedora: dnf install chromium. Elsewhere set CHROMIUM=/path/to/chromium."""


def find_chromium() -> "str | None":
    """The program that CHROMIUM names, or the first on the PATH."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def _install() -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet = ["apt-get", "--quiet", "--yes"]
    print("Installing chromium for the tests that open pages …", flush=True)
    for words in (["update"], ["install", "--no-install-recommends", "chromium"]):
        subprocess.run([*quiet, *words], env=environ, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def main() -> None:
    """Find or install it, or say what is missing."""
    if find_chromium() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            _install()
        except subprocess.CalledProcessError as error:
            print(f"Failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
    if find_chromium() is None:
        sys.exit(MISSING.format(", ".join(NAMES)))


if __name__ == "__main__":
    main()
