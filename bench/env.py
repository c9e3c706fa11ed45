"""Environments for the clients that are measured: one for each, so that none holds another's packages back.

    python bench/env.py             makes what is missing in bench/.env
    python bench/env.py --update    and brings the packages to their current versions

With uv where it is installed, else with venv and pip. None of it is ever part of the product's resolution.
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
    # The product as a user installs it; beside it the bare client with its parser, the loop of the replay server.
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
    """Make one environment. One that is there is left alone, unless it shall be updated."""
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
    parser.add_argument("--update", action="store_true", help="bring the packages to their current versions")
    args = parser.parse_args()
    for name in args.names or ENVIRONMENTS:
        print(f"bench/.env/{name}: {' '.join(ENVIRONMENTS[name])}", flush=True)
        make(name, ENVIRONMENTS[name], update=args.update)


if __name__ == "__main__":
    main()
