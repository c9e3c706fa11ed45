"""llama-server's options as attributes of `xllamacpp.CommonParams`: what `common/arg.cpp` of llama.cpp does with each.

The names come first, the option's own before its others; then what it takes, and the attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from miner.core.engine.flags import values as take

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Option:
    """One option."""

    names: tuple[str, ...]
    """Without dashes; the first is the one to show."""
    attribute: str | None
    """Of CommonParams, with dots; None: the wheel has none."""
    convert: Convert
    """Its value for the attribute; raises ValueError with what is allowed."""
    negatives: tuple[str, ...] = ()
    """Names that switch it off."""
    sampling_bit: int = 0
    """Its bit of `sampling.user_sampling_config`: it counts over the sampling defaults of the model's file."""
    is_path: bool = False


def _option(names: str, attribute: str | None, convert: Convert, **more: Any) -> Option:
    on, _, off = names.partition(" / ")
    return Option(tuple(on.split()), attribute, convert, negatives=tuple(off.split()), **more)


def _cpu(prefix: str, suffix: str, attribute: str, others: Mapping[str, str] | None = None) -> list[Option]:
    """The options of one of the thread pools."""
    more = others or {}
    kinds: list[tuple[str, str, Convert]] = [
        ("cpu-mask", "cpumask", take.cpu_mask), ("cpu-range", "cpumask", take.cpu_range),
        ("cpu-strict", "strict_cpu", take.zero_or_one), ("prio", "priority", take.priority),
        ("poll", "poll", take.integer(0, 100)),
    ]  # fmt: skip
    return [
        _option(f"{prefix}{name}{suffix} {more.get(name, '')}", f"{attribute}.{each}", convert)
        for name, each, convert in kinds
    ]


_NUMBER = take.number()
_COUNT = take.integer(0)

