# `make` lists what there is. Nothing is needed beforehand but Python 3.11 to 3.13, make and git.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# The environment is ready for these pins at this place: other pins, or a clone that was moved, make it anew.
# The mark is written last, so an interrupted set-up starts over.
STAMP := $(VENV)/.ready-$(shell { cat requirements.txt; pwd; } | cksum | tr -cs '0-9\n' '-')
ifneq ($(shell $(RUN) -c 'print("runs")' 2>/dev/null),runs)
.PHONY: $(STAMP)
endif

# Notebooks run in this environment, whatever kernels and packages the user has elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help setup extras reproduce verify test lab train ablations reach bench export notebooks lint clean

help:  ## this list
	@echo "Usage: make TARGET [NAME=value]"
	@sed -n 's/^\([a-z]*\):[^#]*## */  \1#/p' Makefile | awk -F'#' '{ printf "%-12s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## make the environment .venv, once [PYTHON=python3]; the other targets do it too

reproduce: setup  ## every table and figure, with a verdict [PROFILE=quick]
	$(RUN) -m glowlib reproduce --profile $(or $(PROFILE),quick)

verify: setup  ## judge the run that is there once more, compute nothing [PROFILE=quick]
	$(RUN) -m glowlib verify --profile $(or $(PROFILE),quick)

extras: setup
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-extras.txt

test: setup $(if $(EXTRAS),extras)  ## the tests, and the notebooks against their committed outputs; a file a core [EXTRAS=1: the integrations too]
	OMP_NUM_THREADS=1 GLOWLIB_EXTRAS=$(EXTRAS) $(RUN) -m pytest --numprocesses auto --dist loadfile \
	    --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg tests notebooks

lab: setup  ## open the notebooks in JupyterLab
	$(RUN) -m jupyterlab notebooks

train: setup  ## train a model, or go on with an unfinished training [MODEL=sglownet PROFILE=small]
	$(RUN) -m glowlib.training --profile $(or $(PROFILE),small) --model $(or $(MODEL),sglownet)

ablations: setup  ## train a narrow network again and again with one thing changed; half an hour for AT_ONCE=2 on two cores [AT_ONCE=1]
	$(RUN) -m glowlib ablation --at_once $(or $(AT_ONCE),1)

reach: setup  ## the shipped models on whole pictures and on tiles, held-out photographs
	$(RUN) -m glowlib context-range

bench: setup  ## how fast the networks are here and what memory they take; more than half an hour on two cores, nothing else running
	$(RUN) -m glowlib bench

export: extras  ## write a network's ONNX and torch.export files to exported/ [WEIGHTS=sglownet-small]
	$(RUN) -m glowlib export --weights $(or $(WEIGHTS),sglownet-small)

notebooks: setup  ## run the committed notebooks again, in place
	$(RUN) -m nbconvert --to notebook --execute --inplace --coalesce-streams --log-level WARN \
	    --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

lint: setup  ## check style and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:  ## remove the results of the quick profile, caches and built packages
	@echo "Removing results/runs/quick (but for its training), caches, dist and build; data, trainings and $(VENV) stay."
	@if [ -d results/runs/quick ]; then \
	    find results/runs/quick -mindepth 1 -maxdepth 1 ! -name training -exec rm -rf {} +; \
	fi
	@find . \( -name $(VENV) -o -name .git \) -prune -o -type d \
	    \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@rm -rf .pytest_cache .ruff_cache .hypothesis dist build

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    found=$$($(PYTHON) --version 2>&1) || found="not there"; \
	    echo "The kit needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$found:" \
	        "name one that fits, as in  make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments: install its venv module" \
	        "(on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing the packages of requirements.txt into $(VENV) (some minutes; with CUDA about 6 GB) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# Kernels talk inside this machine: their warning about TCP without encryption would only worry the reader.
	@mkdir -p $(VENV)/etc/ipython && echo 'c.IPKernelApp.log_level = 40' > $(VENV)/etc/ipython/ipython_kernel_config.py
	@touch $@
