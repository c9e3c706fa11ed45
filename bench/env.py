"""Environments of the measured clients: one each, so that their dependencies do not conflict.

    python bench/env.py             create what is missing in bench/.env
    python bench/env.py --update    and upgrade the packages

Uses uv if installed, else venv and pip. Nothing of it is a dependency of miner.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / "bench" / ".env"

ENVIRONMENTS: dict[str, list[str]] = {
    # miner as a user installs it, the bare client with its parser, and the replay server's event loop.
    "miner": ["-e", ".", "aiohttp", "orjson", "psutil", "uvloop"],
    "openai": ["openai"],
    "ollama": ["ollama"],
    "litellm": ["litellm!=1.107.0"],
    "any-llm": ["any-llm-sdk[vllm,ollama]"],
}


def python_of(name: str) -> str:
    """The interpreter of an environment.

    Raises:
        SystemExit: it has not been made yet.
    """
    found = DIRECTORY / name / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not found.exists():
        raise SystemExit(f"bench/.env/{name} is missing: run `python bench/env.py` first.")
    return str(found)


def make(name: str, packages: list[str], *, update: bool) -> None:
    """Create one environment; update an existing one only on request."""
    directory = DIRECTORY / name
    done = directory / "made"
    if done.exists() and not update:
        return
    upgrade = ["--upgrade"] if update else []
    uv = shutil.which("uv")
    if uv is not None:
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, directory], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", python_of(name)]
    else:
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [python_of(name), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *upgrade, *packages], check=True, cwd=ROOT)
    done.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these; default: all")
    parser.add_argument("--update", action="store_true", help="upgrade the packages")
    args = parser.parse_args()
    for name in args.names or ENVIRONMENTS:
        print(f"bench/.env/{name}: {' '.join(ENVIRONMENTS[name])}", flush=True)
        make(name, ENVIRONMENTS[name], update=args.update)


if __name__ == "__main__":
    main()
