"""`miner` itself: help, version, commands that are not there, what is loaded."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from miner.cli.main import COMMANDS
from tests.cli.conftest import LONG, environment

pytestmark = pytest.mark.process


def lines_of(text: bytes) -> list[str]:
    return text.decode().splitlines()


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_80_columns_and_has_examples(miner, command):
    done = miner(*([command] if command else []), "--help", COLUMNS="200")
    assert done.returncode == 0
    assert done.stderr == b""
    lines = lines_of(done.stdout)
    assert lines[0].startswith(f"usage: miner {command or 'COMMAND'}")
    assert "examples:" in lines
    assert [line for line in lines if len(line) > 80] == []


def test_help_lists_each_command_with_its_line(miner):
    text = " ".join(miner("--help").stdout.decode().split())
    for name, (_, line, _) in COMMANDS.items():
        assert f" {name} {line}" in text


def test_help_lists_the_exit_statuses(miner):
    for arguments in (["--help"], ["generate", "--help"]):
        text = miner(*arguments).stdout.decode()
        for status in ("0 ", "1 ", "2 ", "3 ", "130 ", "141 "):
            assert f"\n  {status}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_module_keeps_the_convention(name):
    module = importlib.import_module(COMMANDS[name][0])
    assert callable(module.add_parser)
    assert callable(module.run)


def test_version_is_that_of_the_distribution(miner):
    for option in ("--version", "-V"):
        done = miner(option)
        assert (done.returncode, done.stdout.decode()) == (0, f"miner {version('llm-service-backends')}\n")


def test_the_console_script_is_the_same_command(tmp_path):
    from importlib.metadata import distribution

    (script,) = [p for p in distribution("llm-service-backends").entry_points if p.group == "console_scripts"]
    assert (script.name, script.value) == ("miner", "miner.cli.main:run")
    command = f"import sys; from miner.cli.main import run; sys.argv[:] = ['miner', 'nothing']; sys.exit({'run'}())"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, cwd=tmp_path, env=environment(tmp_path), timeout=LONG
    )
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["genrate", "x"], "miner: Unknown command 'genrate'.\n  Did you mean `miner generate`?\n"),
        (["--log-level", "info", "serv"], "miner: Unknown command 'serv'.\n  Did you mean `miner serve`?\n"),
        (["start"], "miner: Unknown command 'start'.\n  Did you mean `miner serve`?\n"),
        (
            ["why", "is", "water", "wet"],
            "miner: Unknown command 'why'.\n  As a prompt: miner generate 'why is water wet'",
        ),
        (["models", "ls"], "miner: Unknown action 'ls' of `miner models`.\n  Did you mean `miner models list`?\n"),
        (
            ["models", "delete", "x"],
            "miner: Unknown action 'delete' of `miner models`.\n  Did you mean `miner models rm`?",
        ),
        (["keys", "rm", "x"], "miner: Unknown action 'rm' of `miner keys`.\n  Did you mean `miner keys revoke`?\n"),
        (["keys", "add", "x"], "miner: Unknown action 'add' of `miner keys`.\n  Did you mean `miner keys new`?\n"),
        (["config", "zzz"], "miner: Unknown action 'zzz' of `miner config`.\n  Actions: check, "),
        (["ps", "--log-level", "debg"], "miner: --log-level debg: must be one of debug, info, "),
        (["generate", "--url", "x", "hi"], "miner: --url x: must start with http:// or https://, such as "),
        (["generate", "--key", "x", "hi"], "miner: --key is for --url.\n"),
        (
            ["generate", "--url", "http://x", "--backend", "vllm", "hi"],
            "miner: --url and --backend exclude each other.",
        ),
        (["zzz"], "miner: Unknown command 'zzz'.\n  Commands: chat, run, generate, "),
        (["--nothing"], "miner: Unknown option --nothing.\n  See `miner --help`.\n"),
        (["generate"], "miner: There is no prompt.\n  Such as: miner generate "),
        (["generate", "--maxtokens=5", "x"], "miner: Unknown option --maxtokens.\n  Did you mean --max-tokens? "),
        (["config", "check", "--confg", "x"], "miner: Unknown option --confg.\n  Did you mean --config?\n"),
        (["config", "schema", "--zz"], "miner: Unknown option --zz.\n  See `miner config schema --help`.\n"),
        (["generate", "--max", "5", "x"], "miner: Unknown option --max.\n"),
        (["backends", "why", "is"], "miner: Unexpected argument 'why'.\n  `miner backends` takes options only"),
        (["generate", "x", "--model"], "miner: Argument --model: expected one argument.\n"),
        (["generate", "x", "-m"], "miner: Argument -m: expected one argument.\n"),
    ],
)
def test_wrong_usage_exits_2_with_what_was_meant(miner, arguments, said):
    done = miner(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().startswith(said)


@pytest.mark.parametrize("arguments", [[], ["help"], ["-v"]])
def test_miner_alone_shows_its_help(miner, arguments):
    done = miner(*arguments)
    assert done.returncode == 0
    assert done.stdout == miner("--help").stdout


def test_help_of_a_command_as_an_argument_of_help(miner):
    for name in ("serve", "models"):
        done = miner("help", name)
        assert (done.returncode, done.stdout) == (0, miner(name, "--help").stdout)
    assert miner("help", "srve").returncode == 2


def test_quiet_leaves_notices_out_and_keeps_errors(miner):
    misspelt = {"MINER_SRVE_PORT": "1"}
    loud = miner("generate", "--backend", "nothing", "hi", **misspelt).stderr.decode()
    assert "MINER_SRVE_PORT" in loud
    for arguments in (["-q", "generate"], ["generate", "--quiet"]):
        done = miner(*arguments, "--backend", "nothing", "hi", **misspelt)
        assert done.returncode == 2
        (first, *_) = lines_of(done.stderr)
        assert first == "miner: There is no backend 'nothing'."


def test_log_levels_before_and_after_the_command(miner):
    rest = ["--url", "http://127.0.0.1:1", "-m", "x", "hi"]
    settings = {"MINER_MAX_RETRIES": "1"}
    for arguments in (["--log-level", "DEBUG", "generate"], ["generate", "-vv"], ["generate", "--debug"]):
        done = miner(*arguments, *rest, **settings)
        assert done.returncode == 1
        assert b" DEBUG: " in done.stderr
    for arguments in (["-v", "generate"], ["generate", "--log-level", "info"]):
        said = miner(*arguments, *rest, **settings).stderr
        assert b" DEBUG: " not in said
        assert b"miner.retry" in said
    assert b"miner.retry" not in miner("generate", "-q", *rest, **settings).stderr


def test_usage_errors_are_json_with_json(miner):
    done = miner("backends", "--json", "b")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["code"], error["exit_code"]) == ("UsageError", "usage_error", 2)
    assert error["message"] == "Unexpected argument 'b'."


def test_a_wrong_setting_exits_2_with_one_line_and_no_traceback(miner):
    done = miner("generate", "x", DEFAULT_TEMPERATURE="hot")
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = lines_of(done.stderr)
    assert line.startswith("miner: DEFAULT_TEMPERATURE='hot': ")


UNFORESEEN = """
import sys
from miner.cli import main
import miner.cli.commands.backends
def run(args):
    raise LookupError("oh\\nno")
