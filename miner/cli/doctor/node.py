"""A running node at --url: whether it responds, is ready, who may use it, what it serves, and a probe through it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from miner import __version__
from miner.cli.doctor.context import TRAINED_FOR_MORE, generates
from miner.cli.doctor.explain import row_of
from miner.cli.doctor.exposure import NEW_KEY_LINE
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.network import judged_skew, skew_in
from miner.cli.doctor.node_models import models_of
from miner.cli.doctor.node_requests import Node, object_of
from miner.cli.doctor.row import Check, Row, ok, skipped
from miner.cli.doctor.targets import Target
from miner.core.http.errors import parse_error_body
from miner.core.models.memory.capacity import ENOUGH
from miner.errors import BackendUnavailableError, MinerError
from miner.gateway.client_address import is_loopback

_GROUP = "Node"
_NEW_KEY = "miner keys new NAME --admin"


def checks() -> list[Check]:
    """One check: each step needs the one before."""
    return [Check("node", _GROUP, look, 900.0)]


async def look(facts: Facts) -> AsyncGenerator[Row, None]:
    """All rows."""
    node = Node(facts)
    began, sent = time.monotonic(), time.time()
    try:
        alive = await node.get("/livez", key=False)
    except MinerError as error:
        row = row_of("node", error, Target("node", "node", None, by_url=True))
        nobody = is_loopback(node.host) and isinstance(error, BackendUnavailableError) and "refused" in error.message
        fix = (
            f"miner serve --port {urlsplit(node.url).port or 8088}"
            if nobody  # else the port is taken, by what does not respond as a node
            else f"curl -v --max-time 10 {node.upstream.shown_url}/livez"
        )
        yield Row(
            "node",
            "problem",
            row.summary,
            row.fix if "SSL_CERT" in (row.fix or "") or "PROXY" in (row.fix or "") else fix,
            row.hint,
            row.seen,
        )
        yield skipped("node: keys, models, probe", "it has to respond first")
        return
    latency = time.monotonic() - began
    is_node = alive.status == 200 and object_of(alive) == {"status": "ok"}
    seen: dict[str, Any] = {"url": node.upstream.shown_url, "status": alive.status, "latency": round(latency, 4)}
    if is_node:
        yield ok("node", f"{node.upstream.shown_url} responds in {latency * 1000:.0f} ms", **seen)
    else:
        yield Row(
            "node",
            "note",
            f"{node.upstream.shown_url} is no `miner serve` (/livez: HTTP {alive.status}): it is treated as any "
            "server with OpenAI's API",
            f"curl -i {node.upstream.shown_url}/livez",
            seen=seen,
        )
    skew = skew_in(alive, sent)
    if skew is not None:
        yield judged_skew({node.url: skew})
    access = await _access(node)
    yield access
    if access.name == "node: key" and access.verdict == "problem":
        yield skipped("node: version, models, probe", "it has to accept the key first")
        return
    if is_node:
        yield await _version(node)
        yield await _ready(node)
        for found in await _admin(node):
            if found is not None:
                yield found
    async with aclosing(models_of(node, facts, is_node=is_node)) as rows:
        async for row in rows:
            yield row


async def _version(node: Node) -> Row:
    """The node's version and this command's."""
    try:
        found = object_of(await node.get("/openapi.json"))
    except MinerError as error:
        return skipped("node: version", error.message.rstrip("."))
    info = found.get("info")
    version = info.get("version") if isinstance(info, dict) else None
    seen = {"node": version, "cli": __version__}
    if version is None:
        return skipped("node: version", "it does not say its version", **seen)
    if version != __version__:
        return Row(
            "node: version",
            "note",
            f"the node has {version}, this command {__version__}",
            f'pip install "llm-service-backends=={version}"',
            "Or restart the node after its upgrade.",
            seen,
        )
    return ok("node: version", f"{version}, as this command", **seen)


async def _ready(node: Node) -> Row:
    """What /readyz says."""
    try:
        response = await node.get("/readyz")
    except MinerError as error:
        return Row("node: ready", "problem", error.message.rstrip("."), node.logs_line, error.hints_for_people)
    found = object_of(response)
    if response.status == 200:
        if config := found.get("config"):
            return Row(
                "node: ready",
                "problem",
                f"ready, but its miner.toml is not served as it is now: {config}",
                "miner config check",
                seen={"status": 200},
            )
        return ok("node: ready", "ready", status=200)
    reason = str(found.get("reason") or f"HTTP {response.status}").rstrip(".")
    starting = reason in ("the default model is being loaded", "the server is starting")
    return Row(
        "node: ready",
        "note" if starting else "problem",
        f"not ready{' yet' if starting else ''}: {reason}",
        f"curl -i {node.upstream.shown_url}/readyz" if starting else "miner doctor  # on its machine",
        seen={"status": response.status},
    )


async def _access(node: Node) -> Row:
    """Whether it needs a key, and takes this one."""
    try:
        without = await node.get("/v1/models", key=False)
        given = await node.get("/v1/models") if node.key else without
    except MinerError as error:
        return Row("node: key", "problem", error.message.rstrip("."), node.logs_line, error.hints_for_people)
    open_, private = without.status == 200, is_loopback(node.host)
    seen = {"without_key": without.status, "with_key": given.status if node.key else None}
    if given.status in (401, 403):
        message = parse_error_body(given.body).message.rstrip(".")
        fix = f"miner doctor --url {node.upstream.shown_url} --key -" if not node.key else "miner keys new NAME"
        words = "the key is refused" if node.key else "it requires a key"
        return Row(
            "node: key", "problem", f"{words}: {message}", fix, "`miner keys new NAME` on its machine makes one.", seen
        )
    if open_ and not private:
        return Row(
            "node: exposure",
            "problem",
            f"{node.host} serves anybody who reaches it: no key is needed",
            f"{NEW_KEY_LINE}  # on its machine, then restart",
            seen=seen,
        )
    if not private and node.url.startswith("http://"):
        return Row(
            "node: exposure",
            "note",
            "keys are needed, and travel without TLS",
            f"caddy reverse-proxy --from HOST --to :{urlsplit(node.url).port or 80}",
            seen=seen,
        )
    if open_:
        return ok("node: key", "none is needed on this machine", **seen)
    return ok("node: key", "a key is needed, and this one is accepted", **seen)


async def _admin(node: Node) -> list[Row | None]:
    """What only admins see: models, the file, metrics."""
    try:
        models = await node.get("/admin/models")
        if models.status in (401, 403):
            why = "the key has no admin right" if node.key else "no admin key is given"
            return [
                skipped(
                    "node: admin routes",
                    f"{why}: models' states, miner.toml and metrics are not looked at",
                    fix=_NEW_KEY,
                )
            ]
        return [
            *_states(node, object_of(models), await _trained_lengths(node)),
            await _config(node),
            await _metrics(node),
        ]
    except MinerError as error:
        return [Row("node: admin routes", "problem", error.message.rstrip("."), node.logs_line, error.hints_for_people)]


async def _trained_lengths(node: Node) -> dict[str, int]:
    """The tokens that models were trained for, by their names, as far as the node says them."""
    lengths: dict[str, int] = {}
    try:
        listed = object_of(await node.get("/api/tags")).get("models")
    except MinerError:
        return lengths
    for each in listed if isinstance(listed, list) else ():
        details = each.get("details") if isinstance(each, dict) else None
        length = details.get("context_length") if isinstance(details, dict) else None
        if isinstance(length, int) and isinstance(each.get("name"), str):
            lengths[each["name"]] = length
    return lengths


def _states(node: Node, found: dict[str, Any], trained: dict[str, int]) -> list[Row | None]:
    states = found.get("models")
    if not isinstance(states, list) or not all(isinstance(each, dict) for each in states):
        return [skipped("node: models", "it does not list them")]
    rows: list[Row | None] = []
    for each in states:
        if each.get("state") == "failed":
            name = each.get("name")
            rows.append(
                Row(
                    f"node: {name}",
                    "problem",
                    f"failed: {each.get('reason') or 'no reason is given'}".rstrip("."),
                    f"miner models reset {name} --url {node.upstream.shown_url}",
                    "It is started again by the next request.",
                    {"state": "failed"},
                )
            )
        context = each.get("context_length")
        able = each.get("capabilities")
        is_for_prompts = generates(able if isinstance(able, list) else None)
        if is_for_prompts and isinstance(context, int) and context < ENOUGH and each.get("state") not in ("remote",):
            length = trained.get(str(each.get("name")))
            limited = length is not None and length <= context
            raised = "Set `context` of the model, or LLAMACPP_CTX_SIZE, up to its trained length."
            rows.append(
                Row(
                    f"node: {each.get('name')}",
                    "note",
                    f"{context} tokens a request; agents need about {ENOUGH}",
                    None,
                    TRAINED_FOR_MORE if limited else raised,
                    {"context": context, "trained": length},
                )
            )
    loaded = [each.get("name") for each in states if each.get("state") in ("ready", "sleeping")]
    summary = f"{len(states)} model{'' if len(states) == 1 else 's'}, loaded: {', '.join(map(str, loaded)) or 'none'}"
    return [
        ok(
            "node: models",
            summary,
            models=[{key: each.get(key) for key in ("name", "state", "backend")} for each in states],
        ),
        *rows,
    ]


async def _config(node: Node) -> Row | None:
    response = await node.get("/admin/config")
    found = object_of(response)
    if response.status != 200:
        return None
    seen = {"path": found.get("path"), "loaded_at": found.get("loaded_at")}
    if found.get("error"):
        return Row(
            "node: miner.toml",
            "problem",
            f"not served as it is now: {found['error']}".rstrip("."),
            f"miner config check --config {found.get('path')}",
            found.get("hint"),
            seen,
        )
    return ok("node: miner.toml", f"{found.get('path')} is served", **seen)


async def _metrics(node: Node) -> Row:
    response = await node.get("/metrics")
    if response.status != 200:
        return Row(
            "node: metrics",
            "note",
            f"/metrics answers HTTP {response.status}",
            f"curl -i {node.upstream.shown_url}/metrics",
            seen={"status": response.status},
        )
    open_ = (await node.get("/metrics", key=False)).status == 200
    if open_ and not is_loopback(node.host):
        return Row("node: metrics", "note", "anybody can read /metrics", "unset MINER_SERVE_METRICS  # on its machine")
    return ok("node: metrics", f"{response.body.count(b'# TYPE')} metrics", open=open_)