OPTIONS: Final[tuple[Option, ...]] = (
    *_cpu("", "", "cpuparams", {"cpu-mask": "C", "cpu-range": "Cr"}),
    *_cpu("", "-batch", "cpuparams_batch", {"cpu-mask": "Cb", "cpu-range": "Crb"}),
    *_cpu("spec-draft-", "", "speculative.draft.cpuparams", {
        "cpu-mask": "Cd cpu-mask-draft", "cpu-range": "Crd cpu-range-draft", "cpu-strict": "cpu-strict-draft",
        "prio": "prio-draft", "poll": "poll-draft",
    }),
    *_cpu("spec-draft-", "-batch", "speculative.draft.cpuparams_batch", {
        "cpu-mask": "Cbd cpu-mask-batch-draft", "cpu-range": "Crbd cpu-range-batch-draft",
        "cpu-strict": "cpu-strict-batch-draft", "prio": "prio-batch-draft", "poll": "poll-batch-draft",
    }),
    # The model, and where it is
    _option("load-mode lm", "load_mode", take.constant("llama_load_mode", "LLAMA_LOAD_MODE_", {
        "auto": "AUTO", "none": "NONE", "mmap": "MMAP", "mlock": "MLOCK", "mmap+mlock": "MMAP_MLOCK",
        "dio": "DIRECT_IO",
    })),
    _option("lazy-mode lzm", "lazy_mode", take.constant("llama_lazy_mode", "LLAMA_LAZY_MODE_", take.ON_OFF_AUTO)),
    _option("numa", "numa", take.constant("ggml_numa_strategy", "GGML_NUMA_STRATEGY_", {
        "distribute": "DISTRIBUTE", "isolate": "ISOLATE", "numactl": "NUMACTL",
    })),
    _option("override-tensor ot", "tensor_buft_overrides", take.tensor_overrides),
    _option("n-cpu-ffn ncffn", "tensor_buft_overrides", take.cpu_feed_forward),
    _option("split-mode sm", "split_mode", take.constant("llama_split_mode", "LLAMA_SPLIT_MODE_", {
        "none": "NONE", "layer": "LAYER", "row": "ROW", "tensor": "TENSOR",
    })),
    _option("tensor-split ts", "tensor_split", take.tensor_split),
    _option("main-gpu mg", "main_gpu", _COUNT),
    _option("fit", "fit_params", take.on_or_off),
    _option("fit-target fitt", "fit_params_target", take.fit_target),
    _option("check-tensors", "check_tensors", take.switch),
    _option("kv-offload kvo / no-kv-offload nkvo", "no_kv_offload", take.inverted),
    _option("repack / no-repack nr", "no_extra_bufts", take.inverted),
    _option("no-host", "no_host", take.switch),
    _option("op-offload / no-op-offload", "no_op_offload", take.inverted),
    _option("warmup / no-warmup", "warmup", take.switch),
    _option("perf / no-perf", "no_perf", take.inverted),
    # Context
    _option("swa-full", "swa_full", take.switch),
    _option("ctx-checkpoints ctxcp swa-checkpoints", "n_ctx_checkpoints", _COUNT),
    _option("checkpoint-min-step cms", "checkpoint_min_step", _COUNT),
    _option("keep", "n_keep", take.integer(-1)),
    _option("cache-prompt / no-cache-prompt", "cache_prompt", take.switch),
    _option("cache-reuse", "n_cache_reuse", _COUNT),
    _option("cont-batching cb / no-cont-batching nocb", "cont_batching", take.switch),
    _option("rope-scaling", "rope_scaling_type", take.constant("llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_", {
        "none": "NONE", "linear": "LINEAR", "yarn": "YARN",
    })),
    _option("rope-scale", "rope_freq_scale", take.inverse),
    _option("rope-freq-base", "rope_freq_base", _NUMBER),
    _option("rope-freq-scale", "rope_freq_scale", _NUMBER),
    _option("yarn-orig-ctx", "yarn_orig_ctx", _COUNT),
    _option("yarn-ext-factor", "yarn_ext_factor", _NUMBER),
    _option("yarn-attn-factor", "yarn_attn_factor", _NUMBER),
    _option("yarn-beta-slow", "yarn_beta_slow", _NUMBER),
    _option("yarn-beta-fast", "yarn_beta_fast", _NUMBER),
    # Images, audio, video
    _option("mmproj-offload / no-mmproj-offload", "mmproj_use_gpu", take.switch),
    _option("mmproj-device mmdev", "mmproj_device", take.text),
    _option("image-min-tokens", "image_min_tokens", take.integer(1)),
    _option("image-max-tokens", "image_max_tokens", take.integer(1)),
    _option("mtmd-batch-max-tokens", "mtmd_batch_max_tokens", take.integer(1)),
    _option("video-fps", "video_fps", _NUMBER),
    _option("video-timestamp-interval", "video_timestamp_interval_ms", _COUNT),
    _option("video-ffmpeg-dir", "video_ffmpeg_bin_dir", take.text, is_path=True),
    _option("media-path", "media_path", take.directory, is_path=True),
    # Chat
    _option("jinja / no-jinja", "use_jinja", take.switch),
    _option("special sp", "special", take.switch),
    _option("skip-chat-parsing / no-skip-chat-parsing", "force_pure_content_parser", take.switch),
    _option("prefill-assistant / no-prefill-assistant", "prefill_assistant", take.switch),
    _option("chat-template-kwargs", "default_template_kwargs", take.template_arguments),
    _option("reasoning-effort", "default_template_kwargs", take.reasoning_effort),
    _option("reasoning rea", "default_template_kwargs", take.reasoning),
    _option("reasoning-preserve / no-reasoning-preserve", "default_template_kwargs", take.reasoning_preserve),
    _option("reasoning-format", "reasoning_format", take.constant(
        "common_reasoning_format", "COMMON_REASONING_FORMAT_",
        {"auto": "AUTO", "none": "NONE", "deepseek": "DEEPSEEK", "deepseek-legacy": "DEEPSEEK_LEGACY"},
    )),
    _option("reasoning-budget", "sampling.reasoning_budget_tokens", take.integer(-1)),
    _option("reasoning-budget-message", "sampling.reasoning_budget_message", take.text),
    _option("embd-normalize", "embd_normalize", take.integer(-1)),
    _option("lora-init-without-apply", "lora_init_without_apply", take.switch),
    # Sampling: what requests do not always say
    _option("samplers", "sampling.samplers", take.samplers, sampling_bit=1),
    _option("ignore-eos", "sampling.ignore_eos", take.switch),
    _option("xtc-threshold", "sampling.xtc_threshold", _NUMBER, sampling_bit=32),
    _option("repeat-last-n", "sampling.penalty_last_n", _COUNT, sampling_bit=128),
    _option("dry-base", "sampling.dry_base", take.number(1)),
    _option("dry-allowed-length", "sampling.dry_allowed_length", _COUNT),
    _option("dry-penalty-last-n", "sampling.dry_penalty_last_n", _COUNT),
    _option("adaptive-target", "sampling.adaptive_target", _NUMBER),
    _option("adaptive-decay", "sampling.adaptive_decay", _NUMBER),
    _option("dynatemp-range", "sampling.dynatemp_range", _NUMBER),
    _option("dynatemp-exp", "sampling.dynatemp_exponent", _NUMBER),
    _option("mirostat", "sampling.mirostat", take.integer(0, 2), sampling_bit=512),
    _option("mirostat-ent", "sampling.mirostat_tau", _NUMBER, sampling_bit=1024),
    _option("mirostat-lr", "sampling.mirostat_eta", _NUMBER, sampling_bit=2048),
    _option("backend-sampling bs", "sampling.backend_sampling", take.switch),
    # Speculation
    _option("lookup-cache-static lcs", "speculative.ngram_cache.lookup_cache_static", take.file, is_path=True),
    _option("lookup-cache-dynamic lcd", "speculative.ngram_cache.lookup_cache_dynamic", take.text, is_path=True),
    _option("spec-draft-threads td threads-draft", "speculative.draft.cpuparams.n_threads", take.integer(1)),
    _option("spec-draft-threads-batch tbd threads-batch-draft", "speculative.draft.cpuparams_batch.n_threads",
            take.integer(1)),
    _option("spec-draft-type-k ctkd cache-type-k-draft", "speculative.draft.cache_type_k", take.cache_type),
    _option("spec-draft-type-v ctvd cache-type-v-draft", "speculative.draft.cache_type_v", take.cache_type),
    _option("spec-draft-override-tensor otd override-tensor-draft", "speculative.draft.tensor_buft_overrides",
            take.tensor_overrides),
    _option("spec-draft-cpu-moe cmoed cpu-moe-draft", "speculative.draft.tensor_buft_overrides", take.all_cpu_experts),
    _option("spec-draft-n-cpu-moe spec-draft-ncmoe ncmoed n-cpu-moe-draft", "speculative.draft.tensor_buft_overrides",
            take.cpu_experts),
    _option("spec-draft-p-split draft-p-split", "speculative.draft.p_split", _NUMBER),
    _option("spec-draft-backend-sampling / no-spec-draft-backend-sampling", "speculative.draft.backend_sampling",
            take.switch),
    _option("spec-draft-sampling", "speculative.draft.probabilistic",
            take.choice({"greedy": False, "probabilistic": True})),
    _option("spec-draft-device devd device-draft", "speculative.draft.devices", take.joined),
    _option("spec-ngram-mod-n-min", "speculative.ngram_mod.n_min", take.integer(0, 1024)),
    _option("spec-ngram-mod-n-max", "speculative.ngram_mod.n_max", take.integer(0, 1024)),
    _option("spec-ngram-mod-n-match", "speculative.ngram_mod.n_match", take.integer(1, 1024)),
    *(
        _option(f"spec-ngram-{kind}-{name}", f"speculative.ngram_{kind.replace('-', '_')}.{name.replace('-', '_')}",
                take.integer(1, most))
        for kind in ("simple", "map-k", "map-k4v")
        for name, most in (("size-n", 1024), ("size-m", 1024), ("min-hits", None))
    ),
    _option("spec-synth-len", "speculative.synth_len", _NUMBER),
    _option("spec-synth-rates", "speculative.synth_rates", take.numbers),
    # The server
    _option("threads-http", "n_threads_http", take.integer(1)),
    _option("sse-ping-interval", "sse_ping_interval", take.integer(-1)),
    # What the wheel's parameters cannot say
    *(_option(names, None, take.joined) for names in (
        "rpc", "device dev", "override-kv", "control-vector", "control-vector-scaled", "control-vector-layer-range",
        "logit-bias l", "dry-sequence-breaker", "sampler-seq sampling-seq", "top-n-sigma top-nsigma", "timeout to",
        "escape e / no-escape",
    )),
    _option("spm-infill", None, take.switch),
)  # fmt: skip

BY_NAME: Final[Mapping[str, tuple[Option, bool]]] = {
    name: (option, positive)
    for option in OPTIONS
    for positive, names in ((True, option.names), (False, option.negatives))
    for name in names
}
"""Each option by each of its names, and whether that name switches it on."""
