"""Figures in one visual language: see `figures.py`."""

from minidream.visualization.figures import PALETTE, architecture, digest, film_strip, show, token_ribbon

__all__ = ["PALETTE", "architecture", "digest", "film_strip", "show", "token_ribbon"]
