"""The backends: whether each can be loaded, its version, and the range that was tested."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from miner.cli.doctor.facts import Facts
from miner.cli.doctor.foreign import LOAD_SECONDS, foreign_reason, is_foreign
from miner.cli.doctor.row import Check, Row, Verdict, ok, skipped
from miner.cli.doctor.versions import TESTED, judge
from miner.cli.guess import meant
from miner.config.config import MinerConfig
from miner.config.file.merge import LOCAL
from miner.config.file.schema import Backend
from miner.core.llms.pool.plan import ADDRESS, config_for, plan_service
from miner.core.llms.registry import GROUP, POOL, load_backend, registered_names
from miner.errors import EngineStartError, MinerError

_BUILT_IN = ("llamacpp", "ollama", "vllm", "openai", POOL)
_VERSION_SECONDS = 20.0


def checks() -> list[Check]:
    """The checks of this file: one for each registered backend, so that none holds up another."""
    names = list(dict.fromkeys([*_registered(), "llamacpp"]))
    return [
        Check("backend in use", "Backends", in_use),
        *(Check(f"backend {name}", "Backends", _Backend(name), LOAD_SECONDS + 15) for name in names if name != POOL),
    ]


def _registered() -> list[str]:
    try:
        return registered_names()
    except Exception:  # noqa: BLE001  (metadata of another distribution that cannot be read: `in_use` reports it)
        return list(_BUILT_IN)


def used_backends(facts: Facts) -> set[str]:
    """The kinds of backend that requests go to."""
    if facts.backend != POOL:
        return {facts.backend, *filter(None, map(str.strip, facts.settings.llm_fallbacks.split(",")))}
    if facts.loaded is None:
        return set()
    content, named = facts.loaded.content, named_backends(facts)
    kinds = {name: table.kind for name, table in content.backends.items()}
    exposed = {table.kind for table in content.backends.values() if table.expose}
    return {kinds.get(name, name) for name in named} | exposed


def named_backends(facts: Facts) -> set[str]:
    """The names of the backends that the file's models have."""
    assert facts.loaded is not None
    content = facts.loaded.content
    return {model.backend or content.defaults.backend or LOCAL for model in content.models.values()}


def in_use(facts: Facts) -> Iterator[Row]:
    """Whether the backend that the settings name exists, and its fallbacks."""
    names = registered_names()
    if facts.backend == POOL:
        yield ok("backend in use", "pool: miner.toml says which model is served by what", backend=POOL)
        return
    for name in [facts.backend, *filter(None, map(str.strip, facts.settings.llm_fallbacks.split(",")))]:
        if name not in names:
            variable = "LLM_BACKEND" if name == facts.backend else "MINER_LLM_FALLBACKS"
            right = meant(name, names) or "llamacpp"
            yield Row(
                variable,
                "problem",
                f"there is no backend {name!r}; there are {', '.join(names)}",
                f"export {variable}={right}",
                "`miner serve` refuses it; the library would use the first available one.",
                {"backend": name, "available": names},
            )
            return
    fallbacks = facts.settings.llm_fallbacks.strip(" ,")
    yield ok("backend in use", f"{facts.backend}{f', then {fallbacks}' if fallbacks else ''}", backend=facts.backend)


def config_of_kind(facts: Facts, kind: str) -> MinerConfig:
    """The settings that a built-in kind of backend has here: those of its table in miner.toml, where that counts. Of
    several tables, one for which engines start here, if there is one: only that needs an engine.
    """
    if facts.backend != POOL or facts.loaded is None or kind not in ADDRESS:
        return facts.settings
    content = facts.loaded.content
    tables = {name: table for name, table in content.backends.items() if table.kind == kind}
    if kind == LOCAL and LOCAL not in content.backends and LOCAL in named_backends(facts):
        tables[LOCAL] = Backend.model_construct(kind=LOCAL)
    for name, table in sorted(tables.items(), key=lambda each: each[1].url is not None or each[1].command is not None):
        try:
            config: MinerConfig = config_for(plan_service(name, table, facts.loaded), facts.settings)
        except MinerError:  # a key that cannot be read: the check of the file reports it
            continue
        return config
    return facts.settings


