"""`import miner` beside a program with a top-level directory of that name, and the pytest plugin in other projects."""

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


def test_the_pytest_plugin_clashes_with_nothing_of_another_project(tmp_path):
    """Options, markers and fixtures of such common names are other people's."""
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "def pytest_addoption(parser):\n"
        "    for name in ('backend', 'model', 'matrix', 'patience'):\n"
        "        parser.addoption('--' + name, default='ours')\n"
        "def pytest_configure(config):\n"
        "    config.addinivalue_line('markers', 'capability: ours')\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.capability\n"
        "def test_options(pytestconfig):\n"
        "    assert pytestconfig.getoption('backend') == 'mine'\n"
        "    assert pytestconfig.getoption('model') == 'ours'\n"
        "def test_fixture(contract):\n"
        "    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", "--backend", "mine"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "fixture 'contract' not found" in done.stdout
