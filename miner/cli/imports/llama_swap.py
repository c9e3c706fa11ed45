"""llama-swap's `config.yaml`.

A model whose command is a llama-server's becomes a llama.cpp model of ours where every option can be carried over; any
other command becomes a backend that runs it as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from miner.cli.imports.command_line import Command, split_command
from miner.cli.imports.draft import Draft, Section, is_secret, readable, variable, variables_in
from miner.cli.imports.engine_arguments import NotCarriedError, given_of
from miner.cli.imports.engine_options import EngineKeys, keys_of
from miner.cli.imports.llama_swap_groups import groups
from miner.cli.imports.llama_swap_macros import replace_macros
from miner.cli.imports.llama_swap_values import keep_alive_of, seconds_of, table_of, write_filters, write_timeouts
from miner.cli.imports.paths import PathFinder
from miner.cli.imports.yaml_file import read_yaml
from miner.errors import ConfigError

_GLOBAL_LOST = {
    "logLevel": "the gateway's log: MINER_LOG_LEVEL",
    "logTimeFormat": "the gateway's log has one format of time",
    "logToStdout": "engines' output is in the gateway's log",
    "logRequests": "the gateway always logs requests",
    "metricsMaxInMemory": "metrics are at /metrics",
    "captureBuffer": "requests are not recorded",
    "store": "requests are not recorded",
    "ui": "it belongs to llama-swap's page",
    "performance": "metrics are at /metrics",
    "startPort": "a free port is taken for each command",
    "sendLoadingState": "loading is not told in the reasoning of a response",
    "includeAliasesInList": "lists of models show no aliases",
    "upstream": "there is no route past the gateway",
    "profiles": "names cannot be switched at run time",
}
_MODEL_LOST = {
    "cmdStop": "a signal stops the command (stop_signal), then the end of its process group",
    "metadata": "lists of models have no such field",
    "sendLoadingState": "loading is not told in the reasoning of a response",
    "compat": "no WebSockets are passed on",
    "capabilities": "they are read from the model's file, or from the server",
}
_PORTS = {"vllm": 8000, "ollama": 11434}
"""Where servers listen by themselves."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def import_llama_swap(path: Path, finder: PathFinder) -> Draft:
    """Read the file.

    Raises:
        ConfigError: it cannot be read, is no configuration of llama-swap, or one that llama-swap refuses.
    """
    content, twice = read_yaml(path, newer=True)
    content = replace_macros(content)
    if not isinstance(content.get("models") or {}, dict) or not (content.get("models") or content.get("peers")):
        raise ConfigError(f"{path} is no configuration of llama-swap: it has no models.")
    draft = Draft(f"From llama-swap's {path.name}, by `miner import llama-swap`.")
    for where, why in twice:
        draft.top.lose("", where, None, why)
    reader = _Reader(draft, content, finder)
    reader.read()
    return draft


