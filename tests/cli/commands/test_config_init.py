"""`miner config init` on a terminal, and what it says to do next."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
import tomllib

import pytest

from tests.cli.conftest import LONG, environment
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process
NOWHERE = {"OLLAMA_BASE_URL": "http://127.0.0.1:9", "VLLM_API_BASE": "http://127.0.0.1:9/v1"}


@pytest.fixture
def init(miner):
    def run(*arguments, **settings):
        done = miner("config", "init", *arguments, **{**NOWHERE, **settings})
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def typed(keys, tmp_path):
    """Run it on a terminal with a server to ask about; type once it asks; return exit status and what it showed."""
    with in_thread(StubServer(models=["llama3.2"])) as server:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "miner", "config", "init"], cwd=tmp_path, stdin=follower, stdout=follower,
            stderr=follower, env=environment(tmp_path, **{**NOWHERE, "OLLAMA_BASE_URL": server.url}),
            preexec_fn=lambda: os.setsid() or _own_terminal(),
        )  # fmt: skip
        os.close(follower)
        shown, end = b"", time.monotonic() + LONG
        while b"[Y/n]" not in shown and time.monotonic() < end:
            shown += os.read(leader, 1000)
        os.write(leader, keys)
        try:
            while True:
                shown += os.read(leader, 1000)
        except OSError:
            pass  # the other side is closed
        os.close(leader)
        return process.wait(LONG), shown.decode()


def _own_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("keys", [b"\x03", b"\x04"])
def test_ctrl_c_or_the_end_of_input_in_a_question_writes_nothing(keys, tmp_path):
    status, shown = typed(keys, tmp_path)
    assert (status, os.listdir(tmp_path)) == (130, [])
    assert "Serve the 1 model of ollama at" in shown
    assert "miner: Stopped; nothing was written." in shown
    assert "Traceback" not in shown


def test_an_answer_that_is_none_is_asked_again(tmp_path):
    status, shown = typed(b"maybe\nn\n", tmp_path)
    assert status == 0
    assert "Please type y or n" in shown
    assert "ollama" not in tomllib.loads((tmp_path / "miner.toml").read_text())["backends"]
    assert "Next: `miner serve`." in shown


def test_what_to_do_next(init, tmp_path):
    status, out, err = init("-o", "a file.toml")
    assert (status, out) == (0, "")
    assert "Next: `miner serve --config 'a file.toml'`." in err
    (tmp_path / "a file.toml").write_text("[limits]\n")
    status, out, err = init("-o", "a file.toml", "--add")
    assert "added [models.demo]" in err
    assert "Next: `miner config check --config 'a file.toml'`" in err


def test_as_json(init, tmp_path):
    with in_thread(StubServer(models=["llama3.2"])) as server:
        status, out, err = init("--json", OLLAMA_BASE_URL=server.url)
        assert (status, err) == (0, "")
        told = json.loads(out)
        assert told["file"] == str(tmp_path / "miner.toml")
        assert told["servers"] == [{"kind": "ollama", "url": server.url, "models": ["llama3.2:latest"]}]
        assert told["added"] == []
        (tmp_path / "miner.toml").write_text("")
        told = json.loads(init("--json", "--add", OLLAMA_BASE_URL=server.url)[1])
        assert told["added"] == ["[backends.ollama]", "[models.demo]"]
    assert init("--json", "-o", "-")[2].startswith("miner: --json excludes -o -")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("absent/miner.toml", "absent/miner.toml cannot be written: there is no directory "),
        (".", ". is there already."),
    ],
)
def test_where_nothing_can_be_written(init, output, message):
    status, _, err = init("-o", output)
    assert status == 2
    assert err.startswith(f"miner: {message}")


def test_a_directory_is_never_replaced(init, tmp_path):
    (tmp_path / "d").mkdir()
    assert init("-o", "d", "--force")[2].startswith("miner: d cannot be written: it is a directory.")


def test_force_keeps_link_and_mode_and_refuses_a_write_protected_file(init, tmp_path):
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    real.write_text("# mine\n")
    real.chmod(0o640)
    link.symlink_to(real)
    status, _, err = init("-o", str(link), "--force")
    assert status == 0, err
    assert link.is_symlink()
    assert real.read_text() != "# mine\n"
    assert real.stat().st_mode & 0o777 == 0o640
    real.chmod(0o444)
    before = real.read_bytes()
    status, _, err = init("-o", str(link), "--force")
    assert status == 2
    assert f"chmod u+w {real}" in err
    assert real.read_bytes() == before
