# What a user and the continuous integration call. Each target brings what it
# needs; `make setup` is instant once it has run.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build model demo test bench reference lint fmt clean

PYTHON := .venv/bin/python
MODEL := .cache/models/smollm2-135m-instruct
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: ## Make .venv with libtorch and what the tests need
	@scripts/setup main

build: setup ## Build target/release/prospect and prospect-worker
	cargo build --locked --release --package prospect-cli --package prospect-worker

model: setup ## Write SmolLM2-135M-Instruct, which demo, tests and benchmarks use
	@$(PYTHON) scripts/fetch_smollm2.py $(MODEL)

demo: build model ## Train on the bundled feedback with two workers and compare before and after
	@$(PYTHON) scripts/demo.py

test: model ## Run all tests
	scripts/run-tests

bench: build model ## Run the benchmarks, the comparison with TRL among them
	@scripts/setup reference
	scripts/run-benches

reference: model ## Make the committed reference numbers again with TRL and transformers
	@scripts/setup reference
	scripts/run-references

lint: setup ## Check format, clippy, crate edges, licences, protocol, images and scripts
	@scripts/setup lint
	scripts/run-lints

fmt: ## Format the Rust code
	cargo fmt --all

clean: ## Remove build products; .venv, .cache and runs stay
	cargo clean
