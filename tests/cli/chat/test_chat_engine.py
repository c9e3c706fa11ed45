"""`miner chat` with the real engine and the demo model: here, and behind a gateway."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from tests.cli.chat.terminal import CTRL_C, CTRL_D, Terminal
from tests.cli.conftest import environment
from tests.servers.ports import closed_port

pytestmark = pytest.mark.engine

SMALL = {"LLAMACPP_THREADS": "1", "LLAMACPP_PARALLEL": "1", "DEFAULT_TEMPERATURE": "0", "DEFAULT_MAX_TOKENS": "4000"}
STORY = "Tell me a very long story about a fox, a bear and a river."


def fetched(url: str):
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


@pytest.fixture
def gateway(tmp_path):
    """The URL of `miner serve` with the demo model."""
    url = f"http://127.0.0.1:{(port := closed_port())}"
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "miner", "serve", "--port", str(port)],
        cwd=tmp_path, env=environment(tmp_path, **SMALL), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while True:
            try:
                if urllib.request.urlopen(f"{url}/readyz", timeout=5).status == 200:
                    break
            except OSError:
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def busy(url: str) -> int:
    (model,) = fetched(f"{url}/admin/models")["models"]
    return model.get("slots_busy", 0)


def test_ctrl_c_frees_the_slot_within_a_second_and_the_chat_goes_on(tmp_path, gateway):
    with Terminal(tmp_path, "chat", "--url", gateway) as terminal:
        terminal.wait(">>>")
        assert "context 8,192 tokens" in terminal.text
        terminal.type(f"{STORY}\r")
        terminal.wait("s · Ctrl-C stops")
        terminal.wait(lambda _: busy(gateway) == 1)
        terminal.type(CTRL_C)
        pressed = time.monotonic()
        while busy(gateway):
            assert time.monotonic() < pressed + 10, "the slot is still busy"
            terminal.read(0.01)
        terminal.wait("(stopped")
        terminal.ask("/set max_tokens 12", "max_tokens = 12")
        terminal.ask("Name a colour.", "8,192 (")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_an_engine_that_is_killed_is_named_and_the_message_can_be_sent_again(tmp_path):
    with Terminal(tmp_path, "chat", "--max-tokens", "1500", **SMALL) as terminal:
        terminal.wait(">>>")
        terminal.type(f"{STORY}\r")
        terminal.wait("tokens/s ·")
        (engine,) = psutil.Process(terminal.process.pid).children()
        os.kill(engine.pid, signal.SIGKILL)
        shown = terminal.wait("/retry sends it again")
        assert "miner: " in shown
        terminal.ask("/set max_tokens 8", "max_tokens = 8")
        terminal.ask("/retry", "8,192 (")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_a_prompt_that_is_too_long_is_refused_and_the_chat_goes_on(tmp_path):
    with Terminal(tmp_path, "run", "demo", "--max-tokens", "8", LLAMACPP_CTX_SIZE="512", **SMALL) as terminal:
        terminal.wait(">>>")
        terminal.paste("word " * 900)
        terminal.type("\r")
        shown = terminal.wait("/retry sends it again")
        assert "LLAMACPP_CTX_SIZE" in shown
        assert "512" in shown
        terminal.ask("Name a colour.", "/ 512 (")


def test_images_are_refused_by_name_where_the_model_sees_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with Terminal(tmp_path, "chat", **SMALL) as terminal:
        terminal.wait(">>>")
        terminal.ask("/image a.png", "demo does not see images")
