"""What tables say about each other."""

# ruff: noqa: E501  (one case a line)

import os

import pytest

TWO = '[backends.local]\nkind = "llamacpp"\n[backends.den]\nkind = "ollama"\nurl = "http://den:11434"\n'
COMMAND = '[backends.gpu]\nkind = "vllm"\ncommand = ["vllm", "serve", "m", "--port", "${PORT}"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # backends
        ('[backends.a]\nkind = "openai"', "1: backends.a: url or command is missing: one of them says where the server is."),
        (COMMAND + 'url = "http://x"', "3: backends.gpu.command = "),
        (
            '[backends.a]\nkind = "vllm"\ncommand = ["vllm", "serve"]',
            '3: backends.a.command = ["vllm", "serve"]: has no ${PORT}, so that its port is not known.',
        ),
        ('[backends.a]\nkind = "vllm"\ncommand = [" ", "${PORT}"]', '3: backends.a.command[0] = " ": must name a program.'),
        (
            '[backends.a]\nkind = "openai"\nurl = "http://x"\nkey = "${K}"\nplain_key = "k"',
            '5: backends.a.plain_key = "***": key and plain_key exclude each other.',
        ),
        ('[backends.a]\nkind = "openai"\nurl = "http://x"\nkey = "abc"', '4: backends.a.key = "***": must be a variable'),
        (
            '[backends.a]\nkind = "openai"\nurl = "http://x"\nkey = "${OPEN}"\n[variables]\nOPEN = "abc"',
            '4: backends.a.key = "${OPEN}": must be a variable',
        ),
        ('[backends.a]\nkind = "ollama"\nkey = "${K}"', '3: backends.a.key = "${K}": Ollama takes no API key.'),
        (
            '[backends.a]\nkind = "openai"\nurl = "http://x"\nkey_file = "absent"',
            '4: backends.a.key_file = "absent": the file ',
        ),
        ('[backends.a]\nkind = "ollama"\nready = "/x"', '3: backends.a.ready = "/x": is for a backend with a command.'),
        ('[backends.a]\nkind = "vllm"\nmodels_dir = "x"', '3: backends.a.models_dir = "x": is for kind = "llamacpp".'),
        (
            '[backends.a]\nkind = "llamacpp"\nurl = "http://x"\nserver = "x"',
            '4: backends.a.server = "x": with a url or a command no engine is started.',
        ),
        (COMMAND + "sleep = 1", "4: backends.gpu.sleep = 1: the command has no --enable-sleep-mode."),
        ('[backends.a]\nkind = "vllm"\noptions = { x = 1 }', "3: backends.a.options: is for backends of other packages."),
        # a model and its backend
        (TWO + "[models.a]", "6: models.a: backend is missing: there are several. Backends: local, den."),
        (TWO + '[models.a]\nbackend = "locl"', '7: models.a.backend = "locl": there is no such backend. Did you mean local?'),
        ('[models.a]\nbackend = "x"', '2: models.a.backend = "x": there is no such backend. Backends: none.'),
        ('[defaults]\nbackend = "x"\n[models.a]', '2: defaults.backend = "x": there is no such backend.'),
        (
            TWO + '[models.a]\nbackend = "den"\nslots = 4',
            "8: models.a.slots = 4: is an option of llama.cpp's engines, and [backends.den] starts none. Set it at that server.",
        ),
        (COMMAND + "[models.a]\ncontext = 512", "5: models.a.context = 512: is an option of llama.cpp's engines, and [backends.gpu] starts none. Give it to the command."),
        (TWO + '[models.a]\nbackend = "den"\nfile = "x"', "8: models.a.file = \"x\": is for llama.cpp's engines, and [backends.den] starts none"),
        (TWO + '[models.a]\nbackend = "den"\npin = true', "8: models.a.pin = true: [backends.den] runs elsewhere"),
        ('[models.a]\nfile = "y"\nname = "x"', '3: models.a.name = "x": file says already what the model is.'),
        ('[models.a]\nfile = "x"\nhub = "a/b"', '3: models.a.hub = "a/b": file and hub are two models. Keep one of them.'),
        ('[models.a]\nfile = ""', '2: models.a.file = "": must not be empty.'),
        # embedding models
        ('[models.a]\npooling = "mean"\nsampling = { top_p = 1 }', "3: models.a.sampling: nothing is sampled from an embedding model."),
        ('[models.a]\npooling = "mean"\nfallbacks = ["b"]\n[models.b]', '3: models.a.fallbacks = ["b"]: an embedding model has no'),
        ('[models.a]\nfallbacks = ["b"]\n[models.b]\npooling = "rank"', '2: models.a.fallbacks[0] = "b": is an embedding model'),
        # names
        ('[models.a]\naliases = ["b"]\n[models.b]', '2: models.a.aliases[0] = "b": is the name of [models.b].'),
        ('[models.a]\naliases = ["A"]', '2: models.a.aliases[0] = "A": is the model\'s own name.'),
        ('[models.a]\naliases = ["x", "x"]', '2: models.a.aliases[1] = "x": stands there twice.'),
        ('[models.a]\naliases = ["x-*"]\n[models.b]\naliases = ["X-*"]', '4: models.b.aliases[0] = "X-*": is an alias of [models.a] too.'),
        ('[models.a]\naliases = [" x"]', '2: models.a.aliases[0] = " x": no name of a model begins or ends with spaces'),
        ("[models.a]\n[models.A]", "2: models.A: differs from [models.a] only in its letters' case."),
        # fallbacks and the default model
        ('[models.a]\nfallbacks = ["bb"]\n[models.bbb]', '2: models.a.fallbacks[0] = "bb": there is no such model. Did you mean bbb?'),
        ('[models.a]\nfallbacks = ["a"]', '2: models.a.fallbacks[0] = "a": a model cannot replace itself.'),
        ('[models.a]\naliases = ["x"]\nfallbacks = ["x"]', '3: models.a.fallbacks[0] = "x": a model cannot replace itself.'),
        ('[models.a]\nfallbacks = ["b", "b"]\n[models.b]', '2: models.a.fallbacks[1] = "b": stands there twice.'),
        ('[defaults]\nmodel = "qwen"\n[models.aaa]', '2: defaults.model = "qwen": there is no such model. Models: aaa.'),
        ('[models.a]\nfallbacks = ["qwen"]', '2: models.a.fallbacks[0] = "qwen": there is no such model. Models: a.'),
        ('[defaults]\nmodel = "aa"\n[models.aaa]', '2: defaults.model = "aa": there is no such model. Did you mean aaa?'),
        ('[models.a]\nskip = ["top_k"]\nrefuse = ["top_k"]', '2: models.a.skip = ["top_k"]: top_k is in refuse as well.'),
        # groups and limits
        ('[groups.g]\nmodels = ["aa"]\nexclusive = true\n[models.aaa]', '2: groups.g.models[0] = "aa": there is no such model. Did you mean aaa?'),
        ('[groups.g]\nmodels = ["a", "a"]\nexclusive = true\n[models.a]', '2: groups.g.models[1] = "a": stands there twice.'),
        ('[groups.g]\nmodels = ["a"]\n[models.a]', "1: groups.g: says nothing about its models."),
        (
            '[groups.g]\nmodels = ["a", "b"]\nshare_engine = true\n[models.a]\nfile = "x"\nslots = 2\n[models.b]\nfile = "x"\n'
            "slots = 3",
            "3: groups.g.share_engine = true: slots is 2 in a and 3 in b.",
        ),
        (
            '[groups.g]\nmodels = ["a", "b"]\nshare_engine = true\n[models.a]\n[models.b]',
            '3: groups.g.share_engine = true: file is "a" in a and "b" in b.',
        ),
        (
            '[groups.g]\nmodels = ["a", "b"]\nmax_loaded = 1\n[models.a]\npin = true\n[models.b]\npin = true',
            "3: groups.g.max_loaded = 1: more models are pinned: a, b.",
        ),
        ("[limits]\nmax_loaded = 1\n[models.a]\npin = true\n[models.b]\npin = true", "2: limits.max_loaded = 1: more models"),
        (
            '[groups.g]\nmodels = ["a"]\nexclusive = true\n[models.a]\n[models.b]\npin = true',
            "3: groups.g.exclusive = true: b is pinned and not in it",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be(text, message, errors):
    (found,) = errors(text, K="key")
    assert found.startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[models.demo]",
        TWO + '[models.a]\nbackend = "local"\ncontext = 512\n[models.b]\nbackend = "den"\nname = "llama3.2"',
        COMMAND + "[models.a]\npin = true\nkeep_alive = -1",
        '[backends.a]\nkind = "openai"\ncommand = ["x"]\nport = 8000\n[models.a]',
        '[backends.a]\nkind = "ollama"\ncommand = ["ollama", "serve"]\nenv = { OLLAMA_HOST = "127.0.0.1:${PORT}" }\n[models.a]',
        TWO + '[models.a]\nfile = "x"\n[models.b]\nbackend = "den"\ncontext = 512\nkeep_alive = "5m"',
        '[models.a]\nbackend = "llamacpp"\nname = "x"',
        '[models.a]\naliases = ["claude-*"]\n[models.b]\naliases = ["claude-opus-*", "*"]\nfallbacks = ["a"]',
        '[defaults]\nmodel = "claude-opus-4"\n[models.a]\naliases = ["claude-*"]',
        '[models.a]\nfallbacks = ["x"]\n[models.b]\naliases = ["x"]\nfallbacks = ["a"]',
        '[defaults]\ncontext = 512\n[backends.a]\nkind = "ollama"\n[models.a]',
        '[groups.g]\nmodels = ["a", "b"]\nshare_engine = true\n[models.a]\nfile = "x"\npin = true\n[models.b]\nfile = "x"\npin = true\n'
        "[limits]\nmax_loaded = 1",
    ],
)  # fmt: skip
def test_what_can_be(text, parse):
    parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["None: the file has no models: nothing is served"]),
        (TWO + '[models.a]\nbackend = "den"', ["1: backends.local: no model uses this backend"]),
        ('[backends.a]\nkind = "ollama"\nexpose = true', []),
        ("[models.a]\npin = true\nkeep_alive = 5", ["3: models.a.keep_alive = 5: has no effect: the model is pinned"]),
    ],
)
def test_notes(text, expected, notes):
    assert notes(text) == expected


