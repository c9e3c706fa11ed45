"""A backend with an engine of a few lines, right in everything; and backends that each break the contract in one way.

The suite must pass the first and catch the others.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from msgspec.structs import replace

from miner.core._typing import override
from miner.core.llms.contract.stream import Batches
from miner.core.llms.LLMService import LLMService
from miner.core.wire import (
    ChatRequest,
    Embedding,
    EmbeddingResponse,
    Health,
    LLMChunk,
    LLMResponse,
    ModelInfo,
    Progress,
    RerankResponse,
    RerankResult,
    TokenUsage,
)
from miner.errors import BackendUnavailableError, ContextLengthError, InvalidRequestError, ModelNotFoundError

WORDS = "the sea is wide and one two three four five ships sail far from home while wind and rain sing".split()
CONTEXT = 4000
SLOTS = 2


class RightService(LLMService):
    """Writes words by chance, steered by seed, temperature and top_k; has two slots and counts words as tokens."""

    name = "right"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._slots: asyncio.Semaphore | None = None

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return frozenset("chat stop seed top_k timeout count_tokens".split())

    @property
    @override
    def concurrency(self) -> int:
        return SLOTS

    @override
    async def list_models(self) -> list[ModelInfo]:
        return [ModelInfo(id="words", context_length=CONTEXT, capabilities=self.capabilities)]

    @override
    async def _sole_model(self) -> str | None:
        return "words"

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        if model_name != "words":
            raise ModelNotFoundError(f"no model {model_name!r}", model=model_name, available=["words"])
        return (await RightService.list_models(self))[0]

    @override
    async def _count_tokens(self, request: ChatRequest) -> int:
        return self._count(request)

    def _count(self, request: ChatRequest) -> int:
        return 4 + sum(len(message.text().split()) for message in request.as_messages())

    def _words(self, request: ChatRequest) -> list[str]:
        greedy = request.temperature == 0 or request.top_k == 1 or request.top_p < 0.001
        chance = random.Random("greedy" if greedy else request.seed)
        return [chance.choice(WORDS) + " " for _ in range(min(request.max_tokens, 300))]

    @override
    async def _chat(self, request: ChatRequest) -> Any:
        from miner.core.llms.contract.join import join

        return join([batch async for batch in self._stream(request)])

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        count = self._count(request)
        if count >= CONTEXT:
            raise ContextLengthError("too long", prompt_tokens=count, context_length=CONTEXT)
        if self._slots is None:
            self._slots = asyncio.Semaphore(SLOTS)
        async with self._slots:
            async for batch in self._write(request, count):
                yield batch

    async def _write(self, request: ChatRequest, count: int) -> Batches:
        text, made = "", 0
        reason = "length"
        for word in self._words(request):
            await asyncio.sleep(0.001)
            made += 1
            text += word
            hit = min((text.find(stop) for stop in request.stop if stop in text), default=-1)
            if hit >= 0:
                kept = text[len(text) - len(word) : hit]
                if kept:
                    yield [LLMChunk(content=kept)]
                reason = "stop"
                break
            yield [LLMChunk(content=word)]
        usage = TokenUsage(count, made, count + made)
        yield [LLMChunk(finish_reason=reason, usage=usage)]  # type: ignore[arg-type]


class SwallowsOption(RightService):
    """Declares the seed and does not honour it."""

    name = "swallows"

    @override
    def _words(self, request: ChatRequest) -> list[str]:
        return super()._words(replace(request, seed=None))


class SwallowsStop(RightService):
    """Declares stop and does not honour it."""

    name = "swallows_stop"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        async for batch in super()._write(replace(request, stop=[]), count):
            yield batch


class LosesHeldText(RightService):
    """Holds back what may become a stop string, and drops it when max_tokens ends the reply: as llama.cpp does."""

    name = "loses_held"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        from miner.core.llms.contract.stop_strings import StopWatcher

        watcher = StopWatcher(request.stop)
        async for batch in super()._write(request, count):
            kept: list[LLMChunk] = []
            for chunk in batch:
                if chunk.content is None:
                    kept.append(chunk)
                else:
                    watcher.feed(chunk, kept)
            if kept:
                yield kept


class LosesLastChunk(RightService):
    """Streams all but the last piece of text."""

    name = "loses"

    @override
    async def _chat(self, request: ChatRequest) -> Any:
        from miner.core.llms.contract.join import join

        return join([batch async for batch in super()._stream(request)])

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        held: list[LLMChunk] | None = None
        async for batch in super()._stream(request):
            if held is not None and batch[0].content is not None:
                yield held
            if batch[0].content is None:
                yield batch
            held = batch


class LeaksSlot(RightService):
    """Gives a slot back only when a reply was read to its end."""

    name = "leaks"

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        if self._slots is None:
            self._slots = asyncio.Semaphore(SLOTS)
        await self._slots.acquire()
        async for batch in self._write(request, self._count(request)):
            yield batch
        self._slots.release()


class WrongUsage(RightService):
    """Counts one token of a streamed reply."""

    name = "wrong_usage"

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        async for batch in super()._stream(request):
            if batch[0].usage is not None:
                batch[0].usage.completion_tokens = 1
            yield batch


class BlocksLoop(RightService):
    """Computes on the event loop."""

    name = "blocks"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        time.sleep(0.03 * request.max_tokens)  # noqa: ASYNC251  (that is what is wrong with it)
        async for batch in super()._write(request, count):
            yield batch


class TakesAnything(RightService):
    """Answers for any model's name."""

    name = "takes_anything"

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        return ModelInfo(id=model_name)


