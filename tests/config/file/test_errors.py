"""What an invalid file says: line, key, value, what is allowed, and the way out; never a secret."""

# ruff: noqa: E501  (one case a line)

import pickle

import pytest

from miner.config.file.problems import ConfigFileError
from miner.config.file.read import parse_config

MODEL = "[models.small]\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("contxt = 32768", "models.small.contxt = 32768: unknown key. Did you mean context?"),
        ("ctx-size = 1", "models.small.ctx-size = 1: unknown key. Did you mean context?"),
        ("n_ctx = 1", "models.small.n_ctx = 1: unknown key. Did you mean context?"),
        ("ttl = 1", "models.small.ttl = 1: unknown key. Did you mean keep_alive?"),
        ('url = "x"', 'models.small.url = "x": unknown key. url is a key of [backends.NAME].'),
        ("temperature = 1", "models.small.temperature = 1: unknown key. temperature is a key of sampling = { ... }."),
        (
            "mlock = true",
            'models.small.mlock = true: unknown key. Any other option of llama-server: flags = { "mlock" = ... }.',
        ),
        ("slots = 0", "models.small.slots = 0: must be an integer from 1 to 256."),
        ("slots = 1.5", "models.small.slots = 1.5: must be an integer from 1 to 256."),
        ("slots = true", "models.small.slots = true: must be an integer from 1 to 256."),
        ('context = "512"', 'models.small.context = "512": must be an integer of at least 256. Write it without quotes: 512'),
        ("context = 1979-05-27", "models.small.context = 1979-05-27: must be an integer of at least 256."),
        ("file = 5", "models.small.file = 5: must be text in quotes. Write it in quotes."),
        ('pin = "true"', 'models.small.pin = "true": must be true or false. Write it without quotes: true'),
        ("timeout = 0", 'models.small.timeout = 0: must be seconds, or such as "90s", "5m" or "1h30m", above 0.'),
        (
            'keep_alive = "5 min"',
            'models.small.keep_alive = "5 min": must be seconds, or such as "90s", "5m" or "1h30m"; negative: for ever.',
        ),
        ("keep_alive = nan", "models.small.keep_alive = nan: must be a finite number."),
        ('flash_attn = "yes"', 'models.small.flash_attn = "yes": must be "on", "off" or "auto".'),
        ('pooling = "meen"', 'models.small.pooling = "meen": must be "none", "mean", "cls", "last" or "rank". Did you mean mean?'),
        ("mmproj = true", "models.small.mmproj = true: must be text in quotes or false."),
        ('lora = "a"', 'models.small.lora = "a": must be a list of texts in quotes or tables. Write it in brackets, each part in quotes of its own.'),
        ("lora = [5]", "models.small.lora[0] = 5: must be text in quotes or a table."),
        ("lora = [{ scale = 1 }]", "models.small.lora[0]: file is missing: must be text in quotes."),
        ('lora = [{ file = "a", scal = 1 }]', "models.small.lora[0].scal = 1: unknown key. Did you mean scale?"),
        ('lora = [{ file = "" }]', 'models.small.lora[0].file = "": must not be empty.'),
        (
            'flags = { "top-k" = { x = 1 } }',
            "models.small.flags.top-k: must be text in quotes, true or false, an integer, a number or a list of texts in "
            "quotes, integers or numbers.",
        ),
        (
            'flags = { "a b" = [[1]] }',
            'models.small.flags."a b" = [[1]]: must be text in quotes, true or false, an integer, a number or a list of '
            "texts in quotes, integers or numbers.",
        ),
        ('keys = [""]', 'models.small.keys[0] = "": must not be empty.'),
        ("aliases = [\"\"]", 'models.small.aliases[0] = "": must not be empty.'),
        ("sampling = { temperature = 3 }", "models.small.sampling.temperature = 3: must be a number from 0 to 2."),
        ("sampling.temprature = 1", "models.small.sampling.temprature = 1: unknown key. Did you mean temperature?"),
        ("price = 5", "models.small.price = 5: must be a table."),
        ("file = \"${NO_SUCH}\"", 'models.small.file = "${NO_SUCH}": ${NO_SUCH} is not set. Set it in the environment, in .env, or in [variables].'),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_of_a_model(line, message, errors):
    assert errors(MODEL + line) == [f"2: {message}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model.x]", "1: model: unknown key. Did you mean models?"),
        ("[models]\nsmall = 5", "2: models.small = 5: must be a table."),
        ("[[models]]", "1: models = [{}]: must be a table."),
        ('[models."a b"]', '1: models."a b": must have no spaces, quotes, backslashes or wildcards, and from 1 to 200 characters.'),
        ("\n[backends.a]\nexpose = true", "2: backends.a: kind is missing: must be text in quotes."),
        ("[limits]\nmemory = \"lots\"", '2: limits.memory = "lots": must be a number of bytes, or such as "6GiB" or "512MiB".'),
        ("[limits]\nmemory = \"" + 40 * "9" + "\"", '2: limits.memory = "' + 40 * "9" + '": must be a number of bytes'),
        ("[limits]\ngpu_memory = [1, \"x\"]", '2: limits.gpu_memory[1] = "x": must be a number of bytes'),
        ("[groups.a]\nmodels = []", "2: groups.a.models = []: must not be empty."),
        ("[variables]\nA = 5", "2: variables.A = 5: must be text in quotes. Write it in quotes."),
        ('[backends.a]\nkind = "llamcpp"', '2: backends.a.kind = "llamcpp": no backend of this kind is installed. Did you mean llamacpp?'),
        ('[backends.a]\nkind = "ollama"\nurl = "den:11434"', '3: backends.a.url = "den:11434": must start with http:// or https://'),
    ],
)  # fmt: skip
def test_a_wrong_table(text, message, errors):
    (found,) = errors(text)
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\n\na = 2", "miner.toml:3: a is defined twice; first in line 1."),
        ("[models.x]\nslots = 1\n[models.x]", "miner.toml:3: [models.x] is defined twice; first in line 1."),
        ('b.x.kind = "a"\nb.x.kind = "b"', "miner.toml:2: b.x.kind is defined twice; first in line 1."),
        ("x = { a = 1, a = 2 }", "miner.toml:1: x.a is defined twice; first in line 1."),
        (
            "[models.a.flags]\n[models.a]\nflags = { x = 1 }",
            "miner.toml:3: models.a.flags is defined twice; first in line 1.",
        ),
        (
            "[models.a]\n[[models]]",
            "miner.toml:2: a list of tables stands where tables have names. Tables have single brackets",
        ),
        (
            "[[models]]\nfile = 'a'",
            'miner.toml:1: models = [{ file = "a" }]: must be a table. Tables have single brackets',
        ),
        ("[models.x]\nbackend = local", "miner.toml:2: not TOML: invalid value (column 11). Text needs quotes"),
        ("\nfile = 'x", 'miner.toml:2: not TOML: expected "\'".'),
        ("a = [\n1,", "miner.toml:2: not TOML: invalid value."),
        ("a = [\n1", "miner.toml:2: not TOML: unclosed array."),
        ('a = "C:\\models"', "miner.toml:1: not TOML: unescaped '\\' in a string (column 10). In double quotes"),
        ("a = " + 5000 * "[", "miner.toml has too many arrays and tables inside each other."),
        ("a = " + 100 * "[" + 100 * "]", "miner.toml has too many arrays and tables inside each other."),
        ("a = " + 5000 * "9", "miner.toml is not TOML: Exceeds the limit"),
    ],
)
def test_what_is_not_toml(text, message, parse):
    with pytest.raises(Exception, match="toml") as raised:
        parse(text)
    assert str(raised.value).startswith(message)


