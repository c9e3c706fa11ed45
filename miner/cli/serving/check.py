"""`miner serve --check`: whether what would be served can be, without serving it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from miner.cli.configuration.settings import all_classes, described_settings, mistyped_variables, unreadable_dotenv
from miner.core._typing import override
from miner.errors import ConfigError, MinerError

if TYPE_CHECKING:
    import argparse

    from miner.config.config import MinerConfig
    from miner.core.llms.LLMService import LLMService
    from miner.gateway.settings import GatewaySettings


_SOURCES = ((), ("file",), ("hub",), ("name",))
"""What a note is about, below a model, that says that the model is not there."""


@dataclass(slots=True)
class Finding:
    """One thing that was checked."""

    name: str
    verdict: Literal["ok", "note", "problem"]
    message: str
    hint: str | None = None


@dataclass(slots=True)
class Check:
    """All that was checked, and what would be served."""

    findings: list[Finding] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    config: str | None = None
    backends: list[str] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it could be served."""
        return all(each.verdict != "problem" for each in self.findings)

    def add(self, name: str, verdict: Literal["ok", "note", "problem"], message: str, hint: str | None = None) -> None:
        """Add a finding."""
        self.findings.append(Finding(name, verdict, message, hint))

    def attempt(self, name: str, work: Callable[[], str | None]) -> bool:
        """Run a check that says what it found, or None; its error is a problem. Returns whether there was none."""
        try:
            found = work()
        except MinerError as error:
            self.add(name, "problem", error.message, error.hints or None)
            return False
        if found is not None:
            self.add(name, "ok", found)
        return True

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "ok": self.ok, "checks": [asdict(each) for each in self.findings], "addresses": self.addresses,
            "config": self.config, "backends": self.backends, "models": self.models, "keys": self.keys,
        }  # fmt: skip


def check(
    args: argparse.Namespace,
    make_settings: Callable[[], tuple[GatewaySettings, MinerConfig]],
    make_service: Callable[[MinerConfig], LLMService],
) -> Check:
    """Check settings, keys, address, port, backend, model and memory. Nothing is started, no server is called.

    Args:
        args: of the command.
        make_settings: raises ConfigError, as serving would.
        make_service: the same.
    """
    found = Check()
    described = described_settings(all_classes()[:2], args)
    for setting in described:
        if setting.problem is not None:
            found.add("settings", "problem", setting.complaint)
    if (unreadable := unreadable_dotenv()) is not None:
        found.add("settings", "problem", unreadable)
    for line in mistyped_variables():
        found.add("settings", "note", line)
    try:
        settings, config = make_settings()
    except ConfigError as error:
        if found.ok:
            found.add("settings", "problem", error.message, error.hints or None)
        return found
    changed = [each.variable for each in described if each.changed]
    found.add("settings", "ok", f"set: {', '.join(changed)}" if changed else "all are the defaults")
    if found.attempt("keys", lambda: _keys(found, settings)):
        found.attempt("address", lambda: _address(found, settings))
    with _warnings_of("miner") as warnings:
        service: list[LLMService] = []

        def backend() -> str:
            service.append(make_service(config))
            return _backend(found, service[0], settings)

        if found.attempt("backend", backend):
            found.attempt("models", lambda: _models(found, service[0], config))
    for text in warnings:
        found.add("backend", "note", text)
    return found


def _keys(found: Check, settings: GatewaySettings) -> str | None:
    from miner.gateway.auth.key_store import count_keys
    from miner.gateway.client_address import is_loopback

    found.keys = count_keys(settings)
    if not found.keys:
        if is_loopback(settings.serve_host):
            return "not needed on this machine"
        if settings.serve_allow_unauthenticated:
            found.add("keys", "note", f"none: who can reach {settings.serve_host} can use it")
        return None  # `_address` refuses it
    return ", ".join(f"{number} of {source}" for source, number in found.keys.items())


