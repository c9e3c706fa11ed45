"""Speaks Ollama's own wire form in front of a real llama.cpp, for tests that need responses to new prompts.

::

    async with OllamaFront() as front:
        ...  # OllamaService with front.url; models smollm2, smollm2-tools, smollm2-think, smollm2-embed

Shaped as the recorded responses of a genuine Ollama are, its surprises included.
By hand: `python -m tests.servers.ollama_front`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Self

from aiohttp import web

from tests.servers import ollama_spec
from tests.servers.captures import capture
from tests.servers.http import WAIT
from tests.servers.llama_runner import LlamaRunner, RunnerDied
from tests.servers.ollama_models import Models, base_name
from tests.servers.ollama_responses import Job, chat_part, common, fit, generate_part, merge, shortened
from tests.servers.ollama_shapes import Refusal, go_json, messages_for, now, sampling_for

__all__ = ["OllamaFront"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
EOF = "an error was encountered while running the model: unexpected EOF"


class OllamaFront:
    """An Ollama on a loopback port; its models are loaded when they are asked for, each in a process of its own.

    `upstream` (`http://...` or `unix:///path`) is a llama.cpp server that runs already: then that is the only model,
    under the name `smollm2`. Requests are checked against Ollama's OpenAPI file, and one that breaks it fails the test.
    """

    def __init__(
        self,
        *,
        upstream: str | None = None,
        num_ctx: int = 4096,
        parallel: int = 4,
        threads: int = 1,
        port: int = 0,
        check_spec: bool = True,
    ) -> None:
        self.models = Models(upstream=upstream, num_ctx=num_ctx, parallel=parallel, threads=threads)
        self.port = port
        self.check_spec = check_spec
        self.bodies: list[tuple[str, Any]] = []
        """Path and JSON of each request that had a body."""
        self.violations: list[str] = []
        self.disconnects = 0
        """Clients that hung up before the end of their response."""
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 26)
        for path, name in {"/": "root", "/api/version": "version"}.items():
            app.router.add_get(path, self._recorded(name))
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        for path, handler in {
            "show": self._show,
            "chat": self._chat,
            "generate": self._generate,
            "embed": self._embed,
        }.items():
            app.router.add_post(f"/api/{path}", handler)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._runner is not None:
            await asyncio.wait_for(self._runner.cleanup(), WAIT)
        await self.models.stop()
        if self.violations and error is None:
            raise AssertionError("requests that Ollama's OpenAPI file does not allow:\n" + "\n".join(self.violations))

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.read()
        if self.check_spec:
            self.violations += ollama_spec.violations(request.method, request.path, body)
        try:
            if request.method == "POST" and not body:
                raise Refusal(400, "missing request body")
            if body:
                self.bodies.append((request.path, await _body(request)))
            return await handler(request)
        except Refusal as refusal:
            return _json({"error": refusal.message}, refusal.status)
        except RunnerDied:
            return _json({"error": EOF}, 500)
        except json.JSONDecodeError as error:
            return _json({"error": f"invalid JSON: {error}"}, 400)
        except web.HTTPNotFound:
            return web.Response(status=404, text="404 page not found")
        except web.HTTPMethodNotAllowed as error:
            return web.Response(
                status=405, text="405 method not allowed", headers={"allow": ",".join(error.allowed_methods)}
            )
        except asyncio.CancelledError:
            self.disconnects += 1
            raise

    def _recorded(self, name: str) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            item = capture("ollama", name)
            return web.Response(body=item.body, headers={"content-type": item.headers["content-type"]})

        return handler

    async def _tags(self, request: web.Request) -> web.Response:
        return _json({"models": self.models.listed()})

    async def _ps(self, request: web.Request) -> web.Response:
        return _json({"models": self.models.loaded()})

    async def _show(self, request: web.Request) -> web.Response:
        name = base_name((await _body(request)).get("model", ""))
        if not self.models.known(name):
            raise Refusal(404, f"model '{name}:latest' not found")
        return _json(capture("ollama", name.replace("smollm2", "show").replace("-", "_")).json)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        name = self.models.check(body, "chat")
        if not body.get("messages"):
            return await self._load(body, name, {"message": {"role": "assistant", "content": ""}})
        asked = common(body, name, chat=True) | {"messages": messages_for(body["messages"])}
        if body.get("tools"):
            asked["tools"] = body["tools"]
        return await self._answer(request, name, Job(body, asked, chat_part))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        name = self.models.check(body, "generate")
        if not body.get("prompt"):
            return await self._load(body, name, {"response": ""})
        if body.get("raw"):
            asked = common(body, name, chat=False) | {"prompt": body["prompt"]}
            return await self._answer(request, name, Job(body, asked, generate_part))
        system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        turn = {"role": "user", "content": body["prompt"], "images": body.get("images")}
        asked = common(body, name, chat=True) | {"messages": messages_for([*system, turn])}
        return await self._answer(request, name, Job(body, asked, generate_part))

    async def _load(self, body: dict[str, Any], name: str, said: dict[str, Any]) -> web.Response:
        unload = body.get("keep_alive") == 0
        if unload:
            await self.models.unload(name)
        else:
            async with self.models.use(name, body):
                pass
        done = {"done": True, "done_reason": "unload" if unload else "load"}
        return _json({"model": body["model"], "created_at": now(), **said, **done})

    async def _answer(self, request: web.Request, name: str, job: Job) -> web.StreamResponse:
        body = job.body
        job.asked |= sampling_for(body.get("options") or {}, self.models.context(body))
        async with self.models.use(name, body) as runner:
            job.counts.load_duration = time.monotonic_ns() - job.began
            if body.get("truncate") is not False:
                await fit(runner, job.asked)
            if body.get("stream", True):
                answer = await self._stream(request, runner, job)
            else:
                async with aclosing(job.parts(runner)) as parts:
                    whole = merge([part async for part in parts])
                answer = _json(await job.last(runner, whole, whole))
        if body.get("keep_alive") == 0:
            await self.models.unload(name)
        return answer

    async def _stream(self, request: web.Request, runner: LlamaRunner, job: Job) -> web.StreamResponse:
        said: list[dict[str, Any]] = []
        # Nothing is sent, no status either, before the first line is there.
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        try:
            async with aclosing(job.parts(runner)) as parts:
                async for part in parts:
                    if not response.prepared:
                        await response.prepare(request)
                    said.append(part)
                    await response.write(go_json(job.line(part)) + b"\n")
            last = await job.last(runner, merge(said), {})
        except (Refusal, RunnerDied) as error:
            if not response.prepared:
                raise
            last = {"error": error.message if isinstance(error, Refusal) else EOF}
        if not response.prepared:
            await response.prepare(request)
        await response.write(go_json(last) + b"\n")
        await response.write_eof()
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        body, began = await _body(request), time.monotonic_ns()
        name = self.models.check(body, "embed")
        texts = [body["input"]] if isinstance(body.get("input"), str) else list(body.get("input") or [])
        texts = [text for text in texts if text]
        if not texts:
            return _json({"model": body["model"], "embeddings": []})
        async with self.models.use(name, body) as runner:
            loaded = time.monotonic_ns() - began
            if body.get("truncate") is False and max(map(len, texts)) > 1 << 16:
                raise Refusal(400, "the input length exceeds the context length")
            async with runner.slots:
                status, answer = await runner.ask("/v1/embeddings", {"input": texts})
        if status != 200:
            long = "too large" in json.dumps(answer) or "exceed" in json.dumps(answer)
            raise Refusal(400, "the input length exceeds the context length" if long else answer["error"]["message"])
        vectors = [shortened(item["embedding"], body.get("dimensions")) for item in answer["data"]]
        durations = {"total_duration": time.monotonic_ns() - began, "load_duration": loaded}
        told = {"model": body["model"], "embeddings": vectors, **durations}
        return _json(told | {"prompt_eval_count": answer["usage"]["prompt_tokens"]})


async def _body(request: web.Request) -> Any:
    return json.loads(await request.read())


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=go_json(value), status=status, headers={"content-type": "application/json; charset=utf-8"})


async def _serve(arguments: argparse.Namespace) -> None:
    settings = {"num_ctx": arguments.num_ctx, "parallel": arguments.parallel, "threads": arguments.threads}
    async with OllamaFront(upstream=arguments.upstream, port=arguments.port, **settings) as front:
        print(front.url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=OllamaFront.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--upstream")
    parser.add_argument("--num-ctx", type=int, default=4096)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    try:
        asyncio.run(_serve(parser.parse_args()))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
