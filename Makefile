# make demo: train and evaluate on drawn characters.  make test: the checks that CI runs.  make docs: the site.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
REQUIREMENTS := $(if $(shell command -v nvidia-smi),requirements-cuda.txt,requirements.txt)

.PHONY: demo test pytest lint docs install clean

demo: install
	$(BIN)/python launch.py --config=configs/glyphs_symm_npair.py

# Side by side: much of the tests' time is waiting for programs that they start.
test: install
	@$(MAKE) --no-print-directory -j 2 lint pytest

pytest: install
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

docs: .venv/installed-docs
	$(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

install: .venv/installed

.venv/installed: pyproject.toml requirements.txt requirements-cuda.txt requirements-dev.txt $(wildcard requirements/*.txt)
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.13"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -r $(REQUIREMENTS) -r requirements-dev.txt -e .
	touch $@

.venv/installed-docs: .venv/installed requirements-docs.txt
	$(PIP) -r requirements-docs.txt
	touch $@

clean:
	rm -rf .venv build dist docs/_build docs/api/modules .pytest_cache
