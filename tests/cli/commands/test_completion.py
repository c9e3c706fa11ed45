"""`miner completion` in a real bash, and `miner version`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from miner import __version__
from tests.cli.conftest import LONG, environment
from tests.cli.terminal import on_terminal
from tests.cli.test_gateway_client import Gate
from tests.gateway.serving import Parrot, config
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

BASH = ["bash", "--norc", "--noprofile", "-i"]
WORDS = """
source ./miner.bash
t() { COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=(); _shtab_miner
    echo "$*=${COMPREPLY[*]}"; }
t miner keys ro
t miner keys new x --priority ''
t miner serve --config a.t
t miner serve --allow
t miner load ''
t miner keys revoke ''
t miner completion ''
t miner run ''
t miner run small --backend ol
t miner launch open
t miner config show LLAMACPP_PARA
t miner config show sma
"""


def shell_environment(directory, **settings):
    """With this miner in the PATH."""
    given = environment(directory, **settings)
    return given | {"PATH": f"{directory}:{given['PATH']}", "PS1": "> ", "HISTFILE": "/dev/null"}


@pytest.fixture
def script(miner, tmp_path):
    program = tmp_path / "miner"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m miner "$@"\n')
    program.chmod(0o755)
    done = miner("completion", "bash")
    assert done.returncode == 0, done.stderr
    assert b"bash-completion" in done.stderr
    path = tmp_path / "miner.bash"
    path.write_bytes(done.stdout)
    return path


def test_a_command_is_completed_as_it_is_typed(script, tmp_path):
    with on_terminal(BASH, columns=80, rows=24, env=shell_environment(tmp_path), cwd=tmp_path) as terminal:
        terminal.until(">")
        terminal.press("source ./miner.bash; echo loaded-$((1+1))\n")
        terminal.until("loaded-2")
        terminal.press("miner mod\t")
        terminal.until("miner models")
        terminal.press("rm\t")
        terminal.press("\x15exit\n")
        terminal.ended()


def test_options_choices_files_and_names(script, tmp_path, miner):
    (tmp_path / "a.toml").write_text('[models.small]\nfile = "demo"\n[models.big]\nfile = "demo"\n')
    keys_file = str(tmp_path / "keys.json")
    assert miner("keys", "new", "alice", MINER_API_KEYS_FILE=keys_file).returncode == 0
    env = shell_environment(tmp_path, MINER_CONFIG=str(tmp_path / "a.toml"), MINER_API_KEYS_FILE=keys_file)
    done = subprocess.run(["bash", "-c", WORDS], capture_output=True, cwd=tmp_path, env=env, timeout=LONG, text=True)
    found = dict(line.rpartition("=")[::2] for line in done.stdout.splitlines())
    assert found["miner keys ro"] == "rotate", done.stderr
    assert found["miner keys new x --priority "] == "interactive batch"
    assert found["miner serve --config a.t"] == "a.toml"
    assert found["miner serve --allow"] == "--allow-unauthenticated"
    assert set(found["miner load "].split()) == {"small", "big"}
    assert found["miner keys revoke "] == "alice"
    assert found["miner completion "] == "bash zsh fish"
    assert set(found["miner run "].split()) == {"small", "big"}
    assert found["miner run small --backend ol"] == "ollama"
    assert set(found["miner launch open"].split()) == {"opencode", "open-webui"}
    assert found["miner config show LLAMACPP_PARA"] == "LLAMACPP_PARALLEL"
    assert found["miner config show sma"] == "small"


HOSTILE = (
    "$(touch X1)", "`touch X2`", ";touch X3", 'a"b', "a'b", "*", "?", "two words", "back\\slash", "~", "${HOME}", "!!",
    "&touch X4&", "|touch X5", "qwen:0.5b", "qwen:7b", "org/m@main", "-m", "#x", "<(touch X6)", "é",
)  # fmt: skip
UNPRINTABLE = ("a\ntouch X7", "tab\tbed", "esc\x1b[2J", "nul\x7f")


@pytest.fixture
def hostile(tmp_path):
    """A directory of models whose names are code; returns the environment of a shell."""
    for name in HOSTILE + UNPRINTABLE:
        path = tmp_path / "models" / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
    return shell_environment(tmp_path, MODELS_DIR=str(tmp_path / "models"))


def in_shell(command, directory, env):
    """What a shell prints for a script; no name may have been run in it."""
    done = subprocess.run(command, capture_output=True, cwd=directory, env=env, timeout=LONG, text=True)
    assert not list(directory.glob("X*")), done.stdout + done.stderr
    return done.stdout.splitlines()


def test_names_are_a_line_each_and_have_no_control_characters(miner, hostile):
    done = miner("completion", "--names", "models", MODELS_DIR=hostile["MODELS_DIR"])
    assert sorted(done.stdout.decode().splitlines()) == sorted((*HOSTILE, "demo"))


FILL = r"""
source ./miner.bash
COMP_WORDS=(miner run "$QUOTE") COMP_CWORD=2
_shtab_miner
for each in "${COMPREPLY[@]}"; do eval "printf '%s\n' $QUOTE$each$QUOTE"; done
"""


@pytest.mark.parametrize(("quote", "without"), [("", ()), ("'", ()), ('"', ("!!",))])
def test_bash_completes_names_as_they_are_and_runs_none(script, tmp_path, hostile, quote, without):
    """What is inserted is read by the shell as the name: unquoted, and after either quote."""
    given = in_shell(["bash", "-c", FILL], tmp_path, hostile | {"QUOTE": quote})
    assert sorted(given) == sorted({*HOSTILE, "demo"} - set(without))


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("miner run '$(tou", "miner run '$(touch X1)'"),
        (r"miner run \$\(", r"miner run \$\(touch\ X1\)"),
        (r"miner run two\ w", r"miner run two\ words"),
        ("miner run qwen:0", "miner run qwen:0.5b"),
        ("miner run qwen:0.5b -m qwen:7", "miner run qwen:0.5b -m qwen:7b"),
        ("miner run org/m@", "miner run org/m@main"),
        ("miner run back", r"miner run back\\slash"),
    ],
)
def test_bash_inserts_a_name_quoted(script, tmp_path, hostile, typed, line):
    with on_terminal(BASH, columns=120, rows=24, env=hostile, cwd=tmp_path) as terminal:
        terminal.until(">")
        terminal.press("source ./miner.bash; echo loaded-$((1+1))\n")
        terminal.until("loaded-2")
        terminal.press(f"{typed}\t")
        terminal.until(line)
        terminal.press("\x15exit\n")
        terminal.ended()
    assert not list(tmp_path.glob("X*"))


FISH = """
source ./miner.fish
complete -C 'miner run ' | string match -rv '^--'
"""
ZSH = r"""
compadd() { print -rl -- "${(@P)@[-1]}" }
source <(sed '/^#compdef/d; /^if \[\[ \$zsh_eval_context/,$d' miner.zsh)
_miner_models
"""


@pytest.mark.clients
@pytest.mark.parametrize(("program", "text"), [("fish", FISH), ("zsh", ZSH)])
def test_fish_and_zsh_complete_names_as_they_are(script, miner, tmp_path, hostile, program, text):
    """Both quote what they insert."""
    assert shutil.which(program), f"install {program} (apt-get install {program})"
    written = miner("completion", program).stdout
    (tmp_path / f"miner.{program}").write_bytes(written)
    given = in_shell([program, "-c", text], tmp_path, hostile)
    assert set(HOSTILE) <= {line.partition("\t")[0] for line in given}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells(miner, shell):
    done = miner("completion", shell)
    assert done.returncode == 0
    text = done.stdout.decode()
    assert all(word in text for word in ("models", "rotate", "--names models"))
    assert b"Put it into" in done.stderr
    assert miner("completion", SHELL=f"/usr/bin/{shell}").stdout == done.stdout
    asked = json.loads(miner("completion", shell, "--json").stdout)
    assert (asked["shell"], asked["script"] + "\n") == (shell, text)
    assert asked["place"] in done.stderr.decode()


def test_wrong_usage_and_wrong_settings(miner):
    done = miner("completion", "powershell")
    assert (done.returncode, b"bash, zsh, fish" in done.stderr) == (2, True)
    assert miner("completion", SHELL="").returncode == 2
    quiet = miner("completion", "--names", "models", MINER_CONFIG="/nowhere.toml")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")


def test_version_of_programs_and_with_wrong_settings(miner, tmp_path):
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'version: 7654 (abc)' >&2\n")
    program.chmod(0o755)
    shown = json.loads(miner("version", "--json", LLAMACPP_SERVER=str(program)).stdout)
    assert shown["programs"]["llama-server"] == {"path": str(program), "version": "7654"}
    assert "7654" in miner("version", LLAMACPP_SERVER=str(program)).stdout.decode()
    assert miner("version", LLAMACPP_PARALLEL="many").returncode == 0


def test_version(miner):
    plain = miner("version").stdout.decode()
    assert __version__ in plain
    assert sys.version.split()[0] in plain
    shown = json.loads(miner("version", "--json").stdout)
    assert shown["miner"] == __version__
    assert shown["engines"]["xllamacpp"]
    assert miner("--version").stdout.decode() == f"miner {__version__}\n"
    with in_thread(Gate(Parrot(config(default_model="m")))) as gate:
        shown = json.loads(miner("version", "--json", "--url", gate.url).stdout)
        assert shown["node"]["miner"] == __version__
        assert Path(os.path.basename(gate.url)).name in miner("version", "--url", gate.url).stdout.decode()
