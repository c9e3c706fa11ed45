"""Options of llama-server that are set by their own names, for the wheel and for a binary."""

import pytest
import xllamacpp

from miner.core.engine.flags import values as take
from miner.core.engine.flags.check import all_names, canonical, checked, wheel_parameters
from miner.core.engine.flags.options import BY_NAME, OPTIONS
from miner.core.engine.flags.owned import KEYED, OTHER_NAMES, OWNED
from miner.core.engine.server_help import adapter_words, flag_words, options_of, required_words
from miner.errors import ConfigError, EngineStartError

EXAMPLES = {
    "cpu-mask": "0xff", "cpu-range": "0-3", "cpu-strict": 1, "prio": 2, "poll": 50,
    "override-tensor": ["a=CPU", "b=CPU"],
    "load-mode": "mmap+mlock", "lazy-mode": "auto", "numa": "distribute", "split-mode": "row", "tensor-split": "3,1",
    "fit": "off", "fit-target": [512, 1024], "rope-scaling": "yarn", "rope-scale": 2, "reasoning": "off",
    "reasoning-effort": "low", "reasoning-format": "none", "chat-template-kwargs": '{"enable_thinking": false}',
    "samplers": "top_k;temperature", "mirostat": 2, "spec-draft-sampling": "greedy", "spec-draft-type-k": "q8_0",
    "spec-draft-type-v": "q8_0", "spec-draft-override-tensor": "a=CPU", "mmproj-device": "none",
    "reasoning-budget-message": "Enough.", "video-ffmpeg-dir": "/bin", "media-path": "/tmp", "dry-base": 1.5,
    "lookup-cache-static": "/a", "lookup-cache-dynamic": "/b", "spec-draft-device": "none",
    "spec-synth-rates": "0.5,0.25",
}  # fmt: skip
HELP = """----- common params -----

-h,    --help, --usage                  print usage and exit
-C,    --cpu-mask M                     CPU affinity mask: arbitrarily long hex. Complements cpu-range
--cpu-strict <0|1>                      use strict CPU placement (default: 0)
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading (default: enabled)
-ot,   --override-tensor <tensor name pattern>=<buffer type>,...
                                        override tensor buffer type
--swa-full                              use full-size SWA cache (default: false)
--no-host                               bypass host buffer
-fit,  --fit [on|off]                   whether to adjust unset arguments
--rope-freq-base N                      RoPE base frequency, used by NTK-aware scaling
--control-vector-layer-range START END
                                        layer range to apply the control vector(s) to
--dry-sequence-breaker STRING           add sequence breaker for DRY sampling
--brand-new MODE                        an option of tomorrow
--lora FNAME                            path to LoRA adapter
--lora-scaled FNAME:SCALE,...           path to LoRA adapter with user defined scaling
--draft-max N                           number of tokens to draft
"""


def attribute(parameters, path):
    for name in path.split("."):
        parameters = getattr(parameters, name)
    return parameters


def example(option):
    base = option.names[0].removeprefix("spec-draft-").removesuffix("-batch")
    for name in (option.names[0], base):
        if name in EXAMPLES:
            value = EXAMPLES[name]
            return tuple(value) if isinstance(value, list) else value
    takes_no_value = option.convert in (take.switch, take.inverted, take.all_cpu_experts, take.reasoning_preserve)
    return True if takes_no_value or base == "cpu-moe" else 1


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.names[0])
def test_the_installed_wheel_takes_each_option(option):
    """Names and types of its parameters change between releases: this finds it."""
    flags = checked({option.names[0]: example(option)})
    if option.attribute is None:
        with pytest.raises(EngineStartError, match="the xllamacpp wheel cannot take it") as caught:
            wheel_parameters(flags)
        assert "LLAMACPP_SERVER" in caught.value.operator_hint
        return
    values, constants, names = wheel_parameters(flags)
    values |= {path: getattr(getattr(xllamacpp, family), name) for path, (family, name) in constants.items()}
    assert values
    parameters = xllamacpp.CommonParams()
    for path, value in values.items():
        parent, _, name = path.rpartition(".")
        target = attribute(parameters, parent) if parent else parameters
        assert hasattr(target, name)
        setattr(target, name, value)
        now = attribute(parameters, path)
        if path.endswith("devices"):  # it does not return what it was set to
            assert value == "none"
        elif isinstance(value, float):
            assert now == pytest.approx(value)
        else:
            assert now == value
    assert set(names) <= set(values)