class _Backend:
    """The check of one backend."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, facts: Facts) -> Iterator[Row]:
        name, row = self.name, f"backend {self.name}"
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            yield Row(
                row,
                "problem",
                "its entry point is missing: this installation is damaged",
                "pip install --force-reinstall llm-service-backends",
            )
            return
        point = points[0]
        used = name in used_backends(facts)
        seen: dict[str, Any] = {
            "entry_point": point.value,
            "distribution": point.dist.name if point.dist else None,
            "version": point.dist.version if point.dist else None,
            "in_use": used,
        }
        if len(points) > 1:
            others = [other.dist.name if other.dist else "?" for other in points[1:]]
            yield Row(
                row,
                "note",
                f"{len(points)} packages register it; {seen['distribution']} counts",
                f"pip uninstall {others[0]}",
                seen={"others": others},
            )
        config = config_of_kind(facts, name)
        reason, configured = self._reason(facts, config)
        if reason is None:
            yield from self._versions(config, row, seen)
        elif not configured and not used:
            yield skipped(row, reason, **seen)
        else:
            found = re.search(r"pip install (\S+)", reason)
            fix = None
            if found:
                fix = f"pip install {found[1]}"
            elif not used and seen["distribution"]:
                fix = f"pip uninstall {seen['distribution']}"
            elif not configured:
                fix = "export MINER_OPENAI_API_BASE=http://localhost:30000/v1" if name == "openai" else None
            verdict: Verdict = "problem" if used or not name_is_built_in(name) else "note"
            yield Row(
                row,
                verdict,
                f"cannot be used: {' '.join(reason.split()).rstrip('.')[:400]}",
                fix or "miner backends",
                None if used else "It is not in use here; the others are not affected.",
                seen,
            )

    def _reason(self, facts: Facts, config: MinerConfig) -> tuple[str | None, bool]:
        """Why it cannot be used, and whether the settings name something for it."""
        if is_foreign(self.name):
            return foreign_reason(self.name, facts.options.seconds)
        backend = load_backend(self.name, config)
        return backend.reason, backend.configured

    def _versions(self, config: MinerConfig, row: str, seen: dict[str, Any]) -> Iterator[Row]:
        """The version of the engine behind a backend that can be used."""
        if self.name == "llamacpp" and not config.llamacpp_api_base:
            engine, found = _llamacpp_engine(config.llamacpp_server)
        elif self.name == "vllm":
            engine, found = "vllm", _installed("vllm")
            if found is None:
                yield ok(row, "can be used; its server says its version", **seen)
                return
        else:
            yield ok(
                row, "can be used" + (f" ({seen['distribution']} {seen['version']})" if seen["version"] else ""), **seen
            )
            return
        tested = TESTED[engine]
        seen |= {"engine": engine, "engine_version": found, "tested": [tested.first, tested.last]}
        said = judge(engine, found)
        if said is not None:
            yield Row(
                row,
                "note",
                f"{engine} {found} is {said}",
                tested.update,
                "It may work; what it does differently is not known here.",
                seen,
            )
        else:
            yield ok(row, f"{engine} {found or 'of an unknown version'}", **seen)


def name_is_built_in(name: str) -> bool:
    """Whether the backend is one of miner's own."""
    return name in _BUILT_IN


def _llamacpp_engine(server: str | None) -> tuple[str, str | None]:
    """The engine that starts here, and its version.

    Raises:
        EngineStartError: none is installed.
    """
    from miner.core.engine.launchers import BinaryLauncher, find_launcher

    launcher = find_launcher(server)
    if not isinstance(launcher, BinaryLauncher):
        return launcher.name, _installed(launcher.name)
    try:
        done = subprocess.run(
            [str(launcher.binary), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineStartError(f"{launcher.binary} --version: {error}", backend="llamacpp") from error
    text = (done.stdout + done.stderr).decode(errors="replace")
    build = re.search(r"version: (\d+) \(|build (\d+)", text)
    number = next(filter(None, build.groups()), None) if build else None
    return launcher.name, f"b{number}" if number and number != "0" else None


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
