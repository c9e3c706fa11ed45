"""llama-swap's config.yaml: each key is carried over, or named."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.imports.command_line import split_command
from miner.cli.imports.llama_swap import import_llama_swap
from miner.cli.imports.paths import PathFinder
from miner.errors import ConfigError
from tests.cli.imports.helpers import checked, lost, named


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "config.yaml"
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return import_llama_swap(path, PathFinder(tmp_path))

    return read


SERVER = "llama-server --port ${PORT} -m /m/a.gguf"
OTHER = "vllm serve Qwen/Qwen3-8B --port ${PORT}"

GLOBAL = {
    "healthCheckTimeout": 60, "logLevel": "debug", "logTimeFormat": "rfc3339", "logToStdout": "both",
    "logRequests": True, "metricsMaxInMemory": 5, "captureBuffer": 1, "store": {"path": "/x.sqlite"},
    "ui": {"activity": {"session_id": ["X"]}}, "performance": {"disabled": True, "every": "5s"}, "startPort": 10001,
    "sendLoadingState": True, "includeAliasesInList": True, "unloadTimeout": 20, "apiKeys": ["sk-hunter2"],
    "upstream": {"ignorePaths": ["x"]}, "profiles": {"coding": {"pins": {"a": "b"}}}, "somethingNew": {"inside": 1},
}  # fmt: skip
MODEL = {
    "cmdStop": "docker stop x ${PID}", "metadata": {"port": "${PORT}"}, "sendLoadingState": False,
    "compat": {"ignoreWebsockets": True}, "capabilities": {"in": ["text"], "context": 32000},
    "timeouts": {
        "connect": 3, "responseHeader": 60, "keepalive": 1, "tlsHandshake": 1, "expectContinue": 1, "idleConn": 9,
    },
    "filters": {"stripParams": "temperature, top_k", "setParams": {"temperature": 0.7, "provider": {"zdr": True}},
                "setParamsByID": {"a:high": {"chat_template_kwargs": {"reasoning_effort": "high"}}}},
    "somethingNew": 1,
}  # fmt: skip
SERVER_ONLY = {
    "useModelName": "x", "checkEndpoint": "/v1/models", "unloadTimeout": 9, "concurrencyLimit": 3,
    "healthCheckTimeout": 30,
}  # fmt: skip


@pytest.mark.parametrize("key", GLOBAL)
@pytest.mark.parametrize("command", [SERVER, OTHER])
def test_each_key_of_the_file_is_carried_over_or_named(read, key, command):
    draft = read({"models": {"a": {"cmd": command}}, key: GLOBAL[key]})
    content = checked(draft)
    backend = next(iter(content.backends.values()))
    carried = {"healthCheckTimeout": backend.start_timeout, "unloadTimeout": backend.stop_timeout}.get(key)
    assert carried == GLOBAL[key] or named(draft, key)
    assert f"{key}" in draft.text() or carried
    assert "hunter2" not in draft.text()


@pytest.mark.parametrize("command", [SERVER, OTHER])
def test_each_key_of_a_model_is_carried_over_or_named(read, command):
    draft = read({"models": {"a": {"cmd": command, **MODEL}}})
    content = checked(draft)
    assert set(lost(draft)) >= {
        "models.a.cmdStop", "models.a.metadata", "models.a.sendLoadingState", "models.a.compat",
        "models.a.capabilities",
        "models.a.timeouts.keepalive", "models.a.timeouts.tlsHandshake", "models.a.timeouts.expectContinue",
        "models.a.timeouts.idleConn", "models.a.filters.stripParams", "models.a.filters.setParams.provider",
        "models.a.filters.setParamsByID.a:high", "models.a.somethingNew",
    }  # fmt: skip
    assert content.models["a"].sampling.temperature == 0.7
    assert content.models["a"].aliases == ["a:high"]
    assert "models.a.filters.setParams" in {remark.where for remark in draft.changed}
    timeout = content.models["a"].timeout or content.backends["a"].timeout
    assert timeout == 60


@pytest.mark.parametrize("key", SERVER_ONLY)
def test_what_an_engine_of_ours_does_not_need_is_named(read, key):
    assert f"models.a.{key}" in lost(read({"models": {"a": {"cmd": SERVER, key: SERVER_ONLY[key]}}}))


def test_a_llama_server_becomes_a_model_of_ours(read):
    draft = read(
        """
        macros:
          dir: /models
          ctx: 32768
          server: |
            /opt/llama-server-b123 --port ${PORT}
            --ctx-size ${ctx}
        models:
          "big model":
            macros: {ctx: 16384}
            # a comment
            cmd: |
              # the newest: ${server}
              ${server} -np 2 \\
              --model '${dir}/a b.gguf' -ngl 99
            ttl: 60
            aliases: [big, "gpt-*"]
            unlisted: true
            name: Big
            description: the best
          small:
            cmd: /opt/llama-server-b123 --port ${PORT} -hf o/r:Q4_K_M
            proxy: http://127.0.0.1:${PORT}
        hooks: {on_startup: {preload: [big, nobody]}}
        """
    )
    content = checked(draft)
    assert set(content.backends) == {"llamacpp"}
    assert (content.backends["llamacpp"].kind, content.backends["llamacpp"].server) == (
        "llamacpp",
        "/opt/llama-server-b123",
    )
    big = content.models["big-model"]
    assert (big.file, big.context, big.slots, big.n_gpu_layers) == ("/models/a b.gguf", 8192, 2, 99)
    assert (big.keep_alive, big.listed, big.description, big.preload) == (60, False, "Big: the best", True)
    assert big.aliases == ["big model", "big", "gpt-*"]
    assert content.models["small"].hub == "o/r:Q4_K_M"
    assert draft.steps == ["miner models pull hf:o/r:Q4_K_M"]
    assert content.defaults.keep_alive == -1
    assert content.groups["llama-swap"].max_loaded == 1
    assert "hooks.on_startup.preload.nobody" in lost(draft)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"cmd": f"{SERVER} --mla 2"}, "--mla is no option"),
        ({"cmd": SERVER, "env": ["CUDA_VISIBLE_DEVICES=0"]}, "environment of its own"),
        ({"cmd": f"env A=1 {SERVER}"}, "environment of its own"),
        ({"cmd": "llama-server --port ${PORT}"}, "names no model"),
        ({"cmd": f"docker run x {SERVER}"}, "docker is no llama-server"),
        ({"cmd": f"{SERVER} | tee log"}, "it has |"),
        ({"cmd": f"{SERVER} -c ${{env.CONTEXT}}"}, "here it is a number"),
    ],
)
def test_any_other_command_runs_as_it_was_and_a_comment_says_why(read, model, why):
    draft = read({"models": {"a": model}})
    backend = checked(draft, PORT="${PORT}").backends["a"]
    expected = model["cmd"].removeprefix("env A=1 ").replace("${env.CONTEXT}", "http://set-later").split()
    added = ["--alias", "a"] if "llama-server" in expected[0] else []
    assert backend.command == [*expected, *added]
    assert "# a: the command runs as it was: " in draft.text()
    assert why in " ".join(draft.text().replace("\n#", "").split())


def test_a_command_keeps_its_address_environment_and_limits(read):
    draft = read(
        {
            "models": {
                "a": {
                    "cmd": "vllm serve X --port 8999 --api-key sk-hunter2",
                    "proxy": "http://127.0.0.1:8999",
                    "env": ["HF_TOKEN=hunter2", "DIR=${env.HOME}/x", "PLAIN=1=2", "PASSWORD=${env.PASSWORD}"],
                    "checkEndpoint": "/ready",
                    "unloadTimeout": 30,
                    "concurrencyLimit": 4,
                    "useModelName": "Y",
                },
                "b": {"cmd": "server --listen 1", "checkEndpoint": "none", "proxy": "http://elsewhere:1/v1"},
            }
        }
    )
    content = checked(draft, HOME="/own", A_KEY="k", HF_TOKEN="t", PASSWORD="p")
    backend = content.backends["a"]
    assert (backend.kind, backend.port, backend.ready) == ("vllm", 8999, "/ready")
    assert backend.command == ["vllm", "serve", "X", "--port", "8999", "--api-key", "k"]
    assert backend.key == "k"
    assert backend.env == {"HF_TOKEN": "t", "DIR": "/own/x", "PLAIN": "1=2", "PASSWORD": "p"}
    assert (backend.stop_timeout, backend.concurrency, content.models["a"].name) == (30, 4, "X")
    assert "hunter2" not in draft.text()
    assert set(draft.variables) == {"A_KEY", "HF_TOKEN", "HOME", "PASSWORD"}
    assert {"models.b.checkEndpoint", "models.b.proxy"} <= set(lost(draft))
    assert content.backends["b"].port == 1


@pytest.mark.parametrize(
    ("command", "name", "added"),
    [
        ("vllm serve Qwen/X --port ${PORT}", "Qwen/X", []),
        ("vllm serve Qwen/X --port ${PORT} --served-model-name mine", "mine", []),
        ("python -m vllm.entrypoints.openai.api_server --port ${PORT} --model Qwen/X", "Qwen/X", []),
        ("llama-server --new -m /m --port ${PORT}", None, ["--alias", "a"]),
        ("llama-server --new -m /m --port ${PORT} -a b,c", "b", []),
        ("docker run -p ${PORT}:80 ghcr.io/ggml-org/llama.cpp:server-cuda -m /m", None, ["--alias", "a"]),
        ("other --port ${PORT}", None, []),
    ],
)
def test_the_server_is_asked_by_a_name_that_it_has(read, command, name, added):
    draft = read({"models": {"a": {"cmd": command}}})
    content = checked(draft, PORT="${PORT}")
    assert content.models["a"].name == name
    assert content.backends["a"].command == [*command.split(), *added]
    told = [remark.why for remark in draft.changed if "must list" in remark.why]
    assert bool(told) == (command.split()[0] == "other")


def test_peers_are_servers_with_their_models(read):
    draft = read(
        {
            "peers": {
                "den": {"proxy": "http://den:8080/", "models": ["a", "b"], "timeouts": {"connect": 5, "idleConn": 1}},
                "router": {"proxy": "https://there/api", "apiKey": "hunter2", "models": ["a"], "other": 1,
                           "filters": {"stripParams": "top_k", "setParams": {"top_p": 0.5}}},
                "env": {"proxy": "http://e/v1", "apiKey": "${env.E_KEY}", "models": ["e"]},
            },
            "models": {"a": {"cmd": SERVER}},
        }
    )  # fmt: skip
    content = checked(draft, E_KEY="e", ROUTER_KEY="r")
    assert (content.backends["den"].url, content.backends["den"].connect_timeout) == ("http://den:8080/v1", 5)
    assert (content.backends["router"].url, content.backends["router"].key) == ("https://there/api/v1", "r")
    assert (content.backends["env"].url, content.backends["env"].key) == ("http://e/v1", "e")
    assert (content.models["den/a"].name, content.models["den/a"].aliases) == ("a", [])
    assert content.models["den/b"].aliases == ["b"]
    assert content.models["router/a"].sampling.top_p == 0.5
    assert {"peers.den.timeouts.idleConn", "peers.router.filters.stripParams", "peers.router.other"} <= set(lost(draft))
    assert "hunter2" not in draft.text()


THREE = {name: {"cmd": f"llama-server --port ${{PORT}} -m /m/{name}.gguf"} for name in "abcd"}


def groups_of(read, **keys):
    draft = read({"models": THREE, **keys})
    return {
        name: (group.models, group.max_loaded, group.exclusive) for name, group in checked(draft).groups.items()
    }, draft


def test_without_groups_one_model_runs_at_a_time(read):
    assert groups_of(read)[0] == {"llama-swap": (["a", "b", "c", "d"], 1, False)}


@pytest.mark.parametrize("newer", [False, True])
def test_groups_of_either_place(read, newer):
    groups = {"one": {"members": ["a", "b"]}, "two": {"members": ["c", "d", "no"], "swap": False, "odd": 1}}
    keys = {"routing": {"router": {"use": "group", "settings": {"groups": groups}}}} if newer else {"groups": groups}
    found, draft = groups_of(read, **keys)
    assert found == {"one": (["a", "b"], 1, True), "two": (["c", "d"], None, True)}
    where = "routing.router.settings.groups" if newer else "groups"
    assert {f"{where}.two.members.no", f"{where}.two.odd"} <= set(lost(draft))


def test_a_persistent_group_is_pinned_and_excluded_by_nothing(read):
    groups = {
        "keep": {"members": ["a"], "persistent": True, "swap": False, "exclusive": False},
        "one": {"members": ["b"]},
        "many": {"members": ["c"], "swap": False},
    }
    found, draft = groups_of(read, groups=groups)
    assert found == {
        "one": (["b"], 1, False),
        "llama-swap": (["d"], 1, False), "one-at-a-time": (["b", "d"], 1, False),
    }  # fmt: skip
    assert checked(draft).models["a"].pin
    assert "groups.many.exclusive" in lost(draft)
    assert "# groups.keep: its models may be loaded together, which needs no group here" in draft.text()


def test_a_matrix_becomes_groups_of_models_that_exclude_each_other(read):
    matrix = {
        "vars": {"x": "a"}, "evict_costs": {"x": 50}, "sets": {"llm": "(x | b) & c", "more": "+llm | d", "odd": "d"},
        "new": 1,
    }  # fmt: skip
    found, draft = groups_of(read, matrix=matrix)
    assert [members for members, *_ in found.values()] == [["a", "b", "d"], ["c", "d"]]
    assert all(most == 1 for _, most, _ in found.values())
    assert {"matrix.evict_costs", "matrix.new"} <= set(lost(draft))


@pytest.mark.parametrize("text", ["a &", "(a", "a b", "+no", "+bad", "& a", "", "a )", "(" * 99 + "a" + ")" * 99])
def test_a_matrix_that_cannot_be_read_is_named(read, text):
    assert "matrix.sets" in lost(groups_of(read, matrix={"sets": {"bad": text}})[1])


def test_a_matrix_that_allows_too_much_is_named(read):
    half = "(" + " | ".join("abcd" * 20) + ")"
    assert lost(groups_of(read, matrix={"sets": {"s": f"{half} & {half}"}})[1])["matrix.sets"] == "more than 2000 sets"


def test_priorities_and_selectors(read):
    _, draft = groups_of(
        read,
        routing={
            "scheduler": {"use": "fifo", "settings": {"fifo": {"priority": {"a": 5, "b": 1000, "no": 1}}}},
            "odd": 1,
        },
        selectors={
            "pinned": {"strategy": "pin", "targets": ["a"]},
            "warm": {"strategy": "warm", "targets": ["b", "a"], "metadata": {"x": 1}},
            "gone": {"strategy": "pin", "targets": ["no"]},
        },
    )
    content = checked(draft)
    assert (content.models["a"].priority, content.models["b"].priority) == (5, 100)
    assert (content.models["a"].aliases, content.models["b"].aliases) == (["pinned"], ["warm"])
    assert {
        "routing.scheduler.settings.fifo.priority.no", "routing.odd", "selectors.warm.strategy",
        "selectors.warm.targets",
        "selectors.warm.metadata", "selectors.gone",
    } <= set(lost(draft))  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "has no models"), ({"models": {}}, "has no models"), ({"models": {"a": 1}}, r"models\.a: .*a table"),
        ({"models": {"a": {}}}, r"models\.a\.cmd"), ({"models": {"a": {"cmd": "a 'b"}}}, r"models\.a\.cmd: no closing"),
        ({"models": {"a": {"cmd": "# only"}}}, "the command is empty"),
        ({"models": {"a": {"cmd": "x ${nothing}"}}}, r"models\.a\.cmd: \$\{nothing\} is no macro"),
        ({"macros": {"PORT": 1}, "models": {"a": {"cmd": "x"}}}, "macros.PORT"),
        ({"macros": {"a": [1]}, "models": {"a": {"cmd": "x"}}}, "macros are names"),
        ({"models": {"a": {"cmd": "x", "ttl": -5}}}, "a number of seconds"),
        ({"models": {"a": {"cmd": "x", "env": {"A": 1}}}}, "a list of NAME=value"),
        ({"peers": {"p": {"proxy": "there"}}}, r"peers\.p\.proxy"),
        ({"models": {"a": {"cmd": "x"}}, "groups": {"g": {"members": 1}}}, r"groups\.g\.members"),
        ({"models": {"a": {"cmd": "x"}}, "groups": 1}, "groups: .*a table"),
        ({"models": {"a": {"cmd": "x"}}, "matrix": 1}, "matrix: .*a table"),
        ({"macros": {f"m{n}": f"${{m{n - 1}}}" * 9 if n else "x" for n in range(30)},
          "models": {"a": {"cmd": "x ${m29}"}}}, "more than 1 MiB"),
    ],
)  # fmt: skip
def test_what_llama_swap_refuses_is_refused(read, content, says):
    with pytest.raises(ConfigError, match=says):
        read(content)


def test_keys_that_stand_twice_are_named(read):
    assert "models.a.ttl" in lost(read("models:\n  a: {cmd: x --port 1, ttl: 1, ttl: 2}\n"))


def test_macros_keep_the_kind_of_a_value_and_may_use_each_other(read):
    content = checked(
        read(
            {
                "macros": {"t": 30, "args": "-c ${size}", "size": 1, "late": "--port ${PORT}"},
                "models": {
                    "a": {
                        "cmd": "run ${args} ${late} ${MODEL_ID}",
                        "ttl": "${t}",
                        "macros": {"size": 2, "args": "-c 7"},
                    }
                },
            }
        )
    )
    assert content.models["a"].keep_alive == 30
    assert content.backends["a"].command == ["run", "-c", "7", "--port", "${PORT}", "a"]


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Co", "Cn"]), max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_any_words_that_a_shell_would_read_are_the_words(tmp_path_factory, words):
    words = ["run", *words]
    assert split_command(shlex.join(words)).words == words
    path = Path(tmp_path_factory.getbasetemp()) / "words.yaml"
    quoted = shlex.join(words).replace("${", "{")
    path.write_text(json.dumps({"models": {"a": {"cmd": quoted}}}))
    draft = import_llama_swap(path, PathFinder(path.parent))
    assert checked(draft).backends["a"].command == split_command(quoted).words
