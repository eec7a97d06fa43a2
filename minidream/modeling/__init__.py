"""The model: `vision` (pictures in), `diffusion` (pictures out), `minidream` (the LLM between them and both losses)."""
