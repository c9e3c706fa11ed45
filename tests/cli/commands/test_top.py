"""`miner top` on a terminal of any width, in a pipe, and over a restart of its gateway."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from miner.cli.gateway_client import ServerEvent
from miner.cli.output.sparkline import sparkline
from miner.cli.output.tables import cell_len
from miner.cli.top.layout import Choice, frame
from miner.cli.top.screen import _Decoder
from miner.cli.top.view import View
from tests.cli.commands.test_ps import Managed
from tests.cli.conftest import LONG, environment
from tests.cli.terminal import on_terminal
from tests.cli.test_gateway_client import Gate
from tests.gateway.serving import Parrot, config
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


def command(url, *arguments):
    return [sys.executable, "-m", "miner", "top", "--url", url, *arguments]


def chat(url, **fields):
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=LONG) as response:
        return response.read()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_screen_and_its_keys(columns, tmp_path):
    with (
        in_thread(Gate(Managed())) as gate,
        on_terminal(command(gate.url), columns=columns, rows=24, env=environment(tmp_path), cwd=tmp_path) as terminal,
    ):
        terminal.until("small*")
        terminal.until("requests/s")
        assert "broken" in terminal.text
        assert not any("broken" in line and "ready" in line for line in terminal.lines)
        chat(gate.url, model="small")
        screen = terminal.until(" 200")
        assert "STATUS" in screen
        terminal.press("p")
        terminal.until("PAUSED")
        terminal.press("p")
        terminal.press("\x1b[C")
        terminal.press("q")
        assert terminal.ended() == 0
        assert b"\x1b[?1049l" in terminal.raw, "the terminal's own screen is back"
        assert b"\x1b[?25h" in terminal.raw, "the cursor is back"


def test_ctrl_c_gives_the_terminal_back(tmp_path):
    with (
        in_thread(Gate(Managed())) as gate,
        on_terminal(command(gate.url), columns=80, rows=24, env=environment(tmp_path), cwd=tmp_path) as terminal,
    ):
        terminal.until("small*")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 130
        assert b"\x1b[?1049l" in terminal.raw


def test_in_a_pipe_it_shows_once_and_says_so(miner):
    with in_thread(Gate(Managed())) as gate:
        done = miner("top", "--url", gate.url)
        assert (done.returncode, "no terminal" in done.stderr.decode()) == (0, True)
        assert "small*" in done.stdout.decode()
        assert "\x1b" not in done.stdout.decode()
        once = miner("top", "--once", "--url", gate.url)
        assert (once.returncode, once.stderr) == (0, b"")
        shown = json.loads(miner("top", "--once", "--json", "--url", gate.url).stdout)
        assert [model["name"] for model in shown["models"]] == ["small", "broken", "kept", "far", "idle"]
    failed = miner("top", "--url", gate.url)
    assert (failed.returncode, "miner serve" in failed.stderr.decode()) == (1, True)


def test_without_rich_it_names_the_extra_and_what_needs_none(tmp_path):
    without = (
        "import sys; sys.modules['rich'] = None; from miner.cli.main import run; sys.exit(run(['top', *sys.argv[1:]]))"
    )
    with in_thread(Gate(Managed())) as gate:
        program = [sys.executable, "-c", without, "--url", gate.url]
        with on_terminal(program, columns=100, rows=24, env=environment(tmp_path), cwd=tmp_path) as terminal:
            assert terminal.ended() == 2
            assert 'pip install "llm-service-backends[cli]"' in terminal.text
            assert "--once" in terminal.text
        with on_terminal(
            [*program, "--once"], columns=100, rows=24, env=environment(tmp_path), cwd=tmp_path
        ) as terminal:
            assert terminal.ended() == 0
            assert "small*" in terminal.text


def test_an_object_a_second(miner):
    with in_thread(Gate(Parrot(config(default_model="m")))) as gate:
        process = miner.start("top", "--json", "--url", gate.url)
        first = json.loads(process.stdout.readline())
        assert (first["connected"], first["url"]) == (True, gate.url)
        chat(gate.url, model="m")
        while not (requests := json.loads(process.stdout.readline())["requests"]):
            pass
        assert requests[0] | {"id": "", "at": 0, "seconds": 0, "ttft": 0, "tokens": 0} == {
            "id": "", "at": 0, "key": "anybody", "model": "m", "route": "/v1/chat/completions", "state": "finished",
            "status": 200, "ttft": 0, "seconds": 0, "tokens": 0, "error": None,
        }  # fmt: skip
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130


def test_it_goes_on_when_the_gateway_is_started_again(miner, tmp_path):
    port = closed_port()
    url = f"http://127.0.0.1:{port}"

    def serve(engine):
        settings = {"LLM_BACKEND": "vllm", "DEFAULT_MODEL": "m", "VLLM_API_BASE": engine.v1}
        return miner.start("serve", "--port", str(port), stderr=subprocess.DEVNULL, **settings)

    with in_thread(StubServer()) as engine:
        server = serve(engine)
        _until_ready(url)
        with on_terminal(command(url), columns=100, rows=20, env=environment(tmp_path), cwd=tmp_path) as terminal:
            terminal.until("m*")
            server.send_signal(signal.SIGTERM)
            terminal.until("NO CONNECTION")
            assert server.wait(LONG) == 0
            server = serve(engine)
            terminal.until("reconnected 1 time")
            chat(url)
            terminal.until(" 200")
            terminal.press("q")
            assert terminal.ended() == 0


def _until_ready(url):
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("never ready")


@pytest.mark.engine
def test_a_real_model_with_its_speed_and_memory(miner, tmp_path):
    server = miner.start("serve", "--port", "0", LLAMACPP_THREADS="1", LLAMACPP_PARALLEL="1", LLAMACPP_CTX_SIZE="2048")
    text = ""
    while not (found := re.search(r"Serving at (\S+)", text)):
        text += server.stderr.readline().decode()
    url = found.group(1)
    while "Ready after" not in text:
        text += server.stderr.readline().decode()
    with on_terminal(command(url), columns=100, rows=20, env=environment(tmp_path), cwd=tmp_path) as terminal:
        screen = terminal.until("demo*")
        assert re.search(r"demo\*\s+ready\s+[\d.]+ [MG]iB\s+0/1", screen), screen
        # Many seconds: the screen is drawn once a second, and not that often on a busy machine.
        fields = {"max_tokens": 1000, "ignore_eos": True, "stream": True}
        request = threading.Thread(target=chat, args=(url,), kwargs=fields)
        request.start()
        terminal.until("running")
        end = time.monotonic() + LONG
        while not re.search(r"demo\*.* 1/1 .*[▁-█]", terminal.text) and request.is_alive():
            assert time.monotonic() < end
            terminal.read(0.2)
        request.join(LONG)
        terminal.until(" 200")
        terminal.press("q")
        assert terminal.ended() == 0
    server.send_signal(signal.SIGTERM)
    assert server.wait(LONG) == 0


def test_every_line_fits_every_width():
    view = View("http://a-rather-long-name-of-a-node.example.org:8088", node={"version": "9", "memory_total": 1 << 36})
    view.event(ServerEvent("state", {"models": [
        {"name": f"模型-{number}-" + "x" * number, "state": "ready", "memory": 1 << (20 + number), "slots": 4,
         "gpu_memory": 1 << (30 + number)}
        for number in range(12)
    ]}, 1))  # fmt: skip
    for number in range(30):
        view.event(ServerEvent("request", {"id": str(number), "state": "started", "model": "m", "at": 1.0}, None))
        view.event(ServerEvent("request", {
            "id": str(number), "state": "finished", "status": 500, "at": 2.0, "error": "engine_crashed" * 3,
            "seconds": 1.0, "client": "\x1b[31mred",
        }, None))  # fmt: skip
    for columns in range(40, 201, 7):
        for rows in (8, 24, 60):
            lines = frame(view, Choice(sort=6), columns, rows)
            assert len(lines) == rows
            for line in lines:
                text = "".join(piece for piece, _ in line)
                assert cell_len(text) <= columns, text
                assert "\x1b" not in text


def test_bars_are_relative_to_the_highest():
    assert sparkline([0, 4, 8], 5) == "   ▅█"
    assert sparkline([], 5) == ""
    assert sparkline([1, 1], 2, unicode=False) == "##"


def test_arrow_keys_may_come_in_pieces():
    decoder = _Decoder()
    assert decoder.feed("a\x1b[Cq") == ["a", "right", "q"]
    assert decoder.feed("\x1b") == []
    assert decoder.feed("[A") == ["up"]
