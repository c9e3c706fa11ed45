"""Which models the test server in Ollama's form has, and which llama.cpp process serves each of them now."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.servers.captures import DATA, capture
from tests.servers.llama_runner import LlamaRunner, RunnerConfig, demo_model
from tests.servers.ollama_shapes import Refusal, now

__all__ = ["Models", "base_name"]

CAPABILITIES = {
    "smollm2": {"completion"},
    "smollm2-tools": {"completion", "tools"},
    "smollm2-think": {"completion", "thinking"},
    "smollm2-embed": {"embedding"},
}
TEMPLATES = {"smollm2": "plain.jinja", "smollm2-tools": "tools.jinja", "smollm2-think": "think.jinja"}
TRAINED = 8192
"""Tokens that the demo model was trained for: more are cut to that silently."""
MOST_TO_EMBED = 2048
"""Tokens of a text to embed: memory for a batch of that size is taken at once."""
MOST = 3
"""Models that stay loaded at a time."""


def base_name(model: Any) -> str:
    """The name without `:latest`."""
    return str(model).removesuffix(":latest")


class Models:
    """Loads on demand, and again when the context or `shift` is another than the loaded one's, as Ollama does."""

    def __init__(self, *, upstream: str | None, num_ctx: int, parallel: int, threads: int = 1) -> None:
        self.upstream = upstream
        self.num_ctx = num_ctx
        self.parallel = parallel
        self.threads = threads
        self.loads = 0
        """How many times a model has been loaded."""
        self._runners: dict[str, LlamaRunner] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def known(self, name: str) -> bool:
        """Whether there is such a model."""
        return name in ({"smollm2"} if self.upstream else CAPABILITIES)

    def context(self, body: dict[str, Any]) -> int:
        """Tokens of context that the request gets."""
        wanted = (body.get("options") or {}).get("num_ctx")
        return min(max(wanted, 4), TRAINED) if isinstance(wanted, int) else self.num_ctx

    def check(self, body: dict[str, Any], verb: str) -> str:
        """The model's name, if it is there and can do what the request asks for."""
        if not body.get("model"):
            raise Refusal(
                404 if verb == "generate" else 400, "model '' not found" if verb == "generate" else "model is required"
            )
        name = base_name(body["model"])
        if not self.known(name):
            if verb == "embed":
                raise Refusal(404, f'model "{body["model"]}" not found, try pulling it first')
            raise Refusal(404, f"model '{body['model']}' not found")
        able = CAPABILITIES[name]
        if verb == "embed":
            if "embedding" not in able and body.get("input"):
                raise Refusal(501, "This server does not support embeddings. Start it with `--embeddings`")
            return name
        if "completion" not in able:
            raise Refusal(400, f'"{body["model"]}" does not support {verb}')
        if body.get("tools") and "tools" not in able:
            raise Refusal(400, f"registry.ollama.ai/library/{name}:latest does not support tools")
        if body.get("suffix"):
            raise Refusal(400, f"registry.ollama.ai/library/{name}:latest does not support insert")
        if body.get("think") and "thinking" not in able:
            raise Refusal(400, f'"{body["model"]}" does not support thinking')
        keep = body.get("keep_alive")
        if isinstance(keep, str) and not re.fullmatch(r"0|-?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+", keep):
            raise Refusal(400, f'time: missing unit in duration "{keep}"')
        return name

    @asynccontextmanager
    async def use(self, name: str, body: dict[str, Any]) -> AsyncIterator[LlamaRunner]:
        """A runner of this model as the request wants it, held while the block lasts."""
        async with self._locks[name]:
            runner = await self._ready(name, self.context(body), body.get("shift") is not False)
            held = runner.__enter__()
        try:
            yield held
        finally:
            held.__exit__()

    async def _ready(self, name: str, num_ctx: int, shift: bool) -> LlamaRunner:
        runner = self._runners.get(name)
        if self.upstream:
            if runner is None:
                config = RunnerConfig("", name, num_ctx=self.num_ctx, parallel=self.parallel)
                runner = self._runners[name] = LlamaRunner.attach(self.upstream, config)
            return runner
        embedding = "embedding" in CAPABILITIES[name]
        template = (DATA / "templates" / TEMPLATES[name]).read_text(encoding="utf-8") if name in TEMPLATES else ""
        config = RunnerConfig(
            path=str(demo_model()),
            name=name,
            num_ctx=min(num_ctx, MOST_TO_EMBED) if embedding else num_ctx,
            parallel=1 if embedding else self.parallel,
            shift=shift and not embedding,
            embedding=embedding,
            template=template,
            threads=self.threads,
            # An input for embedding must fit into one batch.
            batch=min(num_ctx, MOST_TO_EMBED) if embedding else 256,
        )
        if runner is not None and runner.alive and runner.config == config:
            # The order of use is the order in the dict.
            self._runners[name] = self._runners.pop(name)
            return runner
        if runner is not None:
            await runner.idle.wait()
            await self._stop(name)
        for other in [other for other, held in self._runners.items() if not held.users][
            : max(0, len(self._runners) - MOST + 1)
        ]:
            await self._stop(other)
        runner = self._runners[name] = await LlamaRunner.start(config)
        self.loads += 1
        return runner

    def listed(self) -> list[dict[str, Any]]:
        """What `/api/tags` lists: the recorded entries, and one like them for the embedding model, which came later."""
        entries = capture("ollama", "tags").json["models"]
        name = "smollm2-embed:latest"
        entries.append(entries[-1] | {"name": name, "model": name, "digest": "e" * 64, "capabilities": ["embedding"]})
        return [entry for entry in entries if self.known(base_name(entry["name"]))]

    def loaded(self) -> list[dict[str, Any]]:
        """What `/api/ps` lists."""
        like = {base_name(entry["name"]): entry for entry in self.listed()}
        told = []
        for name, runner in self._runners.items():
            entry = like[name]
            details = {key: value for key, value in entry["details"].items() if not key.endswith("_length")}
            item = {key: entry[key] for key in ("name", "model", "size", "digest")} | {"details": details}
            told.append(item | {"expires_at": now(), "size_vram": 0, "context_length": runner.config.num_ctx})
        return told

    def kill(self, name: str = "smollm2") -> None:
        """Kill the process that serves this model, as the kernel does when memory is short."""
        self._runners[name].kill()

    async def unload(self, name: str) -> None:
        """Stop the model's process once nobody uses it."""
        async with self._locks[name]:
            if name in self._runners:
                await self._runners[name].idle.wait()
                await self._stop(name)

    async def _stop(self, name: str) -> None:
        await self._runners.pop(name).stop()

    async def stop(self) -> None:
        """Stop everything."""
        for name in list(self._runners):
            await self._stop(name)
