"""What `miner doctor` says of the backends of a miner.toml: its tables count, not the environment's variables."""

from __future__ import annotations

import pytest

from tests.cli.doctor.examine import examine
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


def write(directory, *, kind, rest):
    (directory / "miner.toml").write_text(
        f'[backends.lab]\nkind = "{kind}"\n{rest}\n[models.m]\nbackend = "lab"\n', encoding="utf-8"
    )


def settings():
    return {"MINER_SERVE_PORT": str(closed_port())}


def test_a_server_with_a_url_in_the_file_needs_no_variable(miner, tmp_path):
    with in_thread(StubServer(["m"])) as server:
        write(tmp_path, kind="openai", rest=f'url = "{server.v1}"')
        found = examine(miner, "--no-probe", **settings())
    assert found.row("backend openai", "ok")["seen"]["in_use"]
    assert found.problems() == []
    assert "MINER_OPENAI_API_BASE" not in found.text


@pytest.mark.parametrize("kind", ["openai", "vllm", "llamacpp"])
def test_a_server_that_a_command_starts_needs_no_variable(miner, tmp_path, kind):
    write(tmp_path, kind=kind, rest='command = ["sleep", "60", "${PORT}"]')
    found = examine(miner, "--no-probe", LLAMACPP_SERVER="/nowhere/llama-server", **settings())
    assert found.row(f"backend {kind}", "ok")["seen"]["in_use"]
    assert not [name for name in found.problems() if name.startswith("backend ")]


@pytest.mark.parametrize(
    ("kind", "variable", "path"),
    [
        ("openai", "MINER_OPENAI_API_BASE", "/v1"),
        ("vllm", "VLLM_API_BASE", "/v1"),
        ("ollama", "OLLAMA_BASE_URL", ""),
        ("llamacpp", "LLAMACPP_API_BASE", ""),
    ],
)
def test_the_hint_for_a_server_that_is_down_names_the_line_of_the_file(miner, tmp_path, kind, variable, path):
    write(tmp_path, kind=kind, rest=f'url = "http://127.0.0.1:{closed_port()}{path}"')
    found = examine(miner, "--no-probe", **settings())
    down = found.row("lab", "problem")
    assert "backends.lab.url of miner.toml" in down["hint"]
    assert variable not in str(down)
    assert found.row(f"backend {kind}", "ok")


def test_a_server_that_is_down_is_called_by_its_variable_without_a_file(miner):
    address = f"http://127.0.0.1:{closed_port()}/v1"
    found = examine(miner, "--no-probe", LLM_BACKEND="openai", MINER_OPENAI_API_BASE=address, **settings())
    assert "MINER_OPENAI_API_BASE" in found.row("openai", "problem")["hint"]


def test_an_engine_of_the_file_that_is_missing_is_still_a_problem(miner, tmp_path):
    write(tmp_path, kind="llamacpp", rest='server = "/nowhere/llama-server"')
    found = examine(miner, "--no-probe", **settings())
    assert "/nowhere/llama-server" in found.row("backend llamacpp", "problem")["summary"]


def test_a_command_whose_program_is_missing_is_a_problem_of_its_backend(miner, tmp_path):
    write(tmp_path, kind="llamacpp", rest='command = ["/nowhere/server", "${PORT}"]')
    found = examine(miner, "--no-probe", **settings())
    assert found.status == 1
    row = found.row("lab", "problem")
    assert (row["group"], row["fix"]) == ("Engines", "${EDITOR:-vi} +3 miner.toml")
    assert "the program /nowhere/server does not exist" in row["summary"]
    assert found.text.count("the program /nowhere/server does not exist") == 1


def test_each_backend_of_the_file_has_a_row(miner, tmp_path):
    tables = {
        "good": 'kind = "vllm"\ncommand = ["sleep", "60", "${PORT}"]',
        "idle": 'kind = "vllm"\ncommand = ["/nowhere/server", "${PORT}"]',
        "spare": 'kind = "ollama"',
        "down": f'kind = "openai"\nurl = "http://127.0.0.1:{closed_port()}/v1"',
        "first": 'kind = "llamacpp"',
        "second": 'kind = "llamacpp"',
    }
    text = "".join(f"[backends.{name}]\n{rest}\n" for name, rest in tables.items())
    models = {"a": "good", "b": "first", "c": "second"}
    text += "".join(f'[models.{name}]\nbackend = "{backend}"\n' for name, backend in models.items())
    (tmp_path / "miner.toml").write_text(text, encoding="utf-8")
    found = examine(miner, "--no-probe", **settings())
    engines = {row["name"]: row["verdict"] for row in found.checks if row["group"] == "Engines"}
    assert {name: engines.get(name) for name in ("good", "idle", "spare", "down", "second")} == {
        "good": "skipped", "idle": "note", "spare": "skipped", "down": "note", "second": "skipped",
    }  # fmt: skip
    assert "b: model" in engines


def test_a_key_that_others_can_read_is_told_once(miner, tmp_path):
    write(tmp_path, kind="openai", rest=f'url = "http://127.0.0.1:{closed_port()}/v1"\nplain_key = "sk-0123456789"')
    (tmp_path / "miner.toml").chmod(0o644)
    found = examine(miner, "--no-probe", **settings())
    assert [(row["name"], row["verdict"]) for row in found.checks if "other users" in row["summary"]] == [
        ("plain_key", "problem")
    ]


def test_a_model_that_is_missing_is_told_once(miner, tmp_path):
    (tmp_path / "miner.toml").write_text(
        "".join(f'[models.{name}]\nfile = "/nowhere/{name}.gguf"\n' for name in "mn"), encoding="utf-8"
    )
    found = examine(miner, "--no-probe", **settings())
    (other,) = [row for row in found.checks if "/nowhere/n.gguf" in row["summary"]]
    assert (other["name"], other["verdict"]) == ("models.n.file", "problem")
    (row,) = [row for row in found.checks if "/nowhere/m.gguf" in row["summary"]]
    assert (row["name"], row["verdict"]) == ("m: model", "problem")
    assert "MODEL_PATH" not in str(row)
    assert row["fix"].endswith("# in [models.m] of miner.toml")
