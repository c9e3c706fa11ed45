"""Every script of examples/ runs on the demo model and prints what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED = {
    "chat.py": "Paris",
    "errors.py": "Did you mean seed?",
    "generate.py": "sky",
    "health.py": "llamacpp: ready",
    "many.py": "failed: prompt must be a non-empty string",
    "stream.py": "tokens",
    "structured.py": "City(",
}


def test_every_script_is_run():
    assert sorted(file.name for file in EXAMPLES.glob("*.py")) == sorted(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.engine
def test_script(name, tmp_path):
    env = {**os.environ, "LLM_BACKEND": "llamacpp", "LLAMACPP_THREADS": "1", "LLAMACPP_PARALLEL": "4"}
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=tmp_path,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[name] in done.stdout
    assert "Traceback" not in done.stderr