class _Reader:
    def __init__(self, draft: Draft, content: dict[str, Any], finder: PathFinder) -> None:
        self._draft = draft
        self._content = content
        self._finder = finder
        self._models: dict[str, Section] = {}
        """The other file's names of models -> their tables."""

    def read(self) -> None:
        content, draft = self._content, self._draft
        models = content.pop("models", None) or {}
        peers = table_of(content.pop("peers", None), "peers")
        self._start_timeout = content.pop("healthCheckTimeout", None)
        self._stop_timeout = content.pop("unloadTimeout", None)
        ttl = content.pop("globalTTL", 0)
        defaults = draft.section("defaults")
        defaults.set(
            "keep_alive", keep_alive_of(ttl, "globalTTL"), "globalTTL" if ttl else "llama-swap's default: for ever"
        )
        for name, model in models.items():
            self._model(name, table_of(model, f"models.{name}"))
        for name, peer in peers.items():
            self._peer(name, table_of(peer, f"peers.{name}"))
        self._selectors(table_of(content.pop("selectors", None), "selectors"))
        self._hooks(content.pop("hooks", None))
        routing = table_of(content.pop("routing", None), "routing")
        self._priorities(routing.pop("scheduler", None))
        local = {name: section for name, section in self._models.items() if name in models}
        groups(draft, local, content.pop("groups", None), content.pop("matrix", None), routing)
        if keys := content.pop("apiKeys", None):
            count = len(keys) if isinstance(keys, list) else 1
            draft.top.lose(
                "", "apiKeys", None, f"{count}: make keys with `miner keys new NAME`; its file stores only hashes"
            )
        for key, value in content.items():
            if key.startswith("x-"):
                continue  # a place for YAML anchors; nothing reads it
            why = _GLOBAL_LOST.get(key, "not known here")
            draft.top.lose("", key, value, why)

    def _model(self, name: str, model: dict[str, Any]) -> None:
        where = f"models.{name}"
        if not isinstance(model.get("cmd"), str):
            raise ConfigError(f"{where}.cmd: llama-swap needs the command here.")
        try:
            command = split_command(model.pop("cmd"))
        except ValueError as error:
            raise ConfigError(f"{where}.cmd: {error}.") from None
        env = [*command.env, *_environment(model.pop("env", None), where)]
        ours = self._draft.name_for("models", name)
        section = self._draft.section("models", ours)
        self._models[name] = section
        keys, why = self._engine_keys(command, env, model)
        section.above.append(f"{readable(name)}: {why}")
        if keys is None:
            backend = self._command_backend(ours, command, env, model, where)
            section.set("backend", backend.path[1])
            self._server_name(section, backend, command, model.pop("useModelName", None), name)
        else:
            backend = self._llamacpp(command.program)
            section.set("backend", backend.path[1])
            keys.write(section, f"{where}.cmd")
            self._pull(keys)
            if model.pop("proxy", None) is not None:
                section.comment("proxy: miner chooses the address")
            for key, reason in (
                ("useModelName", "the engine takes any name"),
                ("checkEndpoint", "miner knows when its engine is ready"),
                ("unloadTimeout", "miner stops its engines itself"),
                ("healthCheckTimeout", "start_timeout of the backend counts for all its engines"),
                ("concurrencyLimit", "slots are what is computed at once; others wait"),
            ):
                if key in model:
                    section.lose(where, key, model.pop(key), reason)
        if ours != name:
            section.add("aliases", [name])
        self._common(section, model, where, name)

    def _engine_keys(
        self, command: Command, env: list[tuple[str, str]], model: dict[str, Any]
    ) -> tuple[EngineKeys | None, str]:
        """What its options become, or None; and why so."""
        if not command.is_llama_server:
            return None, f"the command runs as it was: {readable(command.program)} is no llama-server"
        if env:
            names = ", ".join(key for key, _ in env)
            return None, f"the command runs as it was: it has an environment of its own ({names})"
        if (signs := command.shell_signs) != []:
            return None, f"the command runs as it was: it has {signs[0]}"
        try:
            keys = keys_of(given_of(command.arguments), self._finder.named)
        except NotCarriedError as error:
            return None, f"the command runs as it was: {error}"
        if "file" not in keys.keys and "hub" not in keys.keys:
            return None, "the command runs as it was: it names no model"
        return keys, "all its options have keys here, so miner runs the engine itself"

    def _llamacpp(self, program: str) -> Section:
        """The backend of engines that this llama-server runs."""
        for section in self._draft.sections("backends"):
            if section.get("kind") == "llamacpp" and section.get("server") == program:
                return section
        section = self._draft.section("backends", self._draft.name_for("backends", "llamacpp"))
        section.set("kind", "llamacpp")
        section.set("server", program, "without this line: the engine that comes with miner")
        section.set("start_timeout", self._start_timeout and seconds_of(self._start_timeout), "without progress")
        if self._stop_timeout is not None:
            section.lose("", "unloadTimeout", self._stop_timeout, "miner stops its engines itself")
        return section

    def _command_backend(
        self, wanted: str, command: Command, env: list[tuple[str, str]], model: dict[str, Any], where: str
    ) -> Section:
        draft = self._draft
        section = draft.section("backends", draft.name_for("backends", wanted))
        section.set("kind", command.kind)
        words = command.words
        for place, before, secret in command.secrets():
            if variables_in(secret):
                continue
            key = draft.secret(f"{wanted}_KEY", f"a secret of {where}.cmd")
            words[place] = before + key
        section.set("command", words)
        for sign in command.shell_signs:
            section.change(f"{where}.cmd", f"{sign} is an argument: no shell runs the command, here as there")
        if (api_key := command.option("--api-key")) is not None:
            section.set("key", api_key if variables_in(api_key) else words[_place(command, api_key) or 0])
        self._address(section, command, model, where)
        check = model.pop("checkEndpoint", None)
        if check == "none":
            section.lose(where, "checkEndpoint", check, "ready is a path that returns 200")
        elif check not in (None, "/health"):
            section.set("ready", check if str(check).startswith("/") else f"/{check}")
        values = {}
        for key, value in env:
            if "${" in readable(key) or not key:
                section.lose(where, "env", None, "a name of a variable that is none")
                continue
            hidden = is_secret(key) and value and not variables_in(value)
            values[key] = draft.secret(key, f"{where}.env {key}") if hidden else value
        section.set("env", values)
        start = model.pop("healthCheckTimeout", self._start_timeout)
        section.set("start_timeout", seconds_of(start) if start is not None else None, "without progress")
        stop = model.pop("unloadTimeout", None) or self._stop_timeout
        section.set("stop_timeout", seconds_of(stop) if stop else None)
        limit = model.pop("concurrencyLimit", 0)
        section.set("concurrency", limit if isinstance(limit, int) and limit > 0 else None, "more wait, in turn")
        write_timeouts(section, table_of(model.pop("timeouts", None), where), where)
        return section

    def _server_name(self, section: Section, backend: Section, command: Command, stated: Any, name: str) -> None:
        """What the server calls the model: it is asked for it by a name that it lists, other than by llama-swap."""
        stated = str(stated) if stated else None
        served = stated if stated in command.words else command.served_name
        if command.takes_alias and served is None:
            served = section.path[1]
            backend.set("command", [*backend.get("command"), "--alias", served], "--alias is added: requests name it")
        if served is None and stated is None:
            section.change(f"models.{name}.cmd", "the server must list the model by this name: else set name")
        wanted = served or stated or name
        section.set("name", wanted if wanted != section.path[1] else None)
        if served is not None and stated not in (None, served):
            section.lose(f"models.{name}", "useModelName", stated, f"the command calls it {readable(served)}")

    def _address(self, section: Section, command: Command, model: dict[str, Any], where: str) -> None:
        """The port, where the command has a fixed one."""
        proxy = model.pop("proxy", None)
        marked = any(variable("PORT") in word for word in command.words)
        url = urlsplit(str(proxy or "").replace(variable("PORT"), "1"))
        try:
            port = url.port
        except ValueError:
            port = None
        if proxy is not None and url.hostname not in _LOOPBACK:
            section.lose(where, "proxy", proxy, "a command listens on this machine: on 127.0.0.1")
        elif proxy is not None and url.path.strip("/"):
            section.lose(where, "proxy", proxy, "its path: the server's own root is used")
        if proxy is not None and variable("PORT") in str(proxy):
            port = None
        if marked and port is None:
            return
        if port is None:
            written = command.option("--port", "-p", "--listen-port")
            port = int(written) if written is not None and written.isdigit() else None
        if port is not None and 1 <= port <= 65535:
            section.set("port", port)
        else:
            section.set("port", _PORTS.get(command.kind, 8080))
            section.change(f"{where}.cmd", "it names no port: write ${PORT} into it, or set the one that it listens on")

    def _common(self, section: Section, model: dict[str, Any], where: str, name: str) -> None:
        """What all models have."""
        section.add("aliases", [str(alias) for alias in _list(model.pop("aliases", None))])
        ttl = model.pop("ttl", -1)
        if ttl != -1:
            section.set("keep_alive", keep_alive_of(ttl, f"{where}.ttl"))
        if model.pop("unlisted", False) is True:
            section.set("listed", False)
        title, description = model.pop("name", None), model.pop("description", None)
        section.set("description", ": ".join(str(text) for text in (title, description) if text) or None)
        write_filters(section, table_of(model.pop("filters", None), f"{where}.filters"), where, name)
        backend = self._draft.section("backends", section.get("backend"))
        write_timeouts(
            section if backend.get("command") is None else backend, table_of(model.pop("timeouts", None), where), where
        )
        for key, value in model.items():
            section.lose(where, key, value, _MODEL_LOST.get(key, "not known here"))

    def _peer(self, name: str, peer: dict[str, Any]) -> None:
        where, draft = f"peers.{name}", self._draft
        url = peer.pop("proxy", None)
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ConfigError(f"{where}.proxy: llama-swap needs a URL here.")
        backend = draft.section("backends", draft.name_for("backends", name))
        backend.above.append(f"{where}: a server with OpenAI's API.")
        backend.set("kind", "openai")
        backend.set("url", url.rstrip("/").removesuffix("/v1") + "/v1")
        if key := peer.pop("apiKey", None):
            backend.set("key", key if variables_in(str(key)) else draft.secret(f"{name}_KEY", f"{where}.apiKey"))
        write_timeouts(backend, table_of(peer.pop("timeouts", None), where), where)
        filters = table_of(peer.pop("filters", None), where)
        models = peer.pop("models", None) or []
        elsewhere = self._served_elsewhere(name)
        for model in models if isinstance(models, list) else [models]:
            model = str(model)
            full = f"{name}/{model}"
            section = draft.section("models", draft.name_for("models", full))
            self._models[full] = section
            section.set("backend", backend.path[1])
            section.set("name", model)
            section.add("aliases", [] if model in elsewhere else [model])
            write_filters(section, dict(filters), where, full)
        for key, value in peer.items():
            backend.lose(where, key, value, "not known here")

    def _served_elsewhere(self, peer: str) -> set[str]:
        """Names that local models, or models of other peers, have."""
        names = set(self._models)
        return names | {str(section.get("name")) for section in self._draft.sections("models") if section.get("name")}

    def _selectors(self, selectors: dict[str, Any]) -> None:
        for name, selector in selectors.items():
            selector = table_of(selector, f"selectors.{name}")
            where = f"selectors.{name}"
            targets = [str(target) for target in _list(selector.get("targets"))]
            section = self._find(targets[0]) if targets else None
            if section is None:
                self._draft.top.lose("selectors", name, selector, "its first target is no model of this file")
                continue
            section.add("aliases", [name])
            for key in ("strategy", "settings", "name", "description", "metadata", "unlisted"):
                if key in selector and not (key == "strategy" and selector[key] == "pin"):
                    section.lose(where, key, selector[key], "the name is an alias of its first target here")
            if len(targets) > 1:
                section.lose(
                    where,
                    "targets",
                    None,
                    f"only the first one is used; {', '.join(map(readable, targets[1:]))} are not",
                )

    def _find(self, name: str) -> Section | None:
        """The table of a model, by its name or an alias."""
        if name in self._models:
            return self._models[name]
        return next((each for each in self._models.values() if name in (each.get("aliases") or [])), None)

    def _hooks(self, hooks: Any) -> None:
        hooks = table_of(hooks, "hooks")
        startup = table_of(hooks.pop("on_startup", None), "hooks.on_startup")
        preload = startup.pop("preload", None) or []
        for name in _list(preload):
            section = self._find(str(name).strip())
            if section is not None and self._is_peer(section):
                section.lose("hooks.on_startup", "preload", str(name), "it runs elsewhere")
            elif section is None:
                self._draft.top.lose("hooks.on_startup.preload", str(name), None, "no model has that name")
            else:
                section.set("preload", True)
        for where, rest in (("hooks", hooks), ("hooks.on_startup", startup)):
            for key, value in rest.items():
                self._draft.top.lose(where, key, value, "not known here")

    def _is_peer(self, section: Section) -> bool:
        return self._draft.section("backends", section.get("backend")).get("url") is not None

    def _priorities(self, scheduler: Any) -> None:
        scheduler = table_of(scheduler, "routing.scheduler")
        scheduler.pop("use", None)  # fifo, the only one
        settings = table_of(scheduler.pop("settings", None), "routing.scheduler.settings")
        fifo = table_of(settings.pop("fifo", None), "routing.scheduler.settings.fifo")
        where = "routing.scheduler.settings.fifo"
        for name, priority in table_of(fifo.pop("priority", None), where).items():
            section = self._find(name)
            if section is None or not isinstance(priority, int) or isinstance(priority, bool):
                self._draft.top.lose(f"{where}.priority", name, priority, "no model has that name, or it is no number")
                continue
            section.set("priority", max(-100, min(100, priority)))
            if abs(priority) > 100:
                section.change(f"{where}.priority.{name}", "-100 to 100 here")
        for inside, rest in (("routing.scheduler", scheduler), ("routing.scheduler.settings", settings), (where, fifo)):
            for key, value in rest.items():
                self._draft.top.lose(inside, key, value, "not known here")

    def _pull(self, keys: EngineKeys) -> None:
        draft_model = keys.keys.get("speculation", {})
        for hub in (keys.keys.get("hub"), draft_model.get("hub")):
            if hub is not None:
                self._draft.steps.append(f"miner models pull hf:{readable(hub)}")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _place(command: Command, value: str) -> int | None:
    """Where a value stands among the words."""
    return next((place for place, _, secret in command.secrets() if secret == value), None)


def _environment(value: Any, where: str) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) and "=" in each for each in value):
        raise ConfigError(f"{where}.env: llama-swap needs a list of NAME=value here.")
    return [(name, text) for name, _, text in (each.partition("=") for each in value)]
