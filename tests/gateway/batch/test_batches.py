"""Batches by the official clients: files in and out, rows behind interactive requests, once each, across restarts."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import anthropic
import httpx
import openai
import pytest

from miner.errors import BackendError
from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, partition_of, write_keys
from miner.gateway.batch import runner
from miner.gateway.store.batches import BatchStore
from tests.gateway.middleware.test_rate_limit import LONG, until
from tests.gateway.serving import Parrot, config, serving


class Gated(Parrot):
    """Replies once for each `go.release()`, and notes what it was asked."""

    concurrency = 2

    def __init__(self):
        super().__init__(config())
        self.go, self.order, self.running = asyncio.Semaphore(0), [], 0

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        self.order.append(prompt)
        self.running += 1
        try:
            await self.go.acquire()
        finally:
            self.running -= 1
        return f"You said: {prompt}"


def lines(*prompts, url="/v1/chat/completions", **more):
    rows = [
        {"custom_id": prompt, "method": "POST", "url": url, "body": {
            "model": "m", "messages": [{"role": "user", "content": prompt}], **more}}
        for prompt in prompts
    ]  # fmt: skip
    return "\n".join(map(json.dumps, rows)).encode()


@asynccontextmanager
async def clients(served, key="x"):
    async with (
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as one,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=key, max_retries=0) as other,
    ):
        yield one, other


async def created(client, content, endpoint="/v1/chat/completions", **more):
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


async def polled(read, is_ready):
    async with asyncio.timeout(LONG):
        while True:
            found = await read()
            if is_ready(found):
                return found
            await asyncio.sleep(0.05)


async def ended(client, batch):
    last = ("completed", "failed", "cancelled", "expired")
    return await polled(lambda: client.batches.retrieve(batch.id), lambda found: found.status in last)


async def rows_of(client, file_id):
    text = (await client.files.content(file_id)).text
    return {row["custom_id"]: row for row in map(json.loads, text.splitlines())}


async def test_a_batch_from_its_file_to_its_results(tmp_path):
    async with (
        serving(Parrot(config()), serve_store_file=str(tmp_path / "store.db")) as served,
        clients(served) as (client, _),
    ):
        content = b"\xef\xbb\xbf" + lines("a", "b", "c") + b"\n" + lines("d", temperature=9) + b"\n\n"
        batch = await created(client, content, metadata={"job": "nightly"})
        assert (batch.status, batch.metadata) == ("validating", {"job": "nightly"})
        batch = await ended(client, batch)
        assert batch.status == "completed"
        assert batch.request_counts.model_dump() == {"completed": 3, "failed": 1, "total": 4}
        assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at <= batch.expires_at
        done = await rows_of(client, batch.output_file_id)
        assert sorted(done) == ["a", "b", "c"]
        body = done["b"]["response"]["body"]
        assert body["choices"][0]["message"]["content"] == "You said: b"
        assert done["b"]["response"]["status_code"] == 200
        failed = await rows_of(client, batch.error_file_id)
        assert failed["d"]["response"]["status_code"] == 400
        assert "temperature" in failed["d"]["response"]["body"]["error"]["message"]
        described = await client.files.retrieve(batch.output_file_id)
        assert described.bytes == len((await client.files.content(batch.output_file_id)).content)
        assert [one.id async for one in client.batches.list(limit=1)] == [batch.id]
        assert {one.id async for one in client.files.list()} == {
            batch.input_file_id, batch.output_file_id, batch.error_file_id
        }  # fmt: skip
        assert (await client.files.delete(batch.input_file_id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(batch.input_file_id)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"{", 1, "not valid JSON"), (lines("a", "a"), 2, "not unique"), (b"[]", 1, "must be a JSON object"),
        (lines("a", url="/v1/embeddings"), 1, "endpoint of the batch"), (lines("a", stream=True), 1, "body.stream"),
        (b"\n", None, "no requests"), (lines("a").replace(b"POST", b"GET"), 1, "method must be POST"),
    ],
)  # fmt: skip
async def test_an_invalid_file_fails_the_batch_with_line_and_reason(content, line, words, tmp_path):
    async with (
        serving(Parrot(config()), serve_store_file=str(tmp_path / "store.db")) as served,
        clients(served) as (client, _),
    ):
        batch = await ended(client, await created(client, content))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert (batch.errors.data[0].line, words in batch.errors.data[0].message) == (line, True)


async def test_rows_run_behind_interactive_requests_and_leave_a_slot(tmp_path):
    service = Gated()
    path = str(tmp_path / "store.db")
    async with serving(service, serve_store_file=path, serve_max_running=2) as served, clients(served) as (client, _):
        batch = await created(client, lines("row 1", "row 2", "row 3"))
        await until(lambda: service.running == 1)

        def say(text):
            return asyncio.create_task(
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
            )

        first = say("one")
        await until(lambda: service.running == 2)
        second = say("two")
        await until(lambda: served.gateway.queue.permits.waiting == 1)
        for _ in range(5):
            service.go.release()
        await asyncio.gather(first, second)
        assert (await ended(client, batch)).request_counts.completed == 3
        assert [text for text in service.order if "row" not in text] == ["one", "two"]
        assert service.order.index("two") < service.order.index("row 3")


async def test_a_batch_survives_a_restart_and_each_row_is_counted_once(tmp_path):
    path, service = str(tmp_path / "store.db"), Gated()
    async with (
        serving(service, serve_store_file=path, serve_batch_concurrency=1) as served,
        clients(served) as (client, _),
    ):
        batch = await created(client, lines("a", "b", "c"))
        service.go.release()
        await until(lambda: service.order == ["a", "b"])
    again = Gated()
    for _ in range(2):
        again.go.release()
    async with (
        serving(again, serve_store_file=path, serve_batch_concurrency=1) as served,
        clients(served) as (client, _),
    ):
        batch = await ended(client, batch)
        assert batch.request_counts.model_dump() == {"completed": 3, "failed": 0, "total": 3}
        assert sorted(await rows_of(client, batch.output_file_id)) == ["a", "b", "c"]
    assert again.order == ["b", "c"]


async def test_cancelling_stops_what_runs_and_keeps_what_is_done(tmp_path):
    path, service = str(tmp_path / "store.db"), Gated()
    async with (
        serving(service, serve_store_file=path, serve_batch_concurrency=1) as served,
        clients(served) as (client, _),
    ):
        batch = await created(client, lines("a", "b", "c"))
        service.go.release()
        await until(lambda: service.order == ["a", "b"])
        assert (await client.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
        await until(lambda: service.running == 0)
        batch = await ended(client, batch)
        assert batch.status == "cancelled"
        assert list(await rows_of(client, batch.output_file_id)) == ["a"]
        assert {row["error"]["code"] for row in (await rows_of(client, batch.error_file_id)).values()} == {
            "batch_cancelled"
        }
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
    assert service.order == ["a", "b"]


async def test_nothing_of_one_key_is_seen_by_another_and_a_revoked_key_runs_nothing(tmp_path):
    secrets = {name: f"{name}-key-0123456789" for name in ("alice", "bob")}
    entries = [KeyEntry(name=name, sha256=hash_of(key).hex()) for name, key in secrets.items()]
    write_keys(key_path(None), KeyFile(keys=entries))
    path, service = str(tmp_path / "store.db"), Gated()
    async with (
        serving(service, serve_store_file=path, serve_batch_concurrency=1) as served,
        clients(served, secrets["alice"]) as (alice, _),
        clients(served, secrets["bob"]) as (bob, _),
    ):
        batch = await created(alice, lines("a", "b"))
        await until(lambda: service.running == 1)
        for missing in (
            bob.batches.retrieve(batch.id), bob.batches.cancel(batch.id), bob.files.content(batch.input_file_id),
            bob.files.delete(batch.input_file_id),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                await missing
        with pytest.raises(openai.BadRequestError, match="not found"):
            await bob.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert [one.id async for one in bob.batches.list()] == []
    write_keys(key_path(None), KeyFile(keys=entries[1:]))
    async with serving(service, serve_store_file=path) as served, clients(served, secrets["bob"]):
        await until(lambda: served.gateway.batches.database.is_open)
        owner = partition_of(hash_of(secrets["alice"]))
        found = await polled(
            lambda: served.gateway.batches.list_batches(owner, "openai"), lambda found: found[0].status == "completed"
        )
        assert found[0].counts == {"errored": 2}
    assert service.order == ["a"]


async def test_rows_that_run_do_not_keep_their_client_from_looking_at_them(tmp_path):
    service = Gated()
    limits = {"rate_limit_concurrency": 1}
    message = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    async with (
        serving(service, serve_store_file=str(tmp_path / "store.db"), **limits) as served,
        clients(served) as (one, other),
    ):
        batch = await created(one, lines("a"))
        messages = await other.messages.batches.create(requests=[{"custom_id": "a", "params": message}])
        await until(lambda: service.running == 1)
        assert (await one.batches.retrieve(batch.id)).status == "in_progress"
        assert (await one.files.retrieve(batch.input_file_id)).id == batch.input_file_id
        assert (await one.files.content(batch.input_file_id)).content == lines("a")
        assert [found.id async for found in one.batches.list()] == [batch.id]
        assert (await other.messages.batches.retrieve(messages.id)).processing_status == "in_progress"
        assert (await other.messages.batches.cancel(messages.id)).processing_status == "canceling"
        await one.batches.cancel(batch.id)
        assert (await ended(one, batch)).status == "cancelled"


async def test_rows_over_the_limit_of_their_key_wait_as_long_as_it_says(tmp_path, monkeypatch):
    service, waits, sleep = Gated(), [], asyncio.sleep

    async def noted(seconds, result=None):
        if not 0.5 < seconds < 100:  # of others
            return await sleep(seconds, result)
        waits.append(seconds)
        return await sleep(0.01)

    monkeypatch.setattr(asyncio, "sleep", noted)
    path = str(tmp_path / "store.db")
    async with (
        serving(service, serve_store_file=path, serve_batch_concurrency=2, rate_limit_concurrency=1) as served,
        clients(served) as (client, _),
    ):
        batch = await created(client, lines("a", "b"))
        await until(lambda: len(waits) > 12)
        service.go.release()
        service.go.release()
        assert (await ended(client, batch)).request_counts.completed == 2
    assert max(waits) < 10


async def test_a_row_waits_for_a_backend_that_is_away(tmp_path, monkeypatch):
    class Away(Parrot):
        fails = 2

        async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
            if self.fails:
                self.fails -= 1
                raise BackendError("It is down.", backend="away", status=503)
            return "here"

    async with (
        serving(Away(config()), serve_store_file=str(tmp_path / "store.db")) as served,
        clients(served) as (client, _),
    ):
        batch = await ended(client, await created(client, lines("a")))
        assert (await rows_of(client, batch.output_file_id))["a"]["response"]["status_code"] == 200


async def test_anthropics_batches(tmp_path):
    params = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    async with (
        serving(Parrot(config()), serve_store_file=str(tmp_path / "store.db")) as served,
        clients(served) as (_, client),
    ):
        batches = client.messages.batches
        batch = await batches.create(requests=[
            {"custom_id": "good", "params": params}, {"custom_id": "bad", "params": {**params, "temperature": 9}},
        ])  # fmt: skip
        assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 2)
        batch = await polled(lambda: batches.retrieve(batch.id), lambda found: found.processing_status == "ended")
        assert batch.request_counts.model_dump() == {
            "succeeded": 1, "errored": 1, "processing": 0, "canceled": 0, "expired": 0
        }  # fmt: skip
        results = {one.custom_id: one.result async for one in await batches.results(batch.id)}
        assert results["good"].message.content[0].text == "You said: Hi"
        assert results["bad"].error.error.type == "invalid_request_error"
        assert [one.id async for one in batches.list(limit=1)] == [batch.id]
        assert (await batches.delete(batch.id)).type == "message_batch_deleted"
        with pytest.raises(anthropic.NotFoundError):
            await batches.retrieve(batch.id)
        with pytest.raises(anthropic.BadRequestError, match=r"requests\[1\]\.custom_id 'x' is not unique"):
            await batches.create(requests=[{"custom_id": "x", "params": params}] * 2)


async def test_where_nothing_is_stored_the_routes_say_so():
    async with serving(Parrot(config()), serve_store=False) as served, httpx.AsyncClient(base_url=served.url) as http:
        for path in ("/v1/batches", "/v1/files", "/v1/messages/batches"):
            response = await http.get(path)
            assert response.status_code == 501
            assert "stores no files and batches" in response.text


async def test_files_and_batches_are_bounded(tmp_path):
    path = str(tmp_path / "store.db")
    async with (
        serving(Parrot(config()), serve_store_file=path, serve_batch_max_bytes=4096) as served,
        clients(served) as (client, _),
    ):
        await client.files.create(file=("a", b"x" * 3000), purpose="batch")
        with pytest.raises(openai.APIStatusError, match="There is no room for 3000 bytes"):
            await client.files.create(file=("b", b"x" * 3000), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="purpose must be one of"):
            await client.files.create(file=("b", b"x"), purpose="nonsense")


async def test_a_last_row_that_ends_during_a_look_ends_its_batch(tmp_path, monkeypatch):
    service, claim, looks = Gated(), BatchStore.claim, asyncio.Event()

    async def slow(store):
        batches = await claim(store)
        if looks.is_set():
            looks.clear()
            service.go.release()
            await until(lambda: not service.running)
            await asyncio.sleep(0.2)  # until its row is stored and its task is done
        return batches

    monkeypatch.setattr(BatchStore, "claim", slow)
    monkeypatch.setattr(runner, "_POLL_SECONDS", 10 * LONG)
    async with (
        serving(service, serve_store_file=str(tmp_path / "store.db"), serve_batch_concurrency=1) as served,
        clients(served) as (client, _),
    ):
        batch = await created(client, lines("a"))
        await until(lambda: service.running == 1)
        looks.set()
        other = await created(client, lines("b"))
        assert (await ended(client, batch)).status == "completed"
        service.go.release()
        assert (await ended(client, other)).status == "completed"


async def test_a_large_file_comes_back_as_it_was_sent(tmp_path):
    content = lines("a", "b" * 300_000) + b"\n" + bytes(range(256)) * 16_000
    async with (
        serving(Parrot(config()), serve_store_file=str(tmp_path / "store.db")) as served,
        clients(served) as (client, _),
    ):
        file = await client.files.create(file=("large.jsonl", content), purpose="batch")
        assert file.bytes == len(content)
        assert (await client.files.content(file.id)).content == content


def form(disposition, content):
    head = f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode("latin-1")
    return head + content + b"\r\n--x--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"--x", b"--x\r\n\r\n\r\n--x--", form('form-data; name="a"', b"\xff"),
        form('form-data; name="file"; filename="f"\r\nContent-Encoding: no', b"a"),
        form('form-data; name="\xf0\x9f"\r\nContent-Transfer-Encoding: base64', b"!"),
        b"--x\r\nContent-Type: multipart/mixed\r\n\r\n\r\n--x--\r\n", b"--x\r\nNonsense\r\n\r\n\r\n--x--\r\n",
    ],
)  # fmt: skip
async def test_a_broken_form_is_a_clear_error(body, tmp_path):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    path = str(tmp_path / "store.db")
    async with serving(Parrot(config()), serve_store_file=path) as served, httpx.AsyncClient() as http:
        response = await http.post(f"{served.url}/v1/files", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


PART = form('form-data; name="purpose"', b"batch").removesuffix(b"--x--\r\n")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\n" * 500 + PART + b"--x--", "begin with its boundary"), (b"--xy\n" + PART + b"--x--", "begin with its"),
        (PART * 65 + b"--x--", "more than 64 parts"),
    ],
)  # fmt: skip
async def test_what_would_be_read_for_long_is_no_form(body, words, tmp_path):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    path = str(tmp_path / "store.db")
    async with serving(Parrot(config()), serve_store_file=path) as served, httpx.AsyncClient() as http:
        response = await http.post(f"{served.url}/v1/files", content=body, headers=headers)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
