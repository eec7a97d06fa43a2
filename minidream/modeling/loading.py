"""Opening a part: safetensors only, no code from elsewhere, no progress bars, one clear line when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minidream.errors import UserError
from minidream.weights import verify_manifest


def load_part(kind: Any, source: str | Path, what: str, **options: Any) -> Any:
    """`kind.from_pretrained(source)` in float32, from a folder (verified by its manifest) or a name on the hub.

    Raises `UserError` that names `what` and `source` if it cannot be read.
    """
    import torch
    from diffusers.utils import logging as diffusers_logging
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    if Path(source).is_dir():
        verify_manifest(Path(source))
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    if not hasattr(kind, "load_config") or hasattr(kind, "parameters"):  # a scheduler has no weights
        options = {"use_safetensors": True, **options}
        options["dtype"] = torch.float32
    try:
        return kind.from_pretrained(str(source), **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot open {what} at {source}: {first_line(error)}") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
            diffusers_logging.enable_progress_bar()


def open_tokenizer(llm: str | Path | Any) -> Any:
    """The tokenizer of a language model: a folder or a name on the hub. Raises `UserError` if it cannot be opened, or
    for a language model that is given as a module, which does not know it."""
    if not isinstance(llm, str | Path):
        raise UserError("from_components needs tokenizer=... when the LLM is given as a module")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(llm))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot open a tokenizer at {llm}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error says, without the advice that other libraries add to it."""
    return str(error).strip().split("\n")[0]
