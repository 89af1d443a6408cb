# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
DATA := data/rendered

.PHONY: help install quickstart test lint clean

help:
	@echo "make quickstart  render data, train, evaluate, search; writes $(RUN)/report.html (CPU, minutes)"
	@echo "make test        run the tests"
	@echo "make lint        check style and types"

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,search,dev]'
	@touch $@

quickstart: install
	$(BIN)/aga render $(DATA) --identities 4400 --val-identities 100 --test-identities 300 --seed 0 --height 128 --width 64
	$(BIN)/python train_hf.py configs/quickstart.yaml --data_root $(DATA) --output_dir $(RUN)
	$(BIN)/aga index $(DATA) --split test --model $(RUN)/model --out $(RUN)/gallery
	$(BIN)/aga report $(RUN) --gallery $(RUN)/gallery \
		--query "a woman in a red coat and black trousers" \
		--query "a man with a blue backpack" \
		--query "somebody with an umbrella"

test: install
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs data build *.egg-info .pytest_cache .ruff_cache .mypy_cache
