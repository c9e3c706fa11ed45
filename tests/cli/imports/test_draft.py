"""A `miner.toml` in the making: what is written is read back as it was."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.imports.draft import Draft, is_secret, readable, toml_key, toml_value, variable
from miner.config.file.read import parse_config
from tests.cli.imports.helpers import checked

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda text: text.replace("\0", ""))
VALUES = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(TEXT, VALUES)
def test_any_key_and_value_is_read_back(key, value):
    written = (
        f'DOLLAR = "$"\n{toml_key(key)} = {toml_value(value)}' if key != "DOLLAR" else f"DOLLAR = {toml_value(value)}"
    )

    def replaced(each):
        if isinstance(each, str):
            return each.replace("${DOLLAR}", "$")
        if isinstance(each, list):
            return [replaced(item) for item in each]
        return {name: replaced(item) for name, item in each.items()} if isinstance(each, dict) else each

    assert replaced(tomllib.loads(written)[key]) == replaced(value)


@given(TEXT)
def test_a_literal_text_survives_the_variables_of_the_file(text):
    draft = Draft("made up")
    draft.section("models", "m").set("description", f"a{text}")
    assert checked(draft).models["m"].description == f"a{text}"


def test_a_variable_is_replaced_and_what_only_looks_like_one_is_not():
    draft = Draft("made up")
    draft.section("models", "m").set("description", variable("WHO") + " and ${WHO} and $${WHO} and ${1}")
    assert checked(draft, WHO="she").models["m"].description == "she and ${WHO} and $${WHO} and ${1}"
    assert draft.variables == {"WHO": "as for the other tool"}


@given(TEXT)
def test_comments_cannot_end_early(text):
    draft = Draft(f"made up {text}")
    section = draft.section("models", "m")
    section.above.append(text)
    section.comment(text)
    section.set("file", "a.gguf", text)
    section.lose("there", text, text, text)
    assert checked(draft).models["m"].file == "a.gguf"


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_any_names_of_models_become_names_that_are_allowed(names):
    draft = Draft("made up")
    for name in names:
        draft.section("models", draft.name_for("models", name)).set("file", "a.gguf")
    assert len(checked(draft).models) == len(names)


def test_aliases_that_are_names_or_stand_twice_are_named():
    draft = Draft("made up")
    for name, aliases in {"a": ["b", "c", "x" * 201], "b": ["c", "d"]}.items():
        draft.section("models", name).set("aliases", aliases)
    content = checked(draft)
    assert (content.models["a"].aliases, content.models["b"].aliases) == (["c"], ["d"])
    assert [remark.where for remark in draft.lost] == ["models.a.alias", "models.a.alias", "models.b.alias"]


@pytest.mark.parametrize(
    "key",
    ["api_key", "apiKey", "OPENAI_API_KEY", "--api-key", "HF_TOKEN", "master_key", "password", "client_secret",
     "REDIS_PASSWORD", "Authorization_token", "aws_secret_access_key", "apikey", "credentials", "auth"],
)  # fmt: skip
def test_secrets_are_known_by_their_names(key):
    assert is_secret(key)


@pytest.mark.parametrize(
    "key", ["max_tokens", "tokenizer", "TOKENIZERS_PARALLELISM", "keep_alive", "keys_dir", "author"]
)
def test_other_names_are_not_secrets(key):
    assert not is_secret(key)


def test_values_of_secrets_are_not_in_comments():
    draft = Draft("made up")
    section = draft.section("models", "m")
    for key, value in {
        "api_key": "hunter2", "url": "postgresql://me:hunter2@db/x", "cmd": "run --api-key hunter2",
        "header": {"Authorization": "hunter2"}, "blob": "hunter2" * 8, "args": "PASSWORD=hunter2 run",
    }.items():  # fmt: skip
        section.lose("there", key, value, "why")
    assert "hunter2" not in draft.text()
    assert "not carried over: header (with Authorization): why" in draft.text()


def test_a_secret_gets_a_variable_of_its_own():
    draft = Draft("made up")
    assert readable(draft.secret("open ai_KEY", "one")) == "${OPEN_AI_KEY}"
    assert readable(draft.secret("open-ai_KEY", "two")) == "${OPEN_AI_KEY_2}"
    assert readable(draft.secret("1_KEY", "three")) == "${_1_KEY}"
    assert readable(draft.secret("port", "four")) == "${PORT_2}"


def test_a_wide_array_and_a_long_comment_take_several_lines():
    draft = Draft("made up")
    section = draft.section("backends", "b")
    section.set("kind", "openai")
    section.set("port", 1)
    section.set("command", ["program", *(f"--option-{number}" for number in range(20))])
    section.comment("word " * 60)
    text = draft.text()
    assert max(map(len, text.splitlines())) < 120
    assert len(parse_config(text, Path("miner.toml"), {}).content.backends["b"].command or []) == 21
