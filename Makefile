# Everything a user types. PYTHON chooses the interpreter that makes the
# environment; EXTRAS what is installed beside the package.
PYTHON ?= python3
EXTRAS ?= test
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(EXTRAS)

.PHONY: env demo test test-slow lint clean

env: $(INSTALLED)

$(INSTALLED): setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

# Make the data, train two models, evaluate them from their checkpoints.
demo: $(INSTALLED)
	$(BIN)/python -m benchmarks.demo --out=runs/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest tests -m 'not slow' -q -n 2 --dist loadfile --durations=15

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest tests -m slow -q -n 2 --dist loadfile --durations=15

lint: $(INSTALLED)
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) runs build *.egg-info
