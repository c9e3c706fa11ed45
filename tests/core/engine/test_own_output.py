"""What a starting server prints: of its own, and because it is asked whether it is ready."""

import itertools

import pytest

from miner.core.engine.own_output import OwnOutput
from miner.core.engine.ready_check import FIRST_PAUSE, next_pause

SPACING = 0.26
"""Seconds between two checks, as in the first half minute."""

OF_CHECKS = {
    "access lines": ['127.0.0.1:{port} - "GET /health HTTP/1.1" 503 Service Unavailable\n'],
    "JSON": ['{{"time": "12:00:{n:02}", "method": "GET", "path": "/health", "status": 503, "id": "{n:032x}"}}\n'],
    "logfmt": ["ts=2026-01-02T03:04:{n:02}Z method=GET uri=/health status=503 took={n}ms\n"],
    "path first": ["/health GET 503\n"],
    "two lines": ["connection accepted from 127.0.0.1:{port}\n", "GET /health 503\n"],
    "two pieces": ["127.0.0.1 - - [10/Oct/2026:13:55:{n:02}] asks", " for /health: 503\n"],
    "traceback": [
        "Exception occurred during processing of request from ('127.0.0.1', {port})\n"
        "Traceback (most recent call last):\n"
        '  File "server.py", line 12, in do_GET\n    raise RuntimeError("not yet")\nRuntimeError: not yet\n'
    ],
    "a count of requests": ["request {n}: not ready, up for {n}.{n} s, memory 34%\n"],
}

OF_ITS_OWN = {
    "tqdm": "\rLoading safetensors checkpoint shards:  {percent}% Completed | {n}/120 [00:{n:02}<01:00,  1.20s/it]",
    "dots": ".",
    "n of m": "loaded layer {n} of 120\n",
    "n/m": "[{n}/120] compiling kernels\n",
    "a downloader": "2026-11-29 04:25:{n:02},123 INFO download: {n}23456 bytes so far\n",
    "a heartbeat": "still loading ...\n",
}


def asked(seconds, printed=(), *, reached=True, took=0.004, late=lambda number: 0.0):
    """What happens at a server that is asked again and again: times, each with a method and its arguments."""
    for number in range(1, int(seconds / SPACING) + 1):
        at = number * (SPACING + took)
        yield at, "check_began", (), {}
        for part, text in enumerate(printed):
            pause = 0.05 if part and not printed[part - 1].endswith("\n") else 0.0
            line = text.format(n=number, port=40_000 + number).encode()
            yield at + took - 0.002 + pause + late(number), "feed", (line,), {}
        yield at + took, "check_ended", (), {"reached": reached}


def play(*events):
    """Run what happens in the order of time; return the growth of what is counted, as (time, bytes)."""
    output, counted, grew = OwnOutput(["/health"]), 0, []
    for at, method, values, options in sorted(itertools.chain(*events), key=lambda event: event[0]):
        keyed = options if method == "check_ended" else {}
        getattr(output, method)(*values, at, **keyed)
        output.settle(at)
        if output.counted > counted:
            grew.append((at, output.counted - counted))
            counted = output.counted
    return grew


@pytest.mark.parametrize("took", [0.004, 0.15, 0.5])
@pytest.mark.parametrize("printed", OF_CHECKS.values(), ids=OF_CHECKS)
def test_what_is_printed_of_checks_is_no_progress(printed, took):
    """Only the first time, when nobody can know."""
    assert all(at < 2 * (SPACING + took) for at, _ in play(asked(60.0, printed, took=took)))


@pytest.mark.parametrize("late", [0.09, 0.13])
def test_a_line_that_comes_late_now_and_then_makes_no_difference(late):
    grew = play(asked(60.0, ["/health GET 503\n"], late=lambda number: late if number % 6 == 0 else 0.0))
    assert all(at < 2 * SPACING for at, _ in grew)


@pytest.mark.parametrize("listens", [False, True], ids=["silent port", "answers 503"])
@pytest.mark.parametrize("every", [0.2, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("text", OF_ITS_OWN.values(), ids=OF_ITS_OWN)
def test_real_progress_is_counted_however_often_the_server_is_asked(text, every, listens):
    """Also where it prints something of each check besides, and whatever the times: never long without."""
    own = (
        (0.05 + number * every, "feed", (text.format(n=number, percent=f"{number / 1.2:.0f}").encode(),), {})
        for number in range(120)
    )
    checks = asked(120 * every, ["/health GET 503\n"] if listens else [], reached=listens)
    times = [at for at, _ in play(own, checks)]
    assert len(times) > 15
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 5 * every + 2.0
    assert times[-1] > 119 * every - 5 * every - 2.0


def test_what_the_child_says_is_kept_and_not_counted():
    output = OwnOutput()
    output.feed(b"miner: it listens on port 1, not on 2\n", 1.0)
    for number in range(500):
        output.feed(b"noise %d\n" % number, 2.0 + number)
    assert list(output.said) == ["miner: it listens on port 1, not on 2"]
    before = OwnOutput()
    before.feed(b"miner: its ready check returned 503\n", 1.0)
    before.settle(10.0)
    assert before.counted == 0


def test_dates_and_versions_are_no_shares():
    """Which would rise each day, or by chance."""
    assert len(play(asked(5.0, ["2026/11/{n:02} HTTP/1.{n} 5/3 /v{n}/99 {n}.1/x\n"]))) == 1


def test_memory_is_bounded():
    output = OwnOutput()
    for number in range(20_000):
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        output.feed(f"{word}\n".encode(), float(number))
    assert len(output._forms) <= 4096
    output.feed(b"y" * 200_000, 1e5)
    assert len(output._line) <= 1 << 14


@pytest.mark.parametrize("took", [0.004, 0.1, 0.3, 2.0])
def test_there_are_pauses_between_checks_however_long_they_take(took):
    """Else all that a slow server prints would come about a check."""
    pause = waited = 0.0
    for _ in range(60):
        pause = next_pause(max(pause, FIRST_PAUSE), waited, took)
        waited += pause + took
    assert pause >= min(1.0, 2 * took)
    assert pause <= 1.0
