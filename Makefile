# `make` lists the targets. Requirements: Python 3.11 to 3.13, make and git.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# The stamp names the pins and the clone's path: when either changes, the environment is created again.
# It is written last, so an interrupted set-up starts over.
STAMP := $(VENV)/.ready-$(shell { cat requirements.txt; pwd; } | cksum | tr -cs '0-9\n' '-')
ifneq ($(shell $(RUN) -c 'print("runs")' 2>/dev/null),runs)
.PHONY: $(STAMP)
endif

# Notebooks run in this environment, not with kernels and packages that are installed elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: reproduce test extras lab train verify study ablations reach interventions stress bench export book notebooks colab lint setup clean help

reproduce: setup  ## run a profile's notebooks and compare every number with the reference [PROFILE=quick]
	$(RUN) -m glowlib reproduce --profile $(or $(PROFILE),quick)

extras: setup
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-extras.txt

test: setup $(if $(EXTRAS),extras)  ## run the tests, and the notebooks against their committed outputs [EXTRAS=1: integrations too]
	OMP_NUM_THREADS=1 GLOWLIB_EXTRAS=$(EXTRAS) $(RUN) -m pytest --numprocesses auto --dist loadfile \
	    --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg tests notebooks

lab: setup  ## open README in JupyterLab; it leads to the notebooks [OPTIONS=--no-browser]
	$(RUN) -m jupyterlab --log-level=WARN --LabApp.app_settings_dir=docs/lab --LabApp.default_url=/lab/tree/README.md $(OPTIONS)

train: setup  ## train a model, or resume its training [MODEL=sglownet PROFILE=small]
	$(RUN) -m glowlib.training --profile $(or $(PROFILE),small) --model $(or $(MODEL),sglownet)

study: setup  ## train the arms of the controlled study, score and compare them; hours on two cores [AT_ONCE=1]
	$(RUN) -m glowlib study --at_once $(or $(AT_ONCE),1)

verify: setup  ## compare an existing run with the reference, without computing it again [PROFILE=quick]
	$(RUN) -m glowlib verify --profile $(or $(PROFILE),quick)

ablations: setup  ## train a narrow S-GLOWNet with one change at a time; half an hour with AT_ONCE=2 on two cores [AT_ONCE=1]
	$(RUN) -m glowlib study --profile ablations --at_once $(or $(AT_ONCE),1)

reach: setup  ## score the shipped models on whole images and on tiles
	$(RUN) -m glowlib context-range

interventions: setup  ## score the shipped models with parts of their context changed
	$(RUN) -m glowlib interventions

stress: setup  ## damaged files, kills and races, with a table of what survived; half an hour on two cores
	$(RUN) tests/stress

bench: extras  ## time the networks, beside other runtimes, too, and measure their memory; an hour on two cores, run nothing else
	$(RUN) -m glowlib engines
	$(RUN) -m glowlib bench

export: extras  ## write a network's ONNX and torch.export files to exported/ [WEIGHTS=sglownet-small]
	$(RUN) -m glowlib export --weights $(or $(WEIGHTS),sglownet-small)

book: extras  ## write README, notebooks and docs as a static site to dist/book
	$(RUN) -m sphinx -q -W -b html -c docs/book . dist/book
	@echo "open dist/book/README.html"

notebooks: setup  ## run the committed notebooks again, in place
	@# Preprocessors named here run after the execution; --coalesce-streams alone merges what was there before it.
	$(RUN) -m nbconvert --to notebook --execute --inplace --coalesce-streams --log-level WARN \
	    --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False \
	    --NotebookExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor \
	    --NotebookExporter.preprocessors=glowlib.experiments.committed_outputs.WithoutWidgetViews notebooks/*.ipynb

colab: setup  ## make README and the notebooks open on Colab from a GitHub repository [REPO=owner/name]
	$(RUN) -m glowlib cards --colab $(REPO)

lint: setup  ## check style and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

setup: $(STAMP)  ## create the environment .venv; all targets above do it when needed [PYTHON=python3]

clean:  ## remove caches, built packages, and the quick profile's results except its training
	@echo "Removing results/runs/quick except its training, caches, dist and build. Data, trainings and $(VENV) stay."
	@if [ -d results/runs/quick ]; then \
	    find results/runs/quick -mindepth 1 -maxdepth 1 ! -name training -exec rm -rf {} +; \
	fi
	@find . \( -name $(VENV) -o -name .git \) -prune -o -type d \
	    \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@rm -rf .pytest_cache .ruff_cache .hypothesis dist build

help:  ## show this list
	@echo "Usage: make TARGET [NAME=value]"
	@sed -n 's/^\([a-z]*\):[^#]*## */  \1#/p' Makefile | awk -F'#' '{ printf "%-12s %s\n", $$1, $$2 }'

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    found=$$($(PYTHON) --version 2>&1) || found="not installed"; \
	    echo "The kit needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$found." \
	        "Choose another one, for example: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot create virtual environments: install its venv module" \
	        "(on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing the packages of requirements.txt into $(VENV) (some minutes; with CUDA about 6 GB) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# Kernels listen on this machine only: switch off their warning about unencrypted TCP.
	@mkdir -p $(VENV)/etc/ipython && echo 'c.IPKernelApp.log_level = 40' > $(VENV)/etc/ipython/ipython_kernel_config.py
	@touch $@
