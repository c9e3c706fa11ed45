"""Tells what a starting server prints by itself, which is progress, from what it prints because we ask it."""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

OURS = b"miner: "
"""How the lines begin that the child prints beside those of the server."""
_GRACE = 0.1
"""Seconds between a ready check's begin or end and what the server prints of it."""
_UNFINISHED = 0.15
"""Seconds after which a line that has no end yet counts as it is: dots, or a bar that is drawn over itself."""
_FORMS = 4096
"""Forms of lines that are remembered."""
_LONGEST = 1 << 14
_SAID = 20
_AT_ONCE = 8
"""Lines of one form that are judged in one tenth of a second; more would tell no more."""
_OWN_SHARE = 3
"""A form follows the checks if it came so many times as often about them as apart from them."""

_ENDS = re.compile(rb"(?<=[\r\n])")
_VARIES = re.compile(rb"(?<![\w.:,+-])[\w.:,+-]*\d[\w.:,+-]*")
_SHARE = re.compile(
    rb"(?<![\w/.])(\d+(?:\.\d+)?)(?: ?[kKMGT]?i?[bB])?(?: ?/ ?| (?:out )?of |-of-)(\d+(?:\.\d+)?)(?![\w.]*/)"
    rb"|(\d+(?:\.\d+)?) ?%"
)


@dataclass(slots=True)
class _Form:
    """Lines that are alike apart from numbers, times and addresses."""

    highest: list[float] = field(default_factory=list)
    """Of each share in it."""
    waiting: int = 0
    """How many are to be judged."""
    near: int = 0
    """How many came right after the begin of a check or about its end."""
    apart: int = 0
    """How many came at other times."""


@dataclass(slots=True)
class _Check:
    """One request for the ready check."""

    began: float
    ended: float | None = None

    def is_near(self, when: float) -> bool:
        """Whether what was printed then may be of this check."""
        if self.began <= when <= self.began + _GRACE:
            return True
        return self.ended is not None and max(self.began, self.ended - _GRACE) <= when <= self.ended + _GRACE


class OwnOutput:
    """Counts what a starting server prints, without what our ready checks make it print.

    What a server prints of a check may look like anything: a line for the connection and one for the request, JSON, a
    traceback. Servers print real progress in many ways, too, often the same line with other numbers. The rule:

    - A line with `GET` and a path of the check is not counted.
    - A line of a form that was not there before is counted. A form is what is left without all words with a digit.
    - So is a line in which a share rises (`3/8`, `3 of 8`, `41%`) above what it was in this form.
    - Any other line is one that repeats. It is counted, unless its form follows the checks: of three out of four lines
      of that form, or more, each came within a tenth of a second after the begin of a check or about its end. Checks
      that reach no server, as nothing listens yet, do not matter. As there are pauses between the checks, what is
      printed at times of its own comes in them, too.

    A line counts as of when its first byte came; one that has no end for a while, as it is.
    """

    def __init__(self, checks: Sequence[str] = ()) -> None:
        """Args:
        checks: paths of the ready check; `${PORT}` stands for the port.
        """
        paths = b"|".join(re.escape(path.encode()).replace(rb"\$\{PORT\}", rb"\d+") for path in checks)
        self._asks = re.compile(rb"\bGET\W+(?:" + paths + rb")(?![\w/])") if checks else None
        self.counted = 0
        """Bytes that are progress."""
        self.said: deque[str] = deque(maxlen=_SAID)
        """The last lines of the child, not of the server."""
        self._forms: OrderedDict[bytes, _Form] = OrderedDict()
        self._checks: deque[_Check] = deque()
        self._waiting: deque[tuple[float, _Form, int]] = deque()
        """Lines to be judged once the end of a check would be known: when they came, their form, their length."""
        self._line = b""
        """The last line, which has no end yet."""
        self._line_began = 0.0
        self._line_judged_at = 0.0
        self._line_judged = 0
        """How much of it was judged."""

    def is_of_check(self, line: bytes) -> bool:
        """Whether a line names the request of a ready check."""
        return self._asks is not None and self._asks.search(line) is not None

    def check_began(self, now: float) -> None:
        """A ready check is about to be sent."""
        self._checks.append(_Check(now))

    def check_ended(self, now: float, *, reached: bool) -> None:
        """The check that began last has ended; `reached`: it was connected to a server."""
        if not self._checks or self._checks[-1].ended is not None:
            return
        if reached:
            self._checks[-1].ended = now
        else:
            self._checks.pop()

    def feed(self, data: bytes, now: float) -> None:
        """Take what the child has printed."""
        for piece in _ENDS.split(data):
            if not self._line:
                self._line_began = self._line_judged_at = now
                self._line_judged = 0
            self._line += piece
            if piece.endswith((b"\r", b"\n")) or len(self._line) > _LONGEST:
                self._judge_line()
                self._line = b""
        self.settle(now)

    def settle(self, now: float) -> None:
        """Judge what has waited for long enough. To be called now and then."""
        if self._line and now >= self._line_judged_at + _UNFINISHED:
            self._judge_line()
            self._line_judged_at, self._line_judged = now, len(self._line)
        while self._waiting and self._waiting[0][0] + _GRACE < now:
            when, form, length = self._waiting.popleft()
            form.waiting -= 1
            if any(check.is_near(when) for check in self._checks):
                form.near += 1
            else:
                form.apart += 1
            if form.near < _OWN_SHARE * form.apart:
                self.counted += length
        oldest = min(self._waiting[0][0] if self._waiting else now, self._line_began if self._line else now)
        while self._checks and (ended := self._checks[0].ended) is not None and ended + _GRACE < oldest:
            self._checks.popleft()

    def _judge_line(self) -> None:
        line = self._line.strip()
        if line.startswith(OURS):
            if not self._line_judged:
                self.said.append(line.decode("utf-8", "replace"))
            return
        if not line or len(line) <= self._line_judged or self.is_of_check(line):
            return
        key, shares = _VARIES.sub(b"#", line), _shares(line)
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) >= _FORMS:
                self._forms.popitem(last=False)
            self._forms[key] = _Form(shares)
            self.counted += len(line)
            return
        self._forms.move_to_end(key)
        if any(share > before for share, before in zip(shares, form.highest, strict=False)):
            form.highest = [max(pair) for pair in zip(shares, form.highest, strict=False)]
            self.counted += len(line)
        elif form.waiting < _AT_ONCE:
            form.waiting += 1
            self._waiting.append((self._line_began, form, len(line)))


def _shares(line: bytes) -> list[float]:
    """How much is done, for each `n/m`, `n of m` or `n%` in it."""
    found = []
    for done, total, percent in _SHARE.findall(line):
        if percent:
            found.append(float(percent))
        else:
            found.append(float(done) if float(done) <= float(total) else -1.0)
    return found