class CutsPrompt(RightService):
    """Cuts a prompt that is too long silently."""

    name = "cuts_prompt"

    @override
    def _count(self, request: ChatRequest) -> int:
        return min(super()._count(request), CONTEXT - 1)


class BlocksFirst(RightService):
    """Looks something up on the event loop before each call, as long as that takes."""

    name = "blocks_first"

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        self._look_up()
        async for batch in super()._stream(request):
            yield batch

    @override
    async def list_models(self) -> list[ModelInfo]:
        self._look_up()
        return await super().list_models()

    @override
    async def _health(self) -> Health:
        self._look_up()
        return await super()._health()

    @staticmethod
    def _look_up() -> None:
        time.sleep(0.6)


class Slow(RightService):
    """Right, with an engine that takes 6 ms for each word: long enough to be stopped."""

    name = "slow"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async for batch in super()._write(request, count):
            due += 0.006
            await asyncio.sleep(due - loop.time())  # on a busy machine it takes no longer
            yield batch


class ShieldsCall(Slow):
    """A call that is cancelled goes on as a task of its own."""

    name = "shields"

    @override
    async def _chat(self, request: ChatRequest) -> Any:
        return await asyncio.shield(super()._chat(request))


class LeavesEngineRunning(Slow):
    """Whole replies are computed to their end by an engine that is shared and never hears that nobody waits."""

    name = "leaves_running"
    engine = asyncio.Semaphore(SLOTS)

    @override
    async def _chat(self, request: ChatRequest) -> Any:
        await self.engine.acquire()
        seconds = 0.005 * min(request.max_tokens, 300)
        asyncio.get_running_loop().call_later(seconds, self.engine.release)
        await asyncio.sleep(seconds)
        count, made = self._count(request), min(request.max_tokens, 300)
        usage = TokenUsage(count, made, count + made)
        return LLMResponse(content="".join(self._words(request)), finish_reason="length", usage=usage)


class LeavesStreamRunning(Slow):
    """A stream that is left is read to its end by a task of its own."""

    name = "leaves_stream"

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def read() -> None:
            async for batch in super(LeavesStreamRunning, self)._stream(request):
                queue.put_nowait(batch)
            queue.put_nowait(None)

        self.reading = asyncio.create_task(read())
        while (batch := await queue.get()) is not None:
            yield batch


class OwnStream(Slow):
    """Its streams are generators: who reads one is not told that somebody else closes it."""

    name = "own_stream"

    @override
    async def stream(self, prompt: str | None = None, **options: Any) -> Any:  # type: ignore[override]
        async for chunk in super().stream(prompt, **options):
            yield chunk


class HangsOnClose(Slow):
    """Its calls do not end when it is closed."""

    name = "hangs_on_close"

    @override
    async def chat_completion(self, messages: Any, model: str | None = None, *settings: Any, **options: Any) -> Any:
        return await self._chat(self._request(options, messages=messages, model=model or "words",
            **dict(zip(("max_tokens", "temperature", "top_p"), settings, strict=False))))  # fmt: skip


class TakesPrefix(RightService):
    """The beginning of a name is enough."""

    name = "takes_prefix"

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        return await super()._get_model("words" if "words".startswith(model_name) else model_name)


