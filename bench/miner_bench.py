"""`miner bench`, for the programs here that compare two servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def miner_bench(url: str, *, concurrency: int, requests: int, **options: Any) -> dict[str, Any]:
    """One run at a server: an item of `runs` of the result (docs/cli.md). A failed request is an error.

    Args:
        options: further ones, `max_tokens=16` for `--max-tokens 16`; True for one without a value.
    """
    command = [
        sys.executable, "-m", "miner", "bench", "--url", url, "--concurrency", str(concurrency), "--requests",
        str(requests), "--json",
    ]  # fmt: skip
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    run: dict[str, Any] = json.loads(done.stdout)["runs"][0]
    if run["failed"]:
        raise RuntimeError(f"{run['failed']} requests failed: {run['error_examples']}")
    return run
