"""LlamaIndex, by its OpenAI-like model."""

from common import KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, get_weather, raised, run
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def model(base, name, **more):
    return OpenAILike(
        api_base=f"{base}/v1", model=name, api_key=KEY, is_chat_model=True, is_function_calling_model=True,
        max_retries=0, context_window=2048, **more,
    )  # fmt: skip


def reply():
    return model(REAL, "demo", max_tokens=9).complete(QUESTION).text


def stream():
    return sum(bool(part.delta) for part in model(REAL, "demo", max_tokens=9).stream_complete(QUESTION))


def tools():
    llm, messages = model(SCRIPTED, "m"), [ChatMessage(role="user", content=WEATHER)]
    tool = FunctionTool.from_defaults(get_weather)
    while True:
        response = llm.chat_with_tools([tool], chat_history=messages)
        calls = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        if not calls:
            return response.message.content
        messages.append(response.message)
        for call in calls:
            more = {"tool_call_id": call.tool_id, "name": call.tool_name}
            result = str(tool(**call.tool_kwargs))
            messages.append(ChatMessage(role="tool", content=result, additional_kwargs=more))


def overflow():
    return raised(Exception, lambda: model(REAL, "demo").chat([ChatMessage(role="user", content=TOO_LONG)]))


run(reply=reply, stream=stream, tools=tools, overflow=overflow)
