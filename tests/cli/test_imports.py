"""What commands import: their help nearly nothing, and what draws only where something is drawn."""

import json
import subprocess
import sys

import pytest

from miner.cli.main import COMMANDS
from tests.cli.conftest import LONG, environment

pytestmark = pytest.mark.process

HEAVY = {
    "rich", "prompt_toolkit", "shtab", "pydantic", "pydantic_settings", "asyncio", "httptools", "msgspec", "aiohttp",
    "jinja2", "numpy", "ssl",
}  # fmt: skip
DRAWS = ("rich", "prompt_toolkit", "shtab")
MOST = 105
"""Modules that `miner --help` has loaded, Python's own included. It takes 35 ms then; each module about a third of
one."""
MOST_OF_A_COMMAND = 160

SHOWS_SETTINGS = ("serve",)
"""Commands whose help has all settings of the gateway with their sources: that takes their classes."""

HELP = """
import contextlib, io, json, sys
from miner.cli.main import run
with contextlib.redirect_stdout(io.StringIO()):
    status = run(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]))
"""
WATCHED = f"""
import sys
from pathlib import Path
from miner.cli.main import run
try:
    sys.exit(run(sys.argv[1:]))
finally:
    Path("drawn").write_text(" ".join(name for name in {DRAWS!r} if name in sys.modules))
"""

PIPED = {
    "generate": ["--url", "http://127.0.0.1:9", "-m", "x", "hi"],
    "embed": ["--url", "http://127.0.0.1:9", "-m", "x", "hi"],
    "rerank": ["--url", "http://127.0.0.1:9", "-m", "x", "query", "text"],
    "tokenize": ["--url", "http://127.0.0.1:9", "-m", "x", "hi"],
    "models": ["list"],
    "list": [],
    "rm": ["absent"],
    "cp": ["absent", "other"],
    "show": ["demo"],
    "pull": ["http://127.0.0.1:9/x"],
    "fit": ["demo"],
    "bench": ["--url", "http://127.0.0.1:9", "-m", "x", "--requests", "1", "--concurrency", "1"],
    "chat": ["--url", "http://127.0.0.1:9", "-m", "x"],
    "run": ["absent", "hi"],
    "serve": ["--backend", "nothing"],
    "ps": ["--url", "http://127.0.0.1:9"],
    "top": ["--url", "http://127.0.0.1:9"],
    "logs": ["--url", "http://127.0.0.1:9"],
    "load": ["x", "--url", "http://127.0.0.1:9"],
    "unload": ["x", "--url", "http://127.0.0.1:9"],
    "stop": ["x", "--url", "http://127.0.0.1:9"],
    "keys": ["list"],
    "launch": [],
    "config": ["show"],
    "import": ["litellm", "absent.yaml"],
    "doctor": ["--url", "http://127.0.0.1:9"],
    "backends": [],
    "version": [],
    "vllm": ["--model", "x"],
}
"""A call of each command that ends soon and writes to a pipe. The command that needs a package to do its work at all is
left out: `completion` prints what shtab makes."""


def child(script, arguments, tmp_path, **settings):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, stdin=subprocess.DEVNULL, cwd=tmp_path,
        env=environment(tmp_path, **settings), timeout=LONG,
    )  # fmt: skip


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nearly_nothing(command, tmp_path):
    done = child(HELP, [*([command] if command else []), "--help"], tmp_path)
    status, modules = json.loads(done.stdout)
    assert status == 0
    loaded = {name.partition(".")[0] for name in modules}
    assert loaded & set(DRAWS) == set()
    if command not in SHOWS_SETTINGS:
        assert loaded & HEAVY == set()
        assert len(modules) <= (MOST_OF_A_COMMAND if command else MOST), modules


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_nothing_that_draws_is_imported_for_a_pipe(command, tmp_path):
    settings = {"MINER_MAX_RETRIES": "0", "OLLAMA_BASE_URL": "http://127.0.0.1:9", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = child(WATCHED, [command, *PIPED[command]], tmp_path, **settings)
    assert done.returncode in (0, 1, 2), done.stderr
    assert b"bug in miner" not in done.stderr
    assert (tmp_path / "drawn").read_text() == ""