def test_a_file_of_a_key_that_others_can_read_is_a_note(notes, empty_directory):
    (empty_directory / "key").write_text("abc")
    text = '[backends.a]\nkind = "openai"\nurl = "http://x"\nkey_file = "key"\n[models.a]'
    os.chmod(empty_directory / "key", 0o644)
    assert notes(text) == ['4: backends.a.key_file = "key": other users can read that file']
    os.chmod(empty_directory / "key", 0o600)
    assert notes(text) == []


def test_all_errors_of_a_file_come_at_once_in_the_order_of_its_lines(errors):
    text = """\
[models.a]
contxt = 1
aliases = ["dup"]
[models.b]
context = -5
aliases = ["dup"]
fallbacks = ["gone"]
[models.x]
backend = "nope"
[backends.b]
kind = "vlm"
[limits]
x = -1
[groups.g]
models = ["a", "zz"]
max_loaded = 0
[models.y]
backend = "${UNSET}"
"""
    found = errors(text)
    assert [each.partition(":")[0] for each in found] == ["2", "5", "6", "7", "9", "11", "13", "15", "16", "18"]
    for part in ("contxt", "must be an integer", "alias of [models.a]", "no such model", "no such backend"):
        assert any(part in each for each in found), part
    assert "of this kind" in found[5]
    assert '"zz": there is no such model' in found[7]


