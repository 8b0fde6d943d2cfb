# `make run` and `make test` need only Python 3.11+, a C++20 compiler and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.PHONY: help install run test test-slow test-gpu test-serving test-compressai figures bundle docs linkcheck lint types sanitize clean

help:
	@echo "make install    environment in $(VENV), with everything the tests need"
	@echo "make run        export the shipped checkpoint, compress and decompress the sample photographs"
	@echo "make test       the test suite (test-slow, test-gpu, test-serving, test-compressai: what it leaves out)"
	@echo "make figures    the figures of README and site from bench/results"
	@echo "make docs       the site, into build/docs (linkcheck: its links to other sites)"
	@echo "make bundle     a shipped bundle from its checkpoint (NAME=lite): float, calibrated, exact"
	@echo "make lint types sanitize"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(shell find runtime/flif -name '*.?pp' -o -name '*.h' -o -name CMakeLists.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25'
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt 'scikit-build-core>=0.11' 'nanobind>=2.4' 'cmake>=3.25' ninja
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	mkdir -p build/types && ln -sfn ../.. build/types/oslic
	touch $(STAMP)

run: $(STAMP)
	mkdir -p out
	$(BIN)/oslic export checkpoints/lite -o out/lite --force
	$(BIN)/oslic demo samples/*.png samples/*.jpg --bundle out/lite -o out

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) -m "slow and not gpu"

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

# A Triton server, unpacked from a wheel, and Ray in an environment of its own that sees ours: both are large.
TRITON := build/triton
RAY := .venv-ray

test-serving: $(TRITON)/.ready $(RAY)/.installed
	OSLIC_TRITON=$(TRITON) $(BIN)/python -m pytest -m serving tests/serving/model_repository
	$(RAY)/bin/python -m pytest -m serving tests/serving/ray_data

$(TRITON)/.ready: tests/support/prepare_triton.py $(STAMP)
	$(BIN)/python tests/support/prepare_triton.py $(TRITON)

$(RAY)/.installed: $(STAMP)
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet 'ray[data]>=2.50' 'moto[server]' s3fs 'pytest>=8'
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_paths()["purelib"])' \
		> "$$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/oslic.pth"
	touch $@

# CompressAI in an environment of its own: it wants NumPy below 2. Our tests and it exchange files.
COMPRESSAI := .venv-compressai

test-compressai: $(COMPRESSAI)/.installed
	OSLIC_COMPRESSAI=$(abspath $(COMPRESSAI)/bin/python) PATH=$(abspath $(BIN)):$$PATH \
		$(BIN)/python -m pytest -m slow tests/compressai_reference

$(COMPRESSAI)/.installed: $(STAMP)
	$(PYTHON) -m venv $(COMPRESSAI)
	$(COMPRESSAI)/bin/python -m pip install --quiet -c constraints.txt torch 'numpy<2'
	$(COMPRESSAI)/bin/python -m pip install --quiet -c constraints.txt compressai==1.2.8 'numpy<2'
	touch $@

# The shipped bundle: exact, made of the checkpoint and of photographs that are not in the repository. Its float form is
# what `oslic export checkpoints/lite` writes. The streams that it made are made anew.
# GRAPHS=segment,analyse quantizes the encoder's graphs as well: on an idle machine, since times decide about layers.
PHOTOS ?= ../shared/data/photos
GRAPHS ?= synthesise
# make bundle NAME=lite-preview: that one and the sharp one have a graph for the search of higher efforts.
NAME ?= lite
SEARCH := $(if $(filter lite-preview lite-preview-sharp,$(NAME)),--search)

bundle: $(STAMP)
	mkdir -p out
	$(BIN)/oslic export checkpoints/$(NAME) $(SEARCH) -o out/$(NAME)-float --force
	$(BIN)/oslic calibrate out/$(NAME)-float --integer --graphs $(GRAPHS) --images $(PHOTOS) -o out/$(NAME)-exact --force
	$(BIN)/python -c "from oslic.runtime.bundle.folder import Bundle; assert Bundle.open('out/$(NAME)-exact').manifest.exact"
	$(BIN)/oslic cast out/$(NAME)-exact --weights-only -o out/$(NAME)-shipped --force
	rm -rf runtime/bundles/$(NAME)
	cp -r out/$(NAME)-shipped runtime/bundles/$(NAME)
	rm -f runtime/bundles/$(NAME)/calibration.*
	# What the default bundle holds too is taken from there.
	test $(NAME) = lite || for f in runtime/bundles/$(NAME)/*.onnx; do \
		if cmp -s $$f runtime/bundles/lite/$$(basename $$f); then rm $$f; fi; done
	$(BIN)/python tests/vectors/make.py --shipped

# The figures of README and site, and the charts that they show, from the result files.
README_RESULTS := rd-kodak-lite fusion-lite-cpu int8-lite-cpu
RESULTS := rd-kodak-lite latency-lite-cpu latency-lite-cpu-speed-9 latency-lite-avx2 latency-lite-avx2-speed-9 fusion-lite-cpu fusion-lite-cpu-1-thread int8-lite-cpu drift-lite-cpu flif-libflif selfcheck

figures: $(STAMP)
	rm -f docs/charts/*.svg
	$(BIN)/oslic bench report $(README_RESULTS:%=bench/results/%.json) --readme README.md
	$(BIN)/oslic bench report $(RESULTS:%=bench/results/%.json) --readme docs/results/figures.md --pictures docs/charts
	$(BIN)/oslic bench report bench/results/rd-kodak-lite.json --readme docs/guides/compress.md

# The site. Warnings are errors: dead links, docstrings that do not parse, pages that no table of contents names.
SPHINX := $(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --fresh-env --quiet

docs: $(STAMP)
	$(SPHINX) -b html docs build/docs
	@echo "build/docs/index.html"

linkcheck: $(STAMP)
	$(SPHINX) -b linkcheck docs build/linkcheck

# American spelling, inside identifiers too: the expression cuts them into words.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/codespell --builtin en-GB_to_en-US -D - -D .ci/american-spelling.txt --regex '[A-Z]?[a-z]+|[A-Z]+'

types: $(STAMP)
	$(BIN)/mypy $(addprefix build/types/oslic/,runtime networks measure training export calibration serving bench cli)

# AddressSanitizer and UBSan over the FLIF codec: every test vector, the corpus, and mutations of both. Needs only g++.
FUZZ_NAMES := $(addprefix runtime/flif/,color_buckets decoder encoder header learner scan transforms) tests/fuzz/flif_fuzz
FUZZ_OBJECTS := $(addprefix build/sanitize/,$(addsuffix .o,$(FUZZ_NAMES)))
FUZZ_INPUTS := tests/data/flif/*.flif tests/fuzz/corpus/*
FUZZ_EXECUTIONS ?= 10000
FUZZ_FLAGS := -std=c++20 -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all

sanitize:
	$(MAKE) -s -j$(JOBS) build/sanitize/flif_fuzz
	build/sanitize/flif_fuzz $(FUZZ_EXECUTIONS) 1 $(FUZZ_INPUTS)

build/sanitize/flif_fuzz: $(FUZZ_OBJECTS)
	$(CXX) $(FUZZ_FLAGS) $^ -o $@

build/sanitize/%.o: %.cpp Makefile
	mkdir -p $(@D)
	$(CXX) $(FUZZ_FLAGS) -MMD -Iruntime/flif -c $< -o $@

-include $(FUZZ_OBJECTS:.o=.d)

clean:
	rm -rf build out .pytest_cache .mypy_cache .ruff_cache
