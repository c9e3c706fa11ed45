"""LiteLLM's config.yaml: each key is carried over, or named."""

import json

import pytest

from miner.cli.imports.litellm import import_litellm
from miner.cli.imports.litellm_providers import PROVIDERS
from miner.errors import ConfigError
from tests.cli.imports.helpers import checked, lost


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "config.yaml"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return import_litellm(path)

    return read


def model(name="m", target="openai/real", **params):
    info = params.pop("model_info", None)
    params = {"model": target, "api_base": "http://there/v1", **params}
    entry = {"model_name": name, "litellm_params": {key: value for key, value in params.items() if value is not None}}
    return entry | ({"model_info": info} if info else {})


PARAMS_LOST = [
    "rpm", "tpm", "itpm", "otpm", "max_budget", "budget_duration", "weight", "order", "tags", "stream_timeout",
    "input_cost_per_second", "output_cost_per_second", "num_ctx", "organization", "api_version", "region_name",
    "aws_access_key_id", "aws_secret_access_key", "vertex_project", "mock_response", "extra_headers", "logit_bias",
    "n", "user", "default_api_key_rpm_limit", "configurable_clientside_auth_params", "something_new",
]  # fmt: skip
INFO_LOST = [
    "id", "base_model", "mode", "max_tokens", "max_input_tokens", "max_output_tokens", "access_groups", "tier",
    "supports_vision", "supports_function_calling", "team_id", "health_check_timeout", "something_new",
]  # fmt: skip
SETTINGS_LOST = {
    "litellm_settings": [
        "success_callback", "failure_callback", "callbacks", "service_callbacks", "turn_off_message_logging",
        "modify_params", "redact_user_api_key_info", "set_verbose", "json_logs", "context_window_fallbacks",
        "content_policy_fallbacks", "cache", "cache_params", "telemetry", "max_budget", "default_team_settings",
        "force_ipv4", "mcp_aliases", "key_generation_settings", "langfuse_default_tags", "something_new",
    ],
    "router_settings": [
        "routing_strategy", "routing_strategy_args", "redis_host", "redis_port", "redis_password", "redis_url",
        "enable_pre_call_checks", "allowed_fails", "cooldown_time", "disable_cooldowns", "enable_tag_filtering",
        "retry_policy", "allowed_fails_policy", "content_policy_fallbacks", "context_window_fallbacks",
        "stream_timeout", "default_litellm_params", "cache_responses", "model_group_retry_policy", "something_new",
    ],
    "general_settings": [
        "master_key", "database_url", "database_connection_pool_limit", "custom_auth", "alerting", "alerting_threshold",
        "max_parallel_requests", "global_max_parallel_requests", "background_health_checks", "health_check_interval",
        "store_model_in_db", "pass_through_endpoints", "enable_jwt_auth", "allowed_routes", "key_management_system",
        "enforce_user_param", "litellm_license", "max_request_size_mb", "allowed_ips", "something_new",
    ],
    "": [
        "environment_variables", "include", "guardrails", "mcp_servers", "callback_settings", "finetune_settings",
        "files_settings", "vector_store_registry", "something_new",
    ],
}  # fmt: skip
WHERE_AND_KEY = [(where, key) for where, keys in SETTINGS_LOST.items() for key in keys]


@pytest.mark.parametrize("key", PARAMS_LOST)
@pytest.mark.parametrize("value", ["hunter2 " * 5, 3, {"inside": "hunter2", "deep": {"er": ["hunter2"]}}, ["hunter2"]])
def test_parameters_without_an_equivalent_are_named(read, key, value):
    draft = read({"model_list": [model(**{key: value})]})
    assert list(checked(draft).models) == ["m"]
    assert f"model_list.m.litellm_params.{key}" in lost(draft)
    assert f"# not carried over: {key}" in draft.text()
    if isinstance(value, dict):
        assert any("inside, deep.er" in remark.where for remark in draft.lost)
        assert "hunter2" not in draft.text()


@pytest.mark.parametrize("key", INFO_LOST)
def test_what_model_info_says_besides_is_named(read, key):
    draft = read({"model_list": [model(model_info={key: "x"})]})
    assert list(checked(draft).models) == ["m"]
    assert f"model_list.m.model_info.{key}" in lost(draft)


@pytest.mark.parametrize(("where", "key"), WHERE_AND_KEY)
@pytest.mark.parametrize("value", ["sk-hunter2", {"secret": "hunter2"}, True, [1]])
def test_settings_without_an_equivalent_are_named_and_never_shown(read, where, key, value):
    draft = read({"model_list": [model()], **({where: {key: value}} if where else {key: value})})
    assert list(checked(draft).models) == ["m"]
    assert f"{where}.{key}".lstrip(".") in lost(draft)
    if key in ("master_key", "database_url", "redis_password") or isinstance(value, dict):
        assert "hunter2" not in draft.text()


