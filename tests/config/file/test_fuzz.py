"""Whatever stands in a file, reading it gives a file or an error with lines, and nothing else."""

import json
import tomllib

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miner.config.file.json_schema import published_schema, raw_schema
from miner.config.file.lines import Lines
from miner.config.file.problems import ConfigFileError
from miner.config.file.read import LoadedConfig, parse_config
from miner.errors import ConfigError

KEYS = sorted({key for node in raw_schema()["$defs"].values() for key in node["properties"]})
NAMES = st.sampled_from(["a", "b", "A", "x*", "local", "a b", "${V}", ""])
TEXTS = st.sampled_from(
    ["", "a", "b", "x-*", "*", "local", "llamacpp", "ollama", "openai", "vllm", "5m", "-1", "6GiB", "1e9", "on", "q8_0",
     "http://x", "http://u:p@x/?k=v", "${V}", "${NO}", "${", "$${V}", "${PORT}", "mean", "SIGTERM",
     "/health", "\u0000", "é\n"]
)  # fmt: skip
SCALARS = st.one_of(
    TEXTS.map(lambda text: json.dumps(text, ensure_ascii=True).replace("\\/", "/")),
    st.integers(-2, 300).map(str),
    st.sampled_from(["true", "false", "1.5", "nan", "inf", "-0.0", "9" * 30, "1979-05-27", "07:32:00", "[]", "{}"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2).map(
            lambda each: "{ " + ", ".join(f"{key} = {value}" for key, value in each.items()) + " }"
        )
    ),
    max_leaves=4,
)


@st.composite
def files(draw):
    lines = []
    tables = st.sampled_from(["models", "backends", "groups", "model"])
    for kind, name in draw(st.lists(st.tuples(tables, NAMES), max_size=4, unique=True)):
        lines.append(f"[{kind}.{json.dumps(name)}]")
        class_ = {"models": "Model", "backends": "Backend", "groups": "Group"}.get(kind, "Model")
        own = st.sampled_from(sorted(raw_schema()["$defs"][class_]["properties"]))
        if kind == "backends" and draw(st.booleans()):
            lines.append('kind = "llamacpp"')
            own = own.filter(lambda key: key != "kind")
        lines += [f"{key} = {value}" for key, value in draw(st.dictionaries(own, VALUES, max_size=4)).items()]
    for kind in draw(st.lists(st.sampled_from(["limits", "defaults", "variables"]), max_size=2, unique=True)):
        lines.append(f"[{kind}]")
        lines += [
            f"{key} = {value}"
            for key, value in draw(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)).items()
        ]
    return "\n".join(lines)


def read(text, directory):
    """The file, or its problems."""
    try:
        return parse_config(text, directory / "miner.toml", {"V": "HIDDEN"})
    except ConfigFileError as error:
        return error.problems


@given(files())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_tables(empty_directory, text):
    found = read(text, empty_directory)
    if isinstance(found, LoadedConfig):  # then it is valid for the schema too
        assert list(jsonschema.Draft202012Validator(published_schema()).iter_errors(tomllib.loads(text))) == []
        return
    assert found
    for problem in found:
        assert problem.line in range(1, text.count("\n") + 2)
        assert "HIDDEN" not in problem.text
        assert "\n" not in problem.text


@given(st.text(alphabet="[]{}=.,\"'# \n\\ab1${}\r\t\0é", max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text(empty_directory, text):
    try:
        parse_config(text, empty_directory / "miner.toml", {})
    except ConfigError as raised:
        error = raised
    else:
        return
    assert error.message.startswith("miner.toml")
    Lines(text)