def test_no_two_options_have_the_same_name():
    names = [name for option in OPTIONS for name in (*option.names, *option.negatives)]
    names += [*OTHER_NAMES, *OWNED, *KEYED]
    assert len(names) == len(set(names))
    assert set(OTHER_NAMES.values()) <= {*OWNED, *KEYED}


def test_sampling_that_a_models_file_may_say_counts_as_the_operators():
    bits = xllamacpp.common_params_sampling_config
    for name, bit in (
        ("samplers", bits.COMMON_PARAMS_SAMPLING_CONFIG_SAMPLERS),
        ("xtc-threshold", bits.COMMON_PARAMS_SAMPLING_CONFIG_XTC_THRESHOLD),
        ("repeat-last-n", bits.COMMON_PARAMS_SAMPLING_CONFIG_PENALTY_LAST_N),
        ("mirostat", bits.COMMON_PARAMS_SAMPLING_CONFIG_MIROSTAT),
        ("mirostat-ent", bits.COMMON_PARAMS_SAMPLING_CONFIG_MIROSTAT_TAU),
        ("mirostat-lr", bits.COMMON_PARAMS_SAMPLING_CONFIG_MIROSTAT_ETA),
    ):
        assert BY_NAME[name][0].sampling_bit == int(bit)


@pytest.mark.parametrize(
    ("written", "name", "positive"),
    [
        ("--rope_freq_base", "rope-freq-base", True), ("nkvo", "kv-offload", False), ("kvo", "kv-offload", True),
        ("swa-checkpoints", "ctx-checkpoints", True), ("ot", "override-tensor", True), ("fa", "flash-attn", True),
        ("no-webui", "ui", False), ("model-draft", "spec-draft-model", True), ("brand-new", "brand-new", True),
        ("no-host", "no-host", True),
    ],
)  # fmt: skip
def test_other_spellings_mean_the_same_option(written, name, positive):
    assert canonical(written) == (name, positive)


def test_equal_flags_are_equal_however_they_are_written():
    assert checked({"nkvo": True, "ctxcp": 3}) == checked({"swa-checkpoints": 3, "kv_offload": False})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 8080}, "port = 8080 is not for flags: engines listen on a private socket"),
        ({"c": 4096}, "c = 4096 is not for flags: use context"),
        ({"np": 4}, "np = 4 is not for flags: use slots"),
        ({"api-key": "x"}, "api-key = 'x' is not for flags: engines have a key of their own"),
        ({"slot-save-path": "/x"}, "is not for flags: use .limits. kv_cache"),
        ({"no-context-shift": True}, "is not for flags: no prompt is cut"),
        ({"flash-attn": "on"}, "flash-attn = 'on' is not for flags: it has a key of its own, flash_attn"),
        ({"temp": 0}, "temp = 0 is not for flags: use sampling.temperature"),
        ({"rope-freq-base": "much"}, "rope-freq-base = 'much': must be a number"),
        ({"rope-freq-base": True}, "rope-freq-base = True: needs a value"),
        ({"swa-full": 1}, "swa-full = 1: takes no value"),
        ({"no-kv-offload": "yes"}, "no-kv-offload = 'yes': takes no value"),
        ({"split-mode": "both"}, "split-mode = 'both': must be one of none, layer, row, tensor"),
        ({"mirostat": 3}, "mirostat = 3: must be an integer from 0 to 2"),
        ({"cache-reuse": 1.5}, "cache-reuse = 1.5: must be an integer of 0 or more"),
        ({"cache-reuse": -1}, "cache-reuse = -1: must be an integer of 0 or more"),
        ({"main-gpu": (1, 2)}, r"main-gpu = \[1, 2\]: must be one value"),
        ({"override-tensor": ("a=CPU", "b")}, "must be PATTERN=BUFFER, .* not 'b'"),
        ({"override-tensor": "(=CPU"}, "is no regular expression"),
        ({"samplers": "top_k;luck"}, "'luck' is none"),
        ({"chat-template-kwargs": "enable_thinking"}, "must be a JSON object"),
        ({"cpu-range": "3-1"}, "must be FIRST-LAST"),
        ({"kvo": True, "no-kv-offload": True}, "kvo and no-kv-offload are one option"),
    ],
)
def test_what_is_not_for_flags_is_refused_by_its_name_and_value(flags, message):
    with pytest.raises(ConfigError, match=message):
        checked(flags)


