"""Without the extras: what needs one says which, all else works."""

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import LONG, environment

pytestmark = pytest.mark.process

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from miner.cli.main import run
sys.exit(run(sys.argv[1:]))
""".format(
    missing=(
        "aiohttp",
        "multidict",
        "prometheus_client",
        "tomlkit",
        "uvloop",
        "rich",
        "prompt_toolkit",
        "shtab",
        "yaml",
    )
)


def run(*arguments, directory):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, stdin=subprocess.DEVNULL, cwd=directory,
        env=environment(directory), timeout=LONG,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["keys", "new", "x"], "serve"), (["keys", "list"], "serve"), (["serve"], "serve"),
        (["config", "init", "--add"], "serve"), (["completion", "bash"], "cli"),
    ],
)  # fmt: skip
def test_what_needs_a_package_says_what_to_install(arguments, extra, tmp_path):
    (tmp_path / "miner.toml").write_text("[models.demo]\n")
    status, out, err = run(*arguments, directory=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith("miner: ")
    assert "which is not installed." in err
    assert err.endswith(f'Install it with: pip install "llm-service-backends[{extra}]"\n')


def test_it_is_an_error_in_json_too(tmp_path):
    status, out, _ = run("keys", "list", "--json", directory=tmp_path)
    error = json.loads(out)["error"]
    assert (status, error["type"], error["exit_code"]) == (2, "ConfigError", 2)
    assert error["message"] == "`miner keys list` needs the package aiohttp, which is not installed."


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["config", "show"], "MINER_SERVE_PORT"), (["config", "init", "-o", "-"], "[models.demo]"),
        (["config", "schema"], '"title": "miner.toml"'), (["version"], "0."), (["backends"], "llamacpp"),
        (["models", "list"], "demo"), (["fit", "demo"], "fits: "), (["serve", "--help"], "MINER_SERVE_PORT"),
    ],
)  # fmt: skip
def test_all_else_works(arguments, shown, tmp_path):
    status, out, err = run(*arguments, directory=tmp_path)
    assert status == 0, err
    assert shown in out


def test_doctor_works_without_them(tmp_path):
    status, out, err = run("doctor", "--no-probe", directory=tmp_path)
    assert status in (0, 1), err
    assert "Settings" in out
    assert "bug in miner" not in err
