"""The estimate against the memory that the real engine takes, and its arithmetic on invented headers."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy
import pytest

from miner.core.models.gguf.header import read_header, read_model
from miner.core.models.memory.estimate import Load, largest_context
from miner.core.models.memory.estimate import estimate as estimate_load

SCRIPT = Path(__file__).with_name("engine_memory.py")
MIB = 1 << 20


def estimate(header, **options):
    return estimate_load(header, Load(**options))


def random_model(
    path, *, arch="llama", layers, width, inner, heads, kv_heads, vocabulary, kind, tied=True, window=None
):
    """A model that works and says nothing: weights at random, one token for each byte and as many more as asked."""
    generator = numpy.random.default_rng(0)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("random")
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(width // heads)
    writer.add_value_length(width // heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    if window:
        writer.add_sliding_window(window)
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    tokens = [chr(byte if byte in visible else next(hidden)) for byte in range(256)]
    tokens += [f"<t{number}>" for number in range(vocabulary - 258)] + ["<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (vocabulary - 2) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(vocabulary - 2)
    writer.add_eos_token_id(vocabulary - 1)
    quantization = gguf.GGMLQuantizationType[kind]

    def matrix(name, *shape):
        values = generator.standard_normal(shape, dtype=numpy.float32) * 0.02
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, quantization), raw_dtype=quantization)

    def norm(name, size=width):
        writer.add_tensor(f"{name}.weight", numpy.ones(size, dtype=numpy.float32))

    matrix("token_embd", vocabulary, width)
    norm("output_norm")
    if not tied:
        matrix("output", vocabulary, width)
    kv_width = kv_heads * width // heads
    for layer in range(layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        if arch == "gemma3":
            norm(f"{block}.post_attention_norm")
            norm(f"{block}.post_ffw_norm")
            norm(f"{block}.attn_q_norm", width // heads)
            norm(f"{block}.attn_k_norm", width // heads)
        matrix(f"{block}.attn_q", width, width)
        matrix(f"{block}.attn_k", kv_width, width)
        matrix(f"{block}.attn_v", kv_width, width)
        matrix(f"{block}.attn_output", width, width)
        matrix(f"{block}.ffn_gate", inner, width)
        matrix(f"{block}.ffn_up", inner, width)
        matrix(f"{block}.ffn_down", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


MODELS = {
    "many heads, repacked": {
        "layers": 10, "width": 512, "inner": 1408, "heads": 16, "kv_heads": 16, "vocabulary": 32_000, "kind": "Q4_0",
        "tied": False,
    },
    "large vocabulary, F16": {
        "layers": 3, "width": 256, "inner": 1024, "heads": 4, "kv_heads": 1, "vocabulary": 100_000, "kind": "F16",
    },
    "sliding window": {
        "arch": "gemma3", "layers": 12, "width": 256, "inner": 768, "heads": 4, "kv_heads": 2, "vocabulary": 2000,
        "kind": "Q8_0", "window": 512,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def random_models(tmp_path_factory):
    """Models with random weights, made once when asked for."""
    directory, made = tmp_path_factory.mktemp("random"), {}

    def get(name):
        if name not in made:
            made[name] = random_model(directory / f"{len(made)}.gguf", **MODELS[name])
        return made[name]

    return get


@pytest.mark.parametrize(
    ("name", "ctx_size", "parallel", "cache_type"),
    [
        ("demo", 512, 1, "f16"),
        ("demo", 2048, 4, "f16"),
        ("demo", 8192, 2, "f16"),
        ("many heads, repacked", 1024, 1, "f16"),
        ("many heads, repacked", 2048, 4, "f16"),
        ("large vocabulary, F16", 512, 8, "f16"),
        ("large vocabulary, F16", 8192, 2, "q8_0"),
        ("sliding window", 8192, 4, "f16"),
    ],
)
@pytest.mark.engine
def test_estimate_against_the_engine(random_models, demo_model, name, ctx_size, parallel, cache_type):
    path = demo_model if name == "demo" else random_models(name)
    ran = subprocess.run(
        [sys.executable, SCRIPT, path, str(ctx_size), str(parallel), cache_type],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    resident = int(ran.stdout)
    expected = estimate(
        read_model([path]), ctx_size=ctx_size, parallel=parallel, cache_type_k=cache_type, cache_type_v=cache_type
    )
    assert expected.total == pytest.approx(resident, rel=0.15), expected


def shape(**settings):
    return {
        "llama.block_count": 4,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 32768,
    } | {f"llama.{key}": value for key, value in settings.items()}


@pytest.fixture
def header(write_gguf, tmp_path):
    def make(metadata=None, tensors=None, **settings):
        path = write_gguf(tmp_path / "m.gguf", shape(**settings) | (metadata or {}), tensors)
        return read_header(path)

    return make


def test_cache_by_heads_contexts_slots_and_types(header):
    # Two heads of 16 for keys and for values, two bytes each, in four layers: 512 bytes a token.
    assert estimate(header(), ctx_size=1024).kv_cache == 512 * 1024
    assert estimate(header(), ctx_size=1000, parallel=3).kv_cache == 512 * 1024 * 3
    assert estimate(header(), ctx_size=1024, cache_type_k="q8_0", cache_type_v="Q4_0").kv_cache == (34 + 18) * 4 * 1024
    assert estimate(header(**{"attention.key_length": 32}), ctx_size=256).kv_cache == 4 * (64 + 32) * 2 * 256
    assert estimate(header(**{"attention.head_count_kv": [2, 0, 1, 0]}), ctx_size=256).kv_cache == 3 * 16 * 4 * 256


def test_layers_with_a_window_keep_only_that(header):
    windowed = header({"llama.attention.sliding_window": 512, "llama.attention.sliding_window_pattern": 4})
    # Three layers keep the window and a batch, one keeps all; 128 bytes a token each.
    assert estimate(windowed, ctx_size=8192).kv_cache == 128 * (3 * 1024 + 8192)
    assert estimate(windowed, ctx_size=512).kv_cache == 128 * 4 * 512
    assert estimate(windowed, ctx_size=8192, parallel=2, checkpoints=5).checkpoints == 5 * 2 * 128 * 3 * 512
    listed = header({"llama.attention.sliding_window": 512, "llama.attention.sliding_window_pattern": [1, 1, 0, 0]})
    assert estimate(listed, ctx_size=8192).kv_cache == 128 * (2 * 1024 + 2 * 8192)
    # A window in the settings of an architecture that does not use it changes nothing.
    assert estimate(header({"llama.attention.sliding_window": 512}), ctx_size=8192).kv_cache == 128 * 4 * 8192


def test_recurrent_layers_keep_a_state(header):
    hybrid = header(
        **{
            "full_attention_interval": 4,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 128,
            "ssm.state_size": 16,
            "ssm.group_count": 1,
        }
    )
    state = 4 * (3 * (128 + 32) + 128 * 16)
    assert estimate(hybrid, ctx_size=1024, parallel=2).kv_cache == 2 * (3 * state + 128 * 1024)


def test_encoders_have_no_cache(header):
    bert = header({"general.architecture": "bert", "bert.block_count": 4, "bert.embedding_length": 64})
    assert estimate(bert, ctx_size=512).kv_cache == 0


def test_without_flash_attention_the_compute_buffer_grows_with_the_context(header):
    with_it, without = (estimate(header(), ctx_size=8192, flash_attn=flash).compute for flash in (True, False))
    assert without - with_it > 4 * 8192 * 4 * 500


def test_an_unknown_cache_type(header):
    with pytest.raises(ValueError, match="'q9_9' is not a type"):
        estimate(header(), ctx_size=512, cache_type_k="q9_9")


def test_a_header_without_numbers(write_gguf, tmp_path):
    bare = read_header(write_gguf(tmp_path / "m.gguf"))
    assert estimate(bare, ctx_size=512).kv_cache == 0
    assert estimate(bare, ctx_size=512).total > 32 * MIB


@pytest.mark.parametrize(
    ("limit", "bound", "expected"), [(8192, 5000, 4864), (8192, 9000, 8192), (1000, 1000, 1000), (8192, 10, 0)]
)
def test_largest_context(limit, bound, expected):
    assert largest_context(lambda ctx_size: ctx_size <= bound, limit=limit) == expected
