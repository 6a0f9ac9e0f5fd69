//! The command line as its users meet it.

#![allow(clippy::unwrap_used, missing_docs)]

mod cli_commands;
mod cli_project;
mod cli_pull;
mod fixtures;
