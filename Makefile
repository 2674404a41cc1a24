# The two commands of a newcomer are `make up` and `make test`; both build .venv when it is missing.
# Works with GNU make 3.81, which macOS has.
PYTHON ?= python3
PORT ?= 3000
ALL ?=
BIN := .venv/bin
# Modules are compiled when they are first imported: compiling all took half of the installation.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE
INPUTS := pyproject.toml constraints.txt
# The extras that can be installed, each with all before it. `make up` takes the first; with ALL=1, and in an
# environment that has more already, it takes every optional library.
SETS := demo all test dev
UP := $(if $(filter-out 0,$(ALL))$(wildcard .venv/.installed-all),all,demo)

.PHONY: up test lint bench lock wheel

up: .venv/.installed-$(UP)
	@exec $(BIN)/grade-ml up --demo --port $(PORT)

test: .venv/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not ui"

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell --dictionary - --dictionary plain-words.txt
	$(BIN)/proselint --config .proselintrc.json check README.md CHANGELOG.md docs
	$(BIN)/pymarkdown scan README.md CHANGELOG.md docs

bench: .venv/.installed-test
	@for script in $(filter-out benchmarks/command.py benchmarks/installation.py benchmarks/out_of_time.py benchmarks/quoted.py benchmarks/whatif.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

wheel: .venv/.created
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lock: .venv/.installed-dev
	$(BIN)/uv pip compile --universal --all-extras --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --python-version 3.11 pyproject.toml -o constraints.txt

# Written last, so that an installation that was interrupted is taken up again.
.venv/.installed-%: .venv/.created $(INPUTS)
	@echo "Installing grade_ml[$*] into .venv (a few minutes the first time)"
	@$(INSTALL) -e ".[$*]"
	@for set in $(SETS); do touch .venv/.installed-$$set; if [ $$set = $* ]; then break; fi; done

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "grade_ml needs Python 3.11 or newer, and this is " + sys.version.split()[0] + \
	  ". Name another one: make up PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@touch $@
