# The two commands of a newcomer are `make up` and `make test`; both build .venv when it is missing.
# Works with GNU make 3.81, which macOS has.
PYTHON ?= python3
PORT ?= 3000
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt

.PHONY: up test lint bench lock wheel

up: .venv/.installed
	@exec $(BIN)/grade-ml up --demo --port $(PORT)

test: .venv/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not ui"

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed-test
	@for script in $(filter-out benchmarks/installation.py benchmarks/quoted.py benchmarks/whatif.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

wheel: .venv/.created
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lock: .venv/.installed-dev
	$(BIN)/uv pip compile --universal --all-extras --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --python-version 3.11 pyproject.toml -o constraints.txt

# Written last, so that an installation that was interrupted is taken up again.
.venv/.installed: .venv/.created $(INPUTS)
	@echo "Installing grade_ml into .venv (a few minutes the first time)"
	@$(INSTALL) -e ".[all]"
	@touch $@

.venv/.installed-test: .venv/.created $(INPUTS)
	@echo "Installing grade_ml and what its tests need into .venv"
	@$(INSTALL) -e ".[test]"
	@touch .venv/.installed $@

.venv/.installed-dev: .venv/.created $(INPUTS)
	@echo "Installing grade_ml and the tools of its developers into .venv"
	@$(INSTALL) -e ".[dev]"
	@touch .venv/.installed .venv/.installed-test $@

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "grade_ml needs Python 3.11 or newer, and this is " + sys.version.split()[0] + \
	  ". Name another one: make up PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@touch $@
