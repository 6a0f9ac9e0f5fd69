//! The service as its callers meet it, on small components, and the command line as its users do.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod aliases;
mod batches;
mod bounds;
mod cli_commands;
mod cli_project;
mod cli_pull;
mod cog;
mod crash;
mod deploy;
mod drain;
mod fixtures;
mod functions_as_models;
mod guest;
mod invoke;
mod lambda;
mod mcp;
mod node;
mod ollama;
mod overload;
mod predictions;
mod receiver;
mod replicate;
mod stream;
mod telemetry;
mod tls;
mod tokens;
mod webhook;
