"""Cost of importing the library, compared with aiohttp, and duration of `miner --help`.

    python bench/env.py miner      once
    python -m bench.imports

Each measurement is a new process in an environment with miner only; interleaved; medians. CPU time is printed too,
since wall time depends on other load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from pathlib import Path

from bench.env import ROOT, python_of

TARGET = 0.060
"""Seconds that `miner --help` may take on a quiet machine."""


def _run(command: list[str]) -> tuple[float, float, float]:
    """Wall and CPU seconds of a process, and its peak RSS in MiB."""
    began = time.perf_counter()
    # With byte code, as installed: otherwise this measures the compiler.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    python = python_of("miner")
    commands = {
        'python -c ""': [python, "-c", ""],
        "import aiohttp": [python, "-c", "import aiohttp"],
        "import miner.core.llms": [python, "-c", "import miner.core.llms"],
        "... and all three services": [
            python, "-c", "import miner.core.llms.llm_vllm, miner.core.llms.llm_ollama, miner.core.llms.llm_llamacpp"
        ],
        "... and MinerConfig()": [
            python, "-c", "import miner.core.llms.llm_vllm; from miner.config.config import MinerConfig; MinerConfig()"
        ],
        "import argparse, typing": [python, "-c", "import argparse, typing"],
        "miner --help": [str(Path(python).with_name("miner")), "--help"],
    }  # fmt: skip
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            cost = _run(command)
            if number:  # the first one writes the byte code
                taken[name].append(cost)
    print(f"{rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| | wall, ms | CPU, ms | memory, MiB | CPU vs. aiohttp | memory vs. aiohttp |\n|---|---|---|---|---|---|")

    def of(name: str, which: int) -> float:
        return statistics.median(cost[which] for cost in taken[name])

    for name in commands:
        wall, cpu, memory = (of(name, which) for which in range(3))
        print(f"| `{name}` | {wall * 1000:.0f} | {cpu * 1000:.0f} | {memory:.1f} | {cpu / of('import aiohttp', 1):.2f} "
              f"| {memory / of('import aiohttp', 2):.2f} |")  # fmt: skip
    print(f"\n`miner --help`: target {TARGET * 1000:.0f} ms, measured {of('miner --help', 0) * 1000:.0f} ms.")


if __name__ == "__main__":
    main()
