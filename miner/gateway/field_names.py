"""Translates the service's parameter names to the client's fields, in errors and ignored parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from miner.core.llms.contract.capabilities import LENIENT_HINT
from miner.errors import RequestError

_WAY_OUT = (
    "Remove it, or send the header X-Miner-Unsupported: skip to have it ignored and listed in x-miner-ignored-params."
)
_INDEX = re.compile(r"\[\d+\]")
_PATH = re.compile(r"(?<![\w.'\"\]/])[a-z][a-z_]*(?:\[\d+\]|\.(?=[\w$])[\w$]+)*")


class FieldNames:
    """The fields of one request.

    Args:
        names: the client's field for a parameter of the service, or for a part of one; `[*]` stands for any index. The
            longest match counts, and what follows it stays.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = dict(names or {})

    def add(self, names: Mapping[str, str]) -> None:
        """Add the client's fields for more parameters."""
        self._names.update(names)

    def drop(self, param: str, place: int, count: int) -> None:
        """The item at `place` of a list is not passed to the service, only the `count` others are."""
        fields = {at: self.of(f"{param}[{at + 1}]") for at in range(place, count)}
        moved = {}
        for name in [name for name in self._names if name.startswith(f"{param}[") and name[len(param) + 1].isdigit()]:
            at, end, rest = name[len(param) + 1 :].partition("]")
            if int(at) >= place:
                field = self._names.pop(name)
                if int(at) > place:
                    moved[f"{param}[{int(at) - 1}{end}{rest}"] = field
        self._names.update({f"{param}[{at}]": field for at, field in fields.items()} | moved)

    def of(self, param: str) -> str:
        """The client's field."""
        end = len(param)
        while end > 0:
            head = param[:end]
            for known in (head, _INDEX.sub("[*]", head)):
                field = self._names.get(known)
                if field is not None:
                    places = iter(_INDEX.findall(head))
                    return re.sub(r"\[\*\]", lambda _: next(places, "[0]"), field) + param[end:]  # noqa: B023
            end = max(param.rfind(".", 0, end), param.rfind("[", 0, end))
        return param

    def _text(self, text: str, param: str | None) -> str:
        """A message with the client's names: the invalid parameter, and every other one that is not a plain word."""
        root = re.split(r"[.\[]", param or "", maxsplit=1)[0]

        def renamed(found: re.Match[str]) -> str:
            path = found.group()
            ordinary = path.isalpha() and path != root
            return path if ordinary else self.of(path)

        return _PATH.sub(renamed, text)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Errors that the service raises in this block name the client's fields."""
        try:
            yield
        except RequestError as error:
            if not error.__dict__.get("names_client_fields"):
                error.__dict__["names_client_fields"] = True
                error.message = self._text(error.message, error.param)
                if error.hint is not None:
                    error.hint = _WAY_OUT if error.hint == LENIENT_HINT else self._text(error.hint, error.param)
                error.param = None if error.param is None else self.of(error.param)
            raise
