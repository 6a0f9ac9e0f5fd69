# Each target is one readable script.
.PHONY: demo test test-clients test-drivers setup build bench bench-engine bench-gpu bench-hibernate

demo: ## Deploy two predictors and stream a language model's answer
	scripts/demo.sh

test: ## Everything that CI checks
	scripts/test.sh

test-clients: ## The clients that people have, unmodified, and the real Cog as an oracle
	scripts/test-clients.sh

test-drivers: ## The kernels on another Vulkan driver than Mesa's, SwiftShader
	scripts/test-drivers.sh

bench: ## The service over HTTP, beside wasmtime serve
	scripts/bench.sh

bench-engine: ## The engine, beside llama.cpp and candle
	scripts/bench-engine.sh

bench-gpu: ## The model on a graphics processor: dispatches, bytes, waking, beside llama.cpp
	scripts/bench-gpu.sh

bench-hibernate: ## What sleeping costs and waking takes
	scripts/bench.sh setup hibernate

setup: ## Install what the machine lacks; doing it again does nothing
	scripts/setup.sh

build: setup ## The service and the command line, as target/release/dormouse
	cargo build --release --workspace --bin dormouse
