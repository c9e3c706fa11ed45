"""From a model of miner.toml to the settings of its service."""

import pytest

from miner.config.config import MinerConfig
from miner.config.file.read import parse_config
from miner.core.llms.pool.options import llamacpp_settings
from miner.errors import ConfigError


def settings_of(text, directory):
    content = parse_config(text, directory / "miner.toml").content
    return llamacpp_settings(content.models["m"], content.defaults, directory)


def test_what_is_not_said_is_left_to_the_environment(tmp_path):
    assert settings_of("[models.m]", tmp_path) == {}


def test_each_option_is_a_setting(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    given = settings_of(
        """
        [models.m]
        context = 512
        slots = 2
        threads = 1
        batch_size = 64
        cache_type_k = "q8_0"
        cache_type_v = "q4_0"
        cache_ram = 5
        n_gpu_layers = -1
        flash_attn = "on"
        timeout = 7.0
        pooling = "mean"
        chat_template = "t.jinja"
        """,
        tmp_path,
    )
    assert given == {
        "llamacpp_ctx_size": 512, "llamacpp_parallel": 2, "llamacpp_threads": 1, "llamacpp_batch_size": 64,
        "llamacpp_cache_type_k": "q8_0", "llamacpp_cache_type_v": "q4_0", "llamacpp_cache_ram": 5,
        "llamacpp_n_gpu_layers": -1, "llamacpp_flash_attn": "on", "llamacpp_timeout": 7.0, "llamacpp_pooling": "mean",
        "llamacpp_chat_template": str(tmp_path / "t.jinja"),
    }  # fmt: skip
    assert MinerConfig(**given).llamacpp_ctx_size == 512


def test_the_model_says_it_over_the_defaults(tmp_path):
    text = "[defaults]\ncontext = 512\ncache_ram = 9\n[models.m]\ncache_ram = 0"
    assert settings_of(text, tmp_path) == {"llamacpp_ctx_size": 512, "llamacpp_cache_ram": 0}


def test_a_file_is_a_path_from_the_directory_of_the_file_or_a_name(tmp_path):
    (tmp_path / "here.gguf").touch()
    (tmp_path / "folder").mkdir()

    def model_path(line):
        return settings_of(f"[models.m]\n{line}", tmp_path)["model_path"]

    assert model_path('file = "here.gguf"') == str(tmp_path / "here.gguf")
    assert model_path('file = "./later.gguf"') == str(tmp_path / "later.gguf")
    assert model_path('file = "in/the/models/directory"') == "in/the/models/directory"
    assert model_path('file = "folder"') == "folder"
    assert model_path('file = "/there.gguf"') == "/there.gguf"
    assert model_path('hub = "owner/name:Q4_K_M"') == "hf:owner/name:Q4_K_M"
    assert model_path('hub = "hf:owner/name"') == "hf:owner/name"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'chat_template = "absent.jinja"',
            r"^chat_template = .absent\.jinja.: the file .*does not exist",
        ),
        ('chat_template = "."', r"^chat_template = '\.': the file .* is a directory"),
        ('file = "a.gguf"\nhub = "b/c"', r"hub = .b/c.: file and hub are two models"),
        ('hub = "only-a-name"', r"^hub = 'only-a-name': must be OWNER/NAME"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_key_and_value(line, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        settings_of(f"[models.m]\n{line}", tmp_path)
