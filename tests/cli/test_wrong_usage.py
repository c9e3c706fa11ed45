"""Wrong command lines: each error names the field, the value and the way out."""

import json

import pytest

pytestmark = pytest.mark.process

NAMED = (
    "load", "unload", "stop", "show", "rm", "rm a", "pull", "fit", "run", "models path", "models reset",
    "keys new", "keys show", "keys update", "keys rotate", "keys revoke",
)  # fmt: skip
"""Commands that take a NAME."""
WRONG = [
    (
        "--max-tokens 5 generate hi",
        "Unknown option --max-tokens before a command.",
        "Options stand after their command",
    ),
    ("--json ps", "--json is an option of `miner ps`, and stands before it.", "`miner ps --json`."),
    ("-m x generate hi", "Unknown option -m before a command.", "`miner COMMAND -m ...`."),
    ("-vq zzz", "Unknown option -vq before a command.", "`miner COMMAND -vq ...`."),
    ("--log-level loud ps", "--log-level loud: must be one of debug, info, ", "See `miner --help`."),
    (
        "serve --port 99999",
        "--port 99999: must be an integer from 0 to 65535.",
        "",
    ),
    ("serve --port x", "--port 'x': must be an integer from 0 to 65535.", ""),
    ("serve --log yaml", "--log 'yaml': must be 'text', 'json' or 'off'.", ""),
    ("serve --host ''", "--host '': must not be empty.", "See `miner serve --help`."),
    ("--json", "Unknown option --json.", "Options stand after their command: `miner COMMAND --json ...`."),
    ("serve extra", "Unexpected argument 'extra'.", "A model is named with --model extra."),
    ("ps extra", "Unexpected argument 'extra'.", "`miner ps` takes options only: see `miner ps --help`."),
    ("ps --url ''", "--url '': must not be empty.", "See `miner ps --help`."),
    ("load a b", "Unexpected argument 'b'.", "`miner load` takes only NAME."),
    ("generate --backend '' hi", "--backend '': must not be empty.", "See `miner generate --help`."),
    ("generate --backend lamacpp hi", "There is no backend 'lamacpp'.", "Did you mean llamacpp?"),
    ("generate --config '' hi", "--config '': must not be empty.", ""),
    ("config check other.toml", "Unexpected argument 'other.toml'.", "Did you mean --config other.toml?"),
    ("config init -o ''", "-o '': must not be empty.", ""),
    ("config init --output=", "--output '': must not be empty.", ""),
    ("serve -m zzz --config no.toml --check -m", "Argument -m: expected one argument.", ""),
    ("logs -nmany", "-n many: must be a number of lines, 0 or more.", ""),
    ("logs -vnmany", "-n many: must be a number of lines, 0 or more.", ""),
    ("logs -n many --lines many", "--lines many: must be a number of lines, 0 or more.", ""),
    ("keys update a -m none -m b", "-m none: clears the list, and cannot stand beside other models.", ""),
    ("keys update a --model none -m b", "--model none: clears the list", ""),
    ("embed hi -o x.txt", "-o 'x.txt': must end in ", ""),
    ("embed hi --output x.txt", "--output 'x.txt': must end in ", ""),
    ("rerank q -f no.txt", "-f ", ""),
    ("generate hi -f no.txt", "-f ", ""),
    ("ps -a extra", "Unexpected argument 'extra'.", "takes options only"),
    ("serve -m a extra", "Unexpected argument 'extra'.", "A model is named with -m extra."),
    ("config show --all --changed", "Argument --changed: not allowed with argument --all.", "config show --help"),
    ("keys new a b", "Unexpected argument 'b'.", "`miner keys new` takes only NAME."),
    ("keys new a --requests many", "--requests many: must be an integer of at least 1.", ""),
    ("keys new a --requests ''", "--requests '': must not be empty.", ""),
    ("keys new a -m ''", "-m '': must not be empty.", "See `miner keys new --help`."),
    ("keys new a --model=", "--model '': must not be empty.", ""),
    ("keys update a -m ''", "-m '': must not be empty.", "See `miner keys update --help`."),
    *((f"{command} ''", "NAME '': must not be empty.", "") for command in NAMED),
    ("cp a ''", "NEW_NAME '': must not be empty.", ""),
    ("logs ''", "MODEL '': must not be empty.", ""),
    ("backends --jsn", "Unknown option --jsn.", "Did you mean --json?"),
    ("keys --jsn", "Unknown option --jsn.", ""),
    ("keys -q --nope", "Unknown option --nope.", ""),
    ("bench --rate 5", "Unknown option --rate.", "Did you mean --request-rate?"),
    ("bench --conc 5", "Unknown option --conc.", "Did you mean --concurrency?"),
    ("bench --output-file x", "Unknown option --output-file.", "Did you mean --output?"),
    ("keys list --bogus", "Unknown option --bogus.", "See `miner keys list --help`."),
    ("import lite", "Unknown tool 'lite' of `miner import`.", "Did you mean `miner import litellm`?"),
    ("help zzz", "Unknown command 'zzz'.", "Commands: "),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG)
def test_field_value_and_way_out(line, message, hint, miner):
    words = ["" if word == "''" else word for word in line.split()]
    done = miner(*words)
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert text.startswith(f"miner: {message}")
    assert hint in text
    assert done.stdout == b"" or "--json" in line


@pytest.mark.parametrize("words", [("load", " "), ("keys", "new", "a", "-m", " "), ("logs", "\t"), ("run", " ")])
def test_a_blank_name_is_an_empty_one(words, miner):
    done = miner(*words)
    assert (done.returncode, b"must not be empty" in done.stderr) == (2, True)


def test_the_error_is_one_json_object_wherever_json_stands(miner):
    for words in (["--json", "ps"], ["ps", "--json", "extra"], ["serve", "--json"]):
        done = miner(*words)
        assert done.returncode == 2
        told = json.loads(done.stdout)
        assert told["error"].keys() == {"type", "code", "message", "hint", "exit_code"}
        assert (told["error"]["type"], told["error"]["exit_code"]) == ("UsageError", 2)
        assert done.stdout.startswith(b'{\n  "error": {')


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("LLAMACPP_PARALLEL", "many", "an integer from 1 to 256"),
        ("DEFAULT_TOP_P", "1.5", "a number above 0, at most 1"),
        ("MINER_ALLOW_REMOTE_IMAGES", "perhaps", "true or false"),
    ],
)
def test_a_wrong_variable_says_what_it_takes(variable, value, allowed, miner):
    done = miner("generate", "hi", **{variable: value})
    assert (done.returncode, done.stderr.decode()) == (2, f"miner: {variable}={value!r}: must be {allowed}.\n")
    done = miner("generate", "hi", **{variable: value, "MINER_MAX_RETRIES": "x"})
    assert ": must be " in done.stderr.decode()
    assert " (1 more)." in done.stderr.decode()


@pytest.mark.parametrize("options", ["", "-q", "-v", "--log-level debug"])
@pytest.mark.parametrize(
    ("command", "message", "hint"),
    [
        ("keys", "No action given.", "Actions: new, update, "),
        ("models", "No action given.", "Actions: list, "),
        ("config", "No action given.", "Actions: check, show, schema, init."),
        ("import", "No tool given.", "Tools: "),
    ],
)
def test_a_command_without_its_action(command, message, hint, options, miner):
    done = miner(command, "--json", *options.split())
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["message"]) == (2, message)
    assert error["hint"].startswith(hint)
    done = miner(command, *options.split())
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"miner: {message}" in done.stderr.decode()