miner.cli.commands.backends.run = run
sys.exit(main.run([*sys.argv[1:], "backends"]))
"""


def test_an_unexpected_error_is_one_line_and_a_traceback_with_debug(tmp_path):
    def done(*arguments):
        return subprocess.run(
            [sys.executable, "-c", UNFORESEEN, *arguments],
            capture_output=True, cwd=tmp_path, env=environment(tmp_path), timeout=LONG,
        )  # fmt: skip

    plain = done()
    assert plain.returncode == 1
    assert lines_of(plain.stderr) == [
        "miner: Unexpected LookupError: oh no",
        "  This is a bug in miner. --debug prints the traceback; `miner doctor` looks for what is wrong here.",
    ]
    full = done("--debug")
    assert full.returncode == 1
    assert "Traceback (most recent call last)" in full.stderr.decode()


def test_debug_may_stand_before_or_behind_the_command(miner):
    for arguments in (["--debug", "generate", "x"], ["generate", "--debug", "x"]):
        done = miner(*arguments, DEFAULT_TOP_P="0")
        assert done.returncode == 2
        assert b"Traceback" in done.stderr
        assert b"\nminer: DEFAULT_TOP_P='0': " in done.stderr


def test_output_that_cannot_be_written_is_reported(miner):
    with open("/dev/full", "wb") as full:
        process = miner.start("--help", stdout=full.fileno())
        said = process.communicate(timeout=LONG)[1]
    assert process.returncode == 1
    assert said == b"miner: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("arguments", [("--help",), ("version",), ("version", "--json"), ("config", "show", "--all")])
def test_output_that_is_written_at_once_and_cannot_be_is_reported(miner, arguments):
    with open("/dev/full", "wb") as full, open(os.devnull, "rb") as read_only:
        for target, why in ((full, "No space left on device"), (read_only, "Bad file descriptor")):
            process = miner.start(*arguments, stdout=target.fileno(), PYTHONUNBUFFERED="1")
            said = process.communicate(timeout=LONG)[1].decode()
            assert (process.returncode, said) == (1, f"miner: The output cannot be written: {why}.\n")


CLOSED = """
import os, sys
from miner.cli.main import run
status = run(["version"])
path = os.environ["SEEN"]
with open(path, "w") as file:
    null = os.stat(os.devnull)
    print([os.path.samestat(os.fstat(number), null) for number in (0, 1, 2)], file.fileno() > 2, file=file)
sys.exit(status)
"""


def test_no_file_takes_the_place_of_a_stream_that_is_closed(miner):
    seen = miner.directory / "seen"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, CLOSED],
        cwd=miner.directory, timeout=LONG, env=environment(miner.directory, SEEN=str(seen)),
    )  # fmt: skip
    assert done.returncode == 0
    assert seen.read_text() == "[True, True, True] True\n"


def test_a_reader_that_left_is_no_error(miner):
    process = miner.start("--help")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(LONG) == 141


LOADED = """
import sys
from miner.cli.main import run
status = run(sys.argv[1:])
heavy = ("aiohttp", "pydantic", "pydantic_settings", "msgspec", "asyncio", "xllamacpp", "jsonschema_rs", "logging")
print([name for name in heavy if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"], ["nothing"]])
def test_help_loads_no_engine_no_client_and_no_settings(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        capture_output=True, cwd=tmp_path, env=environment(tmp_path), timeout=LONG,
    )  # fmt: skip
    assert lines_of(done.stderr)[-1] == "[]"


def test_serving_without_its_packages_exits_2_with_the_line_that_gets_them():
    script = "import sys; sys.modules['aiohttp'] = None; from miner.cli.main import run; sys.exit(run(['serve']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert 'pip install "llm-service-backends[serve]"' in done.stderr
    assert "Traceback" not in done.stderr
