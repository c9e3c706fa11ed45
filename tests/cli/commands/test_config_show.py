"""`miner config show` and `check` of settings: without a file too, on terminals of any width."""

from __future__ import annotations

import json
import os

import pytest

from tests.cli.pty_screen import screen_of

pytestmark = pytest.mark.process


@pytest.fixture
def config(miner):
    def run(*arguments, **settings):
        done = miner("config", *arguments, **settings)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def rows_of(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}


def test_without_a_file_it_shows_what_is_set_and_what_people_look_for(config, tmp_path):
    (tmp_path / ".env").write_text("\nOLLAMA_BASE_URL=http://u:hunter2@h:1\nMINER_API_KEYS=hunter2hunter2hunter2\n")
    status, out, err = config("show", LLAMACPP_PARALLEL="3")
    assert status == 0
    assert out.startswith("# No miner.toml: ")
    assert rows_of(out) == {
        "LLM_BACKEND": ["llamacpp", "default"], "DEFAULT_MODEL": ["-", "default"], "MODELS_DIR": ["-", "default"],
        "OLLAMA_BASE_URL": ["http://***@h:1", ".env:2"], "LLAMACPP_PARALLEL": ["3", "environment"],
        "MINER_SERVE_HOST": ["127.0.0.1", "default"], "MINER_SERVE_PORT": ["8088", "default"],
        "MINER_API_KEYS": ["***", ".env:3"],
    }  # fmt: skip
    assert "`miner config show --all`" in err
    assert "hunter2" not in out + err


def test_changed_and_all(config):
    settings = {"MINER_SERVE_PORT": "1"}
    assert rows_of(config("show", "--changed", **settings)[1]) == {"MINER_SERVE_PORT": ["1", "environment"]}
    assert "All settings have their defaults." in config("show", "--changed")[1]
    rows = rows_of(config("show", "--all", **settings)[1])
    assert len(rows) > 100
    assert rows["MINER_GPU_MEMORY_UTILIZATION"] == ["0.9", "default"]


def test_an_invalid_setting_is_in_its_line_and_ends_nothing(config, tmp_path):
    (tmp_path / "miner.toml").write_text("[models.demo]\nslots = 2\n")
    settings = {"LLAMACPP_THREADS": "x", "MINER_SERVE_LOG": "jsn"}
    status, out, _ = config("show", **settings)
    assert status == 0
    rows = {name: " ".join(rest) for name, rest in rows_of(out).items()}
    assert rows["slots"] == "2 miner.toml:2"
    assert rows["threads"] == '"x" LLAMACPP_THREADS in the environment, invalid: must be an integer from 1 to 512'
    assert rows["LLAMACPP_THREADS"] == "x environment invalid: must be an integer from 1 to 512"
    assert rows["MINER_SERVE_LOG"] == "jsn environment invalid: must be text, json or off"
    told = json.loads(config("show", "--json", "--changed", **settings)[1])
    assert [(each["variable"], each["problem"]) for each in told["settings"] if each["problem"]] == [
        ("LLAMACPP_THREADS", "must be an integer from 1 to 512"), ("MINER_SERVE_LOG", "must be text, json or off"),
    ]  # fmt: skip


def test_one_setting_by_any_name(config, tmp_path):
    status, out, err = config("show", "llamacpp_parallel", LLAMACPP_PARALLEL="999")
    assert (status, err) == (0, "")
    assert out.splitlines()[:5] == [
        "LLAMACPP_PARALLEL = 999",
        "  invalid  must be an integer from 1 to 256",
        "  from     environment",
        "  default  -",
        "  takes    an integer from 1 to 256",
    ]
    assert "concurrent requests per engine" in out
    told = json.loads(config("show", "serve_port", "--json")[1])
    assert told == {
        "file": None,
        "settings": [
            {
                "name": "serve_port", "variable": "MINER_SERVE_PORT", "value": 8088, "from": "default",
                "default": 8088, "allowed": "an integer from 0 to 65535",
                "description": "Port to listen on; 0: any free port.", "secret": False, "problem": None,
            }
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("llamacpp_paralel", "Did you mean LLAMACPP_PARALLEL?"),
        ("serve_prt", "Did you mean MINER_SERVE_PORT?"),
        ("num_ctx", "Did you mean OLLAMA_NUM_CTX?"),
        ("zzzz", "`miner config show --all` lists all settings."),
    ],
)
def test_a_misspelt_one_is_guessed(name, hint, config, tmp_path):
    assert config("show", name) == (2, "", f"miner: There is no setting {name!r}.\n  {hint}\n")
    (tmp_path / "miner.toml").write_text("[models.demo]\n")
    status, out, err = config("show", name)
    assert (status, out) == (2, "")
    assert err.startswith(f"miner: miner.toml has no model, backend or group {name!r}, and there is no such setting.")
    assert hint in err