def test_parameters_and_prices_that_have_a_key(read):
    draft = read(
        {
            "model_list": [
                model(
                    temperature=0.2, top_p=0.9, max_tokens=20, seed=1, stop="END", presence_penalty=1, timeout=30,
                    max_retries=2, max_parallel_requests=4, drop_params=True, additional_drop_params=["n", "n"],
                    input_cost_per_token=0.0000015, output_cost_per_token="2e-6", cache_read_input_token_cost=1e-7,
                    model_info={"description": "good"},
                ),
                model("o", "ollama_chat/llama3", api_base=None, keep_alive="5m", drop_params=False),
            ]
        }
    )  # fmt: skip
    content = checked(draft)
    found = content.models["m"]
    assert found.sampling.model_dump(exclude_none=True) == {
        "temperature": 0.2, "top_p": 0.9, "max_tokens": 20, "seed": 1, "stop": ["END"], "presence_penalty": 1,
    }  # fmt: skip
    assert found.price is not None
    assert (found.price.input, found.price.output, found.price.cached) == (1.5, 2.0, 0.1)
    assert (found.timeout, found.unsupported, found.skip, found.description) == (30, "skip", ["n"], "good")
    backend = content.backends[str(found.backend)]
    assert (backend.max_retries, backend.concurrency, backend.kind, found.name) == (2, 4, "openai", "real")
    other = content.models["o"]
    assert (other.keep_alive, other.unsupported, content.backends[str(other.backend)].url) == (
        300, "refuse", "http://localhost:11434",
    )  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_that_is_known_becomes_a_backend(read, provider):
    content = checked(read({"model_list": [model(target=f"{provider}/a/b")]}))
    assert [backend.kind for backend in content.backends.values()] == [PROVIDERS[provider].kind]
    assert content.models["m"].name == "a/b"


@pytest.mark.parametrize("target", ["azure/x", "anthropic/x", "bedrock/x", "vertex_ai/x", "gemini/x", "cohere/x"])
def test_providers_with_an_api_of_their_own_are_named(read, target):
    draft = read({"model_list": [model("other", target, api_key="sk-hunter2", rpm=3), model()]})
    assert list(checked(draft).models) == ["m"]
    assert "does not speak OpenAI's API" in lost(draft)["model_list.other"]
    assert "litellm_params.rpm" in next(remark.where for remark in draft.lost)
    assert "hunter2" not in draft.text()


def test_addresses_and_keys_that_are_known_without_being_said(read):
    content = checked(
        read({"model_list": [model("a", "gpt-4o", api_base=None), model("g", "groq/x", api_base=None)]}),
        OPENAI_API_KEY="o", GROQ_API_KEY="g",
    )  # fmt: skip
    assert {(each.url, each.key) for each in content.backends.values()} == {
        ("https://api.openai.com/v1", "o"), ("https://api.groq.com/openai/v1", "g"),
    }  # fmt: skip
    assert "model_list.v" in lost(read({"model_list": [model("v", "hosted_vllm/x", api_base=None)]}))


def test_keys_in_the_open_become_variables_one_for_each(read):
    entries = [model("a", api_key="sk-1"), model("b", api_key="sk-1"), model("c", api_key="sk-2")]
    draft = read(
        {"model_list": [*entries, model("d", api_key="os.environ/MINE"), model("e", "ollama/x", api_key="sk-3")]}
    )
    content = checked(draft, MINE="m")
    assert [backend.key for backend in content.backends.values()] == ["http://set-later", "http://set-later", "m", None]
    assert set(draft.variables) == {"OPENAI_KEY", "OPENAI_KEY_2", "MINE"}
    assert "sk-" not in draft.text()
    assert "model_list.e.litellm_params.api_key" in lost(draft)


def test_an_address_from_the_environment(read):
    draft = read({"model_list": [model(api_base="os.environ/BASE")]})
    assert next(iter(checked(draft, BASE="http://here/v1").backends.values())).url == "http://here/v1"


def test_several_deployments_of_one_name_take_over(read):
    draft = read({"model_list": [model(), model(target="hosted_vllm/other", api_base="http://b/v1"), model(rpm=1)]})
    content = checked(draft)
    assert content.models["m"].fallbacks == ["m-2", "m-3"]
    assert [found.listed for found in content.models.values()] == [True, False, False]
    assert [remark.where for remark in draft.changed] == ["model_list.m"]


