"""The presets.ini of llama-server's router: each key is carried over, or named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.imports.engine_option_names import ENGINE_OPTIONS
from miner.cli.imports.llama_server import import_llama_server
from miner.cli.imports.paths import PathFinder
from miner.errors import ConfigError
from tests.cli.imports.helpers import checked, lost


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "presets.ini"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return import_llama_server(path, PathFinder(tmp_path))

    return read


def test_the_sections_are_models_with_what_all_of_them_have(read):
    draft = read(
        """version = 1
; a comment
[*]
c = 8192          ; of all
n-gpu-layers = 8
--cache-type-k = q8_0
stop-timeout = 9

[ggml-org/MY-MODEL-GGUF:Q8_0]
c = 4096
jinja = true
no-mmap = on
LLAMA_ARG_CACHE_RAM = 0
chat-template = chatml # built in
LLAMA_ARG_N_GPU_LAYERS = 123

[ my own ]
model = /models/own.gguf
load-on-startup = true
parallel = 2
temp = 0.5
embeddings = true
pooling = mean

[in the directory]
no-kv-offload = false
"""
    )
    content = checked(draft)
    hub, own, named = content.models.values()
    assert (hub.hub, hub.context, hub.slots, hub.n_gpu_layers) == ("ggml-org/MY-MODEL-GGUF:Q8_0", 4096, 1, 123)
    assert (hub.cache_type_k, hub.cache_ram, hub.flags) == ("q8_0", 0, {"load-mode": "none"})
    assert list(content.models) == ["ggml-org/MY-MODEL-GGUF:Q8_0", "my-own", "in-the-directory"]
    assert (own.file, own.context, own.slots, own.pooling, own.preload) == ("/models/own.gguf", 4096, 2, "mean", True)
    assert own.aliases == ["my own"]
    assert (named.file, named.n_gpu_layers, named.flags) == ("in the directory", 8, {"kv-offload": True})
    assert {"[*].stop-timeout", "[ggml-org/MY-MODEL-GGUF:Q8_0].chat-template"} == set(lost(draft))
    assert draft.steps == ["miner models pull hf:ggml-org/MY-MODEL-GGUF:Q8_0"]


SAMPLES = {
    "flash-attn": "on", "cache-type-k": "q8_0", "cache-type-v": "q8_0", "pooling": "mean", "hf-repo": "o/r",
    "hf-repo-draft": "o/r", "lora-scaled": "/a:1", "control-vector-layer-range": "1", "ctx-size": "4096",
    "batch-size": "256", "ubatch-size": "256", "spec-type": "ngram-mod", "kv-unified-per-slot": "512",
}  # fmt: skip


@pytest.mark.parametrize("spelling", sorted(set(ENGINE_OPTIONS) - {"version"}))
def test_each_key_in_each_spelling_is_carried_over_or_stands_in_a_comment(read, spelling):
    option = ENGINE_OPTIONS[spelling]
    value = SAMPLES.get(option.name, "1") if option.takes_value else "true"
    other = "" if option.name in ("model", "hf-repo") else "model = /m.gguf\n"
    draft = read(f"[m]\n{other}{spelling} = {value}\n")
    plain = checked(read("[m]\nmodel = /m.gguf\n")).models["m"]
    assert checked(draft).models["m"] != plain or spelling in draft.text()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("bogus = 3", "no option"), ("stop-timeout = 3", "stops its engines"),
        ("dedup-cache-models = 1", "only the models"),
        ("temp = 9", "0 to 2"), ("jinja = maybe", "neither"), ("ctk = q9", "not one of"), ("tools = all", "no tools"),
        ("model-url = http://x/y", "named already"), ("c = 100", "at least 256"), ("hfd = x", "not OWNER"),
    ],
)  # fmt: skip
def test_what_is_not_carried_over_is_named_and_the_rest_is(read, line, why):
    draft = read(f"[m]\nmodel = /m.gguf\n{line}\nthreads = 3\n")
    assert checked(draft).models["m"].threads == 3
    assert why in lost(draft)[f"[m].{line.partition(' ')[0]}"]


def test_a_section_that_stands_twice_counts_once(read):
    draft = read("[m]\nthreads = 1\nngl = 2\n[m]\nmodel = /m.gguf\n")
    assert checked(draft).models["m"].threads is None
    assert {"[m].threads", "[m].ngl"} == set(lost(draft))


def test_keys_before_the_first_section_are_a_model_named_default(read):
    assert list(checked(read("version = 1\nmodel = /m.gguf\n[x]\nmodel = /x.gguf\n")).models) == ["default", "x"]
    assert list(checked(read("version = 1\n[x]\nmodel = /x.gguf\n")).models) == ["x"]


def test_a_value_ends_at_a_semicolon_which_is_named(read):
    draft = read("[m]\nmodel = /m.gguf\nsamplers = top_k;top_p\n")
    assert checked(draft).models["m"].flags == {"samplers": "top_k"}
    assert [remark.where for remark in draft.changed] == ["[m].samplers"]


def test_no_value_of_a_secret_is_shown(read):
    text = read("[m]\nmodel = /m.gguf\napi-key = hunter2\nhf-token = hunter2\nmy-token = hunter2\n").text()
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no models"), ("[*]\nc = 1\n", "no models"), ("[m]\nnothing\n", ":2: neither"), ("[m\n", ":1: neither"),
        ("[m]\n1x = 2\n", ":2: neither"), (b"[m]\nmodel = \xff\n", "not UTF-8"), ("[m]\nmodel = a\0b\n", "NUL"),
    ],
)  # fmt: skip
def test_what_llama_server_refuses_is_refused(read, text, says):
    with pytest.raises(ConfigError, match=says):
        read(text)


@given(st.text(max_size=30).map(lambda text: text.replace("\0", "")), st.sampled_from(sorted(ENGINE_OPTIONS)))
def test_any_value_is_carried_over_named_or_refused(tmp_path_factory, value, key):
    path = tmp_path_factory.getbasetemp() / "any.ini"
    path.write_text(f"[m]\n{key} = {value}\n", encoding="utf-8", errors="replace", newline="")
    try:
        draft = import_llama_server(path, PathFinder(path.parent))
    except ConfigError:
        return
    checked(draft)
