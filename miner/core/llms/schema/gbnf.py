"""A grammar in llama.cpp's own form (GBNF) of a schema that `schema_translate` has made. Its server makes one itself,
but without the bounds of numbers; and on its completions route some builds read the schema in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

__all__ = ["grammar_of"]

_BASE = r"""
space ::= | " " | "\n"{1,2} [ \t]{0,20}
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-bA-Be-fE-F] [0-9a-fA-F]{3} | "u" [cdCD] [0-7] [0-9a-fA-F]{2})
string ::= "\"" char* "\""
integral ::= "0" | [1-9] [0-9]{0,15}
integer ::= "-"? integral
number ::= "-"? integral ("." [0-9]{1,16})? ([eE] [-+]? [0-9] [0-9]?)?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
object ::= "{" space ( string space ":" space value ( "," space string space ":" space value )* )? space "}"
array ::= "[" space ( value ( "," space value )* )? space "]"
date ::= "\"" day "\""
day ::= [0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | "1" [0-9] | "2" [0-8] )
clock ::= ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{3} )? ( "Z" | [+-] ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )
time ::= "\"" clock "\""
date-time ::= "\"" day "T" clock "\""
uuid ::= "\"" [0-9a-fA-F]{8} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{12} "\""
"""  # noqa: E501
_DIGITS = 15
"""Digits of a number, before and behind the point together: so many a double keeps. With more of them two texts may be
the same number, and one that is inside a bound be read as one that is not."""


def grammar_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """The grammar whose texts are valid under the schema."""
    writer = _Writer()
    for name, definition in definitions.items():
        writer.rules[f"def-{_safe(name)}"] = writer.expression(definition)
    root = writer.expression(schema)
    rules = "\n".join(f"{name} ::= {rule}" for name, rule in writer.rules.items())
    return f"root ::= {root}\n{rules}{_BASE}"


def _safe(name: str) -> str:
    """A rule's name: letters, digits and hyphens."""
    return re.sub(r"[^a-zA-Z0-9]", lambda found: f"-{ord(found.group()):x}-", name)


