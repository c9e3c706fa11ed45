"""Main memory and GPU memory of models, as `ps`, `top`, `load`, `unload` and `stop` show them: never one figure."""

from __future__ import annotations

import json
import re

import pytest

from miner.cli.gateway_client import ServerEvent
from miner.cli.memory_taken import gpu_memory, main_memory
from miner.cli.top.layout import Choice, frame
from miner.cli.top.live import press
from miner.cli.top.view import View
from tests.core.llms.pool.test_command import command

pytestmark = pytest.mark.process


@pytest.fixture
def node(miner, tmp_path):
    """Start a node whose command takes that GPU memory; return its address."""

    def start(gpu_memory):
        (tmp_path / "miner.toml").write_text(f"""
            [backends.local]
            kind = "openai"
            command = {command("--name", "inner")}
            memory = "64MiB"
            {gpu_memory}
            [models.outer]
            backend = "local"
            """)
        server = miner.start("serve", "--port", "0", MINER_CONFIG=str(tmp_path / "miner.toml"), MINER_SERVE_PRELOAD="0")
        said = ""
        while not (found := re.search(r"at (http://\S+)", said)):
            line = server.stderr.readline().decode()
            assert line, said
            said += line
        return found.group(1)

    return start


def test_a_model_on_a_gpu_shows_both_apart(miner, node):
    url = node('gpu_memory = ["7GiB"]')
    loaded = miner("load", "outer", "--url", url)
    assert loaded.returncode == 0, loaded.stderr
    assert re.search(r" s, [\d.]+ MiB and 7\.00 GiB of GPU memory", loaded.stderr.decode()), loaded.stderr
    head, line, *_ = miner("ps", "--url", url).stdout.decode().splitlines()
    assert head.split()[:6] == ["NAME", "BACKEND", "STATE", "MEMORY", "GPU", "CONTEXT"]
    assert re.search(r"ready +[\d.]+ MiB +7\.00 GiB ", line), line
    shown = json.loads(miner("ps", "--json", "--url", url).stdout)["models"][0]
    assert shown["gpu_memory"] == 7 << 30
    assert 0 < shown["memory"] < 1 << 30
    top = json.loads(miner("top", "--once", "--json", "--url", url).stdout)
    assert top["gpu_memory"] == top["models"][0]["gpu_memory"] == 7 << 30
    assert 0 < top["memory"] < 1 << 30
    screen = miner("top", "--once", "--url", url).stdout.decode()
    assert re.search(r"memory [\d.]+ MiB.*  GPU memory 7\.00 GiB", " ".join(screen.splitlines())), screen
    stopped = json.loads(miner("stop", "outer", "--json", "--url", url).stdout)
    assert (stopped["stopped"], stopped["freed_gpu"], 0 < stopped["freed"] < 1 << 30) == (True, 7 << 30, True)
    assert miner("load", "outer", "--url", url).returncode == 0
    unloaded = miner("unload", "outer", "--url", url)
    assert re.search(r"^[\d.]+ MiB and 7\.00 GiB of GPU memory are free again\.$", unloaded.stderr.decode(), re.M)


def test_without_a_gpu_none_is_named(miner, node):
    url = node("")
    assert miner("load", "outer", "--url", url).returncode == 0
    for arguments in (("ps",), ("ps", "--json"), ("top", "--once"), ("top", "--once", "--json")):
        shown = miner(*arguments, "--url", url)
        assert shown.returncode == 0
        assert "gpu" not in shown.stdout.decode().lower()
    assert "gpu" not in miner("stop", "outer", "--json", "--url", url).stdout.decode()


def test_an_engine_that_models_share_counts_once_and_one_that_sleeps_has_no_gpu_memory():
    """Each model keeps what its engine takes in its own line; the sums have each engine once."""
    view = View("http://node:8088")
    shared = {"state": "ready", "engine": "qwen", "memory": 20 << 30, "gpu_memory": 1 << 30}
    view.event(ServerEvent("state", {"models": [
        {"name": "small", **shared}, {"name": "large", **shared}, {"name": "gone", **shared, "state": "unloaded"},
        {"name": "other", "state": "ready", "engine": "other", "memory": 2 << 30}, {"name": "far", "state": "remote"},
        {"name": "sleepy", "state": "sleeping", "engine": "s", "memory": 4 << 30, "gpu_memory": 8 << 30},
    ]}, 1))  # fmt: skip
    assert view.memory == view.as_json()["memory"] == 26 << 30
    assert view.gpu_memory == view.as_json()["gpu_memory"] == 1 << 30
    gone = next(model for model in view.as_json()["models"] if model["name"] == "gone")
    assert (gone["memory"], gone["gpu_memory"]) == (None, None), "what it would take is not in use"
    assert [main_memory(model) >> 30 for model in view.models] == [20, 20, 0, 2, 0, 4]
    assert [gpu_memory(model) >> 30 for model in view.models] == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("gpus", "title"), [({"gpu_memory": 1 << 30}, "GPU"), ({}, "BUSY")])
def test_the_screen_has_the_column_of_gpus_only_where_there_is_a_figure(gpus, title):
    view, choice = View("http://node:8088"), Choice()
    view.event(ServerEvent("state", {"models": [{"name": "m", "state": "ready", "memory": 2 << 30, **gpus}]}, 1))
    press(choice, "right", gpus=bool(gpus))
    press(choice, "right", gpus=bool(gpus))
    lines = frame(view, choice, 120, 20)
    assert any("GPU" in text for line in lines for text, _ in line) == bool(gpus)
    assert [text for line in lines for text, style in line if style == "reverse"] == [title]


def test_the_screen_connects_until_the_gateway_has_told_its_models():
    def texts(view):
        return [text for line in frame(view, Choice(), 80, 20) for text, _ in line]

    view = View("http://node:8088")
    assert "connecting ..." in texts(view)
    assert not view.as_json()["connected"]
    assert "No models." not in texts(view)
    view.event(ServerEvent("state", {"models": []}, 1))
    assert "No models." in texts(view)
    assert "connecting ..." not in texts(view)
    assert view.as_json()["connected"]
