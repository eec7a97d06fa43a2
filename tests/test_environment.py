"""Set-up: one truth about dependencies, and a Makefile that installs once, in order, and says what is missing."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "#" not in line)
# A python that records what it is asked for; it "makes" a .venv that holds itself.
FAKE = """#!/bin/sh
case "$*" in
  *version_info*) exit {old} ;;
  *ensurepip*) exit {bare} ;;
esac
echo "$*" >> calls
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; printf '#!/bin/sh\\necho minidream "$*" >> calls\\n' > .venv/bin/minidream; chmod +x .venv/bin/* ;;
esac
"""  # noqa: E501


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_pins_are_portable_and_satisfy_the_project():
    for name, version in PINS.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"  # no +cpu, no path
    assert "minidream" not in PINS
    pins = {canonical(name): version for name, version in PINS.items()}
    for line in PROJECT["dependencies"] + EXTRAS["notebooks"] + EXTRAS["dev"] + EXTRAS["own-data"]:
        need = Requirement(line)
        assert need.specifier.contains(pins[canonical(need.name)]), f"{line} is not met by {pins[canonical(need.name)]}"


def test_conda_gets_python_pip_and_the_project_only():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *names, last = environment["dependencies"]
    assert environment["name"] == "minidream" and set(environment) == {"name", "channels", "dependencies"}
    assert names == [f"python{PROJECT['requires-python']}", "pip"]
    (line,) = last["pip"]
    extra = re.fullmatch(r"-e \.\[(.+)\]", line)
    assert extra and set(extra[1].split(",")) <= set(EXTRAS)


def test_what_the_package_and_the_lessons_import_is_installed_for_who_reads_them():
    """The core and the extra `notebooks` are all that conda's users get."""
    sources = [path.read_text() for path in (ROOT / "minidream").rglob("*.py")]
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    imported: set[str] = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    sold_as = packages_distributions()
    asked = {canonical(Requirement(line).name) for line in PROJECT["dependencies"] + EXTRAS["notebooks"]}
    asked |= {"ipython", "minidream"}  # jupyterlab brings the first
    for name in imported - set(sys.stdlib_module_names):
        assert asked & {canonical(each) for each in sold_as[name]}, f"{name} is imported, but not asked for"


def test_the_licence_is_the_one_that_is_declared():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0" and "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *targets: str, old: int = 0, bare: int = 0) -> tuple[int, list[str], str]:
    """Run make with a fake python; returns the exit code, what python was asked for since, and stderr."""
    (folder / "python").write_text(FAKE.format(old=old, bare=bare))
    (folder / "python").chmod(0o755)
    (folder / "calls").unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *targets, "PYTHON=./python"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    calls = folder / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stderr


def test_set_up_happens_in_order_and_once(checkout: Path):
    code, calls, error = make(checkout, "tour")
    assert code == 0, error
    assert calls == [
        "-m venv .venv",
        f"-m pip install -c constraints.txt torch=={PINS['torch']}",
        "-m pip install -c constraints.txt -e .[notebooks,dev]",
        "minidream tour",
    ]
    assert make(checkout, "tour")[1] == ["minidream tour"]
    assert make(checkout, "lab")[1] == ["-m jupyterlab notebooks/00_tour.ipynb"]


def test_test_checks_style_types_units_and_notebooks(checkout: Path):
    calls = make(checkout, "test")[1][3:]
    assert calls[:2] == ["-m ruff check", "-m mypy"]
    (line,) = calls[2:]
    assert line.startswith("-m pytest tests notebooks --nbval ")
    assert "--nbval-sanitize-with notebooks/sanitize.cfg" in line and "--nbval-cell-timeout=120" in line


@pytest.mark.parametrize("changed", ["constraints.txt", "pyproject.toml"])
def test_a_changed_dependency_installs_again(checkout: Path, changed: str):
    make(checkout, "tour")
    later = time.time() + 10
    os.utime(checkout / changed, (later, later))
    assert any("-e .[notebooks,dev]" in call for call in make(checkout, "tour")[1])


def test_a_cpu_index_is_used_for_torch_only(checkout: Path):
    calls = make(checkout, "tour", "TORCH_INDEX=https://example.org/cpu")[1]
    assert ["example.org" in call for call in calls] == [False, True, False, False]


def test_what_is_missing_is_said_and_nothing_is_left(checkout: Path):
    code, calls, error = make(checkout, "tour", old=1)
    assert code == 2 and not calls and "Python 3.11 or newer" in error
    code, calls, error = make(checkout, "tour", bare=1)
    assert code == 2 and not calls and "sudo apt install python3-venv" in error
    assert not (checkout / ".venv").exists()


def test_ci_shows_pytests_closing_line_last_and_keeps_the_exit_code(tmp_path: Path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    for code in (0, 1):
        recipe = f"\t@echo '3 passed, 1 skipped in 1.20s'\n\t@echo more; exit {code}\n"
        (tmp_path / "Makefile").write_text("test:\n" + recipe)
        done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, timeout=60)
        assert bool(done.returncode) == bool(code)
        assert done.stdout.splitlines()[-1] == "3 passed, 1 skipped in 1.20s"
    (tmp_path / "Makefile").write_text("test:\n\t@false\n")
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode and done.stdout.splitlines()[-1] == "pytest did not finish"
