"""`miner logs` against gateways that run."""

from __future__ import annotations

import json
import logging
import signal

import pytest

from tests.cli.commands.test_ps import Managed
from tests.cli.conftest import LONG
from tests.cli.test_gateway_client import BOSS, USER, Gate
from tests.gateway.serving import Parrot, config
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process
logger = logging.getLogger("miner.gateway")


class Talkative(Managed):
    """Has an engine that wrote something."""

    async def engine_log(self, model):
        from miner.core.engine.logtail import EngineLog

        if model == "far":
            return await super().engine_log(model)
        return EngineLog(1, 0, ["loading", "\x1b[31mred"] if model == "small" else [])


def test_the_log_of_the_gateway(miner):
    with in_thread(Gate(Parrot(config(default_model="m")))) as gate:
        logger.warning("disk is full", extra={"fields": {"path": "a b", "left": 3}})
        logger.error("failed", exc_info=ValueError("why"))
        done = miner("logs", "--level", "warning", "--url", gate.url)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode().splitlines()
        assert lines[0].endswith(' WARNING miner.gateway disk is full path="a b" left=3')
        assert "  | ValueError: why" in lines
        (one,) = map(
            json.loads, miner("logs", "-n", "1", "--level", "error", "--json", "--url", gate.url).stdout.splitlines()
        )
        assert (one["level"], one["message"]) == ("error", "failed")


def test_the_lines_of_an_engine(miner):
    with in_thread(Gate(Talkative())) as gate:
        done = miner("logs", "small", "--url", gate.url)
        assert done.stdout.decode() == "loading\n?[31mred\n"
        done = miner("logs", "small", "-n", "1", "--json", "--url", gate.url)
        assert json.loads(done.stdout) == {"model": "small", "line": "\x1b[31mred"}
        empty = miner("logs", "kept", "--url", gate.url)
        assert (empty.returncode, empty.stdout, b"has written nothing" in empty.stderr) == (0, b"", True)
        refused = miner("logs", "far", "--url", gate.url)
        assert (refused.returncode, b"no engines of its own" in refused.stderr) == (2, True)


def test_following_an_engine_that_has_written_nothing_says_so_once(miner):
    with in_thread(Gate(Talkative())) as gate:
        following = miner.start("logs", "-f", "kept", "--url", gate.url)
        assert b"The engine of kept has written nothing yet." in following.stderr.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(LONG) == 130
        assert (following.stdout.read(), b"nothing yet" in following.stderr.read()) == (b"", False)


def test_no_lines_wanted_is_no_word_of_an_empty_log(miner):
    with in_thread(Gate(Talkative())) as gate:
        done = miner("logs", "small", "-n", "0", "--url", gate.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_following_goes_on_over_a_restart(miner):
    port = closed_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"LLM_BACKEND": "vllm", "DEFAULT_MODEL": "m", "MINER_SERVE_PRELOAD": "false",
                "VLLM_API_BASE": f"http://127.0.0.1:{closed_port()}/v1"}  # fmt: skip

    def serve():
        process = miner.start("serve", "--port", str(port), **settings)
        while b"Serving at" not in process.stderr.readline():
            assert process.poll() is None
        return process

    server = serve()
    following = miner.start("logs", "-f", "--url", url)
    assert b"Serving at" in following.stdout.readline()
    server.send_signal(signal.SIGTERM)
    assert b"Waiting for it" in following.stderr.readline()
    assert server.wait(LONG) == 0
    server = serve()
    assert b"is back" in following.stderr.readline()
    while b"Serving at" not in (line := following.stdout.readline()):
        assert line, "the stream has ended"
    following.send_signal(signal.SIGINT)
    assert following.wait(LONG) == 130
    server.kill()


def test_a_reader_that_leaves_ends_it(miner):
    with in_thread(Gate(Parrot(config(default_model="m")))) as gate:
        logger.warning("one")
        following = miner.start("logs", "-f", "--level", "warning", "--url", gate.url)
        assert b"one" in following.stdout.readline()
        following.stdout.close()
        logger.warning("two")
        assert following.wait(LONG) == 141


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-n", "-1"), "-n"),
        (("-n", "many"), "-n many"),
        (("--lines", "many"), "--lines many"),
        (("--level", "loud"), "--level loud"),
        (("small", "--level", "error"), "--level"),
        (("--url", "nowhere"), "--url nowhere"),
    ],
)
def test_wrong_usage(miner, arguments, complaint):
    done = miner("logs", *arguments)
    assert (done.returncode, complaint in done.stderr.decode()) == (2, True)


def test_a_key_with_the_admin_right(miner, monkeypatch, tmp_path):
    from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, write_keys

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    entries = [
        KeyEntry(name="user", sha256=hash_of(USER).hex()),
        KeyEntry(name="boss", sha256=hash_of(BOSS).hex(), admin=True),
    ]
    write_keys(key_path(None), KeyFile(keys=entries))
    with in_thread(Gate(Parrot(config(default_model="m")))) as gate:
        assert miner("logs", "--url", gate.url, "--key", "-", stdin=BOSS.encode()).returncode == 0
        for arguments in ((), ("-f",)):
            refused = miner("logs", *arguments, "--url", gate.url, "--key", USER)
            assert (refused.returncode, b"miner keys new" in refused.stderr) == (2, True)
            assert USER.encode() not in refused.stderr
