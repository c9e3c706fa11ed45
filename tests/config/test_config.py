"""MinerConfig: where a setting comes from, what a wrong one says, and that secrets stay secret."""

import copy
import logging
import pickle
import pprint
import traceback
import types
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest
from pydantic import SecretStr

from miner.config.config import MinerConfig, config_of
from miner.config.sources import variable_of
from miner.config.vllm_command import VLLMCommandConfig, default_port
from miner.errors import ConfigError
from miner.gateway.settings import GatewaySettings
from tests.config.conftest import ALL

# One value that is not the default for each field, as text and as the field then holds it.
CHANGED = {
    "config": ("/etc/miner.toml", "/etc/miner.toml"),
    "llm_backend": ("ollama", "ollama"),
    "llm_fallbacks": ("vllm,ollama", "vllm,ollama"),
    "fallback_cooldown": ("1.5", 1.5),
    "max_retries": ("0", 0),
    "connect_timeout": ("2.5", 2.5),
    "max_connections": ("64", 64),
    "default_model": ("m", "m"),
    "default_max_tokens": ("7", 7),
    "default_temperature": ("0", 0.0),
    "default_top_p": ("1", 1.0),
    "allow_remote_images": ("yes", True),
    "model_path": ("/m.gguf", "/m.gguf"),
    "any_model_name": ("no", False),
    "models_dir": ("/models", "/models"),
    "delete_model_files": ("yes", True),
    "hf_endpoint": ("https://mirror.example/", "https://mirror.example"),
    "hf_token": ("hf_1234", SecretStr("hf_1234")),
    "ollama_base_url": ("http://h:1/", "http://h:1"),
    "ollama_timeout": ("2", 2.0),
    "ollama_num_ctx": ("2048", 2048),
    "vllm_api_base": ("https://h/v1", "https://h/v1"),
    "vllm_api_key": ("key-1234", SecretStr("key-1234")),
    "vllm_timeout": ("2", 2.0),
    "openai_api_base": ("http://h:3/v1/", "http://h:3/v1"),
    "openai_api_key": ("key-1234", SecretStr("key-1234")),
    "openai_timeout": ("2", 2.0),
    "llamacpp_api_base": ("http://h:2", "http://h:2"),
    "llamacpp_api_key": ("key-1234", SecretStr("key-1234")),
    "llamacpp_alias": ("chat", "chat"),
    "llamacpp_server": ("/bin/llama-server", "/bin/llama-server"),
    "llamacpp_timeout": ("2", 2.0),
    "llamacpp_start_timeout": ("2", 2.0),
    "llamacpp_ctx_size": ("512", 512),
    "llamacpp_parallel": ("3", 3),
    "llamacpp_threads": ("3", 3),
    "llamacpp_n_gpu_layers": ("-1", -1),
    "llamacpp_flash_attn": ("off", "off"),
    "llamacpp_cache_type_k": ("q8_0", "q8_0"),
    "llamacpp_cache_type_v": ("q4_0", "q4_0"),
    "llamacpp_batch_size": ("64", 64),
    "llamacpp_n_predict": ("64", 64),
    "llamacpp_temp": ("0.5", 0.5),
    "llamacpp_seed": ("42", 42),
    "llamacpp_pooling": ("mean", "mean"),
    "llamacpp_chat_template": ("/t.jinja", "/t.jinja"),
    "llamacpp_cache_ram": ("256", 256),
    "kv_cache": ("1073741824", 1 << 30),
    "llamacpp_lora": ("/a.gguf,b.gguf:0.5", (("/a.gguf", 1.0), ("b.gguf", 0.5))),
    "llamacpp_mmproj": ("/mmproj.gguf", "/mmproj.gguf"),
    "llamacpp_no_mmproj": ("yes", True),
    "llamacpp_cpu_moe": ("yes", True),
    "llamacpp_n_cpu_moe": ("3", 3),
    "llamacpp_spec_type": ("draft,ngram-mod", "draft-simple,ngram-mod"),
    "llamacpp_spec_draft_model": ("/d.gguf", "/d.gguf"),
    "llamacpp_spec_draft_n_max": ("8", 8),
    "llamacpp_spec_draft_n_min": ("1", 1),
    "llamacpp_spec_draft_p_min": ("0.5", 0.5),
    "llamacpp_spec_draft_ngl": ("-1", -1),
    "llamacpp_flags": ("--rope-freq-base 10000 --no_kv_offload", {"rope-freq-base": "10000", "no-kv-offload": True}),
    "llamacpp_memory_budget": ("1000000", 1000000),
    "llamacpp_max_loaded": ("2", 2),
    "llamacpp_cores": ("6", 6),
    "llamacpp_idle_timeout": ("60", 60.0),
    "llamacpp_fairness_wait": ("1", 1.0),
    "max_queue": ("0", 0),
    "queue_timeout": ("1", 1.0),
}


