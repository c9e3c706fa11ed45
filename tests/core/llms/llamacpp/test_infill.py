"""Fill-in-the-middle: what is sent to a model that has tokens for it, and the refusal of one that has none."""

from __future__ import annotations

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.models.gguf.fim import FimTokens
from miner.core.models.gguf.header import read_header
from miner.errors import ContextLengthError, InvalidRequestError, UnsupportedFeatureError
from tests.core.services import settings
from tests.servers.llama_runner import LlamaRunner, RunnerConfig, demo_model
from tests.tiny_model import write_tiny_model

FOUND_BY = pytest.mark.parametrize("fim", ["names", "ids"])
BEFORE, AFTER = "def add(a, b):\n    ", "\n\nprint(add(1, 2))"


@FOUND_BY
def test_the_tokens_are_found_in_the_file(tmp_path, fim):
    assert read_header(write_tiny_model(tmp_path / "fim.gguf", fim=fim)).fim_tokens == FimTokens(
        259, 260, 261, None, None
    )


def test_a_file_without_them(tmp_path):
    assert read_header(write_tiny_model(tmp_path / "plain.gguf")).fim_tokens is None
    assert read_header(demo_model()).fim_tokens is None


def service(path, **given):
    return LlamaCppService(
        settings(model_path=path, llamacpp_ctx_size=512, llamacpp_parallel=1, llamacpp_threads=1, **given)
    )


async def assert_fills(filler: LlamaCppService) -> None:
    """The prompt is both texts, whole, with a token before each and one at the end."""
    before = await filler.count_tokens(BEFORE * 8, raw=True)  # each with the token of a prompt's beginning
    after = await filler.count_tokens(AFTER * 8, raw=True)
    stream = filler.stream(BEFORE * 8, suffix=AFTER * 8, max_tokens=4)
    reply = await stream.collect()
    assert reply.content
    assert reply.usage.prompt_tokens == before + after - 1 + 3
    assert await filler.generate("", suffix=AFTER, max_tokens=2)


@pytest.mark.engine
@FOUND_BY
async def test_a_model_of_ours_fills_a_gap(tmp_path, fim):
    async with service(write_tiny_model(tmp_path / "fim.gguf", fim=fim)) as filler:
        [model] = await filler.list_models()
        assert "suffix" in model.capabilities
        await assert_fills(filler)
        [model] = await filler.list_models()
        assert "suffix" in model.capabilities  # of the engine's own props now
        with pytest.raises(ContextLengthError):
            await filler.generate("a" * 400, suffix="b" * 400, max_tokens=2)


@pytest.mark.engine
async def test_a_server_of_somebody_else_fills_a_gap(tmp_path):
    model = write_tiny_model(tmp_path / "fim.gguf", fim="names")
    runner = await LlamaRunner.start(RunnerConfig(path=str(model), num_ctx=512, parallel=1))
    try:
        address = str(runner._session._base_url).rstrip("/")
        async with LlamaCppService(settings(llamacpp_api_base=address)) as filler:
            [info] = await filler.list_models()
            assert "suffix" in info.capabilities
            await assert_fills(filler)
    finally:
        await runner.stop()


@pytest.mark.engine
async def test_a_server_of_somebody_else_whose_model_cannot():
    runner = await LlamaRunner.start(RunnerConfig(path=str(demo_model()), num_ctx=512, parallel=1))
    try:
        address = str(runner._session._base_url).rstrip("/")
        async with LlamaCppService(settings(llamacpp_api_base=address)) as filler:
            with pytest.raises(UnsupportedFeatureError) as unknown:
                await filler.generate(BEFORE, suffix=AFTER)
            [info] = await filler.list_models()
            assert "suffix" not in info.capabilities
            with pytest.raises(UnsupportedFeatureError) as known:
                await filler.generate(BEFORE, suffix=AFTER)
        assert unknown.value.param == known.value.param == "suffix"
    finally:
        await runner.stop()


async def test_a_model_of_ours_that_cannot():
    async with service(demo_model()) as filler:
        with pytest.raises(UnsupportedFeatureError, match="does not support suffix") as caught:
            await filler.generate(BEFORE, suffix=AFTER)
        assert caught.value.param == "suffix"


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"prompt": "a", "suffix": 1}, "suffix"),
        ({"prompt": [1, 2], "raw": True, "suffix": "b"}, "suffix"),
        ({"messages": [{"role": "user", "content": "a"}], "suffix": "b"}, "suffix"),
        ({"prompt": "a", "suffix": "b", "reasoning": True}, "reasoning"),
        ({"prompt": "a", "suffix": "b", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"prompt": "", "suffix": ""}, "prompt"),
    ],
)
def test_what_does_not_go_together_with_a_suffix(arguments, param):
    with pytest.raises(InvalidRequestError) as caught:
        service(demo_model()).stream(**arguments)
    assert caught.value.param == param
