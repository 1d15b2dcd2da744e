"""What vLLM's engine is started with."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from pathlib import Path
from typing import Any

from llmaug.config import GenerateConfig
from llmaug.errors import UserError


def vllm_arguments(
    model_folder: str,
    config: GenerateConfig,
    context_len: int,
    on_gpu: bool,
    images: bool = False,
) -> dict[str, Any]:
    """Arguments of vLLM's EngineArgs (and of its LLM) for a behaviour model; images: for a chat
    model that is shown one with each question."""
    return dict(
        model=model_folder,
        skip_tokenizer_init=True,
        trust_remote_code=False,
        dtype=config.dtype or ("bfloat16" if on_gpu else "float32"),
        quantization=config.quantization,
        max_model_len=context_len,
        max_num_seqs=config.max_num_seqs,
        enable_prefix_caching=True,
        # Only whole blocks are shared, and histories are short: the CPU's default of 128
        # tokens a block would share nothing.
        block_size=None if on_gpu else 32,
        # vLLM rewinds a seeded generator after a prompt that was cut into chunks, and dies of
        # it on CPUs ("CPU Generator does not use offset", vLLM 0.32): prompts of behaviour
        # models are short, there they go in whole.
        enable_chunked_prefill=on_gpu,
        enforce_eager=not on_gpu,
        disable_log_stats=True,
        logits_processors=["llmaug.lm.causal.item_logits:ItemLogits"],
        seed=0,
        **(_of_gpus(config) if on_gpu else {}),
        **(_OF_IMAGES if images else {}),
    ) | dict(config.engine_args)


# Room is kept for one image a question and for nothing else. None comes twice: a cache of
# preprocessed ones (4 GiB) would hold what nobody asks for again.
_OF_IMAGES: dict[str, Any] = {
    "limit_mm_per_prompt": {"image": 1, "video": 0, "audio": 0},
    "mm_processor_cache_gb": 0,
}


def _of_gpus(config: GenerateConfig) -> dict[str, Any]:
    own: dict[str, Any] = {"gpu_memory_utilization": config.memory_share}
    if config.num_devices > 1:
        own |= {
            "tensor_parallel_size": config.tensor_parallel_size,
            "pipeline_parallel_size": config.pipeline_parallel_size,
            # Ray has given the actor all its GPUs on one machine.
            "distributed_executor_backend": "mp",
        }
    return own


def check_engine_args(config: GenerateConfig) -> None:
    """Before hours of work: raises UserError for a name in `engine_args` that the installed vLLM
    does not know. Where none is installed, that of the nodes will say."""
    known = _known_arguments() if config.engine_args else []
    for name in config.engine_args:
        if known and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "see the arguments of its EngineArgs"
            raise UserError(f"generate.engine_args: vLLM has no argument '{name}'; {hint}")


def _known_arguments() -> list[str]:
    """Read from the source: an import of vLLM takes ten seconds. Empty where there is none."""
    spec = importlib.util.find_spec("vllm")
    source = Path(spec.origin).parent / "engine" / "arg_utils.py" if spec and spec.origin else None
    if source is None or not source.is_file():
        return []
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            return [each.id for each in fields if isinstance(each, ast.Name)]
    return []