def test_published_defaults():
    config = MinerConfig()
    published = {
        "llm_backend": "llamacpp", "default_model": None, "default_max_tokens": 512, "default_temperature": 0.7,
        "default_top_p": 0.95, "model_path": None, "models_dir": None, "ollama_base_url": "http://localhost:11434",
        "ollama_timeout": 300.0, "vllm_api_base": "http://localhost:8000/v1", "vllm_api_key": None,
        "vllm_timeout": 300.0, "llamacpp_api_base": None, "llamacpp_server": None, "llamacpp_ctx_size": None,
        "llamacpp_parallel": None, "llamacpp_threads": None, "llamacpp_n_gpu_layers": None,
        "llamacpp_api_key": None, "llamacpp_timeout": 300.0, "max_queue": 1024, "queue_timeout": 300.0,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published


def test_the_table_above_is_complete():
    assert CHANGED.keys() == MinerConfig.model_fields.keys()


@pytest.mark.parametrize("name", CHANGED)
def test_each_field_is_a_variable_a_line_of_dotenv_and_an_argument(name, monkeypatch, empty_directory):
    text, value = CHANGED[name]
    assert getattr(MinerConfig(), name) != value
    assert getattr(MinerConfig(**{name: text}), name) == value
    (empty_directory / ".env").write_text(f"{variable_of(name)}={text}\n")
    assert getattr(MinerConfig(), name) == value
    (empty_directory / ".env").unlink()
    monkeypatch.setenv(variable_of(name), text)
    assert getattr(MinerConfig(), name) == value


def test_argument_over_environment_over_dotenv_over_default(monkeypatch, empty_directory):
    assert MinerConfig().default_max_tokens == 512
    (empty_directory / ".env").write_text("DEFAULT_MAX_TOKENS=1\n")
    assert MinerConfig().default_max_tokens == 1
    monkeypatch.setenv("DEFAULT_MAX_TOKENS", "2")
    assert MinerConfig().default_max_tokens == 2
    assert MinerConfig(default_max_tokens=3).default_max_tokens == 3


@pytest.mark.parametrize("spelling", ["OLLAMA_TIMEOUT", "ollama_timeout", "Ollama_Timeout"])
def test_case_does_not_matter(spelling, monkeypatch, empty_directory):
    (empty_directory / ".env").write_text(f"{spelling}=5\n")
    assert MinerConfig().ollama_timeout == 5.0
    monkeypatch.setenv(spelling, "6")
    assert MinerConfig().ollama_timeout == 6.0
    assert MinerConfig(**{spelling: 7}).ollama_timeout == 7.0


def test_dotenv_is_that_of_the_working_directory_alone(empty_directory, monkeypatch):
    (empty_directory / ".env").write_text("DEFAULT_MODEL=above\n")
    below = empty_directory / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert MinerConfig().default_model is None


def test_an_empty_variable_counts_as_unset(monkeypatch, empty_directory):
    (empty_directory / ".env").write_text("LLM_BACKEND=\nDEFAULT_MODEL=\n")
    assert (MinerConfig().llm_backend, MinerConfig().default_model) == ("llamacpp", None)
    monkeypatch.setenv("LLAMACPP_CTX_SIZE", "")
    assert MinerConfig().llamacpp_ctx_size is None


@pytest.mark.parametrize("settings", ALL)
def test_the_bare_names_of_what_is_not_published_belong_to_other_programs(settings, monkeypatch, empty_directory):
    """`.env` of the working directory is often another program's, with names such as API_KEYS or MAX_RETRIES."""
    defaults, bare = settings(), [name for name in settings.model_fields if variable_of(name) != name.upper()]
    (empty_directory / ".env").write_text("".join(f"{name.upper()}=1\n{name}=1\n" for name in bare))
    assert settings() == defaults
    for name in bare:
        monkeypatch.setenv(name.upper(), "not even valid")
    assert settings() == defaults


def test_foreign_names_are_ignored(monkeypatch, empty_directory):
    monkeypatch.setenv("LLM_SOMETHING", "x")
    monkeypatch.setenv("MINER_TENSOR_PARALLEL_SIZE", "2")
    (empty_directory / ".env").write_text("DATABASE_URL=postgres://x\nGPU_MEMORY_UTILIZATION=0.5\nDEFAULT_MODEL=m\n")
    assert MinerConfig().default_model == "m"


@pytest.mark.parametrize(
    ("argument", "near"),
    [("llm_backnd", "llm_backend"), ("OLLAMA_TIMEOUTS", "ollama_timeout"), ("vllm_base", "vllm_api_base")],
)
def test_an_unknown_argument_is_an_error_with_the_nearest_name(argument, near):
    with pytest.raises(ConfigError) as caught:
        MinerConfig(**{argument: "x"})
    assert str(caught.value) == f"MinerConfig has no setting {argument!r}. Did you mean {near}?"


def test_an_argument_like_nothing_points_at_the_list():
    with pytest.raises(ConfigError, match=r"no setting 'zzz'\. Settings are listed in \.env\.example\."):
        MinerConfig(zzz=1)


@pytest.mark.parametrize("settings", ALL)
def test_each_class_of_settings_refuses_under_its_own_name_what_is_none_of_its(settings):
    with pytest.raises(ConfigError, match=f"^{settings.__name__} has no setting 'zzz'"):
        settings(zzz=1)
    with pytest.raises(ConfigError, match=f"^{settings.__name__} has no setting 'zzz'"):
        settings().zzz = 1


WRONG = [
    ("DEFAULT_MAX_TOKENS", "0", "1"),
    ("DEFAULT_MAX_TOKENS", "many", "integer"),
    ("DEFAULT_MAX_TOKENS", "1.5", "integer"),
    ("DEFAULT_TEMPERATURE", "9", "2"),
    ("DEFAULT_TEMPERATURE", "-1", "0"),
    ("DEFAULT_TEMPERATURE", "nan", "finite"),
    ("DEFAULT_TOP_P", "0", "greater than 0"),
    ("OLLAMA_BASE_URL", "localhost:11434", "http://"),
    ("OLLAMA_BASE_URL", "http://", "name a host"),
    ("OLLAMA_BASE_URL", "http:///", "name a host"),
    ("OLLAMA_BASE_URL", "http://:11434", "name a host"),
    ("OLLAMA_BASE_URL", "http://[::1", "name a host"),
    ("OLLAMA_BASE_URL", "http://localhost:99999", "port must be from 1 to 65535"),
    ("OLLAMA_BASE_URL", "http://localhost:0", "port must be from 1 to 65535"),
    ("VLLM_API_BASE", "http://localhost:http/v1", "port must be from 1 to 65535"),
    ("LLAMACPP_API_BASE", "https://h:-1", "port must be from 1 to 65535"),
    ("HF_ENDPOINT", "http://hub?", "not have a query or fragment"),
    ("OLLAMA_BASE_URL", "https://h:8#", "not have a query or fragment"),
    ("OLLAMA_TIMEOUT", "-1", "greater than 0"),
    ("OLLAMA_TIMEOUT", "inf", "finite"),
    ("VLLM_API_BASE", "ftp://h/v1", "http://"),
    ("LLAMACPP_FLASH_ATTN", "maybe", "'on', 'off' or 'auto'"),
    ("LLAMACPP_CACHE_TYPE_K", "q3", "'q8_0'"),
    ("LLAMACPP_CTX_SIZE", "4k", "integer"),
    ("LLAMACPP_PARALLEL", "1000", "256"),
    ("MINER_ALLOW_REMOTE_IMAGES", "perhaps", "boolean"),
    ("MINER_MAX_QUEUE", "-1", "0"),
    ("MINER_CONNECT_TIMEOUT", "0", "greater than 0"),
    ("MINER_MAX_CONNECTIONS", "0", "1"),
]


@pytest.mark.parametrize(("variable", "text", "allowed"), WRONG)
@pytest.mark.parametrize("source", ["environment", "dotenv", "argument", "assignment"])
def test_a_wrong_value_is_one_line_with_variable_value_and_what_is_allowed(
    variable, text, allowed, source, monkeypatch, empty_directory
):
    config = MinerConfig()
    name = variable.lower().removeprefix("miner_")
    if source == "environment":
        monkeypatch.setenv(variable.lower(), text)  # in lower case: the message has the name of the list all the same
    if source == "dotenv":
        (empty_directory / ".env").write_text(f'{variable}="{text}"\n')
    arguments = {name: text} if source == "argument" else {}
    with pytest.raises(ConfigError) as caught:
        setattr(config, name, text) if source == "assignment" else MinerConfig(**arguments)
    message = str(caught.value)
    assert message.startswith(f"{variable}={text!r}: ")
    assert allowed in message.partition(": ")[2]
    assert "\n" not in message
    assert caught.value.__cause__ is None
    assert getattr(config, name) == MinerConfig.model_fields[name].default


NUMBERS = [name for name, (_, value) in CHANGED.items() if type(value) in (int, float)]


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_truth_value_is_no_number(name, truth):
    for settle in (lambda: MinerConfig(**{name: truth}), lambda: setattr(MinerConfig(), name, truth)):
        with pytest.raises(ConfigError, match=f"^{variable_of(name)}={truth}: must be a number, not True or False\\.$"):
            settle()


@pytest.mark.parametrize("settings", ALL)
def test_no_class_of_settings_takes_a_truth_value_for_anything_but_a_switch(settings):
    for name, field in settings.model_fields.items():
        if isinstance(field.default, bool):
            assert getattr(settings(**{name: not field.default}), name) is not field.default
        else:
            with pytest.raises(ConfigError, match=f"^{variable_of(name)}"):
                settings(**{name: True})
    with pytest.raises(ConfigError, match="'on', 'off' or 'auto'"):
        MinerConfig(llamacpp_flash_attn=True)


@pytest.mark.parametrize("name", ["model_path", "models_dir", "llamacpp_server", "llamacpp_chat_template"])
def test_paths_may_be_path_objects(name):
    assert getattr(MinerConfig(**{name: Path("/a/b")}), name) == "/a/b"
    config = MinerConfig()
    setattr(config, name, Path("/a/b"))
    assert getattr(config, name) == "/a/b"
    assert getattr(config_of(types.SimpleNamespace(**{name: Path("/a/b")})), name) == "/a/b"
    assert GatewaySettings(api_keys_file=Path("/a/b")).api_keys_file == "/a/b"
    with pytest.raises(ConfigError, match=r"^DEFAULT_MODEL="):
        MinerConfig(default_model=Path("/a/b"))


def test_of_several_invalid_values_one_is_reported_and_the_others_counted(monkeypatch):
    monkeypatch.setenv("DEFAULT_MAX_TOKENS", "0")
    monkeypatch.setenv("DEFAULT_TOP_P", "0")
    with pytest.raises(ConfigError, match=r"^DEFAULT_MAX_TOKENS='0': .* \(1 more\)\.$"):
        MinerConfig()


def test_fields_can_be_assigned_and_are_checked():
    config = MinerConfig()
    config.default_max_tokens = 5
    config.vllm_api_base = "http://h/v1/"
    assert (config.default_max_tokens, config.vllm_api_base) == (5, "http://h/v1")
    with pytest.raises(ConfigError, match=r"no setting 'default_maxtokens'\. Did you mean default_max_tokens"):
        config.default_maxtokens = 5


SECRETS = [name for name, (_, value) in CHANGED.items() if isinstance(value, SecretStr)]


def test_every_key_is_a_secret():
    assert [name for name in MinerConfig.model_fields if name.endswith(("_key", "_token"))] == SECRETS != []


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_never_show(name, caplog):
    caplog.set_level(logging.DEBUG)
    config = MinerConfig(**{name: "sesame-open"})
    assert getattr(config, name).get_secret_value() == "sesame-open"
    logging.getLogger("miner").debug("%s %r", config, config)
    assert "sesame" not in f"{config} {config!r} {config.model_dump()} {config.model_dump_json()} {caplog.text}"


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_never_show_in_errors(name, monkeypatch):
    for wrong in ({name: ["sesame"]}, {name: b"\xffsesame"}, {name: "sesame", "default_top_p": 0}):
        with pytest.raises(ConfigError) as caught:
            MinerConfig(**wrong)
        assert "sesame" not in f"{caught.value} {caught.value!r} {caught.value.__dict__}"
        assert caught.value.__suppress_context__
    with pytest.raises(ConfigError) as caught:
        setattr(MinerConfig(), name, ["sesame"])
    assert "sesame" not in str(caught.value)


URLS = [name for name in CHANGED if name.endswith(("_base", "_url", "_endpoint"))]
WITH_PASSWORD = [
    "http://user:se/sesame@h:1",
    "http://:sesame@",
    "ftp://user:sesame@h",
    "user:sesame@h:1",
    "http://user:sesame@[h",
    "http://user:sesame@h:99999",
    ["http://user:sesame@h"],
    b"ftp://user:sesame@h",
    {"url": "http://user:sesame@h"},
    "http://h/v1?api-version=1&key=sesame",
    "http://h/v1/?sesame",
    "http://h:8/v1#sesame",
    "https://h/v1?key=open@sesame",
    "https://user:open?sesame@h/v1",
    "https://user:sesame@h/v1?key=sesame",
    "h/v1?key=sesame",
    "http://h:99999/v1?key=sesame",
    "?key=sesame",
]


def test_every_address_is_tried_below():
    assert len(URLS) == 5


@pytest.mark.parametrize("name", URLS)
def test_a_password_in_an_address_is_kept_and_never_shown(name, caplog):
    caplog.set_level(logging.DEBUG)
    config = MinerConfig(**{name: "http://user:sesame@h:1"})
    assert getattr(config, name) == "http://user:sesame@h:1"
    logging.getLogger("miner").debug("%s %r", config, config)
    shown = f"{config} {config!r} {[config]} {pprint.pformat(config)} {caplog.text}"
    assert "sesame" not in shown
    assert f"{name}='http://***@h:1'" in repr(config)


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize("extra", ["?key=sesame", "/?key=sesame", "#sesame", "?a=1&b=open@sesame", "/x?y#sesame"])
def test_a_query_or_a_fragment_is_refused_by_name_and_not_shown(name, extra):
    """It would be lost on the way: a request's path comes behind it."""
    with pytest.raises(ConfigError) as caught:
        MinerConfig(**{name: f"http://h:1/v1{extra}"})
    assert str(caught.value).startswith(f"{variable_of(name)}='http://")
    assert "not have a query or fragment" in str(caught.value)
    assert "sesame" not in f"{caught.value} {vars(caught.value)}"


@pytest.mark.parametrize("value", WITH_PASSWORD, ids=repr)
@pytest.mark.parametrize("source", ["environment", "dotenv", "argument", "assignment"])
def test_an_invalid_address_is_reported_without_its_password(value, source, monkeypatch, empty_directory):
    config = MinerConfig()
    if source == "environment":
        monkeypatch.setenv("VLLM_API_BASE", str(value))
    if source == "dotenv":
        (empty_directory / ".env").write_text(f"VLLM_API_BASE={str(value)!r}\n")
    arguments = {"vllm_api_base": value} if source == "argument" else {}
    with pytest.raises(ConfigError) as caught:
        setattr(config, "vllm_api_base", value) if source == "assignment" else MinerConfig(**arguments)
    error = caught.value
    lines = "".join(traceback.format_exception(error))
    assert "sesame" not in f"{lines} {error} {error!r} {vars(error)} {error.__context__!r}"
    assert str(error).startswith("VLLM_API_BASE=")


def test_a_config_survives_copying_and_pickling():
    config = MinerConfig(vllm_api_key="sesame", default_max_tokens=3)
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config
        assert twin.vllm_api_key.get_secret_value() == "sesame"


def test_config_of_none_is_the_environments(monkeypatch):
    monkeypatch.setenv("DEFAULT_MODEL", "m")
    assert config_of(None).default_model == "m"


def test_config_of_a_miner_config_is_itself():
    config = MinerConfig()
    assert config_of(config) is config


def test_a_foreign_config_object_has_the_environments_settings_for_what_it_lacks(monkeypatch):
    monkeypatch.setenv("DEFAULT_TOP_P", "0.5")
    given = types.SimpleNamespace(default_max_tokens=5, vllm_api_base="http://h/v1", default_model=None)
    config = config_of(given)
    assert (config.default_max_tokens, config.vllm_api_base) == (5, "http://h/v1")
    assert (config.default_top_p, config.default_model, config.max_queue) == (0.5, None, 1024)
    for name, field in MinerConfig.model_fields.items():
        if name not in ("default_max_tokens", "vllm_api_base", "default_top_p"):
            assert getattr(config, name) == field.default
    given.default_max_tokens = 6  # read when it is needed
    assert config.default_max_tokens == 6
    with pytest.raises(AttributeError):
        _ = config.no_such_setting


def test_zero_and_false_of_a_foreign_config_object_are_values():
    config = config_of(types.SimpleNamespace(default_temperature=0, max_queue=0, allow_remote_images=False))
    assert (config.default_temperature, config.max_queue, config.allow_remote_images) == (0, 0, False)


@pytest.mark.parametrize("given", [Mock(), Mock(spec=MinerConfig), MagicMock(spec=MinerConfig)])
def test_a_mock_has_the_settings_that_it_was_given_and_the_environments_for_the_rest(given, monkeypatch):
    monkeypatch.setenv("VLLM_TIMEOUT", "7")
    given.default_max_tokens = 33
    config = config_of(given)
    assert config.default_max_tokens == 33
    assert (config.vllm_timeout, config.default_model, config.llamacpp_flash_attn) == (7.0, None, "auto")


def test_the_vllm_commands_settings(monkeypatch, empty_directory):
    assert VLLMCommandConfig().model_dump() == {
        "tensor_parallel_size": 1, "gpu_memory_utilization": 0.9, "max_model_len": None
    }  # fmt: skip
    (empty_directory / ".env").write_text("Miner_Max_Model_Len=7\nMINER_TENSOR_PARALLEL_SIZE=2\nDEFAULT_MODEL=x\n")
    monkeypatch.setenv("MINER_TENSOR_PARALLEL_SIZE", "3")
    assert VLLMCommandConfig(gpu_memory_utilization="0.5").model_dump() == {
        "tensor_parallel_size": 3, "gpu_memory_utilization": 0.5, "max_model_len": 7
    }  # fmt: skip
    monkeypatch.setenv("MINER_GPU_MEMORY_UTILIZATION", "2")
    with pytest.raises(ConfigError, match=r"^MINER_GPU_MEMORY_UTILIZATION='2': must be less than or equal"):
        VLLMCommandConfig()


def test_the_vllm_commands_port():
    assert default_port(MinerConfig()) == 8000
    assert default_port(MinerConfig(vllm_api_base="http://h:81/v1")) == 81
    assert default_port(MinerConfig(vllm_api_base="http://h/v1")) == 8000


@pytest.mark.parametrize("settings", ALL)
def test_a_binary_env_file_is_reported(settings, empty_directory):
    (empty_directory / ".env").write_bytes(b"DEFAULT_MODEL=\xff\xfe\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        settings()


def test_values_of_another_class_that_have_parts_are_read_as_ours():
    given = types.SimpleNamespace(
        llamacpp_lora="a.gguf:0.5", llamacpp_spec_type="draft", llamacpp_flags={"--rope_freq_base": 1, "x": ["a", "b"]}
    )
    config = config_of(given)
    assert config.llamacpp_lora == (("a.gguf", 0.5),)
    assert config.llamacpp_spec_type == "draft-simple"
    assert config.llamacpp_flags == {"rope-freq-base": 1, "x": ("a", "b")}
    assert config_of(Mock()).llamacpp_flags is None
    with pytest.raises(ConfigError, match="LLAMACPP_SPEC_TYPE='x'"):
        _ = config_of(types.SimpleNamespace(llamacpp_spec_type="x")).llamacpp_spec_type


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("llamacpp_flags", "rope-freq-base 1", r"LLAMACPP_FLAGS='rope-freq-base 1': must begin with a flag"),
        ("llamacpp_flags", "{broken", "must be a JSON object, or words"),
        ("llamacpp_flags", "--a 'b", "No closing quotation|no closing quotation"),
        ("llamacpp_flags", {"a": None}, "the value of 'a' must be text, a number, true or false, or a list"),
        ("llamacpp_flags", {"a-b": 1, "a_b": 2}, "has the flag 'a-b' twice"),
        ("llamacpp_flags", {"--": 1}, "without a name"),
        ("llamacpp_flags", 5, "must be a JSON object, or words"),
        ("llamacpp_lora", 5, "must be files"),
        ("llamacpp_lora", [("a", "b")], "must be files"),
        ("llamacpp_lora", [("a", float("inf"))], "finite"),
        ("llamacpp_spec_type", "draft,magic", "must be one of draft, draft-simple"),
    ],
)
def test_options_that_have_parts_say_what_is_wrong(name, value, message):
    with pytest.raises(ConfigError, match=message):
        MinerConfig(**{name: value})


