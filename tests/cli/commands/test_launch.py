"""`miner launch`: what a program is started with, what is written for it, and how all of it is undone."""

import json
import os
import sys
import tomllib
from pathlib import Path

import pytest

from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

KEY = "key-of-the-gateway-0123456789"
RECORDER = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "w") as out:
    json.dump({{"argv": sys.argv, "environment": dict(os.environ)}}, out)
sys.exit(7)
"""
PROGRAMS = {
    "claude": "claude", "codex": "codex", "opencode": "opencode", "continue": "cn", "cline": "cline",
    "copilot": "copilot", "qwen": "qwen", "aider": "aider", "goose": "goose", "zed": "zed", "open-webui": "open-webui",
}  # fmt: skip


def model(name, context, *capabilities, **fields):
    known = {"capabilities": list(capabilities)} if capabilities else {}
    return {"id": name, "object": "model", "owned_by": "x", "max_model_len": context, **known, **fields}


def gateway(*models, key=None):
    listed = {"object": "list", "data": list(models or [model("big", 65_536, "chat", "tools", "images")])}
    return in_thread(StubServer(["big"], api_key=key, side={} if key else {"/v1/models": listed}, max_model_len=65_536))


class Launcher:
    """Runs `miner launch` where programs record how they were started."""

    def __init__(self, miner, directory):
        self._miner = miner
        self.home = directory
        self._bin = directory / "bin"
        self._bin.mkdir()
        self.config = directory / ".config"
        for name in PROGRAMS.values():
            self.install(name)

    def install(self, name):
        program = self._bin / name
        program.write_text(RECORDER.format(python=sys.executable))
        program.chmod(0o755)

    def uninstall(self, name):
        (self._bin / name).unlink()

    def __call__(self, *arguments, path=None, stdin=None, **settings):
        record = self.home / "record.json"
        record.unlink(missing_ok=True)
        done = self._miner(
            "launch", *arguments, stdin=stdin, PATH=path or f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            RECORD=str(record), **settings,
        )  # fmt: skip
        self.started = json.loads(record.read_text()) if record.exists() else None
        return done


@pytest.fixture
def launch(miner, tmp_path):
    return Launcher(miner, miner.directory)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_gets_address_model_and_key_and_no_key_on_its_command_line(launch, name):
    with gateway(key=KEY) as server:
        done = launch(name, "--url", server.url, "--", "--flag", "a b", MINER_API_KEYS=f"{KEY},other-key-0123456789")
        files = {
            path: path.read_text() for path in launch.home.rglob("*") if path.is_file() and path.parent.name != "bin"
        }
    assert done.returncode == 7, done.stderr
    argv, environment = launch.started["argv"], launch.started["environment"]
    assert os.path.basename(argv[0]) == PROGRAMS[name]
    assert argv[-2:] == ["--flag", "a b"]
    assert KEY not in " ".join(argv)
    assert KEY.encode() not in done.stdout + done.stderr
    told = [*argv, *environment.values(), *(text for path, text in files.items() if path.name != "record.json")]
    assert any(KEY in text for text in told)
    assert any("big" in text for text in told)
    assert any(server.url in text for text in told)
    for path, text in files.items():
        if KEY in text and path.name != "record.json":
            assert path.stat().st_mode & 0o077 == 0, path


def test_claude_code(launch):
    elsewhere = {"ANTHROPIC_API_KEY": "sk-ant", "CLAUDE_CODE_USE_BEDROCK": "1", "ANTHROPIC_MODEL": "opus"}
    with gateway() as server:
        assert launch("claude", "--url", f"{server.url}/v1", **elsewhere).returncode == 7
        environment = launch.started["environment"]
    assert "ANTHROPIC_API_KEY" not in environment
    assert "CLAUDE_CODE_USE_BEDROCK" not in environment
    wanted = {
        "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_AUTH_TOKEN": "none", "ANTHROPIC_MODEL": "big",
        "ANTHROPIC_SMALL_FAST_MODEL": "big", "ANTHROPIC_DEFAULT_OPUS_MODEL": "big",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "big", "ANTHROPIC_DEFAULT_HAIKU_MODEL": "big",
        "CLAUDE_CODE_SUBAGENT_MODEL": "big", "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off", "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "65536",
        "DISABLE_ERROR_REPORTING": "1", "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1", "DISABLE_TELEMETRY": "1",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "8192",
    }  # fmt: skip
    assert {name: environment[name] for name in wanted} == wanted
    # It knows no window below 100,000 tokens, of which it keeps those of a response free: of the rest, this part.
    begins = float(environment["CLAUDE_AUTOCOMPACT_PCT_OVERRIDE"]) / 100 * (100_000 - 8192)
    assert 45_000 < begins < 65_536 - 8192


def test_claude_code_with_a_context_that_it_knows(launch):
    with gateway(model("big", 200_000, "chat", "tools")) as server:
        launch("claude", "--url", server.url)
    environment = launch.started["environment"]
    assert environment["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == "200000"
    assert environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "25000"
    assert "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE" not in environment


def test_codex_has_a_profile_and_a_catalog_beside_the_users_own_configuration(launch):
    home = launch.home / "codex-home"
    home.mkdir()
    own = 'model = "gpt-6"\n# mine\n'
    (home / "config.toml").write_text(own)
    with gateway() as server:
        assert launch("codex", "--url", server.url, CODEX_HOME=str(home)).returncode == 7
        assert launch("codex", "--url", server.url, CODEX_HOME=str(home)).returncode == 7  # once more: it is ours
        started = launch.started
    assert started["argv"][1:] == ["--profile", "miner"]
    profile = tomllib.loads((home / "miner.config.toml").read_text())
    assert (profile["model"], profile["model_context_window"]) == ("big", 65_536)
    provider = profile["model_providers"][profile["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (server.v1, "responses")
    assert started["environment"][provider["env_key"]] == "none"
    [entry] = json.loads(Path(profile["model_catalog_json"]).read_text())["models"]
    assert (entry["slug"], entry["context_window"], entry["input_modalities"]) == ("big", 65_536, ["text", "image"])
    assert (home / "config.toml").read_text() == own
    done = launch("--restore")
    assert done.returncode == 0
    assert sorted(path.name for path in home.iterdir()) == ["config.toml"]
    assert not list(launch.config.rglob("*.json"))


def test_a_file_that_is_not_ours_is_not_overwritten(launch):
    home = launch.home / ".codex"
    home.mkdir()
    (home / "miner.config.toml").write_text("# somebody's own\n")
    with gateway() as server:
        done = launch("codex", "--url", server.url)
    assert done.returncode == 1
    assert launch.started is None
    assert b"was not written by `miner launch`" in done.stderr
    assert (home / "miner.config.toml").read_text() == "# somebody's own\n"


def test_opencode_has_a_provider_with_limits(launch):
    with gateway() as server:
        assert launch("opencode", "--url", server.url).returncode == 7
    environment = launch.started["environment"]
    config = json.loads(Path(environment["OPENCODE_CONFIG"]).read_text())
    provider = config["provider"]["miner"]
    assert config["model"] == config["small_model"] == "miner/big"
    assert provider["options"]["baseURL"] == server.v1
    assert provider["options"]["apiKey"] == "{env:OPENAI_API_KEY}"
    assert provider["models"]["big"]["limit"] == {"context": 65_536, "output": 16_384}
    assert (config["share"], config["autoupdate"]) == ("disabled", False)


ZED = """// my settings
{
  "theme": "One // Dark", /* nice */
  "language_models": {"openai": {"api_url": "https://x/v1"}, },
  "vim_mode": true,
}
"""


def test_a_file_of_the_users_own_is_saved_and_restored(launch):
    path = launch.config / "zed" / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_text(ZED)
    with gateway() as server:
        first = launch("zed", "--url", server.url)
        launch("zed", "--url", server.url)
        changed = json.loads(path.read_text())
        assert launch.started["environment"]["LOCAL_MINER_API_KEY"] == "none"
        assert f"{path} was changed; it is saved as ".encode() in first.stderr
        assert (changed["theme"], changed["vim_mode"]) == ("One // Dark", True)
        assert changed["language_models"]["openai"] == {"api_url": "https://x/v1"}
        provider = changed["language_models"]["openai_compatible"]["local-miner"]
        assert (provider["api_url"], provider["available_models"][0]["max_tokens"]) == (server.v1, 65_536)
        assert f"{path} is as it was before.".encode() in launch("--restore").stdout
        assert path.read_text() == ZED
        assert b"Nothing was changed" in launch("--restore").stdout
        # What the user writes after us is not overwritten by what was before us.
        launch("zed", "--url", server.url)
        path.write_text('{"vim_mode": false}')
        done = launch("--restore")
    assert b"was changed since and stays as it is" in done.stdout
    assert path.read_text() == '{"vim_mode": false}'


def test_invalid_settings_are_left_alone(launch):
    path = launch.config / "zed" / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_text("{oops")
    with gateway() as server:
        done = launch("zed", "--url", server.url)
    assert (done.returncode, path.read_text()) == (1, "{oops")
    assert b"is not valid JSON" in done.stderr


def test_print_writes_and_starts_nothing_and_hides_the_key(launch):
    before = sorted(launch.home.rglob("*"))
    for name, program in PROGRAMS.items():
        launch.uninstall(program)
        before.remove(launch.home / "bin" / program)
        with gateway(key=KEY) as server:
            done = launch(name, "--print", "--url", server.url, "--key", "-", stdin=f"{KEY}\n".encode())
        assert done.returncode == 0, done.stderr
        assert KEY.encode() not in done.stdout + done.stderr
        assert b"<your key>" in done.stdout
        assert program.encode() in done.stdout
        assert launch.started is None
    assert [path for path in sorted(launch.home.rglob("*")) if path.parts[-1] != "cache"] == before


def test_json(launch):
    for name in PROGRAMS:
        with gateway(key=KEY) as server:
            done = launch(name, "--print", "--json", "--url", server.url, "--key", "-", stdin=f"{KEY}\n".encode())
        assert done.returncode == 0, done.stderr
        assert KEY.encode() not in done.stdout
        plan = json.loads(done.stdout)
        assert Path(plan["command"][0]).name == PROGRAMS[name]
        assert plan["model"] == "big"
        texts = [*(each["text"] for each in plan["files"]), *filter(None, plan["environment"].values())]
        assert any("<your key>" in text for text in texts)
    launch.uninstall("codex")
    found = {each["name"]: each for each in json.loads(launch("--json").stdout)["programs"]}
    assert list(found) == list(PROGRAMS)
    assert found["codex"]["path"] is None
    assert "npm" in found["codex"]["install"]
    assert found["claude"]["path"] == str(launch.home / "bin" / "claude")
    with gateway() as server:
        assert launch("opencode", "--url", server.url).returncode == 7
    (line,) = json.loads(launch("--restore", "--json").stdout)["done"]
    assert "opencode.json is removed" in line
    assert "Did you mean claude?" in launch("claud", "--json").stdout.decode()
    done = launch("claude", "--json")
    assert done.returncode == 2
    assert "--print --json" in json.loads(done.stdout)["error"]["hint"]


def test_the_model_is_one_with_tools_and_a_long_context(launch):
    models = [
        model("short", 8192, "chat", "tools"), model("vectors", 8192, "embeddings"), model("plain", 40_000, "chat"),
        model("agent", 40_960, "chat", "tools"), model("longest", 131_072, "chat", "tools", aliases=["Long"]),
    ]  # fmt: skip

    def chosen(*arguments, among=models):
        with gateway(*among) as server:
            done = launch("claude", "--url", server.url, *arguments)
        return launch.started and launch.started["environment"]["ANTHROPIC_MODEL"], done

    assert chosen()[0] == "agent"
    assert chosen("--model", "long")[0] == "longest"
    name, done = chosen("--model", "short")
    assert name == "short"
    assert b"short has a context of 8192 tokens; Claude Code needs about 32768" in done.stderr
    assert chosen(among=models[:1])[0] == "short"
    assert chosen(among=[model("a", None, "chat"), model("b", 16_384, "chat")])[0] == "b"
    name, done = chosen(among=[model("told", 40_960, "chat", "tools", "emulated")])
    assert b"The chat template of told has no tools" in done.stderr
    name, done = chosen("--model", "other")
    assert (name, done.returncode) == (None, 2)
    assert b"no model 'other'" in done.stderr
    assert b"short, vectors" in done.stderr
    assert chosen(among=[model("vectors", 8192, "embeddings")])[1].returncode == 2


def test_what_cannot_be_started(launch):
    assert b"claude      Claude Code" in launch().stdout
    unknown = launch("claud")
    assert (unknown.returncode, b"Did you mean claude?" in unknown.stderr) == (2, True)
    down = launch("claude", "--url", "http://127.0.0.1:9")
    assert (down.returncode, b"miner serve" in down.stderr) == (1, True)
    assert launch("claude", "--url", "ftp://x").returncode == 2
    bare = launch("claude", "--key", KEY)
    assert (bare.returncode, b"other users of the machine" in bare.stderr) == (2, True)
    with gateway(key=KEY) as server:
        refused = launch("claude", "--url", server.url)
        assert (refused.returncode, b"requires an API key" in refused.stderr) == (2, True)
    launch.uninstall("claude")
    with gateway() as server:
        missing = launch("claude", "--url", server.url)
    assert (missing.returncode, b"npm install -g @anthropic-ai/claude-code" in missing.stderr) == (2, True)


def test_the_gateway_of_the_settings(launch):
    with gateway() as server:
        assert launch("qwen", MINER_SERVE_PORT=str(server.port)).returncode == 7
    assert launch.started["environment"]["OPENAI_BASE_URL"] == server.v1
