"""Agents, an evaluation harness, a load tool and a page in a browser against the gateway (`-m clients`)."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.serving import config, serving
from tests.live.clients.running import HERE, WAIT, Gateways, installed, run

pytestmark = pytest.mark.clients

ORDER = "Run the command `echo from-the-tool` and tell me what it prints."


def python() -> Path:
    return installed() / "python" / "bin" / "python"


def js(name: str) -> Path:
    return installed() / "javascript" / "node_modules" / ".bin" / name


async def test_codex_runs_a_command_and_says_what_it_printed(gateways: Gateways, tmp_path: Path):
    provider = {"name": "miner", "base_url": f"{gateways.scripted}/v1", "wire_api": "responses"}
    settings = [f"model_providers.miner.{name}={json.dumps(value)}" for name, value in provider.items()]
    options = [part for setting in [*settings, 'model_provider="miner"'] for part in ("-c", setting)]
    told = await run(
        [js("codex"), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-m", "m"],
        *options, ORDER, cwd=tmp_path, HOME=str(tmp_path), CODEX_HOME=str(tmp_path), code=0,
    )  # fmt: skip
    assert "from-the-tool" in told
    assert "It says:" in told


async def test_opencode_runs_a_command_and_says_what_it_printed(gateways: Gateways, tmp_path: Path):
    options = {"baseURL": f"{gateways.scripted}/v1", "apiKey": "a-key-of-sixteen-characters"}
    limit = {"context": 100_000, "output": 4000}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"m": {"name": "m", "limit": limit}}}
    settings = {"provider": {"miner": provider}, "permission": {"bash": "allow"}, "share": "disabled"}
    (tmp_path / "opencode.json").write_text(json.dumps(settings), encoding="utf-8")
    told = await run(
        [js("opencode"), "run", "-m", "miner/m", ORDER], cwd=tmp_path, HOME=str(tmp_path),
        XDG_CONFIG_HOME=str(tmp_path / "c"), XDG_DATA_HOME=str(tmp_path / "d"), XDG_CACHE_HOME=str(tmp_path / "h"),
        XDG_STATE_HOME=str(tmp_path / "s"), OPENCODE_CONFIG=str(tmp_path / "opencode.json"),
        OPENCODE_DISABLE_AUTOUPDATE="1", OPENCODE_DISABLE_MODELS_FETCH="1", OPENCODE_DISABLE_LSP_DOWNLOAD="1",
        code=0,
    )  # fmt: skip
    assert "It says:" in told
    assert "from-the-tool" in told


async def test_claude_code_runs_a_command_and_says_what_it_printed(gateways: Gateways, tmp_path: Path):
    told = await run(
        [js("claude"), "-p", ORDER, "--model", "m", "--allowedTools", "Bash", "--output-format", "json"],
        cwd=tmp_path, HOME=str(tmp_path), ANTHROPIC_BASE_URL=gateways.scripted,
        ANTHROPIC_AUTH_TOKEN="a-key-of-sixteen-characters", ANTHROPIC_SMALL_FAST_MODEL="m",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1", DISABLE_TELEMETRY="1", DISABLE_AUTOUPDATER="1", code=0,
    )  # fmt: skip
    result = json.loads(told.splitlines()[-1])
    assert not result["is_error"], result
    assert "It says:" in result["result"]
    assert "from-the-tool" in result["result"]


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{target}"
{more}
"""


def task(folder: Path, name: str, kind: str, target: str, more: str) -> None:
    data = folder / "data.json"
    data.write_text('{"question": "The sky is", "answer": "blue", "choices": ["blue", "green"], "label": 0}\n')
    text = TASK.format(name=name, kind=kind, data=data, target=target, more=more)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


async def tokenizer(folder: Path) -> str:
    """A directory with a tokenizer."""
    await run([python(), HERE / "python" / "byte_tokenizer.py"], str(folder / "tokenizer"), HF_HUB_OFFLINE="1")
    return str(folder / "tokenizer")


