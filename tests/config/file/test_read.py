"""Finding and reading the file: whatever lies at its path, an answer comes at once."""

import os
import pickle
from pathlib import Path

import pytest

from miner.config.file.find import config_paths, find_config
from miner.config.file.problems import ConfigFileError, Problem
from miner.config.file.read import MAX_BYTES, parse_config, read_config
from miner.errors import ConfigError


@pytest.fixture
def path(empty_directory) -> Path:
    return empty_directory / "miner.toml"


def message_of(path):
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    return str(raised.value)


def test_the_named_one_comes_before_that_of_the_directory_before_the_users(path, monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    assert find_config(None) is None
    users = home / "miner" / "miner.toml"
    users.parent.mkdir()
    users.touch()
    assert find_config(None) == users
    path.touch()
    assert find_config(None) == path
    assert find_config("other.toml") == path.parent / "other.toml"
    assert config_paths() == [Path("miner.toml"), users]


def test_without_a_directory_for_settings_it_is_that_of_the_home(monkeypatch, empty_directory):
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(empty_directory))
    assert config_paths()[1] == empty_directory / ".config" / "miner" / "miner.toml"


def test_a_byte_order_mark_and_line_ends_of_windows(path):
    path.write_bytes(b"\xef\xbb\xbf[models.a]\r\ncontext = 512\r\n")
    loaded = read_config(path)
    assert loaded.content.models["a"].context == 512
    assert loaded.text == "[models.a]\r\ncontext = 512\r\n"
    path.write_bytes(b"\xef\xbb\xbf[models.a]\r\n\r\ncontext = 5\r\n")
    assert message_of(path).startswith("miner.toml:3: models.a.context = 5: must be")


def test_there_is_none(path):
    assert message_of(path) == "There is no configuration file miner.toml. `miner config init` writes one."


@pytest.mark.parametrize(
    ("data", "message"), [(b"a = 1\n\n# \xff", "miner.toml:3: not UTF-8 text: "), (b"\0", "miner.toml:1: ")]
)
def test_what_is_not_text(data, message, path):
    path.write_bytes(data)
    assert message_of(path).startswith(message)


def test_what_is_no_file_is_not_read(path):
    os.mkfifo(path)
    assert message_of(path) == "miner.toml is a pipe, not a configuration file."
    path.unlink()
    path.mkdir()
    assert message_of(path) == "miner.toml is a directory, not a configuration file."
    assert message_of(Path("/dev/zero")) == "/dev/zero is a device, not a configuration file."
    assert (
        message_of(path / "x" / "y") == "There is no configuration file miner.toml/x/y. `miner config init` writes one."
    )


def test_a_file_of_any_size(path):
    with open(path, "wb") as file:
        file.truncate(50_000_000)
    assert message_of(path) == "miner.toml is larger than 1 MiB: that is no configuration file."
    path.write_text("# x\n" * (MAX_BYTES // 4))
    assert read_config(path).content.models == {}


def test_one_that_may_not_be_read(path, monkeypatch):
    path.symlink_to(path)
    assert message_of(path).startswith("The configuration file miner.toml cannot be read: ")


def test_what_was_read_shows_no_secret(path):
    text = '[backends.a]\nkind = "openai"\nurl = "http://me:pw1@x"\nkey = "${KEY}"\n[models.a]'
    loaded = parse_config(text, path, {"KEY": "pw2"})
    assert loaded.content.backends["a"].key == "pw2"
    for shown in (repr(loaded), repr(loaded.content), str(loaded.content)):
        assert "pw1" not in shown
        assert "pw2" not in shown


def test_a_problem_that_shows_later_has_its_line_too(path):
    loaded = parse_config("[models.a]\nslots = 2\n", path)
    error = loaded.error([Problem("does not fit into memory", ("models", "a", "slots"))])
    assert isinstance(pickle.loads(pickle.dumps(error)), ConfigFileError)
    assert error.message == "miner.toml:2: models.a.slots = 2: does not fit into memory."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a." * 200_000 + "b = 1", "miner.toml has too many arrays and tables inside each other."),
        (
            '[variables]\nA0 = "xxxxxxxxxx"\n' + "".join(f'A{n + 1} = "{10 * f"${{A{n}}}"}"\n' for n in range(30)),
            'miner.toml:9: variables.A7 = "',
        ),
        (
            "[variables]\n" + "".join(f'A{n} = "${{A{n + 1}}}"\n' for n in range(500)),
            'miner.toml:2: variables.A0 = "${A1}": more than 64 variables stand for each other.',
        ),
        ("[models.a]\n" + "".join(f"k{n} = 1\n" for n in range(3000)), "miner.toml:2: models.a.k0 = 1: unknown key."),
        ("k" * 1_000_000 + " = 1", f"miner.toml:1: {'k' * 160} = 1: unknown key."),
    ],
)
def test_what_could_take_long_is_refused_at_once(text, message, path):
    path.write_text(text)
    told = message_of(path)
    assert told.startswith(message)
    assert len(told) < 30_000
