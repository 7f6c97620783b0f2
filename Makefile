PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow bench lab lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(SETUP) ## the main job on scikit-learn's digits: measure, draw, summarise
	$(BIN)/granet-lab demo

test: $(SETUP) lint ## lint, unit tests, and all notebooks compared with their stored output
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow"
	$(BIN)/pytest -n 2 --nbval-lax --nbval-current-env --nbval-cell-timeout 600 --dist loadfile notebooks

test-slow: $(SETUP) ## the long tests: kills at random moments, whole trainings
	$(BIN)/pytest -m slow

bench: $(SETUP) ## time it beside a plain loop, its features, the limit; 40 minutes
	$(BIN)/python -m benchmarks

lab: $(SETUP) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean: ## remove .venv; what was measured in data/ stays
	rm -rf .venv

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "granet_lab needs Python 3.11 or later; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@
