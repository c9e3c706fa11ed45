"""The last lines of a child's output."""

import logging

from miner.core.engine.logtail import LogTail


def test_log_lines_survive_any_cut():
    whole = b"one\n\ntwo \xff three\r\nfour\n" * 3
    for size in range(1, len(whole)):
        tail = LogTail("x")
        for start in range(0, len(whole), size):
            tail.feed(whole[start : start + size])
        assert tail.lines() == ["one", "two \ufffd three", "four"] * 3


def test_the_log_is_bounded_in_lines_and_bytes():
    tail = LogTail("x", max_lines=5, max_bytes=100)
    for number in range(50):
        tail.feed(f"line {number}\n".encode())
    assert tail.lines() == [f"line {number}" for number in range(45, 50)]
    tail.feed(b"a" * 40 + b"\n")
    tail.feed(b"b" * 70 + b"\n")
    assert tail.lines() == ["b" * 70]
    tail.feed(b"c" * 1000)
    assert tail.lines() == ["b" * 70, "c" * 100]
    tail.close()
    assert tail.lines() == ["c" * 100]


def test_two_pipes_do_not_mix_within_a_line():
    tail = LogTail("x")
    tail.feed(b"err", "stderr")
    tail.feed(b"out", "stdout")
    tail.feed(b"or\n", "stderr")
    tail.feed(b"put\n", "stdout")
    assert tail.lines() == ["error", "output"]


def test_each_line_is_logged_at_debug(caplog):
    caplog.set_level(logging.DEBUG, "miner.engine")
    LogTail("demo").feed(b"a\nb\n")
    assert [record.message for record in caplog.records] == ["demo: a", "demo: b"]


def test_what_was_written_since_in_a_bounded_log_and_after_another_start():
    tail = LogTail("x", max_lines=3)
    empty = tail.complete_lines(1)
    tail.feed(b"a\nb\nno end")
    first = tail.complete_lines(1)
    assert (first.since(empty), first.since(first)) == (["a", "b"], [])
    tail.feed(b" yet\nd\ne\nf\n")
    second = tail.complete_lines(1)
    assert (second.first, second.since(first), second.since(empty)) == (3, ["d", "e", "f"], ["d", "e", "f"])
    again = LogTail("x")
    again.feed(b"d\ne\nf\n")
    assert again.complete_lines(2).since(second) == ["d", "e", "f"]
