# make tour   an illustrated story, answers about its pictures, out/tour.html
# make test   ruff, mypy, the unit tests and every notebook
# make lab    JupyterLab at the first notebook
#
# Each sets up .venv itself, once, and again when constraints.txt or pyproject.toml changed.

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/ready

# libgomp's threads spin while they wait, which is many times slower on shared cores; nothing here needs the hub.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: tour test lab
.DEFAULT_GOAL := tour

tour: $(READY)
	$(VENV)/bin/minidream tour

test: $(READY)
	$(RUN) -m ruff check
	$(RUN) -m mypy
	$(RUN) -m pytest tests notebooks --nbval --nbval-current-env --nbval-cell-timeout=120 \
		--nbval-sanitize-with notebooks/sanitize.cfg

lab: $(READY)
	$(RUN) -m jupyterlab notebooks/00_tour.ipynb

# torch first and by itself: it is the large one, and its index may be another.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "minidream needs Python 3.11 or newer, and '$(PYTHON)' is not: try make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment: sudo apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch==2.13.0
	$(RUN) -m pip install -c constraints.txt -e '.[notebooks,dev]'
	@touch $@
