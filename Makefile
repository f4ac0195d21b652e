# make demo: train and evaluate on drawn characters.  make test: the checks that CI runs.
PYTHON ?= python3
BIN := .venv/bin
REQUIREMENTS := $(if $(shell command -v nvidia-smi),requirements-cuda.txt,requirements.txt)

.PHONY: demo test install clean

demo: install
	$(BIN)/python launch.py --config=configs/glyphs_symm_npair.py

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2

install: .venv/installed

.venv/installed: requirements.txt requirements-cuda.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.13"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) -r requirements-dev.txt -e .
	touch $@

clean:
	rm -rf .venv
