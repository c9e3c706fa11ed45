"""Each setting with its value, source and description."""

import argparse
import json

import pytest

from miner.cli.configuration.settings import (
    all_classes,
    described_settings,
    find_setting,
    mistyped_variables,
    unreadable_dotenv,
)
from miner.cli.parser import UsageError
from miner.config.config import MinerConfig
from miner.config.file.read import read_config
from tests.config.conftest import empty_directory

__all__ = ["empty_directory"]


def by_variable(*arguments):
    return {each.variable: each for each in described_settings(all_classes(), *arguments)}


def test_every_setting_has_a_description_and_says_what_is_allowed():
    described = described_settings(all_classes())
    assert [each.name for each in described] == [name for cls in all_classes() for name in cls.model_fields]
    for each in described:
        assert each.description.endswith("."), each.variable
        assert "\n" not in each.description
        assert each.allowed, each.variable
        assert (each.changed, each.source, each.problem, each.value) == (False, "default", None, each.default)
    json.dumps([each.value for each in described])


def test_where_values_come_from(empty_directory, monkeypatch):
    (empty_directory / ".env").write_text(
        "\n# c\nllamacpp_parallel=3\n\n\nLLAMACPP_THREADS=4\nLLAMACPP_THREADS=5\nOLLAMA_NUM_CTX=\n"
        "MINER_MAX_RETRIES='6'\nDEFAULT_MODEL=x\n"
    )
    monkeypatch.setenv("MINER_MAX_RETRIES", "7")
    monkeypatch.setenv("MINER_SERVE_PORT", "9000")
    args = argparse.Namespace(flags={"serve_port": "port", "serve_log": "log"}, port=1, log=None)
    found = by_variable(args)
    assert [(name, each.value, each.source) for name, each in found.items() if each.changed] == [
        ("MINER_MAX_RETRIES", 7, "environment"), ("DEFAULT_MODEL", "x", ".env:10"),
        ("LLAMACPP_PARALLEL", 3, ".env:3"), ("LLAMACPP_THREADS", 5, ".env:7"), ("MINER_SERVE_PORT", 1, "--port"),
    ]  # fmt: skip
    assert found["MINER_SERVE_PORT"].allowed == "an integer from 0 to 65535"


def test_what_a_file_replaces(empty_directory, monkeypatch):
    monkeypatch.setenv("LLAMACPP_MAX_LOADED", "2")
    (empty_directory / "miner.toml").write_text('[limits]\nmax_loaded = 4\n[defaults]\nmodel = "demo"\n[models.demo]\n')
    found = by_variable(None, read_config(empty_directory / "miner.toml"))
    assert (found["LLAMACPP_MAX_LOADED"].value, found["LLAMACPP_MAX_LOADED"].source) == (4, "miner.toml:2")
    assert (found["DEFAULT_MODEL"].value, found["DEFAULT_MODEL"].source) == ("demo", "miner.toml:4")
    assert (found["LLM_BACKEND"].value, found["LLM_BACKEND"].source) == ("pool", "miner.toml")


def test_an_invalid_one_is_an_entry(empty_directory, monkeypatch):
    monkeypatch.setenv("LLAMACPP_PARALLEL", "many")
    monkeypatch.setenv("MINER_SERVE_LOG", "jsn")
    monkeypatch.setenv("LLAMACPP_FLAGS", "--api-key sk-secret x")
    monkeypatch.setenv("VLLM_API_BASE", "http://u:hunter2@/v1?key=hunter2")
    found = by_variable()
    problems = {name: each.problem for name, each in found.items() if each.problem}
    assert problems == {
        "LLAMACPP_PARALLEL": "must be an integer from 1 to 256",
        "VLLM_API_BASE": "must start with http:// or https:// and name a host, such as http://localhost:8000/v1",
        "MINER_SERVE_LOG": "must be text, json or off",
    }
    assert found["LLAMACPP_PARALLEL"].text == "many"
    assert "hunter2" not in str(found)
    assert "sk-secret" not in str(found)


def test_secrets_are_never_in_it(empty_directory, monkeypatch):
    (empty_directory / ".env").write_text("HF_TOKEN=hunter2\nMINER_API_KEYS=hunter2,hunter2\n")
    monkeypatch.setenv("VLLM_API_KEY", "hunter2")
    found = by_variable()
    assert "hunter2" not in str(found)
    assert {name for name, each in found.items() if each.value == "***"} == {
        "HF_TOKEN", "MINER_API_KEYS", "VLLM_API_KEY"
    }  # fmt: skip
    assert not found["MINER_API_KEYS_FILE"].secret


@pytest.mark.parametrize(
    "name",
    ["LLAMACPP_PARALLEL", "llamacpp_parallel", "Llamacpp-Parallel", "MINER_LLAMACPP_PARALLEL", " llamacpp_parallel"],
)
def test_a_setting_by_any_of_its_names(name):
    assert find_setting(name, described_settings([MinerConfig])).variable == "LLAMACPP_PARALLEL"


@pytest.mark.parametrize(
    ("name", "meant"), [("llamacpp_paralel", "LLAMACPP_PARALLEL"), ("max_retry", "MINER_MAX_RETRIES"), ("zzzz", None)]
)
def test_one_that_is_none_is_guessed(name, meant):
    with pytest.raises(UsageError) as caught:
        find_setting(name, described_settings([MinerConfig]))
    assert caught.value.message == f"There is no setting {name!r}."
    assert caught.value.hints == (
        f"Did you mean {meant}?" if meant else "`miner config show --all` lists all settings."
    )


def test_a_dotenv_that_is_no_text_ends_nothing(empty_directory, monkeypatch):
    (empty_directory / ".env").write_bytes(b"LLAMACPP_PARALLEL=\xff\n")
    monkeypatch.setenv("MINER_MAX_RETRIES", "1")
    assert unreadable_dotenv() == ".env is not UTF-8 text: invalid start byte at byte 18."
    assert [each.variable for each in described_settings([MinerConfig]) if each.changed] == ["MINER_MAX_RETRIES"]
    assert mistyped_variables() == []


def test_mistyped_variables(monkeypatch):
    monkeypatch.setenv("MINER_MAX_RETRY", "1")
    assert mistyped_variables() == ["MINER_MAX_RETRY is not a setting: did you mean MINER_MAX_RETRIES?"]
