# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
DATA := data/rendered

WHEEL := build/wheel

.PHONY: help install quickstart test test-all test-transformers test-wheel mutants lint docs clean base-model quality

help:
	@echo "make quickstart  render data, train, evaluate, search; writes $(RUN)/report.html (CPU, minutes)"
	@echo "make test        run the tests"
	@echo "make test-all    run the long tests, too: benches in small, wheels"
	@echo "make test-wheel  build the wheel, install it into an empty environment, and use it (downloads its dependencies)"
	@echo "make test-transformers  run transformers' own common tests on these models (fetches them the first time)"
	@echo "make mutants     put small faults into the code, one at a time, and see whether the tests notice (CPU, an hour or more)"
	@echo "make lint        check style and types"
	@echo "make docs        write the documentation as a site into build/site; a warning is an error"
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

test-all: test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m nightly

# First without extras, then with `search`; in a folder of its own, where the checkout cannot be imported.
test-wheel: install
	rm -rf $(WHEEL) && mkdir -p $(WHEEL)/place
	$(BIN)/python -m build --outdir $(WHEEL)/dist
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/pip install --constraint constraints.txt $(WHEEL)/dist/*.whl
	cd $(WHEEL)/place && ../venv/bin/aga --help
	cd $(WHEEL)/place && ../venv/bin/python $(CURDIR)/tests/base_install.py $(CURDIR)/checkpoints/aga-small-rendered
	$(WHEEL)/venv/bin/pip install --constraint constraints.txt "$$(echo $(WHEEL)/dist/*.whl)[search]"
	cd $(WHEEL)/place && ../venv/bin/aga index people/imgs --model $(CURDIR)/checkpoints/aga-small-rendered --out gallery
	cd $(WHEEL)/place && ../venv/bin/aga search gallery "a woman in a red coat" --save result.png

test-transformers: install
	$(BIN)/python tests_transformers/fetch.py
	$(BIN)/python -m pytest --config-file tests_transformers/pytest.ini -n 2 --dist loadscope tests_transformers

mutants: install
	$(BIN)/python -m benchmarks mutants

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The variable silences an advertisement of the theme's.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

base-model: install
	$(BIN)/aga render data/base --world base --identities 24000 --val-identities 300 --test-identities 300 --seed 1 \
		--height 128 --width 64 --images-per-identity 2
	$(BIN)/python train_hf.py configs/base_contrastive.yaml
	$(BIN)/python train_hf.py configs/base_fusion.yaml
	@echo "the model is in runs/base_fusion/model"

quality: install
	$(BIN)/python -m benchmarks quality

clean:
	rm -rf $(VENV) runs data build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