def test_with_a_file_only_what_is_set_unless_all_is_asked_for(config, tmp_path):
    (tmp_path / "miner.toml").write_text("[limits]\nmax_loaded = 2\n[models.demo]\nslots = 2\n")
    _, out, _ = config("show")
    assert rows_of(out)["max_loaded"] == ["2", "miner.toml:2"]
    assert rows_of(out)["LLM_BACKEND"] == ["pool", "miner.toml"]
    assert rows_of(out)["LLAMACPP_MAX_LOADED"] == ["2", "miner.toml:2"]
    assert "batch_size" not in out
    assert "batch_size" in config("show", "--all")[1]
    _, out, _ = config("show", "LLM_BACKEND", LLM_BACKEND="ollama")
    assert out.startswith("LLM_BACKEND = ollama\n  from     environment\n")
    assert (
        "note: miner.toml has no effect: LLM_BACKEND=ollama (environment) is set."
        in config("show", LLM_BACKEND="ollama")[2]
    )


def test_a_file_that_is_invalid_leaves_the_settings(config, tmp_path):
    (tmp_path / "miner.toml").write_text("[models.demo]\nslots = 0\n")
    status, out, err = config("show", LLAMACPP_THREADS="2")
    assert (status, rows_of(out)["LLAMACPP_THREADS"]) == (2, ["2", "environment"])
    assert "miner: miner.toml:2: models.demo.slots = 0: " in err
    status, out, _ = config("show", "--json")
    assert (status, json.loads(out)["error"]["exit_code"]) == (2, 2)


def test_check_says_all_that_is_wrong_at_once(config, tmp_path):
    (tmp_path / "miner.toml").write_text("[models.demo]\nslots = 0\nfoo = 1\n")
    (tmp_path / ".env").write_text("LLAMACPP_THREADS=x\n")
    settings = {"MINER_SERVE_PORT": "70000", "MINER_RETRYS": "1"}
    status, out, err = config("check", **settings)
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "miner: LLAMACPP_THREADS='x' (.env:1): must be an integer from 1 to 512."
    assert lines[1] == "  MINER_SERVE_PORT='70000' (environment): must be an integer from 0 to 65535."
    assert lines[2].startswith("  miner.toml:2: models.demo.slots = 0: ")
    assert lines[3].startswith("  miner.toml:3: models.demo.foo = 1: unknown key.")
    told = json.loads(config("check", "--json", **settings)[1])
    assert [error.get("variable") or error["key"] for error in told["errors"]] == [
        "LLAMACPP_THREADS", "MINER_SERVE_PORT", "models.demo.slots", "models.demo.foo",
    ]  # fmt: skip
    assert told["valid"] is False


def test_a_dotenv_that_is_no_text_is_said(config, tmp_path):
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    status, out, err = config("show")
    assert (status, "LLM_BACKEND" in out) == (0, True)
    assert "note: .env is not UTF-8 text: invalid start byte at byte 2." in err
    (tmp_path / "miner.toml").write_text("[models.demo]\n")
    assert config("check")[2].startswith("miner: .env is not UTF-8 text")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_it_fits_a_terminal_of_any_width(width, tmp_path):
    (tmp_path / "miner.toml").write_text("[models.demo]\nslots = 2\n")
    (tmp_path / ".env").write_text("LLAMACPP_THREADS=x\nOLLAMA_BASE_URL=http://127.0.0.1:11434/a-long-address\n")
    screen, status = screen_of(["config", "show"], width=width, directory=tmp_path)
    assert status == 0
    text = " ".join(" ".join(screen).split())
    assert "LLAMACPP_THREADS" in text
    assert "invalid: must be an integer from 1 to 512" in text
    out = [line for line in screen if line.lstrip().startswith(("OLLAMA", "LLAMACPP", "MINER_SERVE"))]
    assert len(out) >= 4, os.linesep.join(screen)


def test_changed_counts_for_tables_too_and_names_in_any_case(config, tmp_path):
    (tmp_path / "miner.toml").write_text("[limits]\nmax_loaded = 2\n[models.demo]\nslots = 2\n")
    assert rows_of(config("show", "demo", "--changed")[1]) == {"slots": ["2", "miner.toml:4"]}
    assert rows_of(config("show", "LIMITS", "--changed")[1]) == {"max_loaded": ["2", "miner.toml:2"]}
    told = json.loads(config("show", "--json", "--changed")[1])
    assert told["models"] == {"demo": {"slots": {"value": 2, "from": "miner.toml:4"}}}
    assert [each["variable"] for each in told["settings"]] == ["LLM_BACKEND", "DEFAULT_MODEL", "LLAMACPP_MAX_LOADED"]