def test_names_with_wildcards(read):
    draft = read(
        {
            "model_list": [
                model("*", "openai/*", api_base=None, rpm=1), model("claude-*", "ollama/llama3"),
                model("groq/*", "groq/*", api_base=None), model("anthropic/*", "anthropic/*", api_base=None),
            ]
        }
    )  # fmt: skip
    content = checked(draft)
    assert {name: backend.expose for name, backend in content.backends.items()} == {
        "openai": True, "ollama-there": False, "groq": True,
    }  # fmt: skip
    assert content.models["llama3"].aliases == ["claude-*"]
    assert {"model_list.*.rpm", "model_list.anthropic/*"} <= set(lost(draft))
    assert [remark.where for remark in draft.changed] == ["model_list.groq/*"]


def test_settings_of_all_models(read):
    draft = read(
        {
            "model_list": [model("a"), model("b"), model("c", max_retries=1, api_base="http://c/v1")],
            "litellm_settings": {
                "drop_params": True, "num_retries": 3, "request_timeout": 60, "fallbacks": [{"b": ["a"]}],
                "default_fallbacks": ["b", "gone"],
            },
            "router_settings": {
                "timeout": 30, "num_retries": 20, "fallbacks": [{"a": ["b", "a", {"model": "c"}]}, {"gone": ["a"]}],
                "model_group_alias": {"x": "a", "y": {"model": "b", "hidden": True}, "z": "gone"},
            },
            "general_settings": {"completion_model": "b"},
        }
    )  # fmt: skip
    content = checked(draft)
    assert (content.defaults.unsupported, content.defaults.timeout, content.defaults.model) == ("skip", 30, "b")
    assert [backend.max_retries for backend in content.backends.values()] == [10, 1]
    assert {name: found.fallbacks for name, found in content.models.items()} == {"a": ["b"], "b": ["a"], "c": ["b"]}
    assert (content.models["a"].aliases, content.models["b"].aliases) == (["x"], ["y"])
    assert {
        "litellm_settings.request_timeout", "router_settings.fallbacks.a.c", "router_settings.fallbacks.gone",
        "router_settings.model_group_alias.y.hidden", "router_settings.model_group_alias.z",
        "litellm_settings.default_fallbacks.gone",
    } <= set(lost(draft))  # fmt: skip


def test_an_entry_without_parameters_is_named(read):
    draft = read({"model_list": [{"model_name": "a", "odd": 1}, model()]})
    assert list(checked(draft).models) == ["m"]
    assert "model_list.a" in lost(draft)


@pytest.mark.parametrize("value", [None, True, 0, -1, 1.5, "", "x", [], {}, [1], {"a": ["b"]}, 1e99])
@pytest.mark.parametrize(
    "key",
    ["model", "api_base", "api_key", "timeout", "max_retries", "num_retries", "max_parallel_requests", "drop_params",
     "additional_drop_params", "keep_alive", "temperature", "stop", "input_cost_per_token", "custom_llm_provider",
     "litellm_credential_name"],
)  # fmt: skip
def test_a_value_of_any_form_is_no_crash(read, key, value):
    entry = model("other")
    entry["litellm_params"][key] = value
    for info in ({}, "text"):
        assert "m" in checked(read({"model_list": [entry | {"model_info": info}, model()]})).models


def test_credentials_by_name(read):
    draft = read(
        {
            "model_list": [
                model(api_base=None, litellm_credential_name="mine"), model("b", litellm_credential_name="gone"),
            ],
            "credential_list": [
                {
                    "credential_name": "mine",
                    "credential_values": {"api_base": "http://mine/v1", "api_key": "sk-hunter2"},
                },
            ],
        }
    )  # fmt: skip
    backend = checked(draft).backends["openai-mine"]
    assert (backend.url, backend.key) == ("http://mine/v1", "http://set-later")
    assert "model_list.b.litellm_credential_name" in lost(draft)
    assert "hunter2" not in draft.text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "no model_list"), ({"model_list": {}}, "no model_list"), ({"model_list": [1]}, r"model_list\[0\]"),
        ("a: [", "not YAML"),
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(read, content, says):
    with pytest.raises(ConfigError, match=says):
        read(content)


@pytest.mark.parametrize("key", ["litellm_settings", "router_settings", "general_settings", "credential_list"])
def test_settings_of_another_form_are_no_crash(read, key):
    for value in (None, [], "text", 3, {"fallbacks": 3, "num_retries": "x", "timeout": "y", "model_group_alias": [1]}):
        if key != "credential_list" or not isinstance(value, str | int | dict):
            assert list(checked(read({"model_list": [model()], key: value})).models) == ["m"]
