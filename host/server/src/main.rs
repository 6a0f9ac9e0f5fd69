//! The command `dormouse`.

use std::process::ExitCode;

use clap::Parser;
use dormouse::args::Args;
use dormouse::cli;

fn main() -> ExitCode {
    let args = Args::parse();
    let json = args.common.json;
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            cli::report(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}
