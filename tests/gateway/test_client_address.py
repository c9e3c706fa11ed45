"""What stands between client and server: whose address is counted, and that nothing passed on has the admin right."""

from __future__ import annotations

import json
import os

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from miner.errors import ConfigError
from miner.gateway.app import create_app, default_middleware
from miner.gateway.client_address import TrustedProxies, is_loopback
from miner.gateway.middleware.logging import AccessLog
from miner.gateway.server.log import server_log
from miner.gateway.settings import GatewaySettings
from tests.gateway.middleware.test_rate_limit import ask
from tests.gateway.serving import Parrot, config, post, serving

PASSED_ON = {
    "Forwarded": "for=1.2.3.4", "X-Forwarded-For": "127.0.0.1", "x-forwarded-host": "localhost",
    "X-Forwarded-Proto": "https", "X-Real-IP": "127.0.0.1", "Via": "1.1 caddy", "CF-Connecting-IP": "1.2.3.4",
    "Cf-Ray": "1", "True-Client-IP": "1.2.3.4", "X-Client-IP": "1.2.3.4", "Tailscale-User-Login": "a@example.org",
    "Ngrok-Trace-Id": "1", "X-Original-Host": "a", "X-Envoy-External-Address": "1.2.3.4", "CDN-Loop": "cloudflare",
    "X-Amzn-Trace-Id": "1", "Proxy-Connection": "keep-alive", "X-Auth-Request-Email": "a@example.org",
    "Fly-Client-IP": "1",    "X-Forwarded": "for=1.2.3.4", "X-Cluster-Client-IP": "1.2.3.4", "Remote-User": "root",
}  # fmt: skip
ELSEWHERE = {
    "Origin": "https://evil.example", "Host": "box.example", "Sec-Fetch-Site": "cross-site", "origin": "null",
}  # fmt: skip


async def statuses(served, headers):
    """Of the routes that need the admin right."""
    told = {}
    async with aiohttp.ClientSession() as session:
        for path in ("/admin/engines", "/metrics"):
            async with session.get(served.url + path, headers=headers) as answer:
                told[path] = answer.status
    for path in ("/admin/models/m/load", "/api/pull"):
        async with post(served, {"model": "m"} if path == "/api/pull" else {}, path, headers=headers) as answer:
            told[path] = answer.status
    return set(told.values())


async def test_nothing_that_was_passed_on_has_the_admin_right():
    trusted = {"serve_trusted_proxies": "127.0.0.0/8, ::1"}
    for settings in ({}, {"serve_cors_origins": "*", "serve_allowed_hosts": "box.example", **trusted}):
        async with serving(Parrot(config()), **settings) as served:
            assert not statuses_refuse(await statuses(served, {}))
            assert not statuses_refuse(await statuses(served, {"Origin": served.url}))
            sent = PASSED_ON.items() if not settings else [*PASSED_ON.items(), *ELSEWHERE.items()]
            for name, value in sent:
                assert await statuses(served, {name: value}) == {403}, name
                assert (await ask(served, {name: value})).status == 200, name


def statuses_refuse(found):
    return found & {401, 403}


async def test_an_allowed_origin_does_not_give_the_admin_right():
    async with serving(Parrot(config()), serve_cors_origins="https://app.example") as served:
        assert await statuses(served, {"Origin": "https://app.example"}) == {403}
        assert (await ask(served, {"Origin": "https://app.example"})).status == 200


