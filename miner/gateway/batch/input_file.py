"""The input file of a batch: JSON Lines, each a request with an id of the client's own."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Any

import msgspec

from miner.errors import InvalidRequestError
from miner.gateway.body_structure import check_structure

MAX_ROWS = 50_000
"""Requests of one batch at most, as at OpenAI."""
_MAX_ERRORS = 20
_LINE = msgspec.json.Decoder()


class InvalidLine(Exception):
    """The file is not valid; `errors` says where, each with `code`, `message`, `param` and `line`."""

    def __init__(self, code: str, message: str, param: str | None, line: int | None) -> None:
        super().__init__(message)
        self.errors: list[dict[str, Any]] = [{"code": code, "message": message, "param": param, "line": line}]


def rows_of(content: bytes, endpoint: str) -> list[tuple[str, bytes]]:
    """Custom id and body of each request.

    Raises:
        InvalidLine: with all invalid lines, 20 at most.
    """
    rows: list[tuple[str, bytes]] = []
    seen: set[str] = set()
    invalid: InvalidLine | None = None
    for number, line in enumerate(content.removeprefix(BOM_UTF8).splitlines(), 1):
        if not line.strip():
            continue
        try:
            if len(rows) == MAX_ROWS:
                raise InvalidLine("too_many_requests", f"The file has more than {MAX_ROWS} requests.", None, number)
            rows.append(_row(line, number, endpoint, seen))
        except InvalidLine as error:
            if invalid is None:
                invalid = error
            else:
                invalid.errors += error.errors
            if len(invalid.errors) >= _MAX_ERRORS or len(rows) == MAX_ROWS:
                break
    if invalid is None and not rows:
        invalid = InvalidLine("empty_file", "The file has no requests.", None, None)
    if invalid is not None:
        raise invalid
    return rows


def _row(line: bytes, number: int, endpoint: str, seen: set[str]) -> tuple[str, bytes]:
    try:
        check_structure(line)
        row = _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidRequestError) as error:
        raise InvalidLine("invalid_json_line", f"The line is not valid JSON: {error}.", None, number) from None
    if not isinstance(row, dict):
        raise InvalidLine("invalid_json_line", "The line must be a JSON object.", None, number)
    custom_id, method, url, body = (row.get(name) for name in ("custom_id", "method", "url", "body"))
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        raise InvalidLine("invalid_custom_id", "custom_id must have 1 to 512 characters.", "custom_id", number)
    if custom_id in seen:
        raise InvalidLine("duplicate_custom_id", f"custom_id {custom_id!r} is not unique.", "custom_id", number)
    seen.add(custom_id)
    if method != "POST":
        raise InvalidLine("invalid_method", "method must be POST.", "method", number)
    if url != endpoint:
        raise InvalidLine(
            "mismatched_endpoint", f"url must be the endpoint of the batch, {endpoint}, not {url!r:.80}.", "url", number
        )
    if not isinstance(body, dict):
        raise InvalidLine("invalid_body", "body must be a JSON object.", "body", number)
    return custom_id, body_of(body, "body", number)


def body_of(body: dict[str, Any], where: str, number: int | None) -> bytes:
    """The body of a request as it is stored: never streamed, and nothing goes on in the background.

    Raises:
        InvalidLine: it asks for that.
    """
    for name in ("stream", "background"):
        if body.get(name):
            raise InvalidLine("invalid_body", f"{where}.{name} must not be set in a batch.", f"{where}.{name}", number)
    return msgspec.json.encode(body)
