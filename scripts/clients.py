"""Installs the clients of tests/live/clients; prints their directory.

    python scripts/clients.py

Python clients go into a virtual environment by uv, JavaScript clients by npm, both into `$MINER_CACHE` or
`~/.cache/miner`, under a name made of what is installed: another version is another directory.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLIENTS = Path(__file__).resolve().parents[1] / "tests" / "live" / "clients"
ENVIRONMENTS = {
    "python": "requirements.txt", "llamaindex": "requirements-llamaindex.txt",
    "pydantic-ai": "requirements-pydantic-ai.txt",
}  # fmt: skip
FILES = (*ENVIRONMENTS.values(), "package.json")
PROGRAMS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "fish": ("fish",), "zsh": ("zsh",)}
"""Package -> the names of its program."""


def main() -> int:
    """Install them unless they are there."""
    cache = Path(os.environ.get("MINER_CACHE") or Path.home() / ".cache" / "miner")
    cache.mkdir(parents=True, exist_ok=True)
    version = ".".join(map(str, sys.version_info[:2]))
    name = hashlib.sha256(b"".join((CLIENTS / file).read_bytes() for file in FILES)).hexdigest()[:12]
    there = cache / f"clients-{version}-{name}"
    _install_programs()
    with Path(f"{there}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (there / "complete").exists():
            shutil.rmtree(there, ignore_errors=True)
            _install(there)
            (there / "complete").touch()
    print(there)
    return 0


def _install_programs() -> None:
    """Install a browser and shells by apt, where that is possible."""
    missing = [package for package, names in PROGRAMS.items() if not any(map(shutil.which, names))]
    if missing and shutil.which("apt-get"):
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", *command], check=False, stdout=sys.stderr)


def _install(there: Path) -> None:
    javascript = there / "javascript"
    javascript.mkdir(parents=True)
    shutil.copy(CLIENTS / "package.json", javascript)
    npm = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel", "error"]
    subprocess.run(npm, cwd=javascript, check=True, stdout=sys.stderr)
    for name, requirements in ENVIRONMENTS.items():
        python = there / name
        subprocess.run(["uv", "venv", "-q", "--python", sys.executable, str(python)], check=True, stdout=sys.stderr)
        pip = ["uv", "pip", "install", "-q", "--python", str(python / "bin" / "python")]
        subprocess.run([*pip, "-r", str(CLIENTS / requirements)], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
