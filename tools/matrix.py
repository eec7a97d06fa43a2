"""Run notebooks as other machines would, by nbval: `python -m tools.matrix [NOTEBOOK ...]`, without a name all of them.

Other processors round otherwise, and other numbers of threads add up in another order. A lesson must hold on all of
these: what torch chooses by itself, AVX2 alone, SSE4.1 alone; one thread, and two.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MACHINES = {
    "as it is": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "SSE4.1": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
THREADS = ("1", "2")


def passes(path: Path, environment: dict[str, str]) -> bool:
    """Whether a notebook's outputs are those that are stored, in a process with these variables."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"),
        *("--nbval-cell-timeout=600", "--nbval-sanitize-with=notebooks/sanitize.cfg", str(path)),
    ]
    slow = {"NOTEBOOK_SECONDS": "1800"}  # what is tried is not its speed
    return (
        subprocess.run(command, cwd=ROOT, env={**os.environ, **slow, **environment}, capture_output=True).returncode
        == 0
    )


def main(names: list[str]) -> int:
    """Print a line for each notebook and machine; returns how many failed."""
    paths = [Path(name) for name in names] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    failed = 0
    for path in paths:
        for machine, variables in MACHINES.items():
            for threads in THREADS:
                good = passes(path.resolve(), {**variables, "OMP_NUM_THREADS": threads})
                failed += not good
                print(f"{path.stem:28} {machine:9} {threads} threads  {'passed' if good else 'FAILED'}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
