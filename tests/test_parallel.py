"""Two processes take the same steps, and together the step that one would take on the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

TWO = """
import random, sys, torch
from pathlib import Path
from minidream.training.loop import fit
from minidream.training.parallel import processes, share
from minidream.training.recipes import Recipe

class Sum:
    '''Fit a sum; each process sees the half of the examples whose number is its own.'''
    def __init__(self):
        torch.manual_seed(processes().process_index)  # to begin alike is the loop's affair
        self.modules = torch.nn.ModuleDict({"seen": torch.nn.Linear(2, 1), "unseen": torch.nn.Linear(2, 1)})
    def batch(self, rng):
        half = processes().process_index
        return torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [2.0, 1.0]])[half * share(4) :][: share(4)]
    def losses(self, batch, modules):
        return {"loss": (modules["seen"](batch) - batch.sum(1, keepdim=True)).pow(2).mean()}

task, out = Sum(), Path(sys.argv[1])
record = fit(task, Recipe("vae", steps=5, batch=4, lr=0.1, mixed_precision=False), out / "run")
print(processes().process_index, record["processes"], task.modules["seen"].weight.flatten().tolist(), flush=True)
"""


def run(tmp_path: Path, processes: int) -> list[list[str]]:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    told = subprocess.run(
        [*launcher, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert told.returncode == 0, told.stderr
    return sorted(line.split(" ", 2) for line in told.stdout.splitlines() if line[:1].isdigit())


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    (_, one, alone), *none = run(tmp_path, 1)
    (_, two, first), (_, _, second) = run(tmp_path, 2)
    assert (one, two) == ("1", "2") and not none
    assert first == second
    torch.testing.assert_close(torch.tensor(json.loads(first)), torch.tensor(json.loads(alone)))
    assert (tmp_path / "run" / "checkpoint" / "state.json").is_file()
