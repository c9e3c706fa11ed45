"""The HTTP server over llama-cpp-python. Imported by `child.py` in the engine's process, never by miner.

It imports nothing of miner.

The server in that package ends a stream silently if the prompt is too long, has no usage in streams, cannot count the
tokens of a conversation, and keeps computing the prompt of a disconnected client. This one has the routes of
llama.cpp's own server that miner uses, over the class `Llama` (version 0.3.36): `/health`, `/props`, `/tokenize`,
`/v1/models`, `/v1/completions`, `/v1/chat/completions` and its `/input_tokens`.
"""

from __future__ import annotations

import asyncio
import codecs
import ctypes
import importlib
import json
import secrets
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""llama.cpp's default for a model without a chat template."""
_JSON = (b"content-type", b"application/json")
_COMMENT_SECONDS = 5.0
_SAMPLING = ("top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "repeat_penalty")


class _RefusedError(Exception):
    """A refused request, with its status and llama.cpp's error object."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"code": status, "message": message, "type": kind, **fields}


class _Job:
    """One generation in the worker thread."""

    def __init__(self, generate: Callable[[], Iterator[dict[str, Any]]], loop: asyncio.AbstractEventLoop) -> None:
        self.generate = generate
        self.cancelled = threading.Event()
        """The client has disconnected."""
        self._loop = loop
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def put(self, event: dict[str, Any] | None) -> None:
        """Pass an event to the event loop; None is the end."""
        self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class BindingsServer:
    """An ASGI application over one `llama_cpp.Llama`. One request is computed at a time; others wait.

    Args:
        llama_cpp: the imported package.
        llama: the loaded model.
        template: a Jinja chat template that replaces the model's.
        key: the required API key; None: none.
    """

    def __init__(self, llama_cpp: Any, llama: Any, *, alias: str, template: str | None, key: str | None) -> None:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        self._package = llama_cpp
        self._llama = llama
        self._alias = alias
        self._key = key
        self._template = template or llama.metadata.get("tokenizer.chat_template") or _CHATML
        text_of = llama._model.token_get_text
        self._formatter = Jinja2ChatFormatter(
            template=self._template,
            eos_token=text_of(llama.token_eos()) if llama.token_eos() != -1 else "",
            bos_token=text_of(llama.token_bos()) if llama.token_bos() != -1 else "",
        )
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="llama")
        self._lock = threading.Lock()
        self._current: _Job | None = None
        self._stop_flag = ctypes.create_string_buffer(2)
        # ggml calls this before each node of its graph. libc's strlen over our flag needs no GIL: "" is 0, go on; "x"
        # is 1, abort. A callback in Python would cost a millisecond or two per token.
        self._stop_check = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        llama_cpp.llama_set_abort_callback(llama.ctx, self._stop_check, ctypes.addressof(self._stop_flag))
        self._routes: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
            ("GET", "/health"): lambda _: {"status": "ok"},
            ("GET", "/props"): self._props,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize_route,
            ("POST", "/v1/chat/completions/input_tokens"): lambda body: {"input_tokens": len(self._chat_prompt(body))},
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            return
        try:
            self._authorise(scope)
            body = await _body(receive) if scope["method"] == "POST" else {}
            path = scope["path"]
            if scope["method"] == "POST" and path in ("/v1/chat/completions", "/v1/completions"):
                await self._generation(body, receive, send, chat=path.startswith("/v1/chat"))
                return
            route = self._routes.get((scope["method"], path))
            if route is None:
                raise _RefusedError(404, f"There is no {scope['method']} {path}.", "not_found_error")
            # In the worker: the model must not be used while it computes.
            result = await asyncio.get_running_loop().run_in_executor(self._worker, route, body)
            await _send_json(send, 200, result)
        except _RefusedError as refused:
            await _send_json(send, refused.status, {"error": refused.error})

    def _authorise(self, scope: dict[str, Any]) -> None:
        header = dict(scope["headers"]).get(b"authorization", b"")
        if self._key is not None and header != b"Bearer " + self._key.encode() and scope["path"] != "/health":
            raise _RefusedError(401, "Invalid API Key", "authentication_error")

    # Metadata

    def _props(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "total_slots": 1,
            "default_generation_settings": {"n_ctx": self._llama.n_ctx()},
            "chat_template": self._template,
            "chat_template_caps": {"supports_tools": False, "supports_parallel_tool_calls": False},
            "modalities": {"vision": False},
            "build_info": f"llama-cpp-python {self._package.__version__}",
        }

    def _models(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": self._alias, "object": "model", "owned_by": "llama-cpp-python"}]}

    # Tokens

    def _tokenize_route(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": self._tokens(str(body.get("content", "")), add_bos=bool(body.get("add_special")))}

    def _tokens(self, text: str, *, add_bos: bool) -> list[int]:
        tokens: list[int] = self._llama.tokenize(text.encode(), add_bos=add_bos, special=True)
        return tokens

    def _chat_prompt(self, body: dict[str, Any]) -> list[int]:
        import jinja2

        messages = [{**message, "content": _text(message.get("content"))} for message in body.get("messages") or ()]
        try:
            formatted = self._formatter(messages=messages, **(body.get("chat_template_kwargs") or {}))
        except (ValueError, TypeError, jinja2.TemplateError) as error:  # raised by the template
            raise _RefusedError(400, f"The chat template refuses the messages: {error}") from error
        return self._tokens(formatted.prompt, add_bos=False)

    def _plain_prompt(self, body: dict[str, Any]) -> list[int]:
        prompt = body.get("prompt")
        if isinstance(prompt, list):
            return [int(token) for token in prompt]
        return self._tokens(str(prompt), add_bos=self._llama._model.add_bos_token())

    # Generation

    async def _generation(self, body: dict[str, Any], receive: Receive, send: Send, *, chat: bool) -> None:
        job = _Job(lambda: self._events(body, chat=chat), asyncio.get_running_loop())
        working = asyncio.get_running_loop().run_in_executor(self._worker, self._work, job)
        watching = asyncio.ensure_future(self._watch(job, receive))
        try:
            first = await job.events.get()
            if first is not None and "status" in first:
                await _send_json(send, first["status"], {"error": first["error"]})
            elif body.get("stream"):
                await _stream(send, first, job)
            else:
                await self._send_whole(send, first, job, chat=chat)
        finally:
            watching.cancel()
            self._cancel(job)
            await asyncio.gather(working, watching, return_exceptions=True)

    async def _watch(self, job: _Job, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel(job)

    def _cancel(self, job: _Job) -> None:
        """Abort a job whose client has disconnected, also in the middle of its prompt."""
        with self._lock:
            job.cancelled.set()
            if self._current is job:
                self._stop_flag.value = b"x"

    def _work(self, job: _Job) -> None:
        """Run a job, in the worker thread."""
        with self._lock:
            if job.cancelled.is_set():
                job.put(None)
                return
            self._current = job
            self._stop_flag.value = b""
        try:
            for event in job.generate():
                if job.cancelled.is_set():
                    break
                job.put(event)
        except _RefusedError as refused:
            job.put({"status": refused.status, "error": refused.error})
        except Exception as error:  # noqa: BLE001  (the bindings raise anything; the server must go on)
            if not job.cancelled.is_set():
                message = f"{type(error).__name__}: {error}"
                job.put({"status": 500, "error": {"code": 500, "message": message, "type": "server_error"}})
        finally:
            with self._lock:
                self._current = None
            job.put(None)

    def _events(self, body: dict[str, Any], *, chat: bool) -> Iterator[dict[str, Any]]:
        """The events of a response: text, the finish reason, then usage and timings."""
        prompt = self._chat_prompt(body) if chat else self._plain_prompt(body)
        context = self._llama.n_ctx()
        if len(prompt) >= context:
            raise _RefusedError(
                400, f"request ({len(prompt)} tokens) exceeds the available context size ({context} tokens)",
                "exceed_context_size_error", n_prompt_tokens=len(prompt), n_ctx=context,
            )  # fmt: skip
        wanted = int(body.get("max_tokens") or -1)  # -1: until the context ends
        limit = min(wanted if wanted > 0 else context, context - len(prompt))
        # Without a seed it would use that of the request before.
        self._llama.set_seed(secrets.randbits(32) if body.get("seed") is None else int(body["seed"]))
        options = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
        tokens = self._llama.generate(
            prompt, temp=body.get("temperature", 0.8), grammar=self._grammar(body), logits_processor=self._bias(body),
            **options,
        )  # fmt: skip
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # no partial characters
        count, finish = 0, "length"
        yield _event("", None, chat=chat)  # accepted: the stream begins
        began = time.monotonic()
        first_at = None
        is_end, vocabulary = self._package.llama_vocab_is_eog, self._llama._model.vocab

        def counts() -> dict[str, Any]:
            read = (first_at or time.monotonic()) - began
            return {
                "prompt_n": len(prompt), "prompt_ms": read * 1000,
                "predicted_n": count, "predicted_ms": (time.monotonic() - began - read) * 1000,
            }  # fmt: skip

        for token in tokens:
            first_at = first_at or time.monotonic()
            count += 1  # including the end-of-generation token, as in llama.cpp's server
            if is_end(vocabulary, token):
                finish = "stop"
                break
            piece = decode(self._llama.detokenize([token], prev_tokens=prompt))
            if piece:
                event = _event(piece, None, chat=chat)
                yield {**event, "timings": counts()} if body.get("timings_per_token") else event
            if count >= limit:
                break
        tokens.close()
        timings = counts()
        yield _event(decode(b"", True), finish, chat=chat)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        yield {"object": "chunk", "model": self._alias, "choices": [], "usage": usage, "timings": timings}

    def _bias(self, body: dict[str, Any]) -> Any:
        """The logits processor of `logit_bias`; None without one."""
        bias = {int(token): float(value) for token, value in (body.get("logit_bias") or {}).items()}
        if not bias:
            return None
        if not all(0 <= token < self._llama.n_vocab() for token in bias):
            raise _RefusedError(400, "logit_bias has a token that is not in the vocabulary")

        def add_bias(_: Any, scores: Any) -> Any:
            scores = scores.copy()
            for token, value in bias.items():
                scores[token] += value
            return scores

        return self._package.LogitsProcessorList([add_bias])

    def _grammar(self, body: dict[str, Any]) -> Any:
        """The grammar from any of llama.cpp's parameters for one; None without."""
        grammar = self._package.LlamaGrammar
        schema, output = body.get("json_schema"), body.get("response_format") or {}
        if output.get("type") == "json_schema":
            schema = output["json_schema"].get("schema") or {"type": "object"}
        elif output.get("type") == "json_object":
            schema = {"type": "object"}
        try:
            if schema is not None:
                return grammar.from_json_schema(json.dumps(schema), verbose=False)
            return grammar.from_string(body["grammar"], verbose=False) if body.get("grammar") else None
        except Exception as error:  # (its converter raises anything)
            raise _RefusedError(400, f"The grammar or JSON schema cannot be used: {error}") from error

    async def _send_whole(self, send: Send, first: dict[str, Any] | None, job: _Job, *, chat: bool) -> None:
        """Send the response as one JSON body."""
        event, texts, finish, last = first, [], "stop", {}
        while event is not None:
            if "error" in event:
                await _send_json(send, event.get("status", 500), {"error": event["error"]})
                return
            for choice in event["choices"]:
                texts.append(choice["delta"].get("content", "") if chat else choice["text"])
                finish = choice["finish_reason"] or finish
            last = event
            event = await job.events.get()
        text = "".join(texts)
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        await _send_json(send, 200, {**last, "choices": [{"index": 0, "finish_reason": finish, **content}]})


def _event(text: str, finish: str | None, *, chat: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"delta": {"content": text} if text else {}} if chat else {"text": text}
    return {"object": "chunk", "choices": [{"index": 0, "finish_reason": finish, **content}]}


def _text(content: Any) -> str:
    """The text of a message; parts are joined."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


async def _body(receive: Receive) -> dict[str, Any]:
    raw, more = b"", True
    while more:
        message = await receive()
        raw += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise _RefusedError(400, f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _RefusedError(400, "The body must be a JSON object")
    return body


async def _send_json(send: Send, status: int, value: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [_JSON]})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def _stream(send: Send, first: dict[str, Any] | None, job: _Job) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    event = first
    while event is not None and not job.cancelled.is_set():
        event.pop("status", None)
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})
        while True:
            try:
                event = await asyncio.wait_for(job.events.get(), _COMMENT_SECONDS)
                break
            except TimeoutError:  # prefill of a long prompt: keep the connection alive
                await send({"type": "http.response.body", "body": b": reading\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def serve(app: BindingsServer, at_socket: str | None, stop_signal: int, report_ready: Callable[[str], None]) -> None:
    """Serve at this Unix socket, or else at a free port, until the signal comes."""
    uvicorn: Any = importlib.import_module("uvicorn")
    listening = socket.socket(socket.AF_UNIX if at_socket else socket.AF_INET)
    listening.bind(at_socket or ("127.0.0.1", 0))
    listening.listen(128)
    # It accepts connections from here on and serves them once its loop runs: no need to wait.
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2))
    server.handle_exit = lambda *_: None  # SIGTERM and SIGINT
    signal.signal(stop_signal, lambda *_: setattr(server, "should_exit", True))
    report_ready(f"unix://{at_socket}" if at_socket else f"http://127.0.0.1:{listening.getsockname()[1]}")
    server.run(sockets=[listening])
