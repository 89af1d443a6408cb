# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
DATA := data/rendered

.PHONY: help install quickstart test lint clean base-model quality

help:
	@echo "make quickstart  render data, train, evaluate, search; writes $(RUN)/report.html (CPU, minutes)"
	@echo "make test        run the tests"
	@echo "make lint        check style and types"
	@echo "make base-model  train checkpoints/aga-small-rendered again (CPU, hours)"
	@echo "make quality     compare recipes on the quality bench; writes docs/quality.md (CPU, hours)"

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
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

base-model: install
	$(BIN)/aga render data/base --world base --identities 24000 --val-identities 300 --test-identities 300 --seed 1 \
		--height 128 --width 64 --images-per-identity 2
	$(BIN)/python train_hf.py configs/base_contrastive.yaml
	$(BIN)/python train_hf.py configs/base_fusion.yaml
	@echo "the model is in runs/base_fusion/model"

quality: install
	$(BIN)/python benchmarks/quality.py

clean:
	rm -rf $(VENV) runs data build *.egg-info .pytest_cache .ruff_cache .mypy_cache
