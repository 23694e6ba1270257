# Two commands are enough: `make demo` and `make test`. Both make .venv on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := tflite_models/demo
# Two processes, each file whole in one of them: more would want the cores that TensorFlow takes for itself.
WORKERS := --numprocesses=2 --dist=loadfile

.PHONY: demo test test-all lint format clean

$(VENV)/.installed: requirements.lock setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "tfcompress needs Python 3.11 to 3.13, for which TensorFlow has wheels. Received: %d.%d. Remedy: make PYTHON=python3.13" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/.installed
	$(BIN)/tfcompress compress --model=resnet8 --dataset=digits --recipe=demo --out=$(DEMO)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-all: lint
	$(BIN)/python -m pytest $(WORKERS)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
