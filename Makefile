# The front door. Every target makes what it needs first; Python ≥ 3.11 and make are enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help serve test lint fuzz soak format train evaluate bench bench-quick bench-against bench-body-types bench-quality clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Made anew when what is asked for changes. The stamp is written last: a broken install is no install.
.venv/installed: pyproject.toml constraints.txt model/engine/_layers.c model/scores/_native.c service/codecs/_json.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 is needed, {sys.executable} is {sys.version.split()[0]}: say make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

serve: .venv/installed ## start the service; settings by environment, as VAE_PORT=9000 make serve
	$(BIN)/python -m service

test: .venv/installed ## run all tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/installed ## ruff, mypy, the import contracts, and known vulnerabilities of what is pinned
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.audit constraints.txt

fuzz: .venv/installed ## 100,000 hostile requests, 500,000 runs of atheris, and bombs: make fuzz ARGS="--inputs 1000000 --seed 2"
	$(BIN)/python -m benchmarks.reliability.fuzz --inputs 100000 $(ARGS)
	$(BIN)/python -m tests.fuzz.readers -runs=500000 -max_total_time=600 -seed=1
	$(BIN)/python -m benchmarks.reliability.bombs

soak: .venv/installed ## each promise of the README's reliability table, an hour, into benchmarks/results/: make soak ARGS="overload stops"
	$(BIN)/python -m benchmarks.reliability $(ARGS)

format: .venv/installed ## put the code in ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: .venv/installed ## train a network, as make train DATA=my-images OUT=runs/mine
	$(BIN)/python -m model train --data $(DATA) $(if $(OUT),--out $(OUT)) $(ARGS)

evaluate: .venv/installed ## how well a bundle fits and tells anomalies: make evaluate BUNDLE=mnist DATA=data/mnist ANOMALIES=data/kmnist
	$(BIN)/python -m model evaluate --bundle $(BUNDLE) --data $(DATA) --anomalies $(ANOMALIES) $(ARGS)

bench: .venv/installed ## this service beside its peers, a quarter of an hour, into benchmarks/results/
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-quick: .venv/installed ## this service beside fixed answers, in a minute; tables are printed only
	$(BIN)/python -m benchmarks.serving --quick $(ARGS)

bench-against: .venv/installed ## the working tree compared with a commit, in two minutes: make bench-against REF=36f2c30
	$(BIN)/python -m benchmarks.against '$(or $(REF),HEAD)' $(ARGS)

bench-body-types: .venv/installed ## what each body type costs, into benchmarks/results/
	$(BIN)/python -m benchmarks.body_types

bench-quality: .venv/installed ## anomaly detection over seeds, classes and scores, hours: make bench-quality DATA=data
	$(BIN)/python -m benchmarks.quality --data $(DATA) $(ARGS)
	$(BIN)/python -m benchmarks.likelihood --data $(DATA)/mnist
	$(BIN)/python -m benchmarks.score_choice --data $(DATA)

clean: ## remove the environment and all caches
	rm -rf .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info build model/*.so service/*.so
