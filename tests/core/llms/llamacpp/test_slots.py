"""Which slot gets a request, and what is done before, from the requests alone."""

from __future__ import annotations

import pytest

from miner.core.llms.llamacpp.slots import BLOCK, SlotTable, Step, Trace, trace_of

SHARED = "You are an agent. " * 200
ROOM = 1 << 30


def body(*texts, system=SHARED, **more):
    """A conversation: user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": system}, *messages], **more}


def first(name, size=40):
    return f"I am captain {name}. " * size


class Engine:
    """A table, and requests one after another."""

    def __init__(self, slots, *, memory=ROOM, per_token=1000):
        self.table = SlotTable(slots, memory=memory, size_of=lambda tokens: tokens * per_token)

    def begin(self, request, **options):
        placement = self.table.place(trace_of(request, conversation=True), **options)
        self.table.begin(placement)
        return placement

    def run(self, request, **options):
        placement = self.begin(request, **options)
        self.table.release(placement)
        return placement.slot, placement.steps


def test_a_conversation_goes_on_where_it_was():
    engine = Engine(4)
    assert engine.run(body(first("A"), system="Other." * 400)) == (0, [])
    assert engine.run(body(first("B"))) == (1, [])
    for number in range(3):
        replies = ["Aye.", "Go on."] * number
        assert engine.run(body(first("B"), *replies, "Aye.", "Go on.")) == (1, [])
        assert engine.run(body(first("A"), *replies, "Aye.", "Go on.", system="Other." * 400)) == (0, [])


def test_a_prompt_of_less_than_a_block_goes_on_where_it_was_rather_than_on_an_empty_slot():
    engine = Engine(8)
    for name in "AB":
        request = body(name, system="Hi.")
        assert trace_of(request).size < BLOCK
        slot, _ = engine.run(request)
        assert engine.run(request) == (slot, [])
        assert engine.run(body(name, "Aye.", "Go on.", system="Hi.")) == (slot, [])


def test_a_common_beginning_is_used_and_what_would_be_lost_is_saved():
    engine = Engine(2)
    engine.run(body(first("A")))
    assert engine.run(body(first("B"))) == (0, [Step.SAVE])
    assert engine.run(body(first("A"), "Aye.", "Go on.")) == (1, [Step.BLANK])
    assert engine.run(body(first("B"), "Aye.", "Go on.")) == (0, [])


def test_more_conversations_than_slots_come_back_from_memory():
    engine = Engine(2)
    names = "ABCDE"
    for name in names:
        engine.run(body(first(name)))
    for turn in range(1, 4):
        for name in names:
            placement = engine.begin(body(first(name), *["Aye.", "Go on."] * turn))
            known = trace_of(body(first(name), *["Aye.", "Go on."] * (turn - 1)))
            engine.table.release(placement)
            assert placement.shared >= len(known.blocks), (turn, name)
            assert placement.new_tokens < 2 * BLOCK


def test_without_memory_nothing_is_saved():
    engine = Engine(1, memory=0)
    engine.run(body(first("A")))
    assert engine.run(body(first("B"))) == (0, [])
    assert engine.run(body(first("A"), "Aye.", "Go on.")) == (0, [])


def test_what_does_not_fit_into_memory_is_not_looked_for():
    engine = Engine(1, memory=2500 * 1000)
    for name in "ABC":  # of about 1100 tokens each: two fit
        engine.run(body(first(name)))
    engine.run(body(first("D")))
    assert engine.run(body(first("A"), "Aye.", "Go on.")) == (0, [Step.SAVE])
    # Saving A would push C out.
    assert engine.run(body(first("C"), "Aye.", "Go on.")) == (0, [Step.ERASE, Step.BLANK])


def test_a_busy_slot_is_not_taken():
    engine = Engine(2)
    running = engine.begin(body(first("A")))
    assert running.slot == 0
    assert engine.run(body(first("A"), "Aye.", "Go on.")) == (1, [])
    engine.table.release(running)


def test_short_requests_between_do_not_push_conversations_out():
    engine = Engine(2)
    engine.run(body(first("A")))
    for number in range(5):
        slot, steps = engine.run(body(f"Title {number}?", system=f"{number} titles."))
        assert (slot, steps) == (1, [])
    assert engine.run(body(first("A"), "Aye.", "Go on.")) == (0, [])


def test_a_long_prompt_that_will_not_go_on_is_dropped_not_saved():
    table = SlotTable(1, memory=ROOM, size_of=lambda tokens: tokens)
    long = table.place(trace_of({"prompt": "Once upon a time. " * 400}))
    table.begin(long)
    table.release(long)
    assert table.place(trace_of(body(first("A")), conversation=True)).steps == [Step.ERASE]


def test_a_raw_prompt_that_goes_on_is_a_conversation():
    table = SlotTable(1, memory=ROOM, size_of=lambda tokens: tokens)
    text = "Once upon a time. " * 400
    for _ in range(2):
        text += "And then. " * 5
        placement = table.place(trace_of({"prompt": text}))
        table.begin(placement)
        table.release(placement)
    assert placement.trace.conversation
    assert table.place(trace_of({"prompt": [5] * 9000})).steps == []  # the engine saves what is replaced entirely


def test_a_slot_that_the_client_names_is_used():
    engine = Engine(4)
    assert engine.run(body(first("A")), wanted=3) == (3, [])
    assert engine.run(body(first("A"), "Aye.", "Go on.")) == (3, [])
    assert engine.run(body(first("B")), wanted=6)[0] == 2


def test_a_request_that_was_refused_leaves_the_slot_as_it_was():
    engine = Engine(1)
    engine.run(body(first("A")))
    refused = engine.table.place(trace_of(body(first("A"), "Aye.", "x" * 9000)))
    engine.table.release(refused)
    assert engine.begin(body(first("A"), "Aye.", "Go on.")).shared == len(trace_of(body(first("A"))).blocks)


def test_the_rest_of_a_reply_is_generated_on_the_same_slot():
    engine = Engine(3)
    begun = engine.begin(body(first("A")))
    engine.table.release(begun)
    resumed = engine.table.resume(begun)
    assert (resumed.slot, resumed.steps, resumed.new_tokens < BLOCK) == (begun.slot, [], True)


@pytest.mark.parametrize(
    "changed",
    [
        body(first("A"), tools=[{"type": "function", "function": {"name": "other"}}]),
        body(first("A"), chat_template_kwargs={"enable_thinking": False}),
        body(first("A"), system="x" + SHARED),
    ],
)
def test_what_stands_before_the_messages_counts(changed):
    assert trace_of(body(first("A"))).shared(trace_of(changed)) == 0


def test_sampling_does_not_count():
    plain, other = trace_of(body(first("A"))), trace_of(body(first("A"), temperature=0.1, max_tokens=5))
    assert plain.shared(other) == len(plain.blocks) > 10


def test_long_texts_and_images_are_hashed_quickly():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (8 << 20)}}
    other = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "B" * (8 << 20)}}
    text = {"type": "text", "text": "word " * 500}
    one, two = ({"messages": [{"role": "user", "content": [part, text]}]} for part in (image, other))
    assert trace_of(one).shared(trace_of(two)) == 0
    assert len(trace_of(one).blocks) < 20
    assert len(trace_of({"prompt": "x" * (32 << 20)}).blocks) * BLOCK <= 1 << 20


def test_the_empty_trace():
    assert Trace().shared(trace_of(body("x" * 9999))) == 0
    assert trace_of({}).blocks == ()


def run_filed(engine, request, filed):
    placement = engine.table.place(trace_of(request, conversation=True), filed=trace_of(filed, conversation=True))
    engine.table.begin(placement)
    engine.table.release(placement)
    return placement


def test_a_prompt_in_a_file_is_loaded_where_the_request_goes_on_with_it():
    engine, before = Engine(2), body(first("A"))
    placement = run_filed(engine, body(first("A"), "Aye.", "Go on."), before)
    assert placement.steps == [Step.RESTORE]
    assert placement.shared >= len(trace_of(before).blocks) - 1
    # It is in a slot now.
    assert run_filed(engine, body(first("A"), "Aye.", "Go on.", "Aye.", "Go on."), before).steps == []


def test_a_prompt_in_a_file_is_left_there_where_a_slot_has_as_much():
    engine = Engine(2)
    engine.run(body(first("B")))
    assert Step.RESTORE not in run_filed(engine, body(first("C")), body(first("A"))).steps


def test_a_large_file_is_not_read_for_a_short_common_beginning():
    engine = Engine(2)
    assert run_filed(engine, body(first("B")), body(first("A", size=4000))).steps == []


def test_what_a_restored_prompt_takes_the_place_of_is_saved():
    engine = Engine(1)
    engine.run(body(first("A"), system="Other." * 400))
    assert run_filed(engine, body(first("B"), "Aye.", "Go on."), body(first("B"))).steps == [Step.SAVE, Step.RESTORE]
    assert engine.run(body(first("A"), "Aye.", "Go on.", system="Other." * 400)) == (0, [Step.BLANK])


def test_a_slot_whose_file_was_not_loaded_is_empty():
    engine = Engine(1)
    placement = engine.table.place(trace_of(body(first("A"), "Aye.", "Go on.")), filed=trace_of(body(first("A"))))
    assert placement.shared
    engine.table.not_restored(placement)
    assert not placement.shared
    assert not engine.table.to_file()


def test_idle_slots_with_prompts_of_some_length_are_worth_a_file_the_last_used_first():
    engine = Engine(4)
    engine.run(body(first("A"), system="Other." * 400))
    engine.run(body(first("B")))
    engine.run(body("Hi", system="No."))
    engine.run(body(first("L"), system="Lora." * 400, lora=[{"id": 0, "scale": 1}]))
    engine.begin(body(first("C"), system="Busy." * 400))
    assert [slot for slot, _ in engine.table.to_file()] == [1, 0]
