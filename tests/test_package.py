"""`import miner` beside a program with a top-level directory of that name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
EXTEND = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"


@pytest.mark.parametrize("init", [None, EXTEND], ids=["no __init__", "an __init__ with the line of the README"])
def test_submodules_of_both_are_found(tmp_path, init):
    theirs = tmp_path / "miner"
    (theirs / "protocol").mkdir(parents=True)
    (theirs / "neuron.py").write_text("NAME = 'theirs'\n")
    (theirs / "protocol" / "__init__.py").write_text("VERSION = 3\n")
    if init is not None:
        (theirs / "__init__.py").write_text(init)
    (tmp_path / "program.py").write_text(
        "from miner.neuron import NAME\nfrom miner.protocol import VERSION\nfrom miner.core.llms import get_backend\n"
        "from miner.config.config import MinerConfig\nprint(NAME, VERSION, get_backend('vllm', MinerConfig()).name)\n"
    )
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == ("theirs 3 vllm", 0), done.stderr