def test_an_unknown_option_of_the_wheel_names_the_nearest():
    with pytest.raises(EngineStartError, match="rope-freq-bse = 1: the xllamacpp wheel has no such option") as error:
        wheel_parameters(checked({"rope-freq-bse": 1}))
    assert "Did you mean rope-freq-base?" in error.value.operator_hint


def test_patterns_of_several_flags_are_one_list():
    values, _, _ = wheel_parameters(checked({"override-tensor": "attn=CPU", "n-cpu-ffn": 1}))
    assert values == {"tensor_buft_overrides": r"blk\.0\.ffn_(up|down|gate)\.=CPU,attn=CPU"}


def test_template_variables_of_several_flags_are_one_object():
    values, _, _ = wheel_parameters(checked({"reasoning": True, "chat-template-kwargs": '{"a": [1]}'}))
    assert values == {"enable_reasoning": 1, "default_template_kwargs": {"a": "[1]", "enable_thinking": "true"}}


# A binary.


def words(**flags):
    named = [[all_names(name), list(value) if isinstance(value, tuple) else value] for name, value in
             checked({name.replace("_", "-"): value for name, value in flags.items()})]  # fmt: skip
    return flag_words(named, HELP)


def test_the_help_is_read_as_llama_server_prints_it():
    options = options_of(HELP)
    assert options["-nkvo"].names == ["-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"]
    assert options["--override-tensor"].takes == "<tensor name pattern>=<buffer type>,..."
    assert options["--control-vector-layer-range"].takes == "START END"
    assert options["--swa-full"].takes is None
    assert options["--rope-freq-base"].takes == "N"
    assert "-----" not in options


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"rope_freq_base": 10000}, ["--rope-freq-base", "10000"]),
        ({"swa_full": True}, ["--swa-full"]),
        ({"swa_full": False}, []),
        ({"no_host": True}, ["--no-host"]),
        ({"no_kv_offload": True}, ["--no-kv-offload"]),
        ({"no_kv_offload": False}, ["--kv-offload"]),
        ({"ot": ("a=CPU", "b=CPU")}, ["--override-tensor", "a=CPU,b=CPU"]),
        ({"fit": False}, ["--fit", "off"]),
        ({"cpu_strict": True}, ["--cpu-strict", "1"]),
        ({"control_vector_layer_range": (1, 2)}, ["--control-vector-layer-range", "1", "2"]),
        ({"dry_sequence_breaker": (",", ":")}, ["--dry-sequence-breaker", ",", "--dry-sequence-breaker", ":"]),
        ({"brand_new": "x"}, ["--brand-new", "x"]),
    ],
)
def test_flags_of_a_binary_are_words(flags, expected):
    assert words(**flags) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"brand_nw": "x"}, "flags: brand-nw = 'x': it has no such option. Did you mean brand-new?"),
        ({"brand_new": True}, "flags: brand-new = True: needs a value: MODE"),
        ({"control_vector_layer_range": ("1",)}, "needs two values: START END"),
        ({"warmup": False}, "flags: warmup = False: it has no such option"),
    ],
)
def test_what_a_binary_does_not_list_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        words(**flags)


def test_settings_take_the_names_that_the_binary_has():
    needed = [[["--spec-draft-n-max", "--draft-max"], "8", "LLAMACPP_SPEC_DRAFT_N_MAX"]]
    assert required_words(needed, HELP) == ["--draft-max", "8"]
    with pytest.raises(ValueError, match="LLAMACPP_CPU_MOE needs --cpu-moe, which it does not have"):
        required_words([[["--cpu-moe"], None, "LLAMACPP_CPU_MOE"]], HELP)


def test_adapters_are_one_list_of_files_and_one_with_scales():
    adapters = [["/a.gguf", 1.0], ["/b,c.gguf", 1.0], ["/d.gguf", 0.5], ["/e.gguf", 2.0]]
    assert adapter_words(adapters, HELP) == [
        "--lora", '/a.gguf,"/b,c.gguf"', "--lora-scaled", "/d.gguf:0.5,/e.gguf:2.0"
    ]  # fmt: skip
    older = "--lora FNAME   path\n--lora-scaled FNAME SCALE   path\n"
    assert adapter_words(adapters[2:], older) == ["--lora-scaled", "/d.gguf", "0.5", "--lora-scaled", "/e.gguf", "2.0"]
    with pytest.raises(ValueError, match="LLAMACPP_LORA needs --lora"):
        adapter_words(adapters[:1], "--model M  x\n")
