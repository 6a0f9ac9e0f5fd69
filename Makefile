# Each target is one readable script.
.PHONY: demo test setup build bench bench-engine

demo: ## Deploy two predictors and stream a language model's answer
	scripts/demo.sh

test: ## Everything that CI checks
	scripts/test.sh

bench: ## The service over HTTP, beside wasmtime serve
	scripts/bench.sh

bench-engine: ## The engine, beside llama.cpp
	scripts/bench-engine.sh

setup: ## Install what the machine lacks; doing it again does nothing
	scripts/setup.sh

build: setup ## The service and the command line, as target/release/dormouse
	cargo build --release --workspace --bin dormouse
