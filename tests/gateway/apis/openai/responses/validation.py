"""The official package's types as judges: strict, and with every field that they name."""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter

_EVENTS = TypeAdapter(ResponseStreamEvent)
_ABSENT = {
    "access_programs", "image", "input_transformations", "prompt_cache_diagnostics", "prompt_cache_options",
    "tool_usage",
}  # fmt: skip
"""What only OpenAI's own models and tools have."""


def check_response(raw: bytes | str) -> dict[str, Any]:
    """The response object, which has every official field in its type."""
    body = json.loads(raw)
    Response.model_validate_json(raw, strict=True)
    assert sorted(Response.model_fields.keys() - body.keys() - _ABSENT) == []
    items = {"object": "list", "data": body["output"], "first_id": "", "last_id": "", "has_more": False}
    ResponseItemList.model_validate_json(json.dumps(items), strict=True)
    assert body["id"].startswith("resp_")
    assert (body["completed_at"] is not None) == (body["status"] == "completed")
    assert (body["error"] is not None) == (body["status"] == "failed")
    assert (body["incomplete_details"] is not None) == (body["status"] == "incomplete")
    return body


def check_events(raw: bytes) -> list[dict[str, Any]]:
    """The events of a complete stream: each in its type, in their order, and what they add up to."""
    events = []
    for block in raw.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        kind, data = lines
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        _EVENTS.validate_json(data.removeprefix("data: "), strict=True)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    for event in events:
        if "response" in event:
            check_response(json.dumps(event["response"]))
    final = events[-1]["response"]
    assert events[-1]["type"] in ("response.completed", "response.incomplete", "response.failed")
    if final["status"] in ("completed", "incomplete"):
        _check_items(events, final)
    return events


def _check_items(events: list[dict[str, Any]], final: dict[str, Any]) -> None:
    for index, item in enumerate(final["output"]):
        own = [event for event in events if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added"
        assert own[0]["item"]["status"] == "in_progress"
        assert own[-1]["type"] == "response.output_item.done"
        assert own[-1]["item"] == item
        assert {event["item_id"] for event in own[1:-1]} <= {item["id"]}

        def joined(kind: str, own: list[dict[str, Any]] = own) -> str:
            return "".join(event["delta"] for event in own if event["type"] == f"response.{kind}.delta")

        match item["type"]:
            case "message":
                assert joined("output_text") == item["content"][0]["text"]
            case "reasoning":
                text = item["content"][0]["text"]
                assert joined("reasoning_text") == joined("reasoning_summary_text") == text
                assert item["summary"] == [{"type": "summary_text", "text": text}]
            case "function_call":
                assert joined("function_call_arguments") == item["arguments"]
            case "custom_tool_call":
                assert joined("custom_tool_call_input") == item["input"]
