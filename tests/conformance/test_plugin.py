"""The pytest plugin in other projects: it changes nothing there."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process


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
