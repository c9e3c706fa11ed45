"""Conversations within the limits of a chat template."""

from __future__ import annotations

import pytest

from miner.core.llms.contract.messages import checked_messages
from miner.core.llms.llamacpp.message_rewrites import RESTRICTIONS, join_text_parts, rewrite, violations


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


def calls(*ids):
    made = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(id, text="r"):
    return {"role": "tool", "tool_call_id": id, "content": text}


def told(messages):
    """Role and text of each message; calls and results by their ids."""
    return [
        (m.role, tuple(c["id"] for c in m.tool_calls) if m.tool_calls else m.tool_call_id or m.content)
        for m in messages
    ]


U1, U2, A1 = user("u1"), user("u2"), said("a1")


@pytest.mark.parametrize(
    ("limits", "given", "expected"),
    [
        ("leading_systems", [system("s1"), system("s2"), U1], [("system", "s1\n\ns2"), ("user", "u1")]),
        (
            "later_system",
            [system("s1"), U1, A1, system("s2"), U2],
            [("system", "s1"), ("user", "u1"), ("assistant", "a1"), ("user", "s2\n\nu2")],
        ),
        ("later_system", [U1, A1, system("s2")], [("user", "u1"), ("assistant", "a1"), ("user", "s2")]),
        (
            "later_system",
            [U1, calls("a"), system("s2"), result("a"), system("s3")],
            [("user", "u1"), ("assistant", ("a",)), ("tool", "a"), ("user", "s2\n\ns3")],
        ),
        ("system", [system("s1"), U1, A1, U2], [("user", "s1\n\nu1"), ("assistant", "a1"), ("user", "u2")]),
        ("system", [system("s1"), A1, U2], [("user", "s1"), ("assistant", "a1"), ("user", "u2")]),
        ("only_system", [system("s1")], [("system", "s1"), ("user", "")]),
        ("no_messages", [A1], [("user", ""), ("assistant", "a1")]),
        ("same_role", [U1, U2, A1, said("a2"), U1], [("user", "u1\n\nu2"), ("assistant", "a1\n\na2"), ("user", "u1")]),
        ("same_role", [U1, A1, calls("a"), result("a")], [("user", "u1"), ("assistant", ("a",)), ("tool", "a")]),
        ("assistant_first", [A1, U1], [("user", ""), ("assistant", "a1"), ("user", "u1")]),
        (
            "assistant_first",
            [system("s"), A1, U1],
            [("system", "s"), ("user", ""), ("assistant", "a1"), ("user", "u1")],
        ),
        (
            "calls_in_one_message",
            [U1, calls("a", "b"), result("b"), result("a")],
            [("user", "u1"), ("assistant", ("a",)), ("tool", "a"), ("assistant", ("b",)), ("tool", "b")],
        ),
        (
            "user_after_result",
            [U1, calls("a"), result("a"), U2],
            [("user", "u1"), ("assistant", ("a",)), ("tool", "a"), ("assistant", ""), ("user", "u2")],
        ),
        (
            "unanswered_call",
            [U1, calls("a"), U2],
            [("user", "u1"), ("assistant", ("a",)), ("assistant", ""), ("user", "u2")],
        ),
        (
            "text_beside_calls",
            [U1, {**calls("a"), "content": "t"}, result("a")],
            [("user", "u1"), ("assistant", "t"), ("assistant", ("a",)), ("tool", "a")],
        ),
        ("orphan_results", [U1, A1, result("x", "r")], [("user", "u1"), ("assistant", "a1"), ("user", "r")]),
    ],
)
def test_a_conversation_within_a_limit(limits, given, expected):
    messages = checked_messages(given)
    assert limits in violations(messages)
    assert told(rewrite(messages, {limits})) == expected
    assert told(messages) == told(checked_messages(given))  # what the caller gave is left as it was


def test_what_breaks_no_limit_meets_none():
    given = [system("s"), U1, A1, U2, calls("abcdef123"), result("abcdef123"), said("done"), U1]
    messages = checked_messages(given)
    assert violations(messages) == {"system", "calls"}
    assert violations(checked_messages([U1])) == set()
    assert told(rewrite(messages, set(RESTRICTIONS) - {"system"})) == told(messages)


def test_ids_are_mapped_the_same_everywhere():
    messages = checked_messages(
        [U1, calls("call_abcdefghijkl", "abcdefgh1"), result("call_abcdefghijkl"), result("abcdefgh1")]
    )
    first, again = rewrite(messages, {"call_ids"}), rewrite(messages, {"call_ids"})
    short, kept = (call["id"] for call in first[1].tool_calls)
    assert len(short) == 9
    assert short.isalnum()
    assert kept == "abcdefgh1"
    assert [message.tool_call_id for message in first[2:]] == [short, kept]
    assert told(first) == told(again)


def test_joined_messages_lose_nothing():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    given = [
        user("u1"),
        user([{"type": "text", "text": "u2"}, image]),
        said("a1", reasoning="t1"),
        said("a2", reasoning="t2"),
    ]
    joined = rewrite(checked_messages(given), {"same_role"})
    assert [part.text for part in joined[0].content[:2]] == ["u1", "u2"]
    assert len(joined[0].images()) == 1
    assert (joined[1].content, joined[1].reasoning) == ("a1\n\na2", "t1\n\nt2")


def test_parts_of_text_are_one_text_and_images_stay():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    flat = join_text_parts(checked_messages([system(parts), user(parts), user([*parts, image])]))
    assert [m.content if isinstance(m.content, str) else len(m.content) for m in flat] == ["a\nb", "a\nb", 3]
    plain = checked_messages([U1])
    assert join_text_parts(plain) is plain


@pytest.mark.parametrize("restrictions", [(), ("later_system",), ("later_system", "same_role"), RESTRICTIONS])
def test_system_messages_after_results_leave_what_is_before_them_as_it_was(restrictions):
    """Claude Code adds one with the tokens that are left after every result: each turn begins with the last one."""
    turns = [system("s"), user("u")]
    before = None
    for number in range(4):
        turns += [calls(f"abcdefgh{number}"), result(f"abcdefgh{number}"), system(f"{9 - number} tokens left")]
        sent = rewrite(checked_messages(turns), restrictions)
        texts = [message.content for message in sent if message.content]
        assert [text for text in texts if "tokens left" in text][-1].endswith(f"{9 - number} tokens left")
        if before is not None:
            assert sent[: len(before)] == before
        before = sent