def test_adapters_are_files_each_with_a_scale():
    for given in (Path("/a"), "/a", ["/a:1"], [("/a", 1)], [{"file": "/a"}], [Path("/a")]):
        assert MinerConfig(llamacpp_lora=given).llamacpp_lora == (("/a", 1.0),)
    assert MinerConfig(llamacpp_lora=[{"file": "C:/a", "scale": 2}]).llamacpp_lora == (("C:/a", 2.0),)
    assert MinerConfig(llamacpp_lora="C:/a, b:-0.5").llamacpp_lora == (("C:/a", 1.0), ("b", -0.5))


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("-ot a=CPU -nkvo", {"ot": "a=CPU", "nkvo": True}),
        ("--yarn-beta-slow -1.5 --x=3", {"yarn-beta-slow": "-1.5", "x": "3"}),
        ("--control-vector-layer-range 1 2", {"control-vector-layer-range": ("1", "2")}),
        ('{"a": true, "b": [1, 2]}', {"a": True, "b": (1, 2)}),
        ("--chat-template-kwargs '{\"a\": 1}'", {"chat-template-kwargs": '{"a": 1}'}),
    ],
)
def test_flags_are_words_or_json(text, flags):
    assert MinerConfig(llamacpp_flags=text).llamacpp_flags == flags