async def lm_eval(gateways: Gateways, folder: Path, name: str, code: int | None = 0) -> str:
    arguments = {
        "model": "demo", "base_url": f"{gateways.real}/v1/completions", "tokenizer": await tokenizer(folder),
        "tokenizer_backend": "huggingface", "tokenized_requests": False, "num_concurrent": 1, "max_retries": 1,
    }  # fmt: skip
    told = ",".join(f"{key}={value}" for key, value in arguments.items())
    return await run(
        [installed() / "python" / "bin" / "lm_eval", "run", "--model", "local-completions", "--model_args", told],
        "--tasks", name, "--include_path", str(folder), code=code, HF_HOME=str(folder), HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1", OPENAI_API_KEY="a-key-of-sixteen-characters",
    )  # fmt: skip


async def test_lm_eval_generates(gateways: Gateways, tmp_path: Path):
    more = 'generation_kwargs: {max_gen_toks: 4, until: ["."]}\nmetric_list: [{metric: exact_match}]'
    task(tmp_path, "tiny_generate", "generate_until", "{{answer}}", more)
    assert "exact_match" in await lm_eval(gateways, tmp_path, "tiny_generate")


async def test_lm_eval_is_told_why_llama_cpp_ranks_no_choices(gateways: Gateways, tmp_path: Path):
    task(tmp_path, "tiny_choice", "multiple_choice", "{{label}}", 'doc_to_choice: "{{choices}}"')
    told = await lm_eval(gateways, tmp_path, "tiny_choice", code=None)
    assert "echo" in told
    assert "does not support" in told


async def test_aiperf_measures_a_streaming_chat(gateways: Gateways, tmp_path: Path):
    told = await run(
        [installed() / "python" / "bin" / "aiperf", "profile", "--model", "demo", "--url", gateways.real],
        "--endpoint-type", "chat", "--streaming", "--concurrency", "2", "--request-count", "4",
        "--synthetic-input-tokens-mean", "20", "--output-tokens-mean", "8", "--tokenizer", await tokenizer(tmp_path),
        "--output-artifact-dir", str(tmp_path / "out"), "--ui", "none", code=None, HOME=str(tmp_path),
    )  # fmt: skip
    reports = [path.read_text(encoding="utf-8") for path in sorted(tmp_path.rglob("profile_export_aiperf.json"))]  # noqa: ASYNC240
    assert reports, told[-4000:]
    report = json.loads(reports[0])
    assert report["request_count"]["avg"] == 4
    assert report["time_to_first_token"]["avg"] > 0


PAGE = """<!doctype html><title>wait</title><script type="module">
const body = { model: "demo", messages: [{ role: "user", content: "Hello" }], max_tokens: 9, stream: true };
const headers = { "content-type": "application/json", "authorization": "Bearer a-key-of-sixteen-characters" };
let told;
try {
  const reply = await fetch("URL/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body) });
  let text = "";
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value;
  told = `status ${reply.status} ${text.trimEnd().endsWith("[DONE]") ? "complete" : text}`;
} catch (error) {
  told = `${error}`;
}
await fetch("/told", { method: "POST", body: told });
</script>"""


@asynccontextmanager
async def page_server() -> AsyncIterator[tuple[str, list[str], asyncio.Future[str]]]:
    """The origin of a server of one page, the list that holds the page, and what the page tells."""
    page: list[str] = []
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def get(request: web.Request) -> web.Response:
        return web.Response(text=page[0], content_type="text/html")

    async def tell(request: web.Request) -> web.Response:
        told.set_result(await request.text())
        return web.Response()

    app = web.Application()
    app.router.add_get("/", get)
    app.router.add_post("/told", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", page, told
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_page_in_chromium_streams_where_its_origin_is_allowed(allowed: bool, tmp_path: Path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), "")
    assert browser, "install chromium (apt-get install chromium)"
    service = LlamaCppService(config(default_model="demo", llamacpp_ctx_size=2048, llamacpp_parallel=1))
    async with page_server() as (origin, page, told):
        origins = {"serve_cors_origins": origin} if allowed else {}
        async with serving(service, **origins) as served:
            page.append(PAGE.replace("URL", served.url))
            flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
            command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", origin]
            running = asyncio.create_task(run(command, HOME=str(tmp_path)))
            try:
                await asyncio.wait([running, told], timeout=WAIT, return_when=asyncio.FIRST_COMPLETED)
                words = told.result()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
    assert words == "status 200 complete" if allowed else "Failed to fetch" in words
