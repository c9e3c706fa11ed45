"""Each engine that is configured: reachable, its version, the model, the context, and a probe."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import msgspec

from miner.cli.doctor import local_engine
from miner.cli.doctor.context import context_row
from miner.cli.doctor.explain import few, model_line, row_of, start_line
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.file_backends import checks_of_tables
from miner.cli.doctor.foreign import LOAD_SECONDS, foreign_reason, is_foreign
from miner.cli.doctor.probe import probes
from miner.cli.doctor.probed_model import Choice, choose, running_names
from miner.cli.doctor.row import Check, Row, Verdict, ok, skipped
from miner.cli.doctor.targets import Target, examined_here, targets
from miner.cli.doctor.versions import TESTED, judge
from miner.core.http.errors import parse_error_body, status_error
from miner.core.llms.http_backend import HTTPBackend
from miner.core.wire import ModelInfo
from miner.errors import MinerError, ModelNotFoundError

_ANSWER_SECONDS = 5.0
"""For a list of models, or a version: a server that takes longer is hung or very busy."""
_ROOM_SECONDS = 20.0
"""For what is not the probe."""
_GROUP = "Engines"
_VERSION_PATHS = {"ollama": "/api/version", "vllm": "/version", "llamacpp": "/props"}
_ENGINE = {"ollama": "ollama", "vllm": "vllm", "llamacpp": "llama-server"}


def checks(facts: Facts) -> list[Check]:
    """A check for each target."""
    seconds = _ROOM_SECONDS + (3 * facts.options.seconds if facts.options.probe else 0.0)
    found = targets(facts)
    first_local = examined_here(found)
    wanted = [target for target in found if not target.is_local or target is first_local]
    examined = {target.place[1] for target in wanted if target.place is not None}
    others = checks_of_tables(facts, _GROUP, examined)
    if not wanted and not others:
        return [Check("engines", _GROUP, _none)]
    imports = min(LOAD_SECONDS, facts.options.seconds)
    return [
        *(
            Check(target.name, _GROUP, _check(target), seconds + (imports if is_foreign(target.kind) else 0.0))
            for target in wanted
        ),
        *others,
    ]


def _none(facts: Facts) -> Iterator[Row]:
    if facts.config_error is not None:
        yield skipped("engines", "miner.toml says which engines there are, and it cannot be used: see Settings")
    else:
        yield skipped("engines", "none is configured")


def _check(target: Target) -> Callable[[Facts], AsyncGenerator[Row, None]]:
    return lambda facts: local_engine.look(target, facts) if target.is_local else _remote(target, facts)


async def _remote(target: Target, facts: Facts) -> AsyncGenerator[Row, None]:
    """A server: what depends on a step that fails is skipped."""
    reason = foreign_reason(target.kind, facts.options.seconds)[0] if is_foreign(target.kind) else None
    if reason is not None:
        yield skipped(target.name, f"not looked at: {' '.join(reason.split())[:200]}")
        return
    try:
        service = target.service()
    except MinerError as error:
        yield skipped(target.name, f"not looked at: {error.message.rstrip('.')}")
        return
    async with service:
        if not isinstance(service, HTTPBackend):
            yield await _health(target, service)
            return
        began = time.monotonic()
        try:
            models = await service._served_models(total=_ANSWER_SECONDS)
        except MinerError as error:
            yield row_of(target.name, error, target, url=service._http().upstream.shown_url)
            yield skipped(f"{target.name}: model, context, probe", "its server has to respond first")
            return
        latency = time.monotonic() - began
        shown = service._http().upstream.shown_url
        try:
            version = await _version(target, service)
        except MinerError as error:
            yield row_of(target.name, error, target, url=shown)
            yield skipped(f"{target.name}: model, context, probe", "its server has to accept the key first")
            return
        yield _reached(target, shown, version, latency, len(models))
        row, wanted = await _model(target, service, models)
        yield row
        if not wanted or not target.used:
            return
        choice = Choice(wanted[0], "asked for")
        if facts.options.model is None:
            try:
                choice = choose(wanted, await _running(service))
            except MinerError as error:
                yield row_of(f"{target.name}: probe", error, target)
                return
        model = choice.model
        yield await context_row(target, service, model or wanted[0])
        if model is None and facts.options.probe:
            line = f"miner doctor --model {target.models[0] if target.models else wanted[0].id}"
            yield skipped(f"{target.name}: probe", f"nothing was probed: {choice.why}", fix=line)
            return
        async with aclosing(probes(target.name, service, target, facts, model)) as rows:
            async for each in rows:
                yield each


def _reached(target: Target, url: str, version: str | None, latency: float, models: int) -> Row:
    engine = _ENGINE.get(target.kind)
    seen: dict[str, Any] = {"url": url, "version": version, "latency": round(latency, 4), "models": models}
    words = f"{url} responds in {latency * 1000:.0f} ms" + (f", version {version}" if version else "")
    if engine is not None and version is not None and (said := judge(engine, version)) is not None:
        return Row(target.name, "note", f"{words}, {said}", TESTED[engine].update, seen=seen)
    return ok(target.name, words, **seen)


async def _version(target: Target, service: HTTPBackend) -> str | None:
    """The server's version, None where it has none.

    Raises:
        AuthenticationError: it refuses the key (llama-server lists its models without one).
    """
    path = _VERSION_PATHS.get(target.kind)
    if path is None:
        return None
    http = service._http()
    response = await http.request("GET", path, total=_ANSWER_SECONDS, root=True)
    if response.status in (401, 403):
        raise status_error(response.status, parse_error_body(response.body), http.upstream)
    try:
        answer = msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return None
    if response.status != 200 or not isinstance(answer, dict):
        return None
    version = answer.get("version") or str(answer.get("build_info") or "").partition("-")[0]
    return str(version)[:60] or None


async def _running(service: HTTPBackend) -> set[str]:
    """The names of what the server has in memory."""
    return {name for running in await service.running_models() for name in running_names(running.info)}


async def _model(target: Target, service: HTTPBackend, models: list[ModelInfo]) -> tuple[Row, list[ModelInfo]]:
    """Whether the models that are wanted are there; and those that requests may go to."""
    name, names = f"{target.name}: model", [model.id for model in models]
    seen = {"available": names[:50], "wanted": list(target.models)}
    verdict: Verdict = "problem" if target.used else "note"
    if not names:
        return Row(
            name,
            verdict,
            "the server has no model",
            start_line(target)
            if target.kind != "ollama"
            else f"ollama pull {target.models[0] if target.models else 'llama3.2'}",
            service.no_model_hint,
            seen,
        ), []
    found: list[ModelInfo] = []
    for wanted in target.models:
        try:
            info = await service._get_model(wanted)
        except ModelNotFoundError:
            return Row(
                name,
                verdict,
                f"{service._http().upstream.label} has no model {wanted!r}; it has {few(names)}",
                model_line(wanted, names, target),
                seen=seen,
            ), []
        except MinerError as error:
            return row_of(name, error, target), []
        found += [info] if info is not None else []
    if found:
        return ok(
            name, f"{', '.join(target.models)} is there" if len(target.models) == 1 else "all are there", **seen
        ), found
    try:
        only = await service.resolve_model(None)
    except ModelNotFoundError:
        line = f"export DEFAULT_MODEL={names[0]}"
        return Row(
            name,
            "note",
            f"there are {len(names)} models and no default: each request must name one of {few(names)}",
            line,
            seen=seen,
        ), []
    except MinerError as error:
        return row_of(name, error, target), []
    return ok(name, f"{names[0]} is the only one", **seen), [only] if only is not None else []


async def _health(target: Target, service: Any) -> Row:
    """What another package's backend says of itself."""
    health = await service.health()
    seen = {"state": health.state, "models": health.models[:50], "latency": round(health.latency or 0.0, 4)}
    if health:
        return ok(target.name, f"ready: {few(health.models) or 'it names no models'}", **seen)
    return Row(
        target.name,
        "problem" if target.used else "note",
        (health.reason or health.state).rstrip("."),
        f"miner generate --backend {target.name} hello",
        health.hint,
        seen,
    )
