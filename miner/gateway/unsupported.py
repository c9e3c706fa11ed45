"""What a client sends and miner or its engine does not support: refused, or left out and listed.

One policy for all dialects, by the request's header, else its API key, else the model, else the server's setting:

- `refuse`: everything is refused by its name;
- `default`: what only adds to a request is left out and listed in `x-miner-ignored-params`; what would change the
  meaning of the response is refused;
- `skip`: everything is left out and listed.

A model may name single parameters that are always left out (`skip`) or refused (`refuse`), unless the request or its
key has a policy of its own.

Fields that no dialect knows go to the engine if it knows them (`LLMService.engine_fields`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from miner.core.llms.contract.capabilities import IGNORABLE
from miner.core.llms.contract.rules import Policy
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.dialect import Call

HEADER = "X-Miner-Unsupported"
_WORDS: dict[str, Policy] = {
    "refuse": "refuse", "error": "refuse", "default": "default", "skip": "skip", "ignore": "skip"
}  # fmt: skip
"""The policies, and the words of the library's `unsupported`."""

LENIENT = ("reasoning", "keep_alive", "parallel_tool_calls", "continuous_usage", "progress")
"""Parameters of the service that `default` leaves out where a model lacks them: clients send them always."""

CHANGES_THE_ANSWER = frozenset(
    """add_generation_prompt allowed_token_ids bad_words best_of chat_template compaction container context
    continue_final_message conversation documents echo extra extra_body extra_headers extra_query fallbacks
    frequency_penalty function_call functions grammar guided_choice guided_grammar guided_json guided_regex
    ignore_eos images include_stop_str_in_output input json_schema length_penalty logit_bias logprobs lora
    max_completion_tokens max_new_tokens max_output_tokens max_tokens mcp_servers messages min_p min_tokens n
    n_predict num_ctx num_predict presence_penalty previous_response_id prompt prompt_embeds prompt_logprobs raw
    repeat_penalty repetition_penalty response_format seed stop stop_sequences stop_token_ids structured_outputs
    suffix system temperature template thinking_token_budget thread top_a top_k top_logprobs top_p
    truncate_prompt_tokens typical_p use_beam_search""".split()
)
"""Top-level fields that change the meaning of the response, where neither the dialect nor the engine knows them."""

OF_CONVERSATIONS = frozenset(
    """add_generation_prompt chat_template chat_template_kwargs continue_final_message documents include_reasoning
    media_io_kwargs mm_processor_kwargs""".split()
)
"""Fields that engines know beside `messages`: beside a prompt they would ignore them silently."""

_INDEX = re.compile(r"\[\d+\]")
_NAME = re.compile(r"[!-+\--~]{1,100}")
"""What fits into the list of a header."""
_MOST_NAMES = 64
_TYPO = 0.8
"""Similarity from which an unknown field is taken for a misspelled one."""
_OTHER_NAME = 0.7
"""Similarity from which a field of another API is taken for one of this (`max_tokens`, `max_output_tokens`)."""
_IGNORED = f"send the header {HEADER}: skip to have it ignored and listed in x-miner-ignored-params."


def policy_of(word: str, where: str) -> Policy:
    """The policy of a word, in any letter case.

    Raises:
        InvalidRequestError: there is none.
    """
    policy = _WORDS.get(word.strip().lower())
    if policy is None:
        raise InvalidRequestError(f"{where} must be refuse, default or skip, not {word[:40]!r}.", param=where)
    return policy


