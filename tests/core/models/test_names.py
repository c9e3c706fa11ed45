"""What file names say."""

import pytest

from miner.core.models.names import HubRef, choose, group, parse_ref, projector_choice, quantization_in
from miner.errors import ModelNotFoundError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("llama-3-8b-q4_k_m.gguf", "Q4_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("a-IQ2_XXS-00001-of-00002.gguf", "IQ2_XXS"),
        ("model-BF16.gguf", "BF16"),
        ("model-fp16.gguf", "F16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("directory/Q8_0/part-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("Q8_0/model.gguf", "Q8_0"),
        ("qwen2-7b.gguf", None),
        ("model.gguf", None),
    ],
)
def test_quantization(name, expected):
    assert quantization_in(name) == expected


def test_split_files_are_one_model():
    groups = group(
        [
            "b/m-Q8_0-00002-of-00002.gguf",
            "b/m-Q8_0-00001-of-00002.gguf",
            "a.GGUF",
            "mmproj-F16.gguf",
            "x.txt",
            "m.gguf.part",
        ]
    )
    assert [(item.name, item.files, item.missing) for item in groups] == [
        ("a", ("a.GGUF",), ()),
        ("b/m-Q8_0", ("b/m-Q8_0-00001-of-00002.gguf", "b/m-Q8_0-00002-of-00002.gguf"), ()),
    ]


def test_missing_parts_are_named():
    [item] = group(["m-00002-of-00003.gguf"])
    assert item.missing == ("m-00001-of-00003.gguf", "m-00003-of-00003.gguf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:bartowski/Llama-3.2-1B-GGUF", HubRef("bartowski", "Llama-3.2-1B-GGUF")),
        ("a/b:Q4_K_M", HubRef("a", "b", "Q4_K_M")),
        ("hf:a/b:sub/file.gguf", HubRef("a", "b", "sub/file.gguf")),
        ("hf:a", None),
        ("hf:a/b/c", None),
        ("hf:../b", None),
        ("a/..", None),
        ("hf:a/b:../../x", None),
        ("a b/c", None),
    ],
)
def test_references(text, expected):
    assert parse_ref(text) == expected


FILES = [
    "m-Q8_0.gguf",
    "m-Q4_K_M.gguf",
    "m-Q4_0.gguf",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, "m-Q4_K_M"),
        ("Q4_K_M", "m-Q4_K_M"),
        ("q8_0", "m-Q8_0"),
        ("m-q4_0.GGUF", "m-Q4_0"),
        ("bf16", "BF16/m-BF16"),
        ("BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16"),
        ("m-bf16", "BF16/m-BF16"),
    ],
)
def test_choice(selector, expected):
    assert choose(group(FILES), HubRef("o", "r", selector), place="o/r").name == expected


def test_a_quantization_of_the_dynamic_kind_answers_to_its_plain_name():
    groups = group(["m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf"])
    assert choose(groups, HubRef("o", "r", "q4_k_xl"), place="o/r").name == "m-UD-Q4_K_XL"
    assert choose(groups, HubRef("o", "r"), place="o/r").name == "m-UD-Q4_K_XL"


def test_a_choice_that_cannot_be_made_lists_what_is_there():
    with pytest.raises(ModelNotFoundError, match="fits none of the 4 models in o/r") as caught:
        choose(group(FILES), HubRef("o", "r", "Q3_K_S"), place="o/r")
    assert caught.value.available == ["BF16/m-BF16", "m-Q4_0", "m-Q4_K_M", "m-Q8_0"]
    assert "hf:o/r:BF16" in caught.value.hint
    with pytest.raises(ModelNotFoundError, match=r"fits 2 .*: a-Q4_0, b-Q4_0\."):
        choose(group(["a-Q4_0.gguf", "b-Q4_0.gguf", "c-Q8_0.gguf"]), HubRef("o", "r", "q4_0"), place="o/r")
    with pytest.raises(ModelNotFoundError, match="no GGUF model in o/r"):
        choose([], HubRef("o", "r"), place="o/r")


def test_projector_of_several():
    assert projector_choice(["mmproj-F32.gguf", "mmproj-F16.gguf", "m.gguf"]) == "mmproj-F16.gguf"
    assert projector_choice(["mmproj.gguf"]) == "mmproj.gguf"
    assert projector_choice(["m.gguf"]) is None
