"""Ollama's templates, in Go's syntax, as chat templates in Jinja's, which llama.cpp runs.

The usual ones: with `.System`, `.Prompt` and `.Response`, which Ollama runs once for each pair of messages, or with a
`range` over `.Messages`. What has no equivalent, such as `.Tools`, is refused.
"""

from __future__ import annotations

import json
import re

from miner.errors import UnsupportedFeatureError

_ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\(|\)|[^\s()]+')
_RANGE = re.compile(r"range (?:\$\w*, *(\$\w*) *:= *)?\.Messages")
_MESSAGE = {".Role": "message['role']", ".Content": "message['content']"}
_PROMPT = {".System": "system", ".Prompt": "prompt", ".Response": "response", ".First": "first"}
_OPERATORS = {"eq": "==", "ne": "!="}


def jinja_of(template: str) -> str:
    """The template in Jinja's syntax.

    Raises:
        UnsupportedFeatureError: a part of it has no equivalent; quotes it.
    """
    if "{{" in template and (".Prompt" in template or ".Response" in template) and ".Messages" not in template:
        return _by_pairs(template)
    return _Writer(template, {".System": "''"}).text()


def _by_pairs(template: str) -> str:
    """A template that is run for each prompt with its response; the last run ends where the response begins."""
    before = template
    found = re.search(r"\{\{-?\s*\.Response\s*-?\}\}", template)
    if found is not None:
        before = template[: found.start()]
    else:
        template += "{{ .Response }}"
    whole, begun = _Writer(template, _PROMPT).text(), _Writer(before, _PROMPT).text()
    return (
        "{% macro pair(system, prompt, response, first) %}" + whole + "{% endmacro %}"
        "{% macro begun(system, prompt, first) %}" + begun + "{% endmacro %}"
        "{% set now = namespace(system='', prompt='', first=true, open=false) %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set now.system = message['content'] %}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ pair(now.system, now.prompt, message['content'], now.first) }}"
        "{% set now.system = '' %}{% set now.prompt = '' %}{% set now.first = false %}{% set now.open = false %}"
        "{% else %}"
        "{% if now.open %}{{ pair(now.system, now.prompt, '', now.first) }}"
        "{% set now.system = '' %}{% set now.first = false %}{% endif %}"
        "{% set now.prompt = message['content'] %}{% set now.open = true %}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt or now.open %}{{ begun(now.system, now.prompt, now.first) }}{% endif %}"
    )


class _Writer:
    """Translates one template.

    Args:
        names: Go's fields outside of a message, and their equivalents.
    """

    def __init__(self, template: str, names: dict[str, str]) -> None:
        self._template = template
        self._names = {".Messages": "messages", **names}
        self._open: list[str] = []
        self._message: str | None = None

    def text(self) -> str:
        """The template in Jinja's syntax. Texts are written as expressions: blocks would take their line ends."""
        out: list[str] = []
        end, trimmed = 0, False
        for action in _ACTION.finditer(self._template):
            literal = self._template[end : action.start()]
            literal = literal.lstrip() if trimmed else literal
            out.append(_literal(literal.rstrip() if action[1] else literal))
            out.append(self._action(action[2]))
            end, trimmed = action.end(), bool(action[3])
        rest = self._template[end:]
        out.append(_literal(rest.lstrip() if trimmed else rest))
        if self._open:
            raise _no_equivalent(f"{self._open[-1]} without end")
        return "".join(out)

    def _action(self, action: str) -> str:
        if action.startswith("/*"):
            return ""
        matched = _RANGE.fullmatch(action)
        if matched is not None and self._message is None:
            self._open.append("for")
            self._message = matched[1] or ""
            return "{% for message in messages %}"
        if action == "end" and self._open:
            kind = self._open.pop()
            if kind == "for":
                self._message = None
            return "{% end" + kind + " %}"
        if action.startswith("if "):
            self._open.append("if")
            return "{% if " + self._expression(action[3:]) + " %}"
        if action == "else" and self._open and self._open[-1] == "if":
            return "{% else %}"
        if action.startswith("else if "):
            return "{% elif " + self._expression(action[8:]) + " %}"
        return "{{ " + self._expression(action) + " }}"

    def _expression(self, text: str) -> str:
        tokens = _TOKEN.findall(text)
        found, rest = self._call(tokens, text)
        if rest:
            raise _no_equivalent(text)
        return found

    def _call(self, tokens: list[str], text: str) -> tuple[str, list[str]]:
        """A function with its arguments, or one value; and the tokens after it."""
        if not tokens:
            raise _no_equivalent(text)
        name, rest = tokens[0], tokens[1:]
        if name not in ("and", "or", "not", *_OPERATORS):
            return self._value(tokens, text)
        values: list[str] = []
        while rest and rest[0] != ")":
            value, rest = self._value(rest, text)
            values.append(value)
        if name == "not" and len(values) == 1:
            return f"(not {values[0]})", rest
        if name in ("and", "or") and values:
            return "(" + f" {name} ".join(values) + ")", rest
        if name in _OPERATORS and len(values) == 2:
            return f"({values[0]} {_OPERATORS[name]} {values[1]})", rest
        raise _no_equivalent(text)

    def _value(self, tokens: list[str], text: str) -> tuple[str, list[str]]:
        token, rest = tokens[0], tokens[1:]
        if token == "(":
            value, rest = self._call(rest, text)
            if not rest or rest[0] != ")":
                raise _no_equivalent(text)
            return value, rest[1:]
        if token[0] in '"`':
            return json.dumps(token[1:-1] if token[0] == "`" else json.loads(token)), rest
        name = token
        if self._message and name.startswith(f"{self._message}."):
            name = name.removeprefix(self._message)
        elif self._message is not None and name.startswith("$."):
            return self._outer(name[1:], text), rest
        if self._message is not None and name in _MESSAGE:
            return _MESSAGE[name], rest
        return self._outer(name, text), rest

    def _outer(self, name: str, text: str) -> str:
        if name not in self._names:
            raise _no_equivalent(text)
        return self._names[name]


def _literal(text: str) -> str:
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def _no_equivalent(text: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        f"template: {{{{ {text[:80]} }}}} of a Go template has no equivalent here.", param="template",
        hint="Write the template in Jinja's syntax, as models bring it along, or leave it out.",
    )  # fmt: skip
