"""Created models through the library."""

from __future__ import annotations

import pytest

from miner.config.config import MinerConfig
from miner.core.llms.llamacpp.go_template import jinja_of
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.model_card import ModelRecipe
from miner.errors import InvalidRequestError, UnsupportedFeatureError


def llamacpp(tmp_path, **settings):
    return LlamaCppService(
        MinerConfig(_env_file=None, models_dir=str(tmp_path), llamacpp_threads=1, llamacpp_parallel=1,
                    llamacpp_ctx_size=1024, **settings)
    )  # fmt: skip


async def create(service, name, **recipe):
    return [event["status"] async for event in service.create_model(name, ModelRecipe(**recipe))]


@pytest.mark.engine
async def test_a_created_model_is_used_by_its_name_and_as_the_default(tmp_path):
    async with llamacpp(tmp_path, default_model="short") as service:
        made = await create(service, "short", base="demo", system="Be brief.", parameters={"num_predict": 3})
        by_default = await service.stream("Tell me a story.", max_tokens=-1).collect()
        own = await service.stream("Tell me a story.", model="SHORT:latest", max_tokens=2).collect()
        whole = await service.count_tokens("Hi", model="short")
        without = await service.count_tokens(
            messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "Hi"}]
        )
        raw = await service.count_tokens("Hi", model="short", raw=True)
        listed = [model.id for model in await service.list_models()]
        assert await service.health_check()
        await service.delete_model("short")
        left = [model.id for model in await service.list_models()]
    assert made[-1] == "success"
    assert (by_default.model, by_default.usage.completion_tokens) == ("short", 3)
    assert own.usage.completion_tokens == 2
    assert whole > without  # the system prompt is longer
    assert raw == 1
    assert listed == ["short", "demo"]
    assert left == ["demo"]


async def test_a_recipe_is_checked_before_it_is_written(tmp_path):
    async with llamacpp(tmp_path) as service:
        for wrong, kind in (
            ({"parameters": {"temperature": 9}}, InvalidRequestError),
            ({"messages": [{"role": "king", "content": "x"}]}, InvalidRequestError),
            ({"other": {"adapters": {"a": "sha256:0"}}}, UnsupportedFeatureError),
            ({"template": "{{ .Tools }}"}, UnsupportedFeatureError),
        ):
            with pytest.raises(kind):
                await create(service, "x", base="demo", **wrong)
        assert [model.id for model in await service.list_models()] == ["demo"]


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("{{- range .Messages }}[{{ .Role }}]\n{{ end }}A", '{% for message in messages %}{{ "[" }}'),
        ('{{ if and .System (ne .System "x") }}{{ .System }}{{ end }}{{ .Prompt }}', '(system and (system != "x"))'),
        ("{{ range $i, $m := .Messages }}{{ $m.Content }}{{ end }}", "{{ message['content'] }}"),
        ("{{ if not .System }}a{{ else }}b{{ end }}{{ .Prompt }}", "{% if (not system) %}"),
    ],
)
def test_templates_in_gos_syntax(template, written):
    assert written in jinja_of(template)


@pytest.mark.parametrize(
    "template", ["{{ if .System }}", "{{ .Tools }}", "{{ json .System }}", "{{ range .X }}{{ end }}"]
)
def test_templates_without_an_equivalent_are_refused(template):
    with pytest.raises(UnsupportedFeatureError, match="template"):
        jinja_of(template)
