# `make demo` and `make test` are all that a fresh machine needs: Python 3.9 to 3.12 and make.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3.9 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
RANKS ?= 2
# Processes that share the tests, a file each at a time (one file has the zoo: there, a test each).
WORKERS ?= 2

# Open MPI refuses to start as root, as in most containers, and more ranks than cores, unless told.
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1
# No word of pip's own next release, and none of setuptools' on editable installations in general.
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
PIP = PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet
MPIRUN = $(BIN)/mpirun --oversubscribe -n $(RANKS)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help demo test test-slow test-zoo test-parity test-faults test-fuzz test-native test-device \
	test-releases test-all lint format pages bench proof proof-quick clean

help:
	@echo "make demo       set up, train on handwritten digits with 2 processes, validate, show"
	@echo "make test       set up, run the tests (11 to 27 minutes on 2 cores)"
	@echo "make test-slow  tests that take longer (about 45 minutes)"
	@echo "make test-zoo   every registered model: gradients, features, modes, counts"
	@echo "make test-parity  the same numbers as PyTorch and timm (installs both)"
	@echo "make test-native  the native operators, all networks, under sanitizers, for other processors"
	@echo "make test-device  whole runs on a fake Ascend and a fake GPU that enforce MindSpore's rules"
	@echo "make test-releases  a part of the tests under MindSpore 2.7 to 2.10, Python 3.9 to 3.12 (16 GB)"
	@echo "make test-faults  real runs killed, stopped or out of disk space, compared with whole ones"
	@echo "make test-fuzz  tens of thousands of hostile recipes, command lines, images and checkpoints"
	@echo "make lint       ruff, mypy, and vulture for dead code"
	@echo "make bench      measure speed against rivals (20 minutes; installs PyTorch, OpenVINO)"
	@echo "make proof      train what docs/proof.md compares (many hours; goes on where it was stopped)"
	@echo "make proof-quick  two epochs on Fashion-MNIST in a few minutes, and what to expect"
	@echo "make pages      draw the figures and write the tables of all pages"

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.9 to 3.12 with venv found. Install one \
	(Debian: apt-get install python3 python3-venv), or give it: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

$(VENV)/.demo: setup.py $(VENV)/bin/python
	$(PIP) --editable '.[cpu,mpi,demo]'
	@touch $@

$(VENV)/.test: setup.py $(VENV)/bin/python
	$(PIP) --editable '.[cpu,mpi,demo,test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.torch: setup.py $(VENV)/.test
	$(PIP) --editable '.[cpu,mpi,demo,test,torch]'
	@touch $@

$(VENV)/.bench: setup.py $(VENV)/.torch
	$(PIP) --editable '.[cpu,mpi,demo,test,torch,bench]'
	@touch $@

demo: $(VENV)/.demo
	$(MPIRUN) $(BIN)/python train.py --config configs/ghostnet/ghost_resnet50_digits.yaml \
		--ckpt_save_dir $(RUN)
	$(BIN)/python validate.py --config configs/ghostnet/ghost_resnet50_digits.yaml \
		--ckpt_path $(RUN)/best.ckpt --confusion $(RUN)/confusion.png > $(RUN)/validate.txt
	@cat $(RUN)/validate.txt
	@tail -n 1 $(RUN)/validate.txt > $(RUN)/validate.json
	@$(BIN)/python -m mindcv_ghost.report.plots $(RUN)/metrics.csv $(RUN)/learning_curve.png
	@$(BIN)/python -m mindcv_ghost.report.show $(RUN)

test: $(VENV)/.test
	$(PYTEST) -m "not slow and not fuzz and not faults and not zoo and not parity and not device"

test-slow: $(VENV)/.test
	$(PYTEST) -m slow

test-zoo: $(VENV)/.test
	$(PYTEST) --dist load -m zoo

# Without PyTorch and timm these tests say that they are skipped; here that is a failure.
test-parity: $(VENV)/.torch
	MINDCV_GHOST_NEEDS_TORCH=1 $(BIN)/python -m pytest -m parity

# Needs a C++ compiler with its sanitizers' libraries, and for ARM a cross compiler and an emulator
# (Debian: g++-aarch64-linux-gnu qemu-user); without, these tests are skipped.
test-native: $(VENV)/.test
	$(BIN)/python -m pytest tests/kernels tests/data/test_native.py tests/data/test_native_sanitizers.py

# On the CPU: MindSpore's own Python, with its C++ for devices replaced (tests/device/fake_device).
test-device: $(VENV)/.test
	$(PYTEST) -m device

# An environment for each release in .venv-releases, about 3 GB each, kept for the next time.
test-releases: $(VENV)/.test
	$(BIN)/python -m tools.measure.support --workers $(WORKERS); \
		status=$$?; $(BIN)/python -m tools.pages.tables; exit $$status

# The seeds are fixed: two runs on one release of the libraries try the same inputs.
test-faults: $(VENV)/.test
	$(BIN)/python -m pytest -m faults

test-fuzz: $(VENV)/.test
	$(BIN)/python -m pytest -m fuzz tests/fuzz

test-all: $(VENV)/.torch
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pages: $(VENV)/.demo
	$(BIN)/python -m tools.pages.figures configs/ghostnet/ghost_module.png
	$(BIN)/python -m tools.pages.proof results/proof docs/proof.png
	$(BIN)/python -m tools.pages.benchmarks benchmarks/results.csv docs/performance.png
	$(BIN)/python -m tools.pages.profile benchmarks/profile.csv docs/performance_profile.png
	$(BIN)/python -m tools.pages.tables

# Neither downloads anything: both say how to get the data that are missing.
proof: $(VENV)/.demo
	$(BIN)/python -m tools.measure.proof $(if $(CIFAR10_JPEG),--cifar10_jpeg $(CIFAR10_JPEG))

proof-quick: $(VENV)/.demo
	$(BIN)/python -m tools.measure.proof --quick

# Alone on the machine, or the numbers mean little. The page is made of whatever could be measured.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py; status=$$?; $(MAKE) pages; exit $$status

clean:
	rm -rf $(VENV) .venv-releases build dist *.egg-info
