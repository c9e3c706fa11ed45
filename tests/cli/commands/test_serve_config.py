"""`miner serve` and `miner generate` with a miner.toml: which one, and what is said of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.gateway.server.test_run import miner_serve
from tests.gateway.serving import post
from tests.servers.openai_stub import StubServer

pytestmark = pytest.mark.process

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def file_for(server, name):
    return (
        f'[backends.far]\nkind = "openai"\nurl = "{server.v1}"\n[models.{name}]\nname = "m"\naliases = ["claude-*"]\n'
    )


@pytest.fixture
def unset(tmp_path):
    """What `miner_serve` sets otherwise; the user's directories are below tmp_path."""
    return {"LLM_BACKEND": "", "DEFAULT_MODEL": "", "HOME": str(tmp_path / "home"), "MINER_SERVE_PRELOAD": "false"}


@pytest.mark.parametrize("place", ["option", "variable", "working directory", "user's directory"])
async def test_the_file_is_served(place, tmp_path, unset):
    async with StubServer(models=["m"]) as server:
        path = {
            "option": tmp_path / "a.toml", "variable": tmp_path / "b.toml",
            "working directory": tmp_path / "miner.toml",
            "user's directory": tmp_path / "home" / ".config" / "miner" / "miner.toml",
        }[place]  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file_for(server, "small"))
        if place in ("option", "variable"):  # it comes before the others
            (tmp_path / "miner.toml").write_text("[models.other]\n")
        arguments = ["--config", "a.toml"] if place == "option" else []
        variables = unset | ({"MINER_CONFIG": "b.toml"} if place == "variable" else {})
        async with miner_serve("--port", "0", *arguments, tmp_path=tmp_path, **variables) as gateway:
            await gateway.until_serving()
            assert gateway.said.splitlines()[-1].endswith(f" with {path}: small.")
            for model in ({}, {"model": "small"}, {"model": "claude-opus-4"}):
                async with post(gateway, {**CHAT, **model}) as answer:
                    assert (answer.status, (await answer.json())["model"]) == (200, "small")
        assert server.bodies[-1]["model"] == "m"


async def test_a_named_file_is_served_whatever_the_backend_of_the_environment(tmp_path, unset):
    async with StubServer(models=["m"]) as server:
        (tmp_path / "a.toml").write_text(file_for(server, "small"))
        variables = {**unset, "LLM_BACKEND": "vllm"}
        async with miner_serve("--port", "0", "--config", "a.toml", tmp_path=tmp_path, **variables) as gateway:
            await gateway.until_serving()
            assert gateway.said.splitlines()[-1].endswith("a.toml: small.")


@pytest.mark.parametrize(
    ("arguments", "backend", "reason"),
    [(["--backend", "vllm"], "", "--backend vllm"), ([], "vllm", "LLM_BACKEND=vllm")],
)
async def test_another_backend_is_served_with_a_notice(arguments, backend, reason, tmp_path, unset):
    (tmp_path / "miner.toml").write_text("[models.demo]\n")
    variables = {**unset, "LLM_BACKEND": backend}
    async with miner_serve("--port", "0", *arguments, tmp_path=tmp_path, **variables) as gateway:
        await gateway.until_serving()
        warning, serving = gateway.said.splitlines()[-2:]
    assert warning.endswith(f"WARNING miner.gateway miner.toml is not served: {reason} is set.")
    assert serving.endswith(" with vllm.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "absent.toml"], "miner: There is no configuration file absent.toml."),
        (["--config", "wrong.toml"], "miner: wrong.toml:2: models.a.slots = 0: must be an integer from 1 to 256."),
        (["--config", "two.toml", "--backend", "vllm"], "miner: --config and --backend exclude each other."),
        (["--config", "two.toml", "--model", "c"], "miner: --model c: two.toml has no such model."),
        (["--config", "two.toml", "--model", "b"], "miner: --model b: the default model of two.toml is a."),
    ],
)
async def test_what_cannot_be_served(arguments, message, tmp_path, unset):
    (tmp_path / "wrong.toml").write_text("[models.a]\nslots = 0\n")
    (tmp_path / "two.toml").write_text('[defaults]\nmodel = "a"\n[models.a]\n[models.b]\n')
    async with miner_serve("--port", "0", *arguments, tmp_path=tmp_path, **unset) as gateway:
        assert await gateway.ended() == 2
    assert message in gateway.said.splitlines()


async def test_a_model_of_the_command_line_where_the_file_says_none(tmp_path, unset):
    async with StubServer(models=["m"]) as server:
        (tmp_path / "miner.toml").write_text(file_for(server, "a") + '[models.b]\nname = "m"\n')
        async with miner_serve("--port", "0", "--model", "b", tmp_path=tmp_path, **unset) as gateway:
            await gateway.until_serving()
            async with post(gateway, CHAT) as answer:
                assert (await answer.json())["model"] == "b"


def test_generate_with_a_file(miner, tmp_path):
    (tmp_path / "a.toml").write_text("[models.a]\nslots = 0\n")
    done = miner("generate", "--config", "a.toml", "Hi")
    assert done.returncode == 2
    assert done.stderr.startswith(b"miner: a.toml:2: models.a.slots = 0: ")
    done = miner("generate", "--config", "a.toml", "--backend", "vllm", "Hi")
    assert done.stderr.startswith(b"miner: --config and --backend exclude each other.")


async def test_settings_that_a_file_has_in_its_own_way_are_told_to_have_no_effect(tmp_path, unset):
    async with StubServer(models=["m"]) as server:
        (tmp_path / "miner.toml").write_text(file_for(server, "small").replace("claude-*", "*"))
        variables = {**unset, "MINER_LLM_FALLBACKS": "ollama", "MINER_SERVE_ANY_MODEL_NAME": "true"}
        async with miner_serve("--port", "0", tmp_path=tmp_path, **variables) as gateway:
            await gateway.until_serving()
            warnings = [line for line in gateway.said.splitlines() if " WARNING " in line]
            assert [line.split(" ", 3)[3].split(" has no effect")[0] for line in warnings] == [
                "MINER_LLM_FALLBACKS", "MINER_SERVE_ANY_MODEL_NAME"
            ]  # fmt: skip
            async with post(gateway, {**CHAT, "model": "gpt-9"}) as answer:  # as the second of them says
                assert (answer.status, (await answer.json())["model"]) == (200, "small")


@pytest.mark.parametrize("module", ["miner.core.llms.registry", "miner.gateway.server.run, miner.cli.commands.serve"])
def test_without_a_file_nothing_of_it_is_imported(module, tmp_path):
    code = f"""
import sys, {module}
from miner.config.config import MinerConfig
from miner.core.llms.registry import get_backend
assert get_backend(None, MinerConfig(llm_backend="vllm", default_model="m")).name == "vllm"
assert get_backend("ollama").name == "ollama"
print([name for name in sys.modules if name.startswith(
    ("tomllib", "tomlkit", "miner.config.file", "miner.core.llms.pool", "miner.core.llms.llm_pool",
     "miner.core.llms.llamacpp.", "miner.core.engine.pool"))])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")