class TakesSuffix(RightService):
    """What comes behind a name does not matter."""

    name = "takes_suffix"

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        return await super()._get_model("words" if model_name.startswith("words") else model_name)


class RaisesKeyError(RightService):
    """Looks a name up in a dict."""

    name = "key_error"

    @override
    async def _get_model(self, model_name: str) -> ModelInfo:
        return {"words": await super()._get_model("words")}[model_name]


class EmbedsWithAnother(RightService):
    """Vectors come from the one model that makes them, whichever is named."""

    name = "embeds_with_another"

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return super().capabilities | {"embeddings"}

    @override
    async def _embed(self, texts: list[str], model: str | None) -> EmbeddingResponse:
        return EmbeddingResponse(data=[Embedding(index, [1.0, 2.0]) for index, _ in enumerate(texts)], model="vectors")


class LetsExtraOverride(RightService):
    """Takes the model's name out of `extra`."""

    name = "extra_overrides"

    @override
    def _request(self, options: dict[str, Any], **given: Any) -> ChatRequest:
        options.pop("extra", None)
        return super()._request(options, **given)


class CountsNothing(RightService):
    """Says that a reply took no tokens."""

    name = "counts_nothing"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        async for batch in super()._write(request, count):
            if batch[0].usage is not None:
                batch[0].usage = TokenUsage(0, 0, 0)
            yield batch


class OwnFinishReason(RightService):
    """Passes on what its engine calls the end of a reply."""

    name = "own_finish_reason"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        async for batch in super()._write(request, count):
            if batch[0].finish_reason is not None:
                batch[0].finish_reason = "eos_token"  # type: ignore[assignment]
            yield batch


class NamesWrongStop(RightService):
    """Says of every reply that the first stop string ended it."""

    name = "wrong_stop"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        async for batch in super()._write(request, count):
            if batch[0].finish_reason == "stop":
                batch[0].stop_sequence = request.stop[0]
            yield batch


class StrictFields(RightService):
    """Refuses the fields of a message that it does not know."""

    name = "strict_fields"

    @override
    def _request(self, options: dict[str, Any], **given: Any) -> ChatRequest:
        for message in given.get("messages") or ():
            if set(message) - {"role", "content", "tool_calls", "tool_call_id"}:
                raise InvalidRequestError("unknown field", param="messages")
        return super()._request(options, **given)


class BreaksSchema(RightService):
    """Declares JSON Schema; a client learns when the text is there that it was not obeyed."""

    name = "breaks_schema"

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return super().capabilities | {"json_schema"}

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        yield [LLMChunk(content='{"home": 1}'), LLMChunk(finish_reason="stop", usage=TokenUsage(count, 4, count + 4))]


class RefusesSchemaLate(BreaksSchema):
    """Says of a keyword that its engine lacks that the engine failed."""

    name = "refuses_schema_late"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        raise BackendUnavailableError("grammar error", backend=self.name)
        yield []


class RefusesSchemaNamelessly(BreaksSchema):
    """Does not say which keyword it is that its engine lacks."""

    name = "refuses_schema_namelessly"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        raise InvalidRequestError("The schema cannot be used.", param="response_format")
        yield []


class _Declares(RightService):
    """Right, and declares more capabilities than it can honour."""

    name = "declares"
    more = ""

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return super().capabilities | frozenset(self.more.split())


class DropsImages(_Declares):
    """Declares images and sends the text alone."""

    name = "drops_images"
    more = "images"


class NeverReasons(_Declares):
    """Declares reasoning and never reasons."""

    name = "never_reasons"
    more = "reasoning"


class AlwaysReasons(_Declares):
    """Reasons where reasoning is switched off, too."""

    name = "always_reasons"
    more = "reasoning"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        yield [LLMChunk(reasoning="Well, ")]
        async for batch in super()._write(request, count):
            yield batch


class SwallowsPenalty(_Declares):
    """Declares repeat_penalty and does not honour it."""

    name = "swallows_penalty"
    more = "repeat_penalty"


class ShowsToolMarkup(_Declares):
    """Offers tools, and leaves the model's markup for a call in the text."""

    name = "shows_markup"
    more = "tools"

    @override
    def _words(self, request: ChatRequest) -> list[str]:
        return ["<tool_call> " if request.tools else word for word in super()._words(request)]


