//! What `wit/predictor.wit` looks like from Rust. Generated; used by `host` and `instance` only.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "predictor",
    imports: {
        // Nothing to wait for in these.
        "dormouse:predictor/llm.[method]model.info": trappable,
        "dormouse:predictor/llm.[method]completion.finish": trappable,
        "dormouse:predictor/llm.[method]completion.usage": trappable,
        "dormouse:predictor/output.metric": trappable,
        default: async | trappable,
    },
    exports: { default: async },
    trappable_error_type: { "dormouse:predictor/llm.error" => crate::host::llm::Fault },
    with: {
        "dormouse:predictor/llm.model": dormouse_engine::Model,
        "dormouse:predictor/llm.completion": crate::host::llm::Running,
    },
});
