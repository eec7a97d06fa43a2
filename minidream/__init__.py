"""minidream: DreamLLM (arXiv 2309.11499), small, whole and true.

`import minidream` is light: torch is loaded when a model is. The public names are resolved on first use.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"
_HOME = {
    "Document": "minidream.documents",
    "MiniDream": "minidream.modeling.minidream",
    "MiniDreamConfig": "minidream.modeling.configuration",
    "MiniDreamPipeline": "minidream.pipeline",
    "MiniDreamProcessor": "minidream.processing",
    "UserError": "minidream.errors",
}
__all__ = ["Document", "MiniDream", "MiniDreamConfig", "MiniDreamPipeline", "MiniDreamProcessor", "UserError"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'minidream' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