class CallsNoTool(_Declares):
    """Takes tools and never tells its engine about them."""

    name = "calls_no_tool"
    more = "tools"


class EmptyProgress(_Declares):
    """Reports progress of nothing."""

    name = "empty_progress"
    more = "progress"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        if request.progress:
            yield [LLMChunk(progress=Progress(0, 0))]
        async for batch in super()._write(request, count):
            yield batch


class NoUsage(RightService):
    """Counts no tokens."""

    name = "no_usage"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        async for batch in super()._write(request, count):
            batch[0].usage = None
            yield batch


class CountsOne(NoUsage):
    """Every prompt is one token to `count_tokens`."""

    name = "counts_one"

    @override
    async def _count_tokens(self, request: ChatRequest) -> int:
        return 1


class EqualScores(_Declares):
    """Ranks documents and finds all alike."""

    name = "equal_scores"
    more = "rerank"

    @override
    async def _rerank(self, query: str, documents: list[str], model: str | None, top_n: int | None) -> RerankResponse:
        results = [RerankResult(index, 0.5, text) for index, text in enumerate(documents)]
        return RerankResponse(results=results[:top_n])


class IgnoresSilently(RightService):
    """Declares the seed and then lists it among what was ignored."""

    name = "ignores_declared"

    @override
    async def chat_completion(self, messages: Any, *settings: Any, **options: Any) -> Any:
        response = await super().chat_completion(messages, *settings, **options)
        response.ignored = [*response.ignored, *(name for name in ("seed",) if name in options)]
        return response


class IgnoresPositions(RightService):
    """`generate` takes the model and nothing else by position."""

    name = "ignores_positions"

    @override
    async def generate(self, prompt: Any, model: str | None = None, *settings: Any, **options: Any) -> str:
        return await super().generate(prompt, model, **options)


class FirstPartOnly(RightService):
    """Reads the first part of a message's content."""

    name = "first_part"

    @override
    def _count(self, request: ChatRequest) -> int:
        for message in request.as_messages():
            if isinstance(message.content, list):
                message.content = message.content[:1]
        return super()._count(request)


class MixesRequests(RightService):
    """Keeps the request that is running in an attribute."""

    name = "mixes"

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        self.request = request
        await asyncio.sleep(0.001)
        async for batch in super()._stream(self.request):
            yield batch


class CutsCharacters(RightService):
    """Decodes each read of a stream by itself."""

    name = "cuts_characters"

    @override
    def _words(self, request: ChatRequest) -> list[str]:
        words = super()._words(request)
        return words if request.as_messages()[-1].text().isascii() else ["caf\u00e9 " for _ in words]

    @override
    async def _chat(self, request: ChatRequest) -> Any:
        from miner.core.llms.contract.join import join

        return join([batch async for batch in super()._stream(request)])

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        async for batch in super()._stream(request):
            text = (batch[0].content or "").encode()
            for piece in (text[:4], text[4:]) if text else ():
                yield [LLMChunk(content=piece.decode(errors="replace"))]
            if not text:
                yield batch


class LatencyInMilliseconds(RightService):
    """Reports the latency of its health check in milliseconds."""

    name = "slow_health"

    @override
    async def health(self) -> Health:
        return Health(state="ready", latency=1000.0)


class ListsNothing(RightService):
    """Lists no models."""

    name = "lists_nothing"

    @override
    async def list_models(self) -> list[ModelInfo]:
        return []


class NamesAnotherModel(RightService):
    """Its responses name a model that nobody listed."""

    name = "names_another"

    @override
    async def chat_completion(self, messages: Any, *settings: Any, **options: Any) -> Any:
        response = await super().chat_completion(messages, *settings, **options)
        response.model = "gpt-4"
        return response


class Instant(RightService):
    """A stream is over before anybody can leave it."""

    name = "instant"

    @override
    async def _write(self, request: ChatRequest, count: int) -> Batches:
        chunks = [chunk async for batch in super()._write(request, count) for chunk in batch]
        text = "".join(chunk.content or "" for chunk in chunks)
        yield [LLMChunk(content=text, finish_reason=chunks[-1].finish_reason, usage=chunks[-1].usage)]


class SilentStart(RightService):
    """`generate` without settings returns nothing."""

    name = "empty_default"

    @override
    def _words(self, request: ChatRequest) -> list[str]:
        return super()._words(request) if request.temperature == 0 else [" "]