async def test_without_authentication_middleware_nothing_is_allowed():
    async with serving(Parrot(config()), middleware=[]) as served:
        assert await statuses(served, {}) == {401}
        assert (await ask(served)).status == 401
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/livez") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("trusted", "headers", "address"),
    [
        ("", {"X-Forwarded-For": "9.9.9.9"}, "127.0.0.1"),
        ("10.0.0.1", {"X-Forwarded-For": "9.9.9.9"}, "127.0.0.1"),
        ("127.0.0.1", {"X-Forwarded-For": "9.9.9.9"}, "9.9.9.9"),
        ("127.0.0.1", {"X-Forwarded-For": "6.6.6.6, 9.9.9.9"}, "9.9.9.9"),
        ("127.0.0.1,10.0.0.0/8", {"X-Forwarded-For": "6.6.6.6, 9.9.9.9, 10.1.2.3"}, "9.9.9.9"),
        ("127.0.0.1,10.0.0.0/8", {"X-Forwarded-For": "10.9.9.9,10.1.2.3"}, "10.9.9.9"),
        ("127.0.0.1", {"X-Forwarded-For": "6.6.6.6, nonsense"}, "127.0.0.1"),
        ("127.0.0.1", {"X-Forwarded-For": ""}, "127.0.0.1"),
        ("127.0.0.1", {"X-Forwarded-For": "9.9.9.9:1234"}, "9.9.9.9"),
        ("127.0.0.1", {"X-Forwarded-For": "[2001:db8::1]:1234"}, "2001:db8::1"),
        ("127.0.0.1", {"X-Forwarded-For": "::ffff:9.9.9.9"}, "9.9.9.9"),
        ("127.0.0.1", {"Forwarded": 'for=6.6.6.6;proto=https, For="[2001:db8::1]:80";by=10.0.0.1'}, "2001:db8::1"),
        ("127.0.0.1", {"Forwarded": "for=6.6.6.6, for=_hidden"}, "127.0.0.1"),
        ("127.0.0.1", {"Forwarded": 'for="6.6.6.6, for=7.7.7.7"'}, "127.0.0.1"),
        ("127.0.0.1", {"Forwarded": "for=7.7.7.7", "X-Forwarded-For": "9.9.9.9"}, "127.0.0.1"),
        ("127.0.0.1", {"X-Real-IP": "9.9.9.9"}, "127.0.0.1"),
    ],
)  # fmt: skip
async def test_whose_address_is_counted(trusted, headers, address, tmp_path):
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    settings = {"serve_trusted_proxies": trusted, "rate_limit_requests": 2}
    rest = default_middleware(GatewaySettings(_env_file=None, serve_log="off", **settings))
    with server_log("json", "info", fd=fd):
        async with serving(Parrot(config()), middleware=[AccessLog(), *rest], **settings) as served:
            assert [(await ask(served, headers)).status for _ in range(3)] == [200, 200, 429]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = [line["address"] for line in lines if line["logger"] == "miner.access"]
    os.close(fd)
    assert told[:3] == [address] * 3


async def test_a_header_cannot_evade_a_limit():
    async with serving(Parrot(config()), rate_limit_requests=2, serve_trusted_proxies="10.0.0.0/8") as served:
        forged = [{"X-Forwarded-For": f"9.9.9.{n}", "Forwarded": f"for=8.8.8.{n}"} for n in range(3)]
        found = [(await ask(served, headers)).status for headers in forged]
    assert found == [200, 200, 429]
    async with serving(Parrot(config()), rate_limit_requests=2, serve_trusted_proxies="127.0.0.1") as served:
        found = [(await ask(served, {"X-Forwarded-For": f"7.7.7.{n}, 9.9.9.9"})).status for n in "123"]
    assert found == [200, 200, 429]


def test_several_lines_are_one_list():
    headers = CIMultiDictProxy(CIMultiDict([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "9.9.9.9, 10.0.0.2")]))
    assert TrustedProxies("10.0.0.0/8").client("10.0.0.1", headers) == "9.9.9.9"
    assert TrustedProxies("10.0.0.0/8").client("unix", headers) == "unix"
    long = CIMultiDictProxy(CIMultiDict({"X-Forwarded-For": ",".join(["10.0.0.3"] * 1000)}))
    assert TrustedProxies("10.0.0.0/8").client("10.0.0.1", long) == "10.0.0.3"


def test_a_proxy_that_is_no_address_is_refused_at_the_start():
    for text in ("proxy.example", "10.0.0.1/8", "*"):
        with pytest.raises(ConfigError, match="MINER_SERVE_TRUSTED_PROXIES"):
            create_app(Parrot(config()), GatewaySettings(_env_file=None, serve_trusted_proxies=text))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("[::1]", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.4", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_what_is_loopback(host, loopback):
    assert is_loopback(host) is loopback
