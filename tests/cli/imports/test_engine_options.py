"""llama-server's options as keys: each one is carried over, is set by this program itself, or is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.imports.draft import Draft
from miner.cli.imports.engine_arguments import Given, NotCarriedError, given_of
from miner.cli.imports.engine_option_names import ENGINE_OPTIONS
from miner.cli.imports.engine_options import keys_of
from tests.cli.imports.helpers import checked


def keys(*arguments):
    return keys_of(given_of(["-m", "/m.gguf", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-c", "8192", "-np", "4"], {"context": 2048, "slots": 4}),
        (["-c", "8192", "--parallel", "4", "-kvu"], {"context": 8192, "slots": 4}),
        (["--ctx-size", "8192"], {"context": 8192, "slots": 1}),
        (["-c", "0"], {}),
        (["-c", "8192", "-np", "-1"], {"context": 8192, "slots": 1}),
        (["-np", "2"], {"slots": 2}),
        (["--kv-unified-per-slot", "4096", "-np", "2"], {"context": 4096, "slots": 2}),
        (["-ngl", "99"], {"n_gpu_layers": 99}),
        (["--gpu-layers", "all"], {"n_gpu_layers": -1}),
        (["--n-gpu-layers", "auto"], {}),
        (["-ctk", "q8_0", "--cache-type-v", "q4_0"], {"cache_type_k": "q8_0", "cache_type_v": "q4_0"}),
        (["-fa"], {"flash_attn": "on"}),
        (["-fa", "off"], {"flash_attn": "off"}),
        (["--flash-attn", "-ngl", "1"], {"flash_attn": "on", "n_gpu_layers": 1}),
        (["--flash-attn=auto"], {"flash_attn": "auto"}),
        (["-t", "8"], {"threads": 8}),
        (["-t", "-1"], {}),
        (["-b", "256"], {"batch_size": 256}),
        (["-b", "2048", "-ub", "1024"], {"batch_size": 1024}),
        (["-cram", "2048"], {"cache_ram": 2048}),
        (["--cpu-moe"], {"cpu_moe": True}),
        (["-ncmoe", "12"], {"n_cpu_moe": 12}),
        (["--embeddings", "--pooling", "mean"], {"pooling": "mean"}),
        (["--reranking"], {"pooling": "rank"}),
        (["--mmproj", "/p.gguf"], {"mmproj": "/p.gguf"}),
        (["--no-mmproj"], {"mmproj": False}),
        (["--lora", "/a.gguf,/b.gguf"], {"lora": ["/a.gguf", "/b.gguf"]}),
        (["--lora-scaled", "/a.gguf:0.5"], {"lora": [{"file": "/a.gguf", "scale": 0.5}]}),
        (["--chat-template-file", "/t.jinja"], {"chat_template": "/t.jinja"}),
        (["--no-jinja"], {"flags": {"no-jinja": True}}),
        (["-a", "one,two"], {"aliases": ["one", "two"]}),
        (
            ["-md", "/d.gguf", "--draft-max", "16", "--draft-min", "2", "--draft-p-min", "0.4", "-ngld", "99"],
            {"speculation": {
                "type": "draft", "file": "/d.gguf", "n_max": 16, "n_min": 2, "p_min": 0.4, "n_gpu_layers": 99,
            }},
        ),
        (["--spec-type", "ngram-mod"], {"speculation": {"type": "ngram-mod"}}),
        (["--spec-type", "none"], {}),
        (
            ["--temp", "0.6", "--top-k", "40", "-s", "7", "-n", "-1", "--min-p", "0.01"],
            {"sampling": {"temperature": 0.6, "top_k": 40, "seed": 7, "min_p": 0.01}},
        ),
        (["--no-mmap", "--mlock", "-sm", "row"], {"flags": {"no-mmap": True, "mlock": True, "split-mode": "row"}}),
        (["-ot", "a=CPU", "-ot", "b=CPU"], {"flags": {"override-tensor": ["a=CPU", "b=CPU"]}}),
        (["-ts", "3,1", "--main-gpu", "1"], {"flags": {"tensor-split": "3,1", "main-gpu": 1}}),
        (["--ctx_size", "4096", "-np", "1"], {"context": 4096, "slots": 1}),
    ],
)  # fmt: skip
def test_options_become_keys(arguments, expected):
    assert keys(*arguments).keys == {"file": "/m.gguf", **expected}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bogus", "1"], "--bogus is no option"), (["-mla", "2"], "-mla is no option"),
        (["word"], "word is no option"), (["--chat-template", "chatml"], "use chat_template, a file"),
        (["--mirostat", "5"], "--mirostat: .*from 0 to 2"), (["--spec-type", "magic"], "--spec-type: "),
        (["--spec-type", "ngram-mod", "--draft-p-min", "0.1"], "--draft-p-min: .*no effect"),
        (["-c"], "-c has no value"), (["-c", "many"], "-c many: here it is a number"),
        (["--jinja=1"], "takes no value"),
        (["-ctk", "q9"], "-ctk q9: not one of"), (["--temp", "3"], "--temp 3: here it is a number, 0 to 2"),
        (["-np", "0"], "-np 0"), (["--pooling", "max"], "--pooling max"), (["-hfrd", "none"], "-hfrd none: not OWNER"),
        (["--control-vector-layer-range", "1", "2"], "two values"), (["LLAMA_ARG_PORT", "1"], "LLAMA_ARG_PORT"),
        (["--lora-scaled", "/a.gguf"], "not FILE:SCALE"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_says_which_option(arguments, says):
    with pytest.raises(NotCarriedError, match=says):
        keys(*arguments)


def test_the_model_of_a_hub():
    assert keys_of(given_of(["-hf", "o/r:Q4_K_M"])).keys == {"hub": "o/r:Q4_K_M"}
    assert keys_of(given_of(["-hf", "o/r:Q8_0", "-hff", "x.gguf"])).keys == {"hub": "o/r:x.gguf"}
    with pytest.raises(NotCarriedError, match="OWNER/NAME"):
        keys_of(given_of(["-hf", "nothing"]))
    with pytest.raises(NotCarriedError, match="file or a repository"):
        keys_of(given_of(["-mu", "http://there/m.gguf"]))


SAMPLE = {
    "flash-attn": "on", "cache-type-k": "q8_0", "cache-type-v": "q8_0", "pooling": "mean", "hf-repo": "o/r",
    "hf-repo-draft": "o/r", "lora-scaled": "/a:1", "seed": "7", "batch-size": "256", "ubatch-size": "256",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({option.name for option in ENGINE_OPTIONS.values()}))
def test_no_option_is_dropped_silently(name):
    option = ENGINE_OPTIONS[name]
    for value in [SAMPLE.get(name, "1")] if option.takes_value else [True, False]:
        try:
            found = keys_of([Given("model", "/m.gguf", "-m"), Given(name, value, f"--{name}")])
        except NotCarriedError as error:
            refused = error.written
        else:
            refused = ""
        if refused:
            assert refused == f"--{name}"
            continue
        left = {key: each for key, each in found.keys.items() if key != "file" or name == "model"}
        spellings = [*found.by_miner, *(lost[0] for lost in found.lost), *(changed[0] for changed in found.changed)]
        off_by_default = value is False and name in ("reranking", "embeddings", "cpu-moe")
        assert left or f"--{name}" in spellings or off_by_default
        draft = Draft("made up")
        found.write(draft.section("models", "m"), "there")
        assert "m" in checked(draft).models


@given(st.lists(st.sampled_from(sorted(ENGINE_OPTIONS)) | st.text(max_size=8), max_size=6))
def test_any_words_are_options_or_refused_and_the_result_is_valid(words):
    try:
        found = keys(*(word if len(word) == 1 else f"--{word}" for word in words))
    except NotCarriedError:
        return
    draft = Draft("made up")
    found.write(draft.section("models", "m"), "there")
    checked(draft)


def test_an_option_that_stands_twice_counts_once_and_is_named():
    found = keys("-ngl", "1", "--n-gpu-layers", "2")
    assert found.keys["n_gpu_layers"] == 2
    assert found.changed == [("--n-gpu-layers", "stands there twice: the last one counts")]