def _address(found: Check, settings: GatewaySettings) -> str:
    from miner.gateway.server.sockets import listen, refuse_open_address, url_of

    refuse_open_address(settings)
    sockets = listen(settings)
    try:
        urls = [url_of(sock) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
    if settings.serve_port == 0:
        return f"{settings.serve_host}, any free port"
    found.addresses = urls
    return f"{' and '.join(urls)} {'is' if len(urls) == 1 else 'are'} free"


def _backend(found: Check, service: LLMService, settings: GatewaySettings) -> str:
    from miner.gateway.app import create_app
    from miner.gateway.concurrency import ignored_queue_settings
    from miner.gateway.server.announce import what_is_served

    create_app(service, settings)  # hosts, proxies, origins
    state = service.config_state
    found.config = None if state is None else str(state.path)
    found.backends = list(service.backend_names)
    for line in ignored_queue_settings(service, settings):
        found.add("backend", "note", line)
    return what_is_served(service)


def _models(found: Check, service: LLMService, config: MinerConfig) -> str | None:
    """The models of the file, or the one of llama.cpp, with what they take. Servers elsewhere are not asked."""
    if service.config_state is not None:
        return _table(found, config)
    if not service.runs_engines:
        found.models = [{"name": config.default_model}] if config.default_model else []
        return None
    from miner.cli.local_store import verdict_on
    from miner.core.llms.llamacpp.models import find_model
    from miner.core.models.memory.available import available_memory
    from miner.errors import ModelNotFoundError

    try:
        model = find_model(None, config)
    except ModelNotFoundError as error:
        if config.model_path or config.default_model:
            raise
        found.add("models", "note", error.message, "Requests have to name a model. DEFAULT_MODEL sets one.")
        return None
    verdict = verdict_on(model, config, available_memory())
    found.models = [
        {"name": model.alias, "context_length": verdict.load.ctx_size, "slots": verdict.load.parallel,
         "memory": verdict.placement.ram, "fits": verdict.fits}
    ]  # fmt: skip
    if verdict.fits is False:
        found.add("models", "problem", f"{model.alias}: {verdict.reason}", verdict.hint)
        return None
    return f"{model.alias}: {verdict.reason}"


def _table(found: Check, config: MinerConfig) -> str | None:
    from miner.cli.configuration.machine_check import check_here
    from miner.config.file.find import find_config
    from miner.config.file.merge import default_model
    from miner.config.file.problems import shown_path
    from miner.config.file.read import read_config
    from miner.core.llms.pool.table_fit import fit_table

    path = find_config(config.config)
    assert path is not None
    loaded = read_config(path)
    table = fit_table(loaded, config)
    found.models = [
        {
            "name": name,
            "backend": engine.backend,
            "context_length": engine.context,
            "slots": engine.slots,
            "memory": engine.memory,
            "fits": engine.problem is None,
        }
        for engine in table.engines
        for name in engine.models
    ]
    default = default_model(loaded.content)
    wanted = {name for name, model in loaded.content.models.items() if model.preload} | {default}
    file, notes = shown_path(path), [*loaded.notes, *check_here(loaded, config)]
    missing = {note.path[1]: note for note in notes if note.path[:1] == ("models",) and note.path[2:] in _SOURCES}
    for note in notes:
        if note not in missing.values():
            found.add("models", "note", note.located(file), note.hint)
    alone = all(engine.problem is not None for engine in table.engines)
    for engine in table.engines:
        told = [missing.pop(name) for name in engine.models if name in missing]
        if engine.problem is None and not told:
            continue
        # What is served without it is served; what is to be loaded at start has to be there.
        needed = engine.problem is not None and (alone or bool(wanted.intersection(engine.models)))
        verdict: Literal["note", "problem"] = "problem" if needed else "note"
        for note in told:
            found.add("models", verdict, note.located(file), note.hint)
        if not told:
            found.add("models", verdict, f"{engine.name}: {engine.problem}", engine.hint)
    for note in missing.values():
        found.add("models", "note", note.located(file), note.hint)
    good = [name for engine in table.engines if engine.problem is None for name in engine.models]
    return f"{len(good)} of {len(found.models)}: {', '.join(good)}" if good else None


@contextmanager
def _warnings_of(name: str) -> Iterator[list[str]]:
    """What is logged from warning on while the block lasts."""
    texts: list[str] = []

    class _Collector(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger, handler = logging.getLogger(name), _Collector(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def print_check(found: Check) -> None:
    """Print the findings for a person."""
    import sys

    from miner.cli.output.style import Style, columns
    from miner.cli.output.wrap import wrapped

    style = Style(sys.stdout)
    colours = {"ok": style.green, "note": style.yellow, "problem": style.red}
    width = min(columns(sys.stdout) or 100, 100)
    for each in found.findings:
        head = f"{colours[each.verdict](each.verdict.ljust(7))}  {each.name.ljust(8)}  "
        lines = wrapped(each.message, max(20, width - 19)).split("\n")
        print(head + lines[0])
        for line in lines[1:]:
            print(" " * 19 + line)
        if each.hint and each.verdict != "ok":
            for line in each.hint.split("\n"):
                print(" " * 19 + line.strip())  # whole: it may be a command to copy
    problems = sum(each.verdict == "problem" for each in found.findings)
    print("It can be served." if found.ok else f"It cannot be served: {problems} problem{'s' if problems > 1 else ''}.")
