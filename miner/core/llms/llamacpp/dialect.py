"""Where llama.cpp's server differs from OpenAI's API, as of xllamacpp 2026.10.11549."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from miner.core.http.errors import ErrorBody
from miner.core.llms.contract.capabilities import nearest_level
from miner.core.llms.contract.sampling import top_k_of
from miner.core.llms.contract.unparsed_reply import malformed_reply_error
from miner.core.llms.llamacpp.forced_tools import constrain, constrain_to_call, is_either, is_forced
from miner.core.llms.schema.gbnf import grammar_of
from miner.core.llms.schema.support import format_schema, is_convertible, parameters_of, tool_schema
from miner.core.wire import ChatRequest
from miner.errors import (
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    MinerError,
    UnsupportedFeatureError,
)

FEATURES = frozenset(
    """chat tools tool_choice json_object json_schema grammar reasoning logprobs seed count_tokens progress stop top_k
    min_p repeat_penalty presence_penalty frequency_penalty logit_bias response_format parallel_tool_calls
    timeout keep_alive raw extra prompt_tokens context continuous_usage""".split()
)
FIELD_NAMES = {"reasoning_text": "reasoning_content"}
NEUTRAL = {
    "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "dry_multiplier": 0.0, "xtc_probability": 0.0,
}  # fmt: skip
"""A model file's metadata can change the server's sampling defaults; these undo that."""
_REASONS = re.compile(
    r"</?[\w:|]*think|THINK|reasoning_(?:effort|content|budget)|message\.reasoning|<\|channel|\bthinking_"
    r"|\b(?:enable_)?thinking\b(?=\s*(?:%\}|\}\}|is |==|and |or |\||\)|=))"
)
"""A marker or a switch of reasoning in a chat template; its prompts may speak of reasoning without any (Devstral,
Qwen3-Coder)."""
ENGINE_FIELDS = frozenset(
    """add_generation_prompt continue_final_message chat_template_kwargs reasoning_format reasoning_budget_tokens
    thinking_budget_tokens cache_prompt id_slot n_keep n_discard n_cache_reuse n_indent t_max_predict_ms lora ignore_eos
    samplers min_keep top_n_sigma typical_p repeat_last_n dynatemp_range dynatemp_exponent xtc_probability xtc_threshold
    mirostat mirostat_tau mirostat_eta adaptive_target adaptive_decay dry_multiplier dry_base dry_allowed_length
    dry_penalty_last_n dry_sequence_breakers sse_ping_interval""".split()
)
"""Fields of a body that the server knows beyond ours. Not what it would return in fields of its own (`verbose`,
`return_tokens`), nor in another form (`post_sampling_probs`): `/completion` has them.
"""
_EFFORTS = ("low", "medium", "high")
"""The levels of chat templates that have levels."""


class _TemplateCaps(msgspec.Struct):
    supports_tools: bool = True
    supports_system_role: bool = True


class _GenerationSettings(msgspec.Struct):
    n_ctx: int | None = None


class _Modalities(msgspec.Struct):
    vision: bool = False


_ENCODER_FEATURES = FEATURES & {"timeout", "prompt_tokens", "keep_alive", "extra"}
"""What is left for a model that only embeds or ranks."""


class Props(msgspec.Struct):
    """The response of GET /props."""

    total_slots: int = 1
    default_generation_settings: _GenerationSettings = msgspec.field(default_factory=_GenerationSettings)
    chat_template_caps: _TemplateCaps = msgspec.field(default_factory=_TemplateCaps)
    chat_template: str = ""
    build_info: str | None = None
    """None: not llama.cpp's own server, but another with its routes."""
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)

    @classmethod
    def guess(cls, *, template: str | None, vision: bool) -> Props:
        """The props that a server will have, as far as a model's files show."""
        text = template or ""
        return cls(
            chat_template=text,
            chat_template_caps=_TemplateCaps(supports_tools="tool" in text),
            modalities=_Modalities(vision=vision),
        )

    def capabilities(self, *, embeds: bool, ranks: bool, fills: bool, generates: bool = True) -> frozenset[str]:
        """The capabilities of the served model.

        Args:
            fills: whether it has the tokens for fill-in-the-middle.
            generates: whether it can generate text at all: encoders cannot.
        """
        able = set(FEATURES) if generates else set(_ENCODER_FEATURES)
        if generates and not self.chat_template_caps.supports_tools:
            able.add("emulated")
        if generates and self.modalities.vision:
            able.add("images")
        if embeds:
            able.add("embeddings")
        if ranks:
            able.add("rerank")
        if fills:
            able.add("suffix")
        if _REASONS.search(self.chat_template) is None:
            able.discard("reasoning")
        return frozenset(able)


