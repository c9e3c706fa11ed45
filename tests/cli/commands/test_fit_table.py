"""`miner fit` over a whole miner.toml. That engines are evicted as it says is in tests/core/llms/pool/test_budget.py,
whose planner is the same.
"""

import json
import os

import pytest

from miner.cli import main
from miner.core.llms.llamacpp import memory
from miner.core.models.memory.available import Memory
from miner.core.models.resolve import resolve

SIZED = "[backends.local]\nkind = 'llamacpp'\n[defaults]\nbackend = 'local'\ncontext = 512\nslots = 1\n"


@pytest.fixture
def miner(tmp_path, monkeypatch, capsys):
    """Run the command beside a miner.toml; gives exit status, standard output and standard error."""
    for name in list(os.environ):
        if name.startswith(("LLAMACPP_", "MINER_")) or name in ("LLM_BACKEND", "MODEL_PATH", "MODELS_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in "abcd":
        (tmp_path / f"{name}.gguf").symlink_to(resolve("demo").path)

    def run(text, *arguments):
        (tmp_path / "miner.toml").write_text(text)
        status = main.run(["fit", *arguments])
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


def models(names="abc", **more):
    return "".join(f'[models.{name}]\nfile = "./{name}.gguf"\n{more.get(name, "")}\n' for name in names)


def summary(run, text):
    status, out, _ = run(text, "--json")
    return status, json.loads(out)["summary"]


def test_the_table(miner):
    text = f'{SIZED}{models("ab")}[models.same]\nfile = "./b.gguf"\naliases = ["gpt-*"]\n[limits]\nmemory = "450MiB"\n'
    text += '[backends.den]\nkind = "ollama"\nurl = "http://den:11434"\n[models.far]\nbackend = "den"\n'
    status, out, err = miner(text)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["MODEL", "MEMORY"]
    assert [row[0] for row in rows[1:4]] == ["a", "b,", "far"]
    assert rows[1][2:] == "MiB 1 slot of 512 tokens".split()
    assert rows[2][1] == "same"
    assert rows[3] == ["far", "elsewhere"]
    assert out.splitlines()[4].split()[-2:] == ["450", "MiB"]
    assert out.splitlines()[5:] == ["a and b fit together."]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (models(), ["a, b and c fit all together."]),
        ("[limits]\nmax_loaded = 1\n" + models(), ["a fits.", "b evicts a.", "c evicts a."]),
        ('[limits]\nmemory = "450MiB"\n' + models(), ["a and b fit together.", "c evicts a."]),
        ('[limits]\nmemory = "450MiB"\n' + models(c="preload = true"), ["c and a fit together.", "b evicts c."]),
        ('[limits]\nmemory = "450MiB"\n' + models(a="pin = true"), ["a and b fit together.", "c evicts b."]),
        (
            '[limits]\nmemory = "450MiB"\n' + models("abcd", d="context = 8192"),
            ["a and b fit together.", "c evicts a.", "d evicts a and b."],
        ),
        (
            '[groups.g]\nmodels = ["a", "c"]\nmax_loaded = 1\n' + models(),
            ["a and b fit together.", "c evicts a."],
        ),
        ('[groups.g]\nmodels = ["c"]\nexclusive = true\n' + models(), ["a and b fit together.", "c evicts a and b."]),
    ],
)
def test_in_words(miner, text, said):
    assert summary(miner, SIZED + text) == (0, said)


def test_one_that_never_fits(miner):
    text = '[limits]\nmemory = "300MiB"\n' + models("ab", b="context = 8192\nslots = 16")
    status, out, err = miner(SIZED + text)
    assert status == 1
    assert out.splitlines()[-2] == "a fits."
    assert out.splitlines()[-1].startswith("b never fits: 'b' does not fit into memory. The model needs ")
    assert "b: The largest context that fits" in err
    assert "set models.b.context to it" in err
    text = '[groups.one]\nmodels = ["a", "b"]\nmax_loaded = 1\n' + models("ab", a="pin = true")
    status, said = summary(miner, SIZED + text)
    assert status == 1
    assert "group 'one' allows 1 loaded at once, and 'a' is pinned" in said[1]
    status, said = summary(miner, SIZED + '[models.a]\nfile = "./nowhere.gguf"\n' + models("b"))
    assert status == 1
    assert said[0] == "b fits."


def test_what_other_programs_keep_out(miner, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda *, gpus=True: Memory(400 << 20, 16 << 30))
    status, said = summary(miner, SIZED + models("ab", b="context = 8192\nslots = 8"))
    assert status == 1
    assert said[0] == "a fits."
    assert said[1].startswith("b does not fit now: 'b' needs about ")
    assert "other programs take the rest" in said[1]


def test_commands(miner):
    command = 'command = ["serve", "${PORT}"]\n'
    text = f'{SIZED}[limits]\nmemory = "450MiB"\n{models("ab")}[backends.new]\nkind = "openai"\n{command}'
    text += f'[backends.known]\nkind = "openai"\nmemory = "250MiB"\n{command}'
    text += '[models.one]\nbackend = "new"\n[models.two]\nbackend = "known"\n'
    status, out, _ = miner(text)
    assert status == 0
    assert out.splitlines()[-3:] == [
        "a and b fit together.",
        "two evicts a.",
        "one: not known before its first run, for which idle models are evicted.",
    ]
    rows = [line.split() for line in out.splitlines()]
    assert rows[3] == ["one", "unknown", "command"]
    assert rows[4] == ["two", "250", "MiB", "command"]


def test_one_model_of_the_file(miner):
    text = SIZED + models("ab", b='context = 1024\nslots = 3\naliases = ["gpt-*"]')
    text += '[backends.den]\nkind = "ollama"\nurl = "http://den:11434"\n[models.far]\nbackend = "den"\n'
    for name in ("b", "B", "gpt-9"):
        status, out, _ = miner(text, name)
        assert status == 0
        assert out.splitlines()[0].startswith("b: 3 slots of 1024 tokens")
    assert miner(text, "b", "--ctx", "2048")[1].startswith("b: 3 slots of 2048 tokens")
    assert miner(text, "demo", "--ctx", "300", "--parallel", "2")[1].startswith("demo: 2 slots of 300 tokens")
    status, _, err = miner(text, "far")
    assert status == 2
    assert "[backends.den]" in err
    status, _, err = miner(text, "--ctx", "2048")
    assert status == 2
    assert "--ctx is for one model" in err


def test_another_backend_by_the_environment_means_no_file(miner, monkeypatch):
    monkeypatch.setenv("LLM_BACKEND", "llamacpp")
    assert miner(models(), "--ctx", "512", "--parallel", "1")[1].startswith("demo: 1 slot of 512 tokens")
    monkeypatch.chdir("/")
    status, _, err = miner(models(), "--config", "nowhere.toml")
    assert status == 2
    assert "nowhere.toml" in err


def test_an_unknown_name_is_told_what_the_file_has(miner):
    status, _, err = miner(SIZED + models("ab"), "nope")
    assert status == 2
    assert "There is no model 'nope'" in err
    assert "miner.toml has a, b." in err
