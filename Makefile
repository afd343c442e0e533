# Each target does all of its own set-up, its virtual environment included.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# A process for each core, of one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4
# By stealing, tests of one file mostly share a process and its fixtures; export/conftest.py has a way of its own.
STEALING := --dist worksteal

.PHONY: demo test test-slow mutations test-export lint format bench docs bundled-model photo-model clean

demo: $(VENV)/.installed
	$(BIN)/clipfast demo --out demo-out

test: $(VENV)/.installed-dev lint
	$(PYTEST) $(STEALING)

# Every tower family through ONNX, and ViT-B/32 in every format; about half an hour.
test-slow: $(VENV)/.installed-dev $(VENV)/.installed-export
	$(PYTEST) $(STEALING) -m slow
	$(PYTEST) --no-loadscope-reorder -m slow export

# Whether the tests notice faults that someone could make; about an hour.
mutations: $(VENV)/.installed-dev
	PYTHONPATH=tools $(BIN)/python -m mutations

# Starts the defended classifier in each place that export/ has a folder for.
test-export: $(VENV)/.installed-export
	$(PYTEST) --no-loadscope-reorder export

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Prints the table, draws the plot and records the figures; about an hour on two idle cores.
bench: $(VENV)/.installed
	mkdir -p runs
	$(BIN)/clipfast bench --out runs/bench.json --plot runs/bench.png

# Builds the documentation into site/. A warning is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# Trains the bundled model of drawn shapes from scratch; takes hours on two cores and resumes where it stopped.
bundled-model: $(VENV)/.installed
	PYTHONPATH=tools $(BIN)/python -m bundled_models.drawn

# Trains the bundled model of photographs on CIFAR-10 below ROOT, where torchvision puts it if it is not there; takes
# two to three hours on two cores and resumes where it stopped.
ROOT ?= data
photo-model: $(VENV)/.installed
	PYTHONPATH=tools $(BIN)/python -m bundled_models.photographs --root "$(ROOT)" --download

clean:
	rm -rf $(VENV) build dist demo-out runs site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "clipfast needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The C++ operators are built against the torch that is installed, so it comes first.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77"
	torch=$$(PYTHONPATH=tools $(BIN)/python -c "import build_backend; print(build_backend.torch_requirement())") && \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$torch"
	@touch $@

SOURCES := pyproject.toml setup.py $(wildcard csrc/*)

$(VENV)/.installed: $(SOURCES) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[all]"
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[all,dev]"
	@touch $@ $(VENV)/.installed

# nvidia-pytriton without its requirements: only the inference server in it is used; its Python wants numpy 1.
$(VENV)/.installed-export: $(SOURCES) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[all,dev,export]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "nvidia-pytriton==0.7.0"
	@touch $@ $(VENV)/.installed-dev $(VENV)/.installed

# The site is made from sources that are read and not imported, so that it needs neither clipfast nor torch.
$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" | \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin
	@touch $@