@pytest.mark.parametrize(
    "text",
    [
        "[models]\nsmall = 5\n[groups.g]\nmodels = ['small']\nexclusive = true",
        "[models.'a b']\n[groups.g]\nmodels = ['a b']\nexclusive = true",
        "[model.a]\n[groups.g]\nmodels = ['a']\nexclusive = true",
        "[backends.a]\nurl = 'http://x'\n[models.m]\nbackend = 'a'\nslots = 3",
        "[backends.a]\nkind = 'openai'\nulr = 'http://x'\n[models.m]\nbackend = 'a'\nslots = 3",
        "[backends.a]\nkind = 'ollama'\ncommnd = ['x']\n[models.m]\nbackend = 'a'\npin = true",
        "[backends.a]\nkind = 'ollama'\n[models.m]\nbackedn = 'llamacpp'\nslots = 3",
        "[backends.a]\nkind = 'ollama'\n[defaults]\nbackedn = 'llamacpp'\n[models.m]\nslots = 3",
        "[models.a]\nalias = ['x']\n[models.b]\nfallbacks = ['x']",
        "[models.a]\naliases = ['x', 5]\n[models.b]\nfallbacks = ['x']\n[defaults]\nmodel = 'x'",
        "[models.a]\npin = 1\n[models.b]\npin = true\n[groups.g]\nmodels = ['b']\nexclusive = true",
    ],
)
def test_what_may_only_follow_from_another_error_is_not_told(text, errors):
    assert len(errors(text)) == 1
