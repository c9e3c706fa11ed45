"""`miner import`: what is written where, and what is said."""

import json
import tomllib

import pytest
import yaml

SWAP = {
    "models": {"small": {"cmd": "llama-server --port ${PORT} -m /m/small.gguf --api-key sk-hunter2", "metadata": {}}}
}
PRESETS = "[small]\nmodel = /m/small.gguf\nstop-timeout = 3\n"
LITELLM = {"model_list": [{"model_name": "small", "litellm_params": {
    "model": "openai/small", "api_base": "http://there/v1", "api_key": "sk-hunter2", "rpm": 3,
}}]}  # fmt: skip
SOURCES = {
    "llama-swap": ("config.yaml", yaml.safe_dump(SWAP), "models.small.metadata"),
    "llama-server": ("presets.ini", PRESETS, "[small].stop-timeout"),
    "litellm": ("config.yaml", yaml.safe_dump(LITELLM), "model_list.small.litellm_params.rpm"),
}
every_tool = pytest.mark.parametrize("tool", SOURCES)


@pytest.fixture
def source(miner):
    """Writes a tool's file; returns its name and what it cannot be carried over."""

    def write(tool):
        name, text, lost = SOURCES[tool]
        (miner.directory / name).write_text(text)
        return name, lost

    return write


@every_tool
def test_it_writes_a_file_and_names_what_is_lost(miner, source, tool):
    name, lost = source(tool)
    done = miner("import", tool, name)
    text = (miner.directory / "miner.toml").read_text()
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (0, b"")
    assert list(tomllib.loads(text)["models"]) == ["small"]
    assert "miner: miner.toml: 1 model, 1 backend." in said
    assert f"\n  {lost}: " in said
    assert "# not carried over: " in text
    assert "hunter2" not in text + said


@every_tool
def test_a_file_that_is_there_stays(miner, source, tool):
    name, _ = source(tool)
    (miner.directory / "miner.toml").write_text("mine")
    done = miner("import", tool, name)
    assert done.returncode == 2
    assert b"miner.toml is there already" in done.stderr
    assert (miner.directory / "miner.toml").read_text() == "mine"
    assert miner("import", tool, name, "--force").returncode == 0
    assert "[models.small]" in (miner.directory / "miner.toml").read_text()


@every_tool
def test_to_standard_output(miner, source, tool):
    name, _ = source(tool)
    done = miner("import", tool, name, "-o", "-")
    assert done.returncode == 0
    assert "small" in tomllib.loads(done.stdout.decode())["models"]
    assert not (miner.directory / "miner.toml").exists()


def test_the_variables_to_set_are_named(miner, source):
    name, _ = source("litellm")
    said = miner("import", "litellm", name, "-o", "x.toml").stderr.decode()
    assert "Set in the environment:\n  OPENAI_KEY: model_list.small: its api_key\n" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "No tool given"), (["other"], "Unknown tool 'other'"), (["litellm"], "FILE"),
        (["litellm", "gone.yaml"], "gone.yaml cannot be read"), (["litellm", "."], "cannot be read"),
        (["ollama", "."], "no models directory of Ollama"),
    ],
)  # fmt: skip
def test_invalid_usage(miner, arguments, says):
    done = miner("import", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert says in done.stderr.decode()


def test_a_directory_that_is_not_there_is_named(miner, source):
    name, _ = source("litellm")
    done = miner("import", "litellm", name, "-o", "gone/miner.toml")
    assert done.returncode == 2
    assert b"gone/miner.toml cannot be written" in done.stderr


@pytest.mark.process
def test_without_pyyaml_the_extra_is_named(miner, source):
    name, _ = source("litellm")
    (miner.directory / "sitecustomize.py").write_text("import sys\nsys.modules['yaml'] = None\n")
    from tests.paths import ROOT

    done = miner("import", "litellm", name, PYTHONPATH=f"{miner.directory}:{ROOT}")
    assert done.returncode == 2
    assert b'pip install "llm-service-backends[import]"' in done.stderr
    (miner.directory / "presets.ini").write_text(PRESETS)
    assert miner("import", "llama-server", "presets.ini", PYTHONPATH=f"{miner.directory}:{ROOT}").returncode == 0


def test_relative_paths_are_found_beside_the_file(miner):
    (miner.directory / "there").mkdir()
    (miner.directory / "there" / "a.gguf").write_bytes(b"")
    (miner.directory / "there" / "config.yaml").write_text(
        json.dumps({"models": {n: {"cmd": f"llama-server --port ${{PORT}} -m {n}.gguf"} for n in "ab"}})
    )
    done = miner("import", "llama-swap", "there/config.yaml", "-o", "-")
    models = tomllib.loads(done.stdout.decode())["models"]
    assert models["a"]["file"] == str((miner.directory / "there" / "a.gguf").resolve())
    assert models["b"]["file"] == "./b.gguf"


def test_as_json(miner, source):
    name, _ = source("litellm")
    done = miner("import", "litellm", name, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["file"], found["text"]) == ("miner.toml", None)
    assert found["models"] >= 1
    assert "OPENAI_KEY" in found["variables"]
    assert all(set(each) == {"key", "reason"} for each in (*found["changed"], *found["not_carried_over"]))
    printed = json.loads(miner("import", "litellm", name, "-o", "-", "--json").stdout)
    assert printed["text"] == (miner.directory / "miner.toml").read_text()
