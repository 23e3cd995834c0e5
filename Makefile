# Each line is a command a person could type.
#   make reproduce [PROFILE=quick] [CORES=2]   make test   make lint   make format   make lab
#   make report                                README.md and 09_findings, of what outputs/reference/ keeps
#   make venv PYTHON=python3.12                another interpreter, before the first install
#   make test-slow                             batches killed at ten moments, a full disk
#   make test-browser                          notebooks in JupyterLab and a Chromium that is there
#   make test-slurm                            a batch on a Slurm of its own; root may install one

PYTHON  ?= python3
PROFILE ?= quick
CORES   ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# What a committed notebook must not carry; the cell tags (`parameters`) and cell ids stay.
STRIP := $(BIN)/nbstripout --keep-id --extra-keys "metadata.papermill cell.metadata.papermill \
	metadata.widgets metadata.language_info.version metadata.vscode cell.metadata.vscode"

.DELETE_ON_ERROR:
.PHONY: help venv reproduce test test-slow test-browser test-slurm lint format lab report

help:
	@sed -n '2,7s/^# *//p' Makefile

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "bedkd: no interpreter named $(PYTHON). Install Python 3.11 or 3.12, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else "bedkd: $(PYTHON) is Python %d.%d, and 3.11 or 3.12 is needed. Name one: make $(MAKECMDGOALS) PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@mkdir -p $(VENV)/etc/jupyter && cp bedkd/report/jupyter_config.json $(VENV)/etc/jupyter
	@touch $@

reproduce: venv
	@$(BIN)/bedkd reproduce $(PROFILE) --cores $(CORES)

test: venv
	$(BIN)/python -m pytest -q $(ALSO)

test-slow: venv
	$(BIN)/python -m pytest -q -m slow -n 0 # in one process, for both need the same undisturbed batch

test-browser: venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -q -m browser -n 0 tests/browser

test-slurm: venv
	@tests/batch/slurm.sh $(BIN)/python

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(STRIP) --verify notebooks/*.ipynb

format: venv
	$(STRIP) notebooks/*.ipynb
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: venv
	$(BIN)/python -m bedkd.report.readme

lab: venv
	$(BIN)/jupyter lab notebooks
