"""`miner serve --check` and the settings in `miner serve --help`."""

from __future__ import annotations

import json
import socket

import pytest

from miner.cli.configuration.settings import described_settings
from miner.cli.serving.help import grouped, settings_text
from miner.config.sources import variable_of
from miner.gateway.settings import GatewaySettings
from tests.servers.ports import closed_port

pytestmark = pytest.mark.process

KEY = "a-secret-of-clients-0123"


def checked(miner, *arguments, **settings):
    done = miner("serve", "--check", "--json", *arguments, **{"MINER_SERVE_PORT": "0", **settings})
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 2), done.stderr
    return found, {(each["name"], each["verdict"]): each for each in found["checks"]}


def test_what_would_be_served(miner):
    port = str(closed_port())
    found, by = checked(
        miner, MINER_SERVE_PORT=port, MINER_API_KEYS=KEY, LLAMACPP_CTX_SIZE="512", LLAMACPP_PARALLEL="2"
    )
    assert found["ok"]
    assert found["addresses"] == [f"http://127.0.0.1:{port}"]
    assert found["keys"] == {"MINER_API_KEYS": 1}
    assert found["backends"] == ["llamacpp"]
    (model,) = found["models"]
    assert (model["name"], model["context_length"], model["slots"], model["fits"]) == ("demo", 512, 2, True)
    assert KEY not in json.dumps(found)
    assert "MINER_SERVE_PORT" in by["settings", "ok"]["message"]
    with socket.create_server(("127.0.0.1", int(port))):  # it is free again
        pass


def test_in_words(miner):
    done = miner("serve", "--check", MINER_SERVE_PORT="0")
    text = done.stdout.decode()
    assert (done.returncode, "It can be served." in text) == (0, True), text
    wrong = miner("serve", "--check", "--port", "99999", "--backend", "none")
    assert wrong.returncode == 2
    assert "--port" in wrong.stdout.decode()
    assert "It cannot be served" in wrong.stdout.decode()
    assert miner("serve", "--json").returncode == 2


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        ({"MINER_SERVE_GRACE": "soon"}, "settings", "MINER_SERVE_GRACE"),
        ({"MINER_SERVE_HOST": "0.0.0.0"}, "address", "no API keys"),
        ({"MINER_SERVE_HOST": "no such host"}, "address", "not an address"),
        ({"MINER_API_KEYS": "short"}, "keys", "MINER_API_KEYS"),
        ({"MINER_API_KEYS_FILE": "/nowhere/keys.json"}, "keys", "MINER_API_KEYS_FILE"),
        ({"LLM_BACKEND": "llamacpp", "MINER_LLM_FALLBACKS": "typo"}, "backend", "typo"),
        ({"DEFAULT_MODEL": "none-such"}, "backend", "none-such"),
        ({"MODEL_PATH": "/nowhere.gguf"}, "backend", "/nowhere.gguf"),
        ({"MINER_SERVE_TRUSTED_PROXIES": "x y"}, "backend", "x y"),
        ({"MINER_CONFIG": "/nowhere/miner.toml"}, "backend", "/nowhere/miner.toml"),
        ({"LLAMACPP_CTX_SIZE": "8192", "LLAMACPP_PARALLEL": "256", "LLAMACPP_N_GPU_LAYERS": "0"}, "models", "slots"),
    ],
)
def test_what_is_wrong_is_found(miner, settings, name, said):
    found, by = checked(miner, **settings)
    assert not found["ok"]
    assert said in by[name, "problem"]["message"], by


def test_a_port_that_is_taken_and_all_that_is_wrong_at_once(miner):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found, by = checked(miner, MINER_SERVE_PORT=port, DEFAULT_MODEL="none-such", MINER_SERVE_PORTS="1")
    assert "Cannot listen" in by["address", "problem"]["message"]
    assert ("backend", "problem") in by
    assert "MINER_SERVE_PORTS" in by["settings", "note"]["message"]
    assert not found["ok"]


def test_a_file_with_its_models(miner, tmp_path):
    table = '[models.small]\nfile = "demo"\ncontext = 512\n[models.gone]\nfile = "gone.gguf"\n'
    (tmp_path / "miner.toml").write_text(table)
    found, by = checked(miner)
    assert found["config"].endswith("miner.toml")
    assert {model["name"] for model in found["models"]} == {"small", "gone"}
    assert sum("gone" in each["message"] for each in found["checks"] if each["verdict"] == "note") == 1
    assert found["ok"], "the others are served"
    (tmp_path / "miner.toml").write_text(table + "preload = true\n")
    found, by = checked(miner)
    assert "miner.toml:5: models.gone.file" in by["models", "problem"]["message"]
    assert sum("gone.gguf" in each["message"] for each in found["checks"]) == 1, "once"
    (tmp_path / "miner.toml").write_text("[models.small]\nfil = 1\n")
    found, by = checked(miner)
    assert "fil" in by["backend", "problem"]["message"]


def test_help_has_every_setting_with_its_value_and_source(miner, tmp_path):
    (tmp_path / ".env").write_text("MINER_SERVE_GRACE=7\n")
    done = miner("serve", "--port", "9000", "--help", MINER_API_KEYS=KEY, MINER_SERVE_HEARTBEAT="never")
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    for field in GatewaySettings.model_fields:
        assert text.count(f"{variable_of(field)} = ") + text.count(f"{variable_of(field)}\n      = ") == 1, field
    assert "--port, MINER_SERVE_PORT = 9000 (--port)" in text
    assert "MINER_SERVE_GRACE = 7.0 (.env:1)" in text
    assert "MINER_API_KEYS = *** (environment)" in text
    assert KEY not in text
    assert "MINER_SERVE_HEARTBEAT = never (environment)" in text
    assert "PROBLEM: must be" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_help_never_fails(miner, tmp_path):
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    done = miner("serve", "--help", MINER_SERVE_PORT="x", MINER_CONFIG="/nowhere")
    assert done.returncode == 0
    assert b"PROBLEM: .env is not UTF-8" in done.stdout
    assert done.stdout == miner("help", "serve", MINER_SERVE_PORT="x", MINER_CONFIG="/nowhere").stdout


def test_every_field_has_a_group_and_a_new_one_would_be_shown():
    described = {each.name: each for each in described_settings([GatewaySettings])}
    groups = grouped(described)
    assert sorted(field for fields in groups.values() for field in fields) == sorted(GatewaySettings.model_fields)
    assert "others" not in groups, f"give {groups['others']} a group in miner/cli/serving/help.py"
    assert grouped({**described, "serve_new": described["serve_host"]})["others"] == ["serve_new"]
    assert all(each.description for each in described.values())
    assert "MINER_SERVE_HOST" in settings_text(__import__("argparse").Namespace())
