"""Regular expressions of JSON Schema (ECMA-262, unanchored) in the syntax that llama.cpp's converter has: anchored at
both ends, classes of code points, groups, repetitions. The result matches the JSON encoding of the strings that the
pattern matches, in which a quotation mark is two characters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_REPEATS = 1000
"""llama.cpp's grammars take more than 2000 repetitions as unbounded."""
_MAX_DEPTH = 50
_LAST = 0x10FFFF
_DIGIT = [(0x30, 0x39)]
_WORD = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE = [
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
]  # fmt: skip
_LINE_ENDS = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "0": 0x00}
_UNWRITABLE = [(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF)]
"""Code points that JSON escapes."""
_SHORT = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
"""Code points with a short escape."""

Ranges = list[tuple[int, int]]


class PatternError(Exception):
    """The pattern cannot be translated."""


@dataclass(slots=True)
class _Node:
    kind: str
    """class, seq, alt, rep, start or end."""
    ranges: Ranges = field(default_factory=list)
    parts: list[_Node] = field(default_factory=list)
    low: int = 0
    high: int | None = None


def translate_pattern(pattern: str) -> tuple[str, int, int | None]:
    """Return the pattern in llama.cpp's syntax, and the least and the greatest length of its matches (None: no bound).

    Raises:
        PatternError: look-around, back references, anchors in the middle, or Unicode properties.
    """
    tree = _anchored(_Parser(pattern).parse())
    low, high = _length(tree)
    return f"^{_written(tree)}$", low, high


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> _Node:
        node = self._alternatives()
        if self._at < len(self._text):
            raise PatternError("unbalanced parentheses")
        return node

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _alternatives(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PatternError("nested too deeply")
        branches = [self._sequence()]
        while self._peek() == "|":
            self._take()
            branches.append(self._sequence())
        self._depth -= 1
        return branches[0] if len(branches) == 1 else _Node("alt", parts=branches)

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while (char := self._peek()) and char not in "|)":
            parts.append(self._quantified(self._atom()))
        return _Node("seq", parts=parts)

    def _atom(self) -> _Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return _Node("class", self._class())
        if char == ".":
            return _Node("class", _without([(0, _LAST)], _LINE_ENDS))
        if char == "^":
            return _Node("start")
        if char == "$":
            return _Node("end")
        if char == "\\":
            return _Node("class", self._escape(inside=False))
        if char in "*+?":
            raise PatternError("nothing to repeat")
        return _Node("class", [(ord(char), ord(char))])

    def _group(self) -> _Node:
        if self._peek() == "?":
            self._take()
            mark = self._take()
            if mark == "<" and self._peek() not in ("=", "!"):
                while self._take() not in (">", ""):
                    pass
            elif mark != ":":
                raise PatternError("look-around" if mark in "<=!" else f"(?{mark}: flags and such")
        node = self._alternatives()
        if self._take() != ")":
            raise PatternError("unbalanced parentheses")
        return node

    def _quantified(self, node: _Node) -> _Node:
        while True:
            char = self._peek()
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(char, (-1, None))
            if low >= 0:
                self._take()
            elif char == "{" and (found := self._counts()) is not None:
                low, high = found
            else:
                return node
            if node.kind in ("start", "end"):
                raise PatternError("a repeated anchor")
            if self._peek() == "?":
                self._take()  # lazy: matches the same strings
            if low > MAX_REPEATS or (high is not None and (high > MAX_REPEATS or high < low)):
                raise PatternError(f"more than {MAX_REPEATS} repetitions")
            node = _Node("rep", parts=[node], low=low, high=high)

    def _counts(self) -> tuple[int, int | None] | None:
        end = self._text.find("}", self._at)
        first, comma, second = self._text[self._at + 1 : end].partition(",")
        if end < 0 or not first.isdecimal() or (second and not second.isdecimal()):
            return None  # a literal brace
        self._at = end + 1
        return int(first[:9]), int(first[:9]) if not comma else int(second[:9]) if second else None

    def _class(self) -> Ranges:
        negated = self._peek() == "^"
        if negated:
            self._take()
        ranges: Ranges = []
        while self._peek() != "]":
            low = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._take()
                high = self._member()
                if low[0][0] != low[-1][1] or high[0][0] != high[-1][1] or low[0][0] > high[0][0]:
                    raise PatternError("a range of a class")
                low = [(low[0][0], high[0][0])]
            ranges += low
        self._take()
        return _without([(0, _LAST)], ranges) if negated else ranges

    def _member(self) -> Ranges:
        char = self._take()
        if char == "":
            raise PatternError("a class without end")
        return self._escape(inside=True) if char == "\\" else [(ord(char), ord(char))]

    def _escape(self, *, inside: bool) -> Ranges:
        char = self._take()
        if (kind := {"d": _DIGIT, "w": _WORD, "s": _SPACE}.get(char.lower() if char else "")) is not None:
            return list(kind) if char.islower() else _without([(0, _LAST)], kind)
        if inside and char == "b":
            return [(0x08, 0x08)]
        if char in _CONTROLS:
            return [(_CONTROLS[char], _CONTROLS[char])]
        if char in ("x", "u"):
            return self._code(2 if char == "x" else 4)
        if char == "c" and self._peek().isascii() and self._peek().isalpha():
            code = ord(self._take()) % 32
            return [(code, code)]
        if char == "" or char.isalnum():
            raise PatternError(f"\\{char}")
        return [(ord(char), ord(char))]

    def _code(self, digits: int) -> Ranges:
        text = self._text[self._at : self._at + digits]
        if self._peek() == "{":
            end = self._text.find("}", self._at)
            text, digits = self._text[self._at + 1 : end], end + 1 - self._at
        try:
            code = int(text, 16)
        except ValueError:
            raise PatternError("an escape without its digits") from None
        if not text.isalnum() or code > _LAST:
            raise PatternError("an escape without its digits")
        self._at += digits
        return [(code, code)]


def _without(ranges: Ranges, removed: Ranges) -> Ranges:
    for low, high in removed:
        ranges = [
            piece
            for first, last in ranges
            for piece in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if piece[0] <= piece[1]
        ]
    return ranges


def _within(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _anchored(node: _Node) -> _Node:
    """The same anchored: where an end is open, anything may come before or after."""
    branches = node.parts if node.kind == "alt" else [node]
    result = []
    for branch in branches:
        if len(branch.parts) == 1 and branch.parts[0].kind in ("seq", "alt"):
            result.append(_anchored(branch.parts[0]))  # a group around everything, which may have anchors
            continue
        parts = list(branch.parts) if branch.kind == "seq" else [branch]
        starts = bool(parts) and parts[0].kind == "start"
        while parts and parts[0].kind == "start":
            del parts[0]
        ends = bool(parts) and parts[-1].kind == "end"
        while parts and parts[-1].kind == "end":
            del parts[-1]
        anything = _Node("rep", parts=[_Node("class", [(0, _LAST)])])
        result.append(_Node("seq", parts=[*([] if starts else [anything]), *parts, *([] if ends else [anything])]))
    return result[0] if len(result) == 1 else _Node("alt", parts=result)


def _length(node: _Node) -> tuple[int, int | None]:
    if node.kind == "class":
        return 1, 1
    lengths = [_length(part) for part in node.parts]
    highs = [high for _, high in lengths if high is not None]
    bounded = len(highs) == len(lengths)
    if node.kind == "alt":
        return min(low for low, _ in lengths), max(highs) if bounded else None
    if node.kind == "rep":
        ((low, high),) = lengths
        return low * node.low, None if node.high is None or high is None else high * node.high
    return sum(low for low, _ in lengths), sum(highs) if bounded else None


def _written(node: _Node) -> str:
    match node.kind:
        case "class":
            return _class_written(node.ranges)
        case "seq":
            return "".join(f"({_written(part)})" if part.kind == "alt" else _written(part) for part in node.parts)
        case "alt":
            return "|".join(_written(part) for part in node.parts)
        case "rep":
            inner = _written(node.parts[0])
            if not inner:
                return ""
            bare = node.parts[0].kind == "class" and inner.startswith("[")
            counts = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.low, node.high))
            if counts is None:
                counts = f"{{{node.low},{'' if node.high is None else node.high}}}"
                counts = f"{{{node.low}}}" if node.low == node.high else counts
            if node.high == 0:
                return ""
            return (inner if bare else f"({inner})") + counts
    raise PatternError("an anchor in the middle")


def _class_written(ranges: Ranges) -> str:
    """One character of these, JSON-encoded."""
    plain = _without(ranges, _UNWRITABLE)
    escaped = [letter for code, letter in _SHORT.items() if _within(ranges, code)]
    forms = []
    if plain:
        forms.append("[" + "".join(_code_written(a) if a == b else f"{_code_written(a)}-{_code_written(b)}"
                                   for a, b in plain) + "]")  # fmt: skip
    if escaped:
        forms.append("\\\\[" + "".join(_code_written(ord(letter)) for letter in escaped) + "]")
    if not forms:
        raise PatternError("a character that JSON cannot write")
    if len(forms) == 1:
        return forms[0] if plain else f"({forms[0]})"
    return "(" + "|".join(forms) + ")"


def _code_written(code: int) -> str:
    char = chr(code)
    if char.isascii() and char.isalnum():
        return char
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
