"""`${NAME}` in texts."""

import pytest

from miner.config.file.read import parse_config


def test_from_the_table_before_the_environment(parse):
    content = parse(
        '[variables]\nD = "${BASE}/m"\n[models.a]\nfile = "${D}/${F}.gguf"', BASE="/b", D="/no", F="f"
    ).content
    assert content.models["a"].file == "/b/m/f.gguf"
    assert content.variables == {"D": "/b/m"}


def test_in_lists_and_tables_and_not_in_other_values(parse):
    content = parse('[models.a]\naliases = ["${N}-*"]\ncontext = 512\nflags = { x = "${N}", y = 1 }', N="n").content
    assert content.models["a"].aliases == ["n-*"]
    assert content.models["a"].flags == {"x": "n", "y": 1}


def test_a_port_has_its_value_later(parse):
    content = parse(
        '[variables]\nP = "--port ${PORT}"\n[backends.a]\nkind = "vllm"\ncommand = ["sh", "-c", "x ${P}"]\n'
        'env = { A = "${PORT}" }'
    ).content
    assert content.backends["a"].command == ["sh", "-c", "x --port ${PORT}"]
    assert content.backends["a"].env == {"A": "${PORT}"}


def test_two_dollars_stand_for_one(parse):
    assert parse('[models.a]\nsystem = "$${X} $$ $X {}"').content.models["a"].system == "${X} $$ $X {}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('file = "${A}"', "${A} is not set. Set it in the environment, in .env, or in [variables]."),
        ('file = "${DATADIR}"', "${DATADIR} is not set. Did you mean DATA_DIR? Set it"),
        ('file = "${EMPTY}"', "${EMPTY} is not set."),
        ('file = "${A:-x}"', "${A:-x} is not a variable. Variables are written ${NAME}"),
        ('file = "${A"', "${A is not a variable."),
        ('file = "${PORT}"', "${PORT} has no value here. It is for command, env and ready of a backend."),
        ('flags = { "${A}" = 1 }', "variables are not replaced in names and keys."),
        ('file = "${X}"\n[variables]\nX = "${X}"', "the variable X is defined by itself (X -> X)."),
    ],
)
def test_what_is_no_variable(line, message, errors):
    first = errors(f"[models.a]\n{line}", DATA_DIR="/x", EMPTY="")[0]
    assert first.startswith("2: models.a.")
    assert first.partition(": ")[2].partition(": ")[2].startswith(message)


def test_without_an_environment_of_its_own_it_is_that_of_the_process_before_env(empty_directory, monkeypatch):
    (empty_directory / ".env").write_text("CONFIG_A=file\nCONFIG_B=file\n")
    monkeypatch.setenv("CONFIG_A", "process")
    loaded = parse_config('[models.a]\naliases = ["${CONFIG_A}-1", "${CONFIG_B}-2"]', empty_directory / "miner.toml")
    assert loaded.content.models["a"].aliases == ["process-1", "file-2"]
