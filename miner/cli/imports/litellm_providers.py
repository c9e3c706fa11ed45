"""LiteLLM's providers that have a kind of backend here. Others do not speak OpenAI's API."""

from __future__ import annotations

from dataclasses import dataclass

OLLAMA_URL = "http://localhost:11434"


@dataclass(frozen=True, slots=True)
class Provider:
    """A kind of backend, with the address and the variable of the key that LiteLLM knows by itself."""

    kind: str
    url: str | None = None
    key: str | None = None


PROVIDERS = {
    "openai": Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "custom_openai": Provider("openai"),
    "openai_like": Provider("openai"),
    "litellm_proxy": Provider("openai"),
    "lm_studio": Provider("openai"),
    "llamafile": Provider("openai", "http://127.0.0.1:8080/v1"),
    "docker_model_runner": Provider("openai"),
    "lemonade": Provider("openai"),
    "xinference": Provider("openai"),
    "hosted_vllm": Provider("vllm"),
    "vllm": Provider("vllm"),
    "ollama": Provider("ollama", OLLAMA_URL),
    "ollama_chat": Provider("ollama", OLLAMA_URL),
    "groq": Provider("openai", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": Provider("openai", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "deepseek": Provider("openai", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "openrouter": Provider("openai", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together_ai": Provider("openai", "https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "fireworks_ai": Provider("openai", "https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "xai": Provider("openai", "https://api.x.ai/v1", "XAI_API_KEY"),
    "nvidia_nim": Provider("openai", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "cerebras": Provider("openai", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
}

_ELSEWHERE = frozenset({
    "azure", "azure_ai", "azure_text", "anthropic", "anthropic_text", "bedrock", "bedrock_converse", "sagemaker",
    "sagemaker_chat", "vertex_ai", "vertex_ai_beta", "gemini", "palm", "cohere", "cohere_chat", "huggingface",
    "replicate", "watsonx", "databricks", "snowflake", "oci", "ai21", "ai21_chat", "nlp_cloud", "aleph_alpha",
    "petals", "predibase", "cloudflare", "triton", "infinity", "jina_ai", "voyage", "deepgram", "elevenlabs",
    "perplexity", "github", "github_copilot", "assemblyai", "recraft", "topaz", "clarifai", "maritalk", "baseten",
    "deepinfra", "anyscale", "sambanova", "novita", "nebius", "hyperbolic", "dashscope", "moonshot", "volcengine",
    "codestral", "text-completion-codestral", "friendliai", "galadriel", "featherless_ai", "gradient_ai", "nscale",
    "meta_llama", "v0", "morph", "lambda_ai", "inception", "zai", "minimax", "aiml", "bytez", "heroku", "wandb",
    "cometapi", "ovhcloud", "publicai", "langgraph", "auto_router", "assistants", "dotprompt", "black_forest_labs",
})  # fmt: skip


def provider_of(model: str, stated: str | None, *, has_address: bool) -> tuple[str, str, Provider | None]:
    """The provider of `litellm_params.model`, the model's name there, and what it is here; None: nothing.

    Args:
        stated: `custom_llm_provider`.
        has_address: whether there is an `api_base`: with it, a name of no known provider is one of OpenAI's API.
    """
    prefix, slash, rest = model.partition("/")
    if stated:
        return stated, rest if slash and prefix == stated else model, PROVIDERS.get(stated)
    if slash and prefix in PROVIDERS:
        return prefix, rest, PROVIDERS[prefix]
    if slash and (prefix in _ELSEWHERE or not has_address):
        return prefix, rest, None
    if model.startswith(("claude", "gemini", "command", "amazon.", "anthropic.", "j2-", "dall-e", "whisper", "tts-")):
        return "openai" if model.startswith(("dall-e", "whisper", "tts-")) else prefix, model, None
    return "openai", model, PROVIDERS["openai"]
