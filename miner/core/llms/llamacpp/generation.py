"""One generation on one llama.cpp server: sent in the form that the chat template takes, retried in another where the
template refuses it, and finished as a raw completion where the server cannot parse what the model wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from miner.core.http.client import ByteStream
from miner.core.http.errors import Upstream, parse_error_body
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.text_calls import calls_of_text, may_call
from miner.core.llms.contract.tools import tool_names
from miner.core.llms.contract.unparsed_reply import LostReplyError, MalformedReplyError
from miner.core.llms.llamacpp.chat_template import TemplateInput, template_refusal
from miner.core.llms.llamacpp.emulated_tools import calls_in_text
from miner.core.llms.llamacpp.forced_tools import as_calls, is_either, is_forced
from miner.core.llms.llamacpp.raw_completion import DeliveredReply, complete_raw
from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.llms.llamacpp.slots import Placement
from miner.core.wire import ChatRequest, Timings
from miner.errors import MinerError


class OpenAIWire(NamedTuple):
    """The parts of the service that a generation uses."""

    is_raw: Callable[[ChatRequest], bool]
    """Whether a request bypasses the chat template."""
    body: Callable[[ChatRequest, bool], tuple[str, dict[str, Any]]]
    """Path and JSON body of a request, streamed (True) or not."""
    events: Callable[[ByteStream, ChatRequest, Upstream], Batches]
    """The chunks of an event stream."""
    error: Callable[[int, bytes, ChatRequest, Upstream], MinerError]
    """The error of a status and its body."""


class _Prepared(NamedTuple):
    path: str
    body: dict[str, Any]
    template_input: TemplateInput | None
    """None past the chat template."""


class Generation:
    """One request on a slot of a server.

    Args:
        timings: the wait for the prompt to be sent is added to its `queue`.
    """

    def __init__(self, wire: OpenAIWire, server: LlamaServer, request: ChatRequest, timings: Timings) -> None:
        self._wire = wire
        self._server = server
        self._request = request
        self._timings = timings
        self._placement: Placement | None = None
        """The slot that the reply was begun on."""

    async def stream(self) -> Batches:
        """The reply, tool calls included, to be iterated.

        Raises:
            UnsupportedFeatureError: llama.cpp cannot enforce the output format with this chat template.
        """
        request = self._request
        prepared = await self._prepare(stream=True)
        batches = self._batches(request, prepared)
        if is_forced(request) or is_either(request):
            return as_calls(batches, request)
        if prepared.template_input is not None and prepared.template_input.emulates_tools:
            batches = calls_in_text(batches, tool_names(request.tools))
        return calls_of_text(batches, request) if may_call(request) else batches

    async def count_tokens(self) -> int:
        """Tokens of the prompt, with the chat template around it."""
        http = self._server.http
        prepared = await self._prepare(stream=False)
        while True:
            path, body = "/v1/chat/completions/input_tokens", prepared.body
            if prepared.template_input is None:
                path, body = "/tokenize", {"content": self._request.prompt, "add_special": True}
            response = await http.request("POST", path, msgspec.json.encode(body), root=True)
            if response.status == 200:
                break
            prepared = await self._after_refusal(prepared, self._request, response.status, response.body)
        counted = msgspec.json.decode(response.body)
        return len(counted["tokens"]) if "tokens" in counted else int(counted["input_tokens"])

    async def _batches(self, request: ChatRequest, prepared: _Prepared) -> Batches:
        """The reply as llama.cpp parses it; if it cannot, the generated text."""
        server, upstream, sent = self._server, self._server.http.upstream, DeliveredReply()
        try:
            while True:
                async with (
                    server.engine_slot(
                        prepared.body, conversation=request.tools is not None, resumed=self._placement
                    ) as placement,
                    server.prompt_permit(body := msgspec.json.encode(prepared.body), placement) as permit,
                    server.http.stream(prepared.path, body) as response,
                ):
                    if response.status == 200:
                        self._placement = placement
                        server.slot_used(placement)
                        async with aclosing(self._wire.events(response, request, upstream)) as events:
                            async for batch in events:
                                if permit is not None and permit.update(batch):
                                    self._timings.queue = (self._timings.queue or 0.0) + permit.waited
                                    permit = None
                                if placement is not None:
                                    placement.record(batch[-1].usage)
                                if sent.add(batch):
                                    yield batch
                        if sent.held:
                            yield sent.held
                        return
                    raw = await response.read_all()
                prepared = await self._after_refusal(prepared, request, response.status, raw)
        except (MalformedReplyError, LostReplyError) as error:
            if prepared.template_input is None:
                raise
            failure = error
        rest = complete_raw(request, prepared.body, sent, failure, server, self._raw_batches)
        async with aclosing(rest) as batches:
            async for batch in batches:
                yield batch

    def _raw_batches(self, request: ChatRequest) -> Batches:
        return self._batches(request, _Prepared(*self._wire.body(request, True), None))

    # The form that the chat template takes

    async def _prepare(self, *, stream: bool) -> _Prepared:
        request, wanted = self._request, self._request.response_format
        if self._wire.is_raw(request):
            return _Prepared(*self._wire.body(request, stream), None)
        constrained = is_forced(request) or (wanted is not None and wanted.kind in ("json_object", "json_schema"))
        template = await self._server.template()
        template_input = await template.prepare(request, constrained=constrained)
        return self._prepared(template_input, stream=stream)

    def _prepared(self, template_input: TemplateInput, *, stream: bool) -> _Prepared:
        request = sent = self._request
        if template_input.messages is not request.messages and request.prompt is None:
            sent = replace(request, messages=template_input.messages)
        path, body = self._wire.body(sent, stream)
        if template_input.tools_in_prompt:
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                body.pop(name, None)
        return _Prepared(path, body, template_input)

    async def _after_refusal(self, prepared: _Prepared, request: ChatRequest, status: int, raw: bytes) -> _Prepared:
        """Another form of a request that the chat template refused.

        Raises:
            MinerError: it was refused for another reason, or no other form is accepted.
        """
        reason = template_refusal(parse_error_body(raw).message)
        if reason is None or prepared.template_input is None:
            raise self._wire.error(status, raw, request, self._server.http.upstream)
        template = await self._server.template()
        template_input = await template.after_refusal(request, prepared.template_input, prepared.body, reason)
        return self._prepared(template_input, stream="stream" in prepared.body)