def apply_policy(
    call: Call, policy: Policy, engine_fields: Collection[str], *, skip: Collection[str] = (),
    refuse: Collection[str] = (),
) -> None:  # fmt: skip
    """Refuse or list what the call left out, and hand the engine the fields that it knows.

    Args:
        call: its `ignored` gets what is left out, its arguments get `extra` and `unsupported`.
        engine_fields: names that the engine knows.
        skip: parameters, by the client's name or the service's, that are left out whatever the policy is.
        refuse: those that are refused whatever it is.

    Raises:
        UnsupportedFeatureError: the policy refuses something; names the client's field.
        InvalidRequestError: an unknown field is a known one, misspelled.
    """
    extra: dict[str, Any] = {}
    known = frozenset(engine_fields) if call.arguments else frozenset()
    if known and "messages" not in call.arguments[0]:
        known -= OF_CONVERSATIONS
    for path, value in call.foreign.items():
        if path in known:
            if value is not None:
                extra[path] = value
                call.names.add({f"extra.{path}": path})
        elif policy == "refuse" or not _is_empty(value):
            if not _names(skip, path):
                _refuse_typo(path, call.fields, policy)
            changes = path in CHANGES_THE_ANSWER
            hint = _meant(path, call.fields) if changes else None
            call.skip(path, f"Unknown parameter: {path!r}.", hint=hint, changes=changes)
    for skipped in call.skipped:
        refused = policy == "refuse" or (skipped.changes and policy == "default")
        if _names(refuse, skipped.param) or (refused and not _names(skip, skipped.param)):
            raise UnsupportedFeatureError(skipped.message, param=skipped.param, hint=skipped.hint or _way_out(policy))
        name = _INDEX.sub("", skipped.param)
        if name in call.ignored:
            continue
        if not _NAME.fullmatch(name) or len(call.ignored) >= _MOST_NAMES:
            raise InvalidRequestError(skipped.message, param=skipped.param, hint="Remove it: it cannot be listed.")
        call.ignored.append(name)
    for arguments in call.arguments:
        if extra:
            arguments["extra"] = {**extra, **(arguments.get("extra") or {})}
        if refuse or (skip and policy != "skip"):
            arguments["unsupported"] = _ignorable(call, policy, skip, refuse)
        elif policy == "default":
            arguments["unsupported"] = [name for name in LENIENT if name not in call.strict]
        else:
            arguments["unsupported"] = "ignore" if policy == "skip" else "error"


def _ignorable(call: Call, policy: Policy, skip: Collection[str], refuse: Collection[str]) -> list[str]:
    """The parameters of the service that may be left out."""
    usual = [name for name in LENIENT if name not in call.strict]
    lenient = {"refuse": (), "default": usual, "skip": IGNORABLE}[policy]

    def named(names: Collection[str], param: str) -> bool:
        return param in names or _names(names, call.names.of(param))

    return [name for name in IGNORABLE if (name in lenient or named(skip, name)) and not named(refuse, name)]


def _names(names: Collection[str], param: str) -> bool:
    """Whether a parameter, or what it is a part of, is among these; Ollama's options also without `options.`."""
    if not names:
        return False
    path = _INDEX.sub("", param)
    return any(name in names for name in (path, path.partition(".")[0], path.removeprefix("options.")))


def _way_out(policy: Policy) -> str:
    return f"Remove it, or {_IGNORED}"


def _refuse_typo(path: str, fields: Collection[str], policy: Policy) -> None:
    """Refuse a field that is nearly the name of a known one: leaving it out would change the response silently."""
    if policy == "skip" or "." in path or any(path in names for names in (fields, CHANGES_THE_ANSWER, KNOWN_ADDITIONS)):
        return
    near = difflib.get_close_matches(path.lower(), [*fields, *sorted(CHANGES_THE_ANSWER)], n=1, cutoff=_TYPO)
    if near:
        raise InvalidRequestError(
            f"Unknown parameter: {path!r}.", param=path,
            hint=f"Did you mean {near[0]!r}? To have it ignored, send the header {HEADER}: skip.",
        )  # fmt: skip


KNOWN_ADDITIONS: frozenset[str] = frozenset(
    """cache_prompt cache_control thread_id request_id priority client_metadata verbosity prediction user_id
    add_special_tokens include_reasoning return_token_ids""".split()
)
"""Fields of other servers that add, and resemble known ones."""


def _meant(path: str, fields: Collection[str]) -> str | None:
    """The hint of a field of another API: what this one calls it."""
    near = difflib.get_close_matches(path, fields, n=1, cutoff=_OTHER_NAME)
    return f"Did you mean {near[0]!r}? Else remove it, or {_IGNORED}" if near else None


def _is_empty(value: Any) -> bool:
    """Whether a value asks for nothing: null, false, or an empty text, list or object."""
    return value is None or value is False or (isinstance(value, (str, list, Mapping)) and not value)
