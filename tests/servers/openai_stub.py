"""A tiny server whose responses a test writes itself: for tests that assert the exact body that was sent.

::

    async with StubServer(models=["m"], reply=lambda body: "Hello.") as server:
        ...  # VLLMService(base url = server.v1)
        assert server.bodies[-1]["temperature"] == 0.5

It speaks OpenAI's API and, under `/api/`, Ollama's own (where requests are checked against Ollama's OpenAPI file).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tests.servers import ollama_spec
from tests.servers.faults import Behaviour, ok
from tests.servers.http import RawServer, Request, ResponseWriter
from tests.servers.payloads import DONE, frame, is_ollama, side_routes, usage

__all__ = ["Reply", "StubServer"]

Reply = str | dict[str, Any] | list[Any] | tuple[int, Any] | Behaviour
"""What a test may answer with.

str: a proper response with this text, streamed where a stream was asked for (a word in each piece);
list of dicts: the events or lines of a stream, followed by the end mark (a list item of bytes is sent as it is);
dict: the whole response as JSON; a pair: that status with that JSON; a Behaviour: see `faults`.
"""


class StubServer(RawServer):
    """Serves `models` and answers each generation with `reply(body)`, which may be assigned again at any time."""

    def __init__(
        self,
        models: Iterable[str] = ("m",),
        *,
        max_model_len: int = 2048,
        reply: Callable[[dict[str, Any]], Reply | Awaitable[Reply]] | Reply = "Hello there.",
        api_key: str | None = None,
        capabilities: Iterable[str] = ("completion", "tools"),
        owner: str = "test",
        side: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.models = list(models)
        self.max_model_len = max_model_len
        self.reply = reply
        self.api_key = api_key
        self.capabilities = list(capabilities)
        """What `/api/show` says of each model."""
        self.owner = owner
        """What `/v1/models` says of who serves them."""
        self.side = side or {}
        """Answers to other paths, by path: dict, or a pair of status and dict."""
        self.generations: list[Request] = []
        self.violations: list[str] = []

    @property
    def bodies(self) -> list[Any]:
        """The JSON bodies of the requests that generate, oldest first."""
        return [request.json for request in list(self.generations)]

    def verdict(self) -> list[str]:
        return [f"a request that Ollama's OpenAPI file does not allow: {item}" for item in self.violations]

    async def handle(self, writer: ResponseWriter) -> None:
        request = writer.request
        if is_ollama(request):
            self.violations += ollama_spec.violations(request.method, request.path, request.body)
        status, answer = self._side(request)
        if answer is not None:
            await writer.respond(status, answer)
            return
        self.generations.append(request)
        reply = self.reply(request.json) if callable(self.reply) else self.reply
        await self._send(writer, await reply if inspect.isawaitable(reply) else reply)

    def _side(self, request: Request) -> tuple[int, Any]:
        authorized = request.headers.get("authorization") == f"Bearer {self.api_key}"
        if self.api_key is not None and not authorized and request.path.startswith("/v1/"):
            return 401, {"error": "Unauthorized"}
        if request.path in self.side:
            told = self.side[request.path]
            return told if isinstance(told, tuple) else (200, told)
        known = side_routes(request, self.models, self.max_model_len, self.owner)
        if request.method in {"GET", "HEAD"}:
            return (200, known) if known is not None else (404, {"detail": "Not Found"})
        body = request.json if isinstance(request.json, dict) else {}
        model = str(body.get("model", self.models[0])).removesuffix(":latest" if is_ollama(request) else "")
        if model not in self.models:
            said = (
                f"model '{model}' not found"
                if is_ollama(request)
                else _error(404, f"The model `{model}` does not exist.")
            )
            return 404, {"error": said}
        if isinstance(known, dict):
            return 200, known | {"capabilities": self.capabilities}
        return 200, _computed(request, body, self.max_model_len)

    async def _send(self, writer: ResponseWriter, reply: Reply) -> None:
        request = writer.request
        if isinstance(reply, str):
            words = reply.split(" ")
            reply = ok([*(f"{word} " for word in words[:-1]), words[-1]])
        if isinstance(reply, Behaviour):
            await reply.run(writer)
        elif isinstance(reply, tuple):
            await writer.respond(*reply)
        elif isinstance(reply, dict):
            await writer.respond(200, reply)
        else:
            kind = "application/x-ndjson" if is_ollama(request) else "text/event-stream"
            await writer.head(200, {"content-type": kind, "transfer-encoding": "chunked"})
            for item in [*reply, *([] if is_ollama(request) else [DONE])]:
                await writer.piece(item if isinstance(item, bytes) else frame(request, item))
            await writer.end()


def _error(code: int, message: str) -> dict[str, Any]:
    return {"message": message, "type": "NotFoundError", "param": "model", "code": code}


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _computed(request: Request, body: dict[str, Any], context: int) -> dict[str, Any] | None:
    """Token counts (a word is a token) and vectors (of three numbers); None for a generation."""
    words = len(json.dumps(body.get("messages") or body.get("prompt") or body.get("content") or "").split())
    if request.path in {"/tokenize", "/v1/chat/completions/input_tokens"}:
        return {"count": words, "max_model_len": context, "tokens": list(range(words)), "input_tokens": words}
    texts = _texts(body.get("input"))
    vectors = [[float(len(text)), 1.0, 0.0] for text in texts]
    tokens = sum(len(text.split()) if isinstance(text, str) else len(text) for text in texts)
    if request.path == "/api/embed":
        return {
            "model": body["model"],
            "embeddings": vectors,
            "total_duration": 1,
            "load_duration": 1,
            "prompt_eval_count": tokens,
        }
    if request.path == "/v1/embeddings":
        data = [{"index": at, "object": "embedding", "embedding": vector} for at, vector in enumerate(vectors)]
        return {"object": "list", "model": body.get("model"), "data": data, "usage": usage(tokens, 0)}
    return None