class _Writer:
    def __init__(self) -> None:
        self.rules: dict[str, str] = {}

    def _rule(self, expression: str) -> str:
        name = f"r{len(self.rules)}"
        self.rules[name] = expression
        return name

    def expression(self, schema: Mapping[str, Any]) -> str:
        """What the schema is in the grammar: the name of a rule, or a group."""
        if "$ref" in schema:
            return f"def-{_safe(schema['$ref'].removeprefix('#/$defs/'))}"
        if "anyOf" in schema:
            return self._rule(" | ".join(self.expression(branch) for branch in schema["anyOf"]))
        if "const" in schema:
            return _json_literal(schema["const"])
        if "enum" in schema:
            return self._rule(" | ".join(_json_literal(value) for value in schema["enum"]))
        kind = schema["type"]
        if isinstance(kind, list):
            return self._rule(" | ".join(self.expression({**schema, "type": one}) for one in kind))
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
        return str(kind)

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
        if not properties and rest in (None, True) and "properties" not in schema:
            return "object"
        required = [name for name in properties if name in schema.get("required", ())]
        optional = [name for name in properties if name not in required]
        pairs = {
            name: self._rule(f'{_json_literal(name)} space ":" space {self.expression(properties[name])}')
            for name in properties
        }
        first = ' "," space '.join(pairs[name] for name in required)
        # From the last to the first: each optional pair may come, and then those behind it.
        tail = ""
        if rest:
            value = "value" if rest is True else self.expression(rest)
            key = self._rule(_other_strings(list(properties))) if properties else "string"
            other = self._rule(f'{key} space ":" space {value}')
            tail = self._rule(f'( "," space {other} )*')
            begins = [f"{other} {tail}"]
        else:
            begins = []
        for name in reversed(optional):
            begins.insert(0, f"{pairs[name]} {tail}")
            tail = self._rule(f'( "," space {pairs[name]} )? {tail}')
        inner = f"{first} {tail}" if required else f"( {' | '.join(begins)} )?" if begins else ""
        return self._rule(f'"{{" space {inner} space "}}"')

    def _array(self, schema: Mapping[str, Any]) -> str:
        if "prefixItems" in schema:
            items = ' "," space '.join(self.expression(part) for part in schema["prefixItems"])
            return self._rule(f'"[" space {items} space "]"')
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if high == 0:
            return self._rule('"[" space "]"')
        item = self.expression(schema["items"]) if "items" in schema else "value"
        more = self._rule(f'"," space {item}')
        count = f"{{{max(low - 1, 0)},{'' if high is None else high - 1}}}"
        inner = f"{item} {more}{count}"
        return self._rule(f'"[" space {inner if low else f"( {inner} )?"} space "]"')

    def _string(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema:
            return self._rule(f'"\\"" ( {_pattern(schema["pattern"])} ) "\\""')
        if schema.get("format") in ("date", "time", "date-time", "uuid"):
            return str(schema["format"])
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        if not low and high is None:
            return "string"
        return self._rule(f'"\\"" char{{{low},{"" if high is None else high}}} "\\""')

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> str:
        lows = [(Decimal(str(schema[n])), n != "minimum") for n in ("minimum", "exclusiveMinimum") if n in schema]
        highs = [(Decimal(str(schema[n])), n == "maximum") for n in ("maximum", "exclusiveMaximum") if n in schema]
        if not lows and not highs:
            return "integer" if whole else "number"
        low, low_open = max(lows) if lows else (None, False)
        high, shut = min(highs) if highs else (None, True)
        places = max(0, _DIGITS - max(len(str(abs(int(bound)))) for bound in (low, high) if bound is not None))
        low, low_open = _rounded(low, low_open, ROUND_CEILING, places)
        high, high_open = _rounded(high, not shut, ROUND_FLOOR, places)
        parts = _range(low, high, low_open=low_open, high_open=high_open, whole=whole, places=places)
        if not parts:
            raise ValueError(f"no number of {_DIGITS} digits is between {schema}")
        return self._rule(" | ".join(parts))


def _json_literal(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pattern(pattern: str) -> str:
    """A pattern of `schema_pattern`: only what is outside of its classes differs, which is the backslash."""
    out, inside, at = [], False, 1
    while at < len(pattern) - 1:
        char = pattern[at]
        if char == "\\":
            pair = pattern[at : at + 2]
            out.append(pair if inside else f'"{pair}"')
            at += 2
            continue
        if not inside and char not in "[]()|*+?{},0123456789" and char.isalnum():
            char = f'"{char}"'
        inside = char == "[" or (inside and char != "]")
        out.append(char)
        at += 1
    return "".join(out)


def _other_strings(names: list[str]) -> str:
    """Any string but these, letter by letter; names with anything that JSON escapes end the search early."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for char in name:
            if char in '"\\' or ord(char) < 0x20:
                break
            node = node.setdefault(char, {})
        else:
            node[""] = {}
    return f'"\\"" {_other(tree)} "\\""'


def _other(tree: Mapping[str, Any]) -> str:
    chars = [char for char in tree if char]
    branches = [f"[{_class_char(char)}] {_other(tree[char])}" for char in chars]
    taken = "".join(_class_char(char) for char in chars)
    branches.append(f'[^"\\\\\\x7F\\x00-\\x1F{taken}] char*')
    inner = f"( {' | '.join(branches)} )"
    return inner if "" in tree else f"{inner}?"


def _class_char(char: str) -> str:
    return f"\\U{ord(char):08X}"


# Numbers


def _range(
    low: Decimal | None, high: Decimal | None, *, low_open: bool, high_open: bool, whole: bool, places: int
) -> list[str]:
    """Alternatives for the numbers between two bounds, without exponents and with so many places at most behind the
    point.
    """
    parts: list[str] = []
    if low is None or low < 0:
        # Below zero: the same range in the mirror.
        least = Decimal(0) if high is None or high >= 0 else -high
        opened = True if high is None or high >= 0 else high_open
        inner = _positive(least, None if low is None else -low, opened, low_open, whole, places)
        if inner:
            parts.append(f'"-" ( {" | ".join(inner)} )')
    if high is None or high >= 0:
        least = Decimal(0) if low is None or low < 0 else low
        parts += _positive(least, high, low_open and low is not None and low >= 0, high_open, whole, places)
    return parts


def _positive(
    low: Decimal, high: Decimal | None, low_open: bool, high_open: bool, whole: bool, places: int
) -> list[str]:
    low_int, low_part = _split(low)
    high_int, high_part = (None, "") if high is None else _split(high)
    bounds = _Bounds(low_part, high_part, low_open, high_open, places)
    if whole:
        first = low_int + 1 if low_part or low_open else low_int
        last = None if high_int is None else high_int - 1 if high_open and not high_part else high_int
        return _integers(first, last)
    if high_int is not None and low_int == high_int:
        return bounds.behind(str(low_int), low=True, high=True)
    parts = bounds.behind(str(low_int), low=True, high=False)
    between = _integers(low_int + 1, None if high_int is None else high_int - 1)
    if between:
        behind = f' ("." [0-9]{{1,{places}}})?' if places else ""
        parts.append(f"( {' | '.join(between)} ){behind}")
    if high_int is not None:
        parts += bounds.behind(str(high_int), low=False, high=True)
    return parts


def _rounded(bound: Decimal | None, opened: bool, inwards: str, places: int) -> tuple[Decimal | None, bool]:
    """A bound with no more places behind the point than are written, and whether it is open."""
    if bound is None or bound.as_tuple().exponent >= -places:  # type: ignore[operator]
        return bound, opened
    return bound.quantize(Decimal(1).scaleb(-places), rounding=inwards), False


def _split(number: Decimal) -> tuple[int, str]:
    """Whole part, and the digits behind the point without zeros at their end."""
    whole = int(number)
    return whole, format(abs(number), "f").partition(".")[2].rstrip("0")


class _Bounds:
    """Digits behind the point, between those of two bounds."""

    def __init__(self, low: str, high: str, low_open: bool, high_open: bool, places: int) -> None:
        self._places = places
        self._low, self._high = low, high
        self._low_open, self._high_open = low_open, high_open

    def behind(self, whole: str, *, low: bool, high: bool) -> list[str]:
        """Numbers with this whole part; `low`, `high`: whether it is that of the bound."""
        parts = [f'"{whole}"'] if self._may_end(0, low, high) else []
        digits = self._digits(0, low, high)
        if digits:
            parts.append(f'"{whole}." ( {" | ".join(digits)} )')
        return parts

    def _may_end(self, place: int, low: bool, high: bool) -> bool:
        """Whether a number may end here, where it is as the bounds are so far."""
        if low and (place < len(self._low) or self._low_open):
            return False
        return not (high and place >= len(self._high) and self._high_open)

    def _digits(self, place: int, low: bool, high: bool) -> list[str]:
        """What may follow, at least one digit of it."""
        left = self._places - place
        if left <= 0:
            return []
        if high and place >= len(self._high):
            # Nothing but zeros, which make no difference.
            shut = self._high_open or (low and (place < len(self._low) or self._low_open))
            return [] if shut else [f"[0]{{1,{left}}}"]
        if not low and not high:
            return [f"[0-9]{{1,{left}}}"]
        if low and not high and place >= len(self._low):
            if not self._low_open:
                return [f"[0-9]{{1,{left}}}"]
            return [f"[0]{{0,{left // 2}}} [1-9] [0-9]{{0,{left - 1 - left // 2}}}"]
        first = int(self._low[place]) if low and place < len(self._low) else 0
        last = int(self._high[place]) if high else 9
        parts: list[str] = []
        edges = {digit for digit, edge in ((first, low), (last, high)) if edge}
        free = [digit for digit in range(first, last + 1) if digit not in edges]
        if free:
            parts.append(f"[{free[0]}-{free[-1]}] [0-9]{{0,{left - 1}}}")
        for digit in sorted(edges):
            if not first <= digit <= last:
                continue
            stays = low and digit == first, high and digit == last
            more = self._digits(place + 1, *stays)
            if self._may_end(place + 1, *stays):
                parts.append(f'"{digit}"' + (f" ( {' | '.join(more)} )?" if more else ""))
            elif more:
                parts.append(f'"{digit}" ( {" | ".join(more)} )')
        return parts


def _integers(low: int, high: int | None) -> list[str]:
    """Integers from 0 on, as their digits."""
    if high is None:
        if low == 0:
            return ['"0"', f"[1-9] [0-9]{{0,{_DIGITS - 1}}}"]
        length = len(str(low))
        longer = [f"[1-9] [0-9]{{{length},{_DIGITS}}}"] if length < _DIGITS else []
        return [_same_length(str(low), "9" * length), *longer]
    parts = []
    while low <= high:
        last = min(high, 10 ** len(str(low)) - 1)
        parts.append(_same_length(str(low), str(last)))
        low = last + 1
    return parts


def _same_length(low: str, high: str) -> str:
    """Numbers of so many digits, from one to the other."""
    if low == high:
        return f'"{low}"'
    if set(low[1:]) <= {"0"} and set(high[1:]) <= {"9"}:
        rest = len(low) - 1
        return f"[{low[0]}-{high[0]}]" + (f" [0-9]{{{rest}}}" if rest else "")
    if low[0] == high[0]:
        return f'"{low[0]}" {_same_length(low[1:], high[1:])}'
    rest = len(low) - 1
    parts = [f'"{low[0]}" {_same_length(low[1:], "9" * rest)}', f'"{high[0]}" {_same_length("0" * rest, high[1:])}']
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{rest}}}")
    return f"( {' | '.join(parts)} )"
