# The entry points. Every target first installs what it needs; Python >= 3.11 and make are enough, and
# a C compiler makes it faster. DATA, OUT and BUNDLE are one path each, spaces allowed. ANOMALIES and
# ARGS are shell words, so quote a path with a space once more: ANOMALIES="data/kmnist 'my set'".
PYTHON ?= python3
BIN := .venv/bin
C_SOURCES := $(wildcard model/*.[ch] model/*/*.[ch] service/*.[ch] service/*/*.[ch])
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help commands serve train evaluate test test-all lint format bench bench-quick bench-photographs bench-against bench-body-types bench-page bench-quality bench-gpu soak fuzz clean
.DEFAULT_GOAL := help

# $(call quote,VALUE): VALUE as one word for the shell, with a leading ~/ expanded as the shell would.
quote = '$(subst ','\'',$(if $(filter ~/%,$(firstword $(1))),$(subst ~/,$(HOME)/,$(1)),$(1)))'

# $(call need,TARGET,VALUE,MESSAGE): stop with MESSAGE if TARGET is asked for and VALUE is empty. Called
# while the Makefile is read, so that nobody waits for an installation first. No commas in MESSAGE.
need = $(if $(filter $(1),$(MAKECMDGOALS)),$(if $(strip $(2)),,$(error $(3))))
$(call need,train,$(DATA)$(VAE_DATA_DIR),DATA is missing: make train DATA=my-images)
$(call need,evaluate,$(BUNDLE),BUNDLE is missing: make evaluate BUNDLE=mnist DATA=data/mnist)
$(call need,evaluate,$(DATA),DATA is missing: make evaluate BUNDLE=mnist DATA=data/mnist)
$(call need,bench-quality,$(DATA),DATA is missing: make bench-quality DATA=data)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One environment. A stamp file for each stage is written last, so that a failed installation leaves
# none. A changed dependency starts again from an empty environment.
.venv/.serve: pyproject.toml constraints.txt $(C_SOURCES)
	@command -v $(PYTHON) > /dev/null || { echo "Python >= 3.11 is needed, and there is no $(PYTHON): name yours, as make PYTHON=python3.12"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python >= 3.11 is needed, and %s is %s: name another, as make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]))'
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "$(PYTHON) has no venv module: install it (Debian and Ubuntu: apt install python3-venv), or name another Python, as make PYTHON=python3.12"; exit 1; } >&2
	@echo "Installing the service and PyTorch into .venv: about a minute, this once."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP_INSTALL) --editable '.[onnxruntime]'
	@touch $@

.venv/.train: .venv/.serve
	@echo "Adding what training on photographs needs to .venv, this once."
	@$(PIP_INSTALL) --editable '.[photographs]'
	@touch $@

.venv/.evaluate: .venv/.serve
	@echo "Adding matplotlib and scikit-learn to .venv, this once."
	@$(PIP_INSTALL) --editable '.[evaluate]'
	@touch $@

.venv/.test: .venv/.serve
	@echo "Adding the tools for tests to .venv: about a minute, this once."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ .venv/.evaluate .venv/.train # which are among them

commands: .venv/.train .venv/.evaluate ## install what every vae command needs into .venv

serve: .venv/.serve ## start the service on port 8000; with settings: VAE_PORT=9000 make serve
	$(BIN)/python -m service

train: .venv/.train ## train a network: DATA="my images" OUT=runs/mine
	$(BIN)/python -m model train $(if $(DATA),--data $(call quote,$(DATA))) $(if $(OUT),--out $(call quote,$(OUT))) $(ARGS)

evaluate: .venv/.evaluate ## measure a network: BUNDLE=mnist DATA=data/mnist ANOMALIES="data/kmnist 'my set'"
	$(BIN)/python -m model evaluate --bundle $(call quote,$(BUNDLE)) --data $(call quote,$(DATA)) $(if $(OUT),--out $(call quote,$(OUT))) $(if $(ANOMALIES),--anomalies $(ANOMALIES)) $(ARGS)

# A file stays in one process, and so does a service that its tests share.
test: .venv/.test ## run the quick tests, or those named: ARGS=tests/unit
	$(BIN)/python -m pytest -n 2 --dist loadfile $(or $(ARGS),-m "not slow")

# What measures or loads the machine runs alone, after the others.
test-all: .venv/.test ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/.test ## check style, types, import contracts, and pinned versions for known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.audit constraints.txt

format: .venv/.test ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.test ## compare with other ways to serve a network, 25 minutes, into benchmarks/results/
	$(BIN)/python -m benchmarks.serving $(ARGS)
	$(BIN)/python -m benchmarks.photographs $(ARGS)

bench-quick: .venv/.test ## compare with fixed answers only, 1 minute, printed
	$(BIN)/python -m benchmarks.serving --quick $(ARGS)

bench-photographs: .venv/.test ## the photographs of it alone, 8 minutes, into benchmarks/results/
	$(BIN)/python -m benchmarks.photographs $(ARGS)

bench-against: .venv/.test ## compare the working tree with a commit, 2 minutes, printed: REF=HEAD~3
	$(BIN)/python -m benchmarks.against $(call quote,$(or $(REF),HEAD)) $(ARGS)

bench-body-types: .venv/.test ## measure the cost of each body type, into benchmarks/results/
	$(BIN)/python -m benchmarks.body_types

bench-page: .venv/.test ## measure the page in Chromium, 1 minute, into benchmarks/results/
	$(BIN)/python -m benchmarks.page

bench-quality: .venv/.test ## measure anomaly detection, hours, into benchmarks/results/: DATA=data
	$(BIN)/python -m benchmarks.quality --data $(call quote,$(DATA)) $(ARGS)
	$(BIN)/python -m benchmarks.likelihood --data $(call quote,$(DATA)/mnist)
	$(BIN)/python -m benchmarks.score_choice --data $(call quote,$(DATA))

bench-gpu: .venv/.test ## measure a GPU, 8 minutes, into benchmarks/results/
	PYTHON=$(BIN)/python benchmarks/gpu.sh $(ARGS)

soak: .venv/.test ## measure the promises of docs/reliability.md, 1 hour; or some: ARGS="overload stops"
	$(BIN)/python -m benchmarks.reliability $(ARGS)

fuzz: .venv/.test ## send hostile requests and bodies: ARGS="--inputs 1000000 --seed 2"
	$(BIN)/python -m benchmarks.reliability.fuzz --inputs 100000 $(ARGS)
	$(BIN)/python -m tests.fuzz.readers -runs=500000 -max_total_time=600 -seed=1
	$(BIN)/python -m benchmarks.reliability.bombs

clean: ## remove the environment, caches and compiled code
	rm -rf .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .schemathesis .coverage *.egg-info build dist
	find model service -name '*.so' -delete
