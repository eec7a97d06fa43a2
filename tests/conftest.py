"""What several test files share: all seven stages in `nano` size, trained once a session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights as `minidream train all --preset nano` makes it."""
    from minidream.training.stages import train

    folder = tmp_path_factory.mktemp("nano")
    train("all", "nano", folder)
    return folder