def test_all_problems_are_told_in_the_order_of_the_lines(parse):
    with pytest.raises(ConfigFileError) as raised:
        parse("[models.b]\nslots = 0\n[models.a]\nkontext = 1\nslots = 'x'\n")
    error = raised.value
    assert error.message == "miner.toml:2: models.b.slots = 0: must be an integer from 1 to 256."
    assert error.operator_hint.split("\n") == [
        "miner.toml:4: models.a.kontext = 1: unknown key. Did you mean context?",
        '  miner.toml:5: models.a.slots = "x": must be an integer from 1 to 256.',
    ]
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_a_file_elsewhere_is_named_with_its_path(empty_directory, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "miner.toml"
    with pytest.raises(ConfigFileError) as raised:
        parse_config("x = 1", path)
    assert raised.value.message.startswith(f"{path}:1: x = 1: unknown key")


@pytest.mark.parametrize(
    "text",
    [
        '[backends.a]\nkind = "openai"\nkey = ["SECRET"]',
        '[backends.a]\nkind = "openai"\nplain_key = ["SECRET"]\nurl = "http://x"',
        '[backends.a]\nkind = "openai"\nurl = "http://x"\nkey = "SECRET"',
        '[backends.a]\nkind = "ollama"\nurl = "http://x"\nkey = "${HIDDEN}"',
        '[backends.a]\nkind = "openai"\nurl = "ftp://me:SECRET@x"',
        '[backends.a]\nkind = "openai"\nurl = "me:SECRET@x"',
        '[backends.a]\nkind = "openai"\nurl = "http://x/?key=SECRET"',
        '[backends.a]\nkind = "vllm"\ncommand = "vllm --api-key SECRET --port ${PORT}"',
        '[backends.a]\nkind = "vllm"\ncommand = ["vllm", "--api-key", "SECRET"]',
        '[backends.a]\nkind = "vllm"\ncommand = ["vllm", "--api-key=SECRET"]',
        '[backends.a]\nkind = "vllm"\nenv = { HF_TOKEN = ["SECRET"] }\ncommand = ["${PORT}"]',
        '[backends.a]\nkind = "vllm"\nenv = ["HF_TOKEN=SECRET"]\ncommand = ["${PORT}"]',
        '[variables]\nAPI_KEY = ["SECRET"]',
        '[models.a]\nflags = { "api-key" = { x = "SECRET" } }',
        '[models.a]\nfile = ["${HIDDEN}"]',
        '[models.a]\nbackend = "${HIDDEN}"',
        '[models.a]\nfallbacks = ["${HIDDEN}"]',
        '[models.a]\nflash_attn = "${HIDDEN}"',
    ],
)
def test_secrets_are_not_shown(text, parse):
    with pytest.raises(ConfigFileError) as raised:
        parse(text, HIDDEN="SECRET")
    assert "SECRET" not in f"{raised.value} {raised.value.problems} {raised.value!r}"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[variables]\nA = "\\u0000"\n[models.a]\nfile = "${A}"', "2: variables.A"),
        ('[models.a]\nfile = "x\\u0000"', "2: models.a.file"),
        ('[backends.b]\nkind = "vllm"\ncommand = ["a", "\\u0000", "${PORT}"]', "3: backends.b.command[1]"),
    ],
)
def test_no_text_has_a_nul_character(parse, text, key):
    with pytest.raises(ConfigFileError) as raised:
        parse(text)
    assert raised.value.message.startswith(f"miner.toml:{key} = ")
    assert raised.value.message.endswith(": must have no NUL character.")
