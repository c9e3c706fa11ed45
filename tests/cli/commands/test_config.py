"""`miner config`, as an operator meets it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib

import jsonschema
import pytest

from miner.config.file.json_schema import published_schema
from miner.core.models.resolve import resolve
from tests.cli.conftest import LONG, environment
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

FILE = """\
[defaults]
context = 4096
keep_alive = "10m"
sampling = { temperature = 0.5, top_p = 0.9 }

[backends.local]
kind = "llamacpp"
[backends.far]
kind = "openai"
url = "http://me:hunter2@far/v1"
key = "${FAR_KEY}"

[models.demo]
backend = "local"
flash_attn = "off"
sampling = { temperature = 0.1 }
[models.big]
backend = "far"
name = "org/big"
"""


@pytest.fixture
def config(miner, tmp_path):
    """Run `miner config` in a directory; without servers on the usual ports."""
    (tmp_path / "miner.toml").write_text(FILE)
    nowhere = {"OLLAMA_BASE_URL": "http://127.0.0.1:9", "VLLM_API_BASE": "http://127.0.0.1:9/v1"}

    def run(*arguments, **settings):
        done = miner("config", *arguments, **{"FAR_KEY": "hunter3", **nowhere, **settings})
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        assert "hunter" not in done.stdout + done.stderr
        return done

    return run


def test_a_valid_file(config):
    done = config("check")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "miner.toml is valid: 2 models, 2 backends, 0 groups.\n",
        "",
    )
    done = config("check", "--json")
    assert json.loads(done.stdout) == {
        "file": "miner.toml", "valid": True, "errors": [], "notes": [], "models": 2, "backends": 2, "groups": 0,
    }  # fmt: skip


def test_an_invalid_file(config, tmp_path):
    (tmp_path / "other.toml").write_text(FILE.replace("flash_attn", "flash_atn") + "x = 1\n")
    done = config("check", "--config", "other.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[:2] == [
        'miner: other.toml:15: models.demo.flash_atn = "off": unknown key.',
        "  Did you mean flash_attn?",
    ]
    assert done.stderr.splitlines()[2].startswith("  other.toml:20: models.big.x = 1: unknown key.")
    done = config("check", "--json", MINER_CONFIG="other.toml")
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert told["valid"] is False
    assert told["errors"][0] == {
        "file": "other.toml", "line": 15, "key": "models.demo.flash_atn", "value": '"off"', "message": "unknown key",
        "hint": "Did you mean flash_attn?",
    }  # fmt: skip


def test_no_file_at_all(config, tmp_path):
    (tmp_path / "miner.toml").unlink()
    done = config("check")
    assert done.returncode == 2
    assert done.stderr.startswith("miner: There is no configuration file: neither miner.toml nor ")
    assert "miner config init" in done.stderr
    done = config("check", "--json", "--config", "absent.toml")
    assert json.loads(done.stdout)["errors"] == [
        {"message": "There is no configuration file absent.toml.", "hint": "`miner config init` writes one."}
    ]


def test_what_is_missing_on_this_machine_is_a_note(config, tmp_path):
    (tmp_path / "keys.json").write_text("")
    (tmp_path / "miner.toml").write_text(
        '[models.a]\nfile = "absent.gguf"\nkeys = ["alice"]\n[models.b]\nfile = "./absent.gguf"\n[models.absent]\n'
    )
    done = config("check")
    assert (done.returncode, done.stderr) == (0, "")
    first, *notes = done.stdout.splitlines()
    assert first == "miner.toml is valid: 3 models, 0 backends, 0 groups."
    starts = [
        "note: miner.toml:2: models.a.file = \"absent.gguf\": there is no model 'absent.gguf'",
        'note: miner.toml:3: models.a.keys[0] = "alice": there is no key of this name in ',
        'note: miner.toml:5: models.b.file = "./absent.gguf": there is no file ',
        "note: miner.toml:6: models.absent: there is no model 'absent'",
    ]
    assert [note.startswith(start) for note, start in zip(notes, starts, strict=True)] == [True] * 4, notes


def test_a_file_that_is_no_model_is_a_note_with_the_key_to_change(config, tmp_path):
    (tmp_path / "miner.toml").write_text('[models.a]\nfile = "./miner.toml"\n')
    done = config("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "is no usable model" in done.stdout
    assert "name another one with models.a.file" in done.stdout
    assert "MODEL_PATH" not in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[models.demo]\nchat_template = "absent.jinja"',
            'miner.toml:2: models.demo.chat_template = "absent.jinja": the file ',
        ),
        (
            '[models.demo]\nflash_attn = "off"\ncache_type_v = "q8_0"',
            'miner.toml:3: models.demo.cache_type_v = "q8_0": needs flash attention, and flash_attn=',
        ),
        ("[models.demo]\nflags = { no-such = 1 }", "miner.toml:2: models.demo.flags.no-such = 1: "),
        ('[models.demo]\nspeculation = { type = "draft" }', 'miner.toml:2: models.demo.speculation.type = "draft": '),
    ],
)  # fmt: skip
def test_what_serving_would_refuse_is_an_error(text, message, config, tmp_path):
    (tmp_path / "miner.toml").write_text(text)
    done = config("check")
    assert done.returncode == 2
    assert done.stderr.startswith(f"miner: {message}")
    assert "LLAMACPP_" not in done.stderr.partition("Did you mean")[0]


def test_what_serving_would_refuse_is_told_of_all_models(config, tmp_path):
    (tmp_path / "miner.toml").write_text('[models.a]\nlora = ["x"]\n[models.b]\nmmproj = "y"\n')
    lines = config("check").stderr.splitlines()
    assert lines[0].startswith('miner: miner.toml:2: models.a.lora = ["x"]: the file ')
    assert any(line.startswith('  miner.toml:4: models.b.mmproj = "y": the file ') for line in lines)


def rows_of(done):
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  ")}


def test_each_value_in_force_and_where_it_comes_from(config, tmp_path):
    (tmp_path / ".env").write_text("LLAMACPP_THREADS=2\nLLAMACPP_PARALLEL=7\n")
    rows = {key: " ".join(row.split()) for key, row in rows_of(config("show", "demo", LLAMACPP_PARALLEL="3")).items()}
    wanted = {
        "backend": '"local" miner.toml:14', "context": "4096 miner.toml:2 [defaults]",
        "slots": "3 LLAMACPP_PARALLEL in the environment", "threads": "2 LLAMACPP_THREADS in .env:1",
        "flash_attn": '"off" miner.toml:15', "cache_type_k": '"f16" default',
        "keep_alive": "600.0 miner.toml:3 [defaults]",
        "sampling.temperature": "0.1 miner.toml:16", "sampling.top_p": "0.9 miner.toml:4 [defaults]",
        "batch_size": "- default", "pin": "false default",
    }  # fmt: skip
    assert {key: rows[key] for key in wanted} == wanted
    assert "name" not in rows


def test_secrets_are_hidden_and_servers_have_their_own_keys(config):
    rows = {key: " ".join(row.split()) for key, row in rows_of(config("show", "far")).items()}
    assert rows["url"] == '"http://***@far/v1" miner.toml:10'
    assert rows["key"] == '"***" miner.toml:11, ${FAR_KEY} from the environment'
    assert not {"command", "models_dir", "sleep"} & rows.keys()
    rows = rows_of(config("show", "big"))
    assert "context" not in rows
    assert "name" in rows


def test_show_as_json_and_of_what_is_not_there(config):
    told = json.loads(config("show", "--json").stdout)
    assert told["models"]["big"]["name"] == {"value": "org/big", "from": "miner.toml:19"}
    assert told["backends"]["far"]["key"]["value"] == "***"
    assert told["limits"]["memory"] == {"value": None, "from": "default"}
    done = config("show", "bigg")
    assert (done.returncode, done.stderr.splitlines()[1]) == (2, "  Did you mean big?")


def test_the_schema(config):
    schema = json.loads(config("schema").stdout)
    assert schema == published_schema()
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(FILE))


def test_a_first_file_passes_the_check(config, tmp_path):
    done = config("init", "-o", "first.toml")
    assert (done.returncode, done.stdout) == (0, "")
    assert "first.toml is written: 1 local model.\n" in done.stderr
    text = (tmp_path / "first.toml").read_text()
    assert not text.startswith("#:schema")  # it would name a file that is not there
    assert "miner config schema > miner.schema.json" in text
    assert "http" not in text
    content = tomllib.loads(text)
    assert content["defaults"] == {"model": "demo"}
    assert content["models"]["demo"] == {"backend": "local", "file": "demo"}
    checked = config("check", "--config", "first.toml")
    assert (checked.returncode, checked.stdout) == (0, "first.toml is valid: 1 model, 1 backend, 0 groups.\n")
    printed = config("init", "-o", "-").stdout
    assert tomllib.loads(printed) == content
    assert printed.count("\n") == text.count("\n")


def test_no_file_is_overwritten(config, tmp_path):
    done = config("init")
    assert done.returncode == 2
    assert done.stderr.startswith("miner: miner.toml is there already.")
    assert (tmp_path / "miner.toml").read_text() == FILE
    (tmp_path / "link.toml").symlink_to("nowhere")
    assert config("init", "-o", "link.toml").returncode == 2
    assert config("init", "--force", "--yes").returncode == 0
    assert tomllib.loads((tmp_path / "miner.toml").read_text())["models"] == {
        "demo": {"backend": "local", "file": "demo"}
    }
    assert config("init", "-o", "no/such/directory.toml").returncode == 2


def test_models_of_any_name_and_a_running_server(config, tmp_path, demo_copies):
    with in_thread(StubServer(models=["llama3.2\n[x]", "qwen3"])) as server:
        done = config("init", "--force", MODELS_DIR=str(demo_copies), OLLAMA_BASE_URL=server.url)
        assert "4 local models, ollama at http://127.0.0.1:" in done.stderr
        content = tomllib.loads((tmp_path / "miner.toml").read_text())
        assert content["backends"]["ollama"] == {"kind": "ollama", "url": server.url, "expose": True}
        assert content["models"].keys() == {"a/b/same", "c/d/same", "it-s-ümläut", "demo"}
        checked = config("check", MODELS_DIR=str(demo_copies))
        assert (checked.returncode, checked.stdout) == (0, "miner.toml is valid: 4 models, 2 backends, 0 groups.\n")


@pytest.fixture
def demo_copies(tmp_path):
    """A models directory with links to the demo model."""
    from miner.core.models.directory import demo_file

    directory = tmp_path / "models"
    for name in ("a/b/Same.gguf", "c/d/Same.gguf", "It's [ümläut].gguf"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(demo_file(), directory / name) if _same_device(directory) else (directory / name).symlink_to(
            demo_file()
        )
    return directory


def _same_device(directory):
    from miner.core.models.directory import demo_file

    return demo_file().stat().st_dev == directory.stat().st_dev


def test_on_a_terminal_it_asks_what_else_to_serve(config, tmp_path):
    with in_thread(StubServer(models=["llama3.2"])) as server:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "miner", "config", "init", "-o", "asked.toml"], cwd=tmp_path, stdin=follower,
            stdout=subprocess.PIPE, stderr=follower,
            env=environment(tmp_path, OLLAMA_BASE_URL=server.url, VLLM_API_BASE="http://127.0.0.1:9/v1"),
        )  # fmt: skip
        os.write(leader, b"n\n")
        assert process.wait(LONG) == 0
        process.stdout.close()
        shown = os.read(leader, 100_000).decode()
        os.close(leader)
        os.close(follower)
    assert "Serve the 1 model of ollama at" in shown
    assert tomllib.loads((tmp_path / "asked.toml").read_text())["backends"].keys() == {"local"}


def test_what_is_missing_is_added_and_comments_stay(config, tmp_path, demo_copies):
    text = (
        '# mine\n[models]\n# two\n  [models.x]  # three\n  file = "a/b/same"\n[models.y]\naliases = ["demo"]\n'
        'file = "absent"\n[groups.g] # four\nmodels = ["x"]\nmax_loaded = 1\n'
    )
    (tmp_path / "miner.toml").write_text(text)
    os.chmod(tmp_path / "miner.toml", 0o600)
    with in_thread(StubServer(models=["llama3.2"])) as server:
        settings = {"MODELS_DIR": str(demo_copies), "OLLAMA_BASE_URL": server.url}
        done = config("init", "--add", **settings)
        assert done.returncode == 0, done.stderr
        written = (tmp_path / "miner.toml").read_text()
        content = tomllib.loads(written)
        assert [line for line in text.splitlines() if line not in written.splitlines()] == []
        assert content["backends"]["ollama"] == {"kind": "ollama", "url": server.url, "expose": True}
        assert content["models"]["x"] == {"file": "a/b/same", "backend": "llamacpp"}
        assert content["models"]["same"] == {"backend": "llamacpp", "file": "c/d/Same"}
        assert "demo" not in content["models"]
        assert config("check", **settings).returncode == 0
        assert (tmp_path / "miner.toml").stat().st_mode & 0o777 == 0o600
        assert "has all that is here already" in config("init", "--add", **settings).stderr
        assert (tmp_path / "miner.toml").read_text() == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--add", "-o", "absent.toml"], "There is no configuration file absent.toml."),
        (["--add", "--force"], "--add excludes --force and -o -."),
        (["--add", "-o", "wrong.toml"], "wrong.toml:1: x = 1: unknown key."),
    ],
)
def test_nothing_is_added_to_what_is_not_valid(arguments, message, config, tmp_path):
    (tmp_path / "wrong.toml").write_text("x = 1\n")
    done = config("init", *arguments)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"miner: {message}")
    assert (tmp_path / "wrong.toml").read_text() == "x = 1\n"


def test_a_command_that_is_not_installed_is_a_note(config, tmp_path):
    (tmp_path / "miner.toml").write_text(
        '[backends.a]\nkind = "openai"\ncommand = ["no-such", "${PORT}"]\n[models.m]\n'
    )
    done = config("check")
    assert done.returncode == 0
    assert (
        'note: miner.toml:3: backends.a.command = ["no-such", "${PORT}"]: the program no-such is not on PATH.'
        in done.stdout
    )


def test_a_flag_of_the_engine_is_shown_under_its_key(config, tmp_path):
    (tmp_path / "miner.toml").write_text('[models.demo]\nflags = { "fa" = "on" }\n')
    assert " ".join(rows_of(config("show", "demo"))["flash_attn"].split()) == '"on" miner.toml:2'


def test_a_file_of_another_kind_is_an_error_of_its_own_key(config, tmp_path):
    (tmp_path / "x.gguf").symlink_to(resolve("demo").path)
    (tmp_path / "miner.toml").write_text('[models.a]\nfile = "demo"\nlora = ["./x.gguf"]\n')
    done = config("check")
    assert done.returncode == 2
    assert done.stderr.startswith("miner: miner.toml:3: models.a.lora = ")
    assert "is no adapter, but a model" in done.stderr
    assert "LLAMACPP_" not in done.stderr
