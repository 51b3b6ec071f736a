# Two commands for a fresh machine: `make demo` and `make test`. Each sets up all it needs, in .venv.
PYTHON ?= python3
# The pair of versions that the tests are run with.
TORCH ?= torch==2.14.1 torchvision==0.29.1
BUDGET ?= 120
VENV = .venv
BIN = $(VENV)/bin

.PHONY: demo test test-pythons lint docs wheel clean

# The built wheel is what is installed, demonstrated and tested, never the checkout.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/torch: $(BIN)/pip
	$(BIN)/pip install --quiet $(TORCH) pillow
	touch $@

wheel: $(BIN)/pip
	rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet dist/perfdoc-*.whl
	$(BIN)/pip install --quiet --no-deps --force-reinstall dist/perfdoc-*.whl

demo: wheel $(VENV)/torch
	$(BIN)/perfdoc demo --budget $(BUDGET)
	@echo "Open the report above in a browser: perfdoc-demo/.perfdoc/runs/<id>/report.html"

test: wheel $(VENV)/torch
	tests/system_packages.sh
	$(BIN)/pip install --quiet --group test
	$(BIN)/pytest -n 3 --dist worksteal -m "not alone"
	$(BIN)/pytest -m alone

# What needs no torch, on the other Pythons that this machine has.
test-pythons: wheel
	tests/other_pythons.sh

lint: wheel
	$(BIN)/pip install --quiet --group lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini benchmarks/*.py
	$(BIN)/lint-imports

docs: wheel
	$(BIN)/pip install --quiet --group docs
	$(BIN)/sphinx-build -W --keep-going --quiet docs build/docs
	@echo "Open build/docs/index.html in a browser."

clean:
	rm -rf $(VENV) .venv-3.* build dist perfdoc-demo
