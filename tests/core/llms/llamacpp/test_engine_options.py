"""Engine options of llama.cpp through the service, and what the real engine then does."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import asynccontextmanager

import gguf
import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import ConfigError, EngineStartError
from tests.adapter import write_adapter
from tests.core.engine.test_launchers import make_binary
from tests.servers.llama_runner import demo_model
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

COUNT = "one two three four five six seven eight nine ten one two three four"


@asynccontextmanager
async def llamacpp(model, **settings):
    own = {"llamacpp_threads": 1, "llamacpp_parallel": 1, "llamacpp_ctx_size": 512, "model_path": model, **settings}
    async with get_backend("llamacpp", MinerConfig(**own)) as service:
        yield service


async def completion(service, prompt=COUNT, **body):
    body = {"prompt": prompt, "n_predict": 24, "temperature": 0, **body}
    (event,) = [event async for batch in service.native_stream("/completion", body) for event in batch.events]
    return json.loads(event)


async def props(service):
    return json.loads(await service.native("/props"))["default_generation_settings"]["params"]


def write_projector(path):
    """The header of one, as wide as the tiny model."""
    writer = gguf.GGUFWriter(str(path), "clip")
    writer.add_uint32("clip.vision.projection_dim", 64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_model(tmp_path / "tiny.gguf")


async def test_adapters_apply_with_their_scale(tiny, tmp_path):
    adapter = write_adapter(tmp_path / "a.gguf", tiny)
    texts = {}
    for name, lora in {
        "none": None, "off": f"{adapter}:0", "on": str(adapter), "weak": [(str(adapter), 0.25)],
        "both": [(str(adapter), 0.5), (str(adapter), 0.5)],
    }.items():  # fmt: skip
        async with llamacpp(tiny, llamacpp_lora=lora) as service:
            texts[name] = (await completion(service))["content"]
    assert texts["off"] == texts["none"]
    assert texts["both"] == texts["on"]
    assert len({texts["none"], texts["on"], texts["weak"]}) == 3


async def test_a_replaced_adapter_is_another_engine(tiny, tmp_path):
    adapter = write_adapter(tmp_path / "a.gguf", tiny)
    async with llamacpp(tiny, llamacpp_lora=str(adapter)) as service:
        before = (await completion(service))["content"]
        os.replace(write_adapter(tmp_path / "b.gguf", tiny, seed=4), adapter)
        assert (await completion(service))["content"] != before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, tiny: path, "LLAMACPP_LORA='.*a.gguf' cannot be read: No such file"),
        (lambda path, tiny: shutil.copy(tiny, path), "is no adapter, but a model"),
        (lambda path, tiny: path.write_bytes(b"x" * 100), "is no usable adapter"),
        (lambda path, tiny: write_adapter(path, tiny, architecture="gemma3"), "is an adapter for gemma3"),
    ],
)
async def test_an_adapter_that_cannot_be_is_refused_at_start_and_at_a_request(make, message, tiny, tmp_path):
    make(tmp_path / "a.gguf", tiny)
    settings = {"llamacpp_lora": str(tmp_path / "a.gguf")}
    with pytest.raises(ConfigError, match=message):
        LlamaCppService.check_settings(MinerConfig(model_path=tiny, **settings))
    async with llamacpp(tiny, **settings) as service:
        with pytest.raises(ConfigError, match=message):
            await completion(service)


async def test_a_draft_model_guesses_and_the_model_verifies():
    demo = demo_model()
    async with llamacpp(demo) as service:
        plain = await completion(service)
    async with llamacpp(demo, llamacpp_spec_draft_model=str(demo), llamacpp_spec_draft_n_max=6) as service:
        guessed = await completion(service)
    assert guessed["content"] == plain["content"]
    assert "draft_n" not in plain["timings"] or plain["timings"]["draft_n"] == 0
    assert guessed["timings"]["draft_n"] == guessed["timings"]["draft_n_accepted"] >= 12  # it agrees with itself


async def test_n_grams_guess_from_the_prompt():
    text = f"{COUNT} five six seven eight nine ten " * 4 + "one two three"
    for most in (2, 4):
        settings = {"llamacpp_spec_type": "ngram-simple", "llamacpp_spec_draft_n_max": most}
        async with llamacpp(demo_model(), **settings) as service:
            timings = (await completion(service, text))["timings"]
            assert timings["draft_n_accepted"] > 10
            metrics = (await service.native("/metrics")).decode()
        assert re.findall(r'^llamacpp:.*accepted_tokens_per_pos.*position="(\d+)"', metrics, re.MULTILINE) == [
            str(place) for place in range(most)
        ]


@pytest.mark.parametrize("kind", ["ngram-mod", "ngram-map-k", "ngram-map-k4v", "ngram-cache"])
async def test_other_kinds_guess_too(kind):
    most = None if kind == "ngram-cache" else 4
    flags = {f"spec-{kind}-size-n": 4} if "map" in kind else {"spec-ngram-mod-n-match": 4} if "mod" in kind else None
    settings = {"llamacpp_spec_type": kind, "llamacpp_spec_draft_n_max": most, "llamacpp_flags": flags}
    async with llamacpp(demo_model(), **settings) as service:
        reply = await completion(service, f"{COUNT} five six seven eight nine ten " * 4 + "one two three")
    assert reply["timings"]["draft_n_accepted"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "ngram-cache", "draft_n_max": 4}, "LLAMACPP_SPEC_DRAFT_N_MAX=4 has no effect with .*'ngram-cache'"),
        ({"type": "ngram-simple", "draft_n_min": 4}, "LLAMACPP_SPEC_DRAFT_N_MIN=4 has no effect"),
        ({"type": "ngram-mod", "draft_p_min": 0.5}, r"LLAMACPP_SPEC_DRAFT_P_MIN=0\.5 has no effect"),
        ({"type": "ngram-mod", "draft_model": "demo"}, "LLAMACPP_SPEC_DRAFT_MODEL has no effect"),
        ({"draft_n_max": 4}, "LLAMACPP_SPEC_DRAFT_N_MAX=4 has no effect with LLAMACPP_SPEC_TYPE=''"),
        ({"type": "ngram-mod", "draft_n_min": 9, "draft_n_max": 8}, "N_MIN=9 is more than LLAMACPP_SPEC_DRAFT_N_MAX=8"),
    ],
)
async def test_what_speculation_would_not_use_is_refused(tiny, settings, message):
    async with llamacpp(tiny, **{f"llamacpp_spec_{name}": value for name, value in settings.items()}) as service:
        with pytest.raises(ConfigError, match=message):
            await completion(service)


async def test_a_draft_model_that_is_missing_is_named(tiny):
    async with llamacpp(tiny, llamacpp_spec_type="draft") as service:
        with pytest.raises(ConfigError, match="LLAMACPP_SPEC_TYPE='draft-simple' needs a draft model"):
            await completion(service)
    async with llamacpp(tiny, llamacpp_spec_draft_model="absent") as service:
        with pytest.raises(ConfigError, match="LLAMACPP_SPEC_DRAFT_MODEL='absent': There is no"):
            await completion(service)


async def test_a_projector_can_be_left_out_or_named(tiny, tmp_path):
    write_projector(tmp_path / "mmproj-tiny.gguf")
    (tmp_path / "other").mkdir()
    named = write_projector(tmp_path / "other" / "mmproj.gguf")

    async def sees(**settings):
        async with llamacpp(tiny, **settings) as service:
            (info,) = await service.list_models()
            return "images" in info.capabilities, "images" in (await service.resolve_model(None)).capabilities

    assert await sees() == (True, True)
    assert await sees(llamacpp_no_mmproj=True) == (False, False)
    assert await sees(llamacpp_mmproj=str(named)) == (True, True)
    async with llamacpp(tiny, llamacpp_no_mmproj=True) as service:
        await completion(service)  # the one beside it, which no engine can load, is not even tried
        assert json.loads(await service.native("/props"))["modalities"]["vision"] is False
    async with llamacpp(tiny, llamacpp_mmproj=str(named)) as service:
        with pytest.raises(EngineStartError, match="did not start"):  # the operator wants it: no text without it
            await completion(service)
    with pytest.raises(ConfigError, match=r"LLAMACPP_MMPROJ='.*tiny\.gguf' is no projector, but a model"):
        await sees(llamacpp_mmproj=str(tiny))
    with pytest.raises(ConfigError, match="contradict each other"):
        await sees(llamacpp_mmproj=str(named), llamacpp_no_mmproj=True)


async def test_flags_of_each_type_reach_the_engine(tiny):
    flags = {"mirostat": 2, "dynatemp-range": 0.5, "samplers": ("top_k", "temperature"), "no-cache-prompt": True}
    async with llamacpp(tiny, llamacpp_flags=flags) as service:
        seen = await props(service)
        first, second = await completion(service, mirostat=0), await completion(service, mirostat=0)
    assert (seen["mirostat"], seen["dynatemp_range"], seen["samplers"]) == (2, 0.5, ["top_k", "temperature"])
    assert first["timings"]["cache_n"] == second["timings"]["cache_n"] == 0
    async with llamacpp(tiny) as service:
        await completion(service)
        assert (await completion(service))["timings"]["cache_n"] > 0


async def test_flags_change_what_the_model_says(tiny):
    texts = []
    for flags in (
        None,
        "--rope-freq-base 3",
        "--rope-scaling linear --rope-scale 8",
        "--override-tensor attn=CPU,ffn=CPU",
    ):
        async with llamacpp(tiny, llamacpp_flags=flags) as service:
            texts.append((await completion(service))["content"])
    assert len(set(texts[:3])) == 3
    assert texts[3] == texts[0]


async def test_experts_stay_in_main_memory_by_llama_cpps_own_patterns(tiny):
    async with llamacpp(tiny, llamacpp_cpu_moe=True) as service:
        moved = await completion(service)
    async with llamacpp(tiny, llamacpp_n_cpu_moe=1) as service:
        assert (await completion(service))["content"] == moved["content"]


async def test_a_value_that_only_the_engine_can_judge_is_named(tiny):
    async with llamacpp(tiny, llamacpp_flags={"override-tensor": "ffn=NOWHERE"}) as service:
        with pytest.raises(EngineStartError, match="flags: override-tensor='ffn=NOWHERE': unknown buffer type"):
            await completion(service)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 1}, "LLAMACPP_FLAGS: port = 1 is not for flags"),
        ({"rpc": "h:1"}, "flags: rpc = 'h:1': the xllamacpp wheel cannot take it"),
        ({"swa-ful": True}, "flags: swa-ful = True: the xllamacpp wheel has no such option"),
    ],
)
def test_flags_are_checked_before_the_first_request(flags, message):
    with pytest.raises(ConfigError, match=message):
        LlamaCppService.check_settings(MinerConfig(llamacpp_flags=flags))


def test_flags_of_a_named_binary_are_checked_against_its_help(tmp_path):
    binary = str(make_binary(tmp_path / "llama-server"))
    LlamaCppService.check_settings(MinerConfig(llamacpp_server=binary, llamacpp_flags={"no-jinja": True}))
    with pytest.raises(ConfigError, match=r"metrcs = True: it has no such option\. Did you mean metrics"):
        LlamaCppService.check_settings(MinerConfig(llamacpp_server=binary, llamacpp_flags={"metrcs": True}))


async def test_a_binary_that_lacks_an_option_names_setting_and_flag(tiny, tmp_path):
    binary = str(make_binary(tmp_path / "llama-server"))
    for settings, message in (
        ({"llamacpp_cpu_moe": True}, "LLAMACPP_CPU_MOE needs --cpu-moe"),
        ({"llamacpp_spec_type": "ngram-mod"}, "LLAMACPP_SPEC_TYPE needs --spec-type"),
        ({"llamacpp_flags": {"swa-full": True}}, "flags: swa-full = True: it has no such option"),
    ):
        async with llamacpp(tiny, llamacpp_server=binary, **settings) as service:
            with pytest.raises(EngineStartError, match=message):
                await completion(service)
