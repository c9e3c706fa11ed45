"""From a model of miner.toml to the settings of its service."""

import pytest

from miner.config.config import MinerConfig
from miner.config.file.read import parse_config
from miner.core.llms.pool.hints import with_keys
from miner.core.llms.pool.options import llamacpp_settings
from miner.core.llms.pool.plan import config_for, plan_models
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
        cpu_moe = true
        n_cpu_moe = 2
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
        "llamacpp_n_gpu_layers": -1, "llamacpp_cpu_moe": True, "llamacpp_n_cpu_moe": 2,
        "llamacpp_flash_attn": "on", "llamacpp_timeout": 7.0, "llamacpp_pooling": "mean",
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
        ('lora = ["absent.gguf"]', r"^lora = 'absent\.gguf': the file .* does not exist"),
        ('mmproj = "absent.gguf"', r"^mmproj = 'absent\.gguf': the file .* does not exist"),
        ('speculation = { type = "magic" }', r"^speculation\.type = 'magic': must be one of draft, draft-simple"),
        ('speculation = { type = "draft" }', r"^speculation\.type = 'draft' needs a draft model"),
        ('speculation = { type = "ngram-mod", file = "d" }', r"^speculation\.type = 'ngram-mod' uses no draft model"),
        ('speculation = { type = "draft", file = "d", hub = "a/b" }', r"speculation: file and hub are two"),
        ("flags = { port = 1 }", r"^flags: port = 1 is not for flags"),
        ('flags = { "rope-freq-base" = "much" }', r"^flags: rope-freq-base = 'much': must be a number"),
        ('flags = { "flash-attn" = "maybe" }', r"^flags: flash-attn = 'maybe': must be 'on', 'off' or 'auto'"),
        ('flags = { ngl = "some" }', r"^flags: ngl = 'some': must be a valid integer"),
        ('flash_attn = "off"\nflags = { fa = "on" }', r"^flags: fa = 'on' contradicts flash_attn of the same model"),
        ('flags = { fa = "on", "flash-attn" = "on" }', r"^flags: fa and flash-attn are one option"),
        ('flags = { mm = "absent.gguf" }', r"^flags: mm = 'absent\.gguf': the file .* does not exist"),
        ('hub = "only-a-name"', r"^hub = 'only-a-name': must be OWNER/NAME"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_key_and_value(line, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        settings_of(f"[models.m]\n{line}", tmp_path)


def test_files_that_a_model_is_run_with_start_at_the_directory_of_the_file(tmp_path):
    for name in ("a.gguf", "b.gguf", "p.gguf", "d.gguf"):
        (tmp_path / name).touch()
    text = """
        [models.m]
        lora = ["a.gguf", { file = "b.gguf", scale = 0.5 }]
        mmproj = "p.gguf"
        speculation = { type = "draft", file = "d.gguf", n_max = 8, n_min = 1, p_min = 0.5, n_gpu_layers = -1 }
        """
    given = settings_of(text, tmp_path)
    assert given == {
        "llamacpp_lora": ((str(tmp_path / "a.gguf"), 1.0), (str(tmp_path / "b.gguf"), 0.5)),
        "llamacpp_mmproj": str(tmp_path / "p.gguf"), "llamacpp_no_mmproj": False, "llamacpp_spec_type": "draft-simple",
        "llamacpp_spec_draft_model": str(tmp_path / "d.gguf"), "llamacpp_spec_draft_n_max": 8,
        "llamacpp_spec_draft_n_min": 1, "llamacpp_spec_draft_p_min": 0.5, "llamacpp_spec_draft_ngl": -1,
    }  # fmt: skip
    hash(tuple(sorted(given.items())))
    config = MinerConfig(**given)
    assert {field: getattr(config, field) for field in given} == given
    without = settings_of("[models.m]\nmmproj = false", tmp_path)
    assert without == {"llamacpp_no_mmproj": True, "llamacpp_mmproj": None}


def test_what_the_environment_says_of_another_projector_or_draft_model_does_not_mix_in(tmp_path):
    text = """
        [models.m]
        file = "demo"
        mmproj = false
        speculation = { type = "ngram-mod" }
        [models.other]
        file = "demo"
        speculation = { type = "ngram-mod" }
        flags = { spec-draft-n-max = 4 }
        """
    loaded = parse_config(text, tmp_path / "miner.toml")
    base = MinerConfig(
        _env_file=None, llamacpp_mmproj="/p.gguf", llamacpp_spec_type="draft", llamacpp_spec_draft_model="/d.gguf",
        llamacpp_spec_draft_n_min=3,
    )  # fmt: skip
    config, other = (config_for(plan.service, base) for plan in plan_models(loaded).values())
    assert (config.llamacpp_mmproj, config.llamacpp_no_mmproj) == (None, True)
    assert (config.llamacpp_spec_type, config.llamacpp_spec_draft_model) == ("ngram-mod", None)
    assert (config.llamacpp_spec_draft_n_min, config.llamacpp_spec_draft_n_max) == (None, None)
    assert (other.llamacpp_mmproj, other.llamacpp_spec_draft_n_max) == ("/p.gguf", 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("LLAMACPP_MMPROJ='x' is no projector", "models.m.mmproj='x' is no projector"),
        ("LLAMACPP_SPEC_DRAFT_N_MIN=3 is more than LLAMACPP_SPEC_DRAFT_N_MAX=2",
         "models.m.speculation.n_min=3 is more than models.m.speculation.n_max=2"),
        ("Raise LLAMACPP_START_TIMEOUT.", "Raise backends.b.start_timeout."),
        ("LLM_BACKEND=llamacpp has them.", 'backends.b.kind = "llamacpp" has them.'),
        ("MODELS_DIR, MODEL_PATH, LLAMACPP_CORES", "backends.b.models_dir, models.m.file, limits.cores"),
    ],
)  # fmt: skip
def test_errors_name_the_keys_for_variables(text, said):
    assert with_keys(text, "m", "b") == said


def test_flags_with_a_key_set_what_the_key_would(tmp_path):
    (tmp_path / "a.gguf").touch()
    text = """
        [defaults]
        flash_attn = "off"
        cpu_moe = true
        [models.m]
        threads = 2
        [models.m.flags]
        "--flash-attn" = true
        ngl = "all"
        ctk = "q8_0"
        t = 2
        cpu-moe = false
        lora = "a.gguf"
        spec_type = "ngram-mod"
        rope-freq-base = 10000
        override-tensor = ["a=CPU", "b=CPU"]
        """
    given = settings_of(text, tmp_path)
    assert given == {
        "llamacpp_threads": 2, "llamacpp_flash_attn": "on", "llamacpp_n_gpu_layers": -1,
        "llamacpp_cache_type_k": "q8_0", "llamacpp_cpu_moe": False, "llamacpp_lora": ((str(tmp_path / "a.gguf"), 1.0),),
        "llamacpp_spec_type": "ngram-mod",
        "llamacpp_flags": (("override-tensor", ("a=CPU", "b=CPU")), ("rope-freq-base", 10000)),
    }  # fmt: skip
    hash(tuple(sorted(given.items())))
    flags = MinerConfig(**given).llamacpp_flags
    assert flags == {"override-tensor": ("a=CPU", "b=CPU"), "rope-freq-base": 10000}


def test_paths_in_flags_start_there_too(tmp_path):
    given = settings_of('[models.m]\nflags = { lookup_cache_dynamic = "cache.bin" }', tmp_path)
    assert given == {"llamacpp_flags": (("lookup_cache_dynamic", str(tmp_path / "cache.bin")),)}