def adjust(body: dict[str, Any], request: ChatRequest) -> None:
    """Change a request body of OpenAI's API so that it means the same on llama.cpp."""
    # Without progress events the server does not notice a disconnect while it processes the prompt.
    body["return_progress"] = True
    # Stop strings are matched here (stop_strings.py): a stream that is left there needs counts in each event.
    if body.pop("stop", None) or request.continuous_usage:
        body["timings_per_token"] = True
    if request.top_k is None:
        body["top_k"] = top_k_of(request)
    if request.logprobs == 0:  # the server returns none without an alternative; the mapper drops that
        body["logprobs" if "prompt" in body else "top_logprobs"] = 1
    if "tools" in body and body.pop("logprobs", False):
        # The chat route refuses both together in a stream, but not the field that it translates this to.
        body["n_probs"] = body.pop("top_logprobs", 1)
    if is_forced(request) or is_either(request):
        constrain_to_call(body, request)
    elif "tools" in body:
        body["tools"] = [_sent_tool(tool, place) for place, tool in enumerate(body["tools"])]
    if (wanted := request.response_format) is not None and wanted.schema is not None and "tools" not in body:
        constrain(body, format_schema(request, bounds=request.resolution.grammar_allowed), wanted.name)
    if "messages" not in body:
        # Some builds read a schema on this route differently; a grammar is the same everywhere.
        format_as_grammar(body)
    if request.reasoning is not None:
        on = request.reasoning is not False
        body["chat_template_kwargs"] = {"enable_thinking": on}
        level = nearest_level(request, _EFFORTS)
        body["reasoning_effort"] = level if isinstance(level, str) else "medium" if on else "none"


def format_as_grammar(body: dict[str, Any]) -> None:
    """Replace the output format by its grammar."""
    response_format = body.pop("response_format", None)
    if response_format is not None:
        schema = response_format.get("json_schema", {}).get("schema", {"type": "object"})
        body["grammar"] = grammar_of(schema, schema.get("$defs", {}))


def _sent_tool(tool: dict[str, Any], place: int) -> dict[str, Any]:
    """A tool with parameters that llama.cpp converts; unchanged where it does, for the model reads them."""
    parameters = parameters_of(tool)
    if not is_convertible(parameters):
        parameters = tool_schema(tool, place).schema
    elif "parameters" in tool["function"]:
        return tool
    return {**tool, "function": {**tool["function"], "parameters": parameters}}


def refine(status: int, body: ErrorBody, where: str, details: dict[str, Any]) -> MinerError | None:
    """A more exact error than the HTTP status implies; None to leave it at that."""
    text = body.message
    if (malformed := malformed_reply_error(text, where, details)) is not None:
        return malformed
    if body.type == "exceed_context_size_error":
        count, limit = body.fields.get("n_prompt_tokens"), body.fields.get("n_ctx")
        return ContextLengthError(
            f"The prompt has {count} tokens, the context {limit} ({where}).",
            prompt_tokens=count,
            context_length=limit,
            hint="Shorten the prompt.",
            operator_hint="LLAMACPP_CTX_SIZE sets the context.",
        )
    if "contains invalid tokens" in text:
        hint = "Each is below the size of the model's vocabulary."
        return InvalidRequestError(
            f"prompt has token ids that are not in {where}'s vocabulary.", param="prompt", hint=hint
        )
    if "Context size has been exceeded" in text or "too large to process" in text:
        return ContextLengthError(
            f"The prompt is too long for {where}: {text}",
            hint="Shorten the prompt.",
            operator_hint="LLAMACPP_CTX_SIZE sets the context.",
        )
    if status == 503:
        return BackendUnavailableError(f"{where} is not ready: {text}.", hint="Try again later.", **details)
    if status == 501 or "Pooling type" in text:
        setting = "Set LLAMACPP_POOLING for embeddings (rank: reranking)."
        return UnsupportedFeatureError(f"{where} does not serve this: {text}", param="model", operator_hint=setting)
    if "image input is not supported" in text or "multimodal" in text:
        return UnsupportedFeatureError(f"{where} does not support images: {text}", param="messages")
    if "Cannot use both" in text or "grammar" in text or "JSON schema" in text:
        reason = text.rpartition("Automatic parser generation failed: ")[2]
        return InvalidRequestError(f"{where} refused the output format: {reason}", param="response_format")
    return None
