"""A table that changes under requests: none is lost, none stays with what was closed, and what goes is closed."""

from __future__ import annotations

import asyncio

import pytest

from miner.errors import ConfigError, ModelNotFoundError
from tests.core.llms.pool.files import pool_of, until
from tests.servers.openai_stub import StubServer


def table(url, edit, expose="false"):
    return f"""
        [backends.a]
        kind = "openai"
        url = "{url}"
        timeout = {10 + edit}.0
        expose = {expose}
        [backends.down]
        kind = "openai"
        url = "http://127.0.0.1:1"
        timeout = {20 + edit}.0
        [models.first]
        backend = "down"
        fallbacks = ["second"]
        [models.second]
        backend = "a"
        name = "m"
        """


async def test_no_request_is_lost_while_services_are_exchanged(tmp_path):
    server = StubServer(["m", "other"], reply="Hello.")
    async with server, pool_of(tmp_path, table(server.url, 0, "true")) as service:
        done = 0

        async def ask(name, stream):
            nonlocal done
            while done < 300:
                done += 1
                if stream:
                    response = await service.stream("hi", model=name).collect()
                else:
                    response = await service.chat_completion([{"role": "user", "content": "hi"}], model=name)
                assert response.content == "Hello."

        workers = [
            asyncio.create_task(ask(name, stream))
            for name in ("first", "second", "other") for stream in (False, True)
        ]  # fmt: skip
        edit = 0
        while not all(worker.done() for worker in workers):
            edit += 1
            service.config_path.write_text(table(server.url, edit, "true"))
            assert await service.reload()
        await asyncio.gather(*workers)
        assert edit > 5
        members = service._members
        await until(lambda: all(holder.closed for holder in members._retired))
        await service.reload()
        assert not members._retired


async def test_what_cannot_be_served_changes_nothing(tmp_path):
    async with StubServer(["m"]) as server, pool_of(tmp_path, table(server.url, 0)) as service:
        before, members = service._members.table, service._members
        good = service.config_path.read_text()
        foreign = '[backends.foreign]\nkind = "not-installed"\n[models.bad]\nbackend = "foreign"\n'
        stop = f"{good}sampling = {{ stop = [''] }}\n"
        for text in (stop, "[models.second\n", f'{good}[models.bad]\nbackend = "nowhere"\n', good + foreign):
            service.config_path.write_text(text)
            with pytest.raises(ConfigError):
                await service.reload()
            assert members.table is before
            assert service.config_state.error
            assert not members._retired
        service.config_path.write_text(good)
        assert not await service.reload()
        assert service.config_state.error is None


async def test_a_file_that_may_be_incomplete_removes_nothing(tmp_path):
    async with StubServer(["m"]) as server, pool_of(tmp_path, table(server.url, 0)) as service:
        service.config_path.write_text("")
        with pytest.raises(ConfigError, match="fewer models"):
            await service.reload(complete=False)
        assert service.config_state.error is None
        assert await service.generate("hi", model="second") == "Hello there."
        assert (await service.reload()).removed == ("first", "second")
        with pytest.raises(ModelNotFoundError):
            await service.generate("hi", model="second")


async def test_a_service_that_comes_back_before_its_requests_are_done_is_used_again(tmp_path):
    go_on = asyncio.Event()

    async def slowly(body):
        await go_on.wait()
        return "Hello."

    async with StubServer(["m"], reply=slowly) as server, pool_of(tmp_path, table(server.url, 0)) as service:
        holder = service.served("second").holder
        asked = asyncio.create_task(service.generate("hi", model="second"))
        await until(lambda: server.generations)
        for edit in (1, 0):
            service.config_path.write_text(table(server.url, edit))
            await service.reload()
        assert service.served("second").holder is holder
        go_on.set()
        assert await asked == "Hello."
        await asyncio.sleep(0.05)
        assert not holder.closed
        assert await service.generate("hi", model="second") == "Hello."


async def test_limits_of_a_service_that_stays_are_those_of_the_file(tmp_path):
    go_on = asyncio.Event()

    async def slowly(body):
        await go_on.wait()
        return "Hello."

    async with StubServer(["m"], reply=slowly) as server:
        text = table(server.url, 0).replace('kind = "openai"', 'kind = "openai"\nconcurrency = 1', 1)
        async with pool_of(tmp_path, text) as service:
            asked = [asyncio.create_task(service.generate("hi", model="second")) for _ in range(3)]
            await until(lambda: server.generations)
            service.config_path.write_text(text.replace("concurrency = 1", "concurrency = 2"))
            assert (await service.reload()).others == ("backends",)
            asked.append(asyncio.create_task(service.generate("hi", model="second")))
            await until(lambda: len(server.generations) == 2)
            go_on.set()
            assert await asyncio.gather(*asked) == ["Hello."] * 4


@pytest.mark.parametrize("table", ["models.m", "defaults"])
async def test_a_parameter_that_no_request_may_have_is_an_error_of_the_file(tmp_path, table):
    text = f'[backends.a]\nkind = "openai"\nurl = "http://127.0.0.1:1"\n[{table}]\nsampling = {{ stop = [""] }}\n'
    with pytest.raises(ConfigError, match=rf"miner.toml:5: {table}.sampling.stop = .* none of them empty"):
        async with pool_of(tmp_path, text if table != "defaults" else f"{text}[models.m]\n"):
            pass
