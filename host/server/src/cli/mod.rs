//! The commands: each does one thing through the service, the catalogue or cargo, and prints it.

mod client;
#[cfg(feature = "gpu")]
mod devices;
mod error;
mod events;
mod files;
mod functions;
mod input;
mod logs;
mod models;
mod output;
mod predict;
mod project;
mod push;
mod residency;
mod run;
mod serve;
mod table;
mod terminal;
mod tokens;

use clap::CommandFactory;

pub use error::{Api, Error};

use crate::args::{Args, Command, Connection, Settings};
use client::Client;
use terminal::Terminal;

/// Runs a command to its end.
pub fn run(args: Args) -> Result<(), Error> {
    let settings = || Settings::load(&args.common);
    let client =
        |connection: &Connection| settings().map(|settings| Client::new(settings.server(connection)));
    let mut terminal = Terminal::new(args.common.json);
    match args.command {
        Command::Serve(serve) => serve::run(settings()?, &serve, &mut terminal),
        Command::New(new) => project::new(&new, &mut terminal),
        Command::Build(build) => project::build(&settings()?, &build, &mut terminal),
        Command::Push(push) => push::run(&settings()?, &client(&push.connection)?, &push, &mut terminal),
        Command::Predict(predict) => predict::run(settings()?, &predict, &mut terminal),
        Command::Run(run) => run::run(&client(&run.connection)?, &run, &mut terminal),
        Command::Fn(function) => functions::run(client, &function, &mut terminal),
        Command::Logs(logs) => logs::run(&client(&logs.connection)?, &logs, &mut terminal),
        Command::Ps { connection } => residency::list(&client(&connection)?, &mut terminal),
        Command::Wake(wake) => residency::wake(&client(&wake.connection)?, &wake, &mut terminal),
        Command::Sleep(sleep) => residency::sleep(&client(&sleep.connection)?, &sleep, &mut terminal),
        #[cfg(feature = "gpu")]
        Command::Devices => devices::list(&mut terminal),
        Command::Model(model) => models::run(&settings()?, &model, &mut terminal),
        Command::Token(token) => tokens::run(client, &token, &mut terminal),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "dormouse", &mut std::io::stdout());
            Ok(())
        }
    }
}

/// Says on standard error why a command failed.
pub fn report(error: &Error, json: bool) {
    match json {
        true => eprintln!("{}", error.to_json()),
        false => anstream::eprintln!("{red}error:{red:#} {error}", red = terminal::RED),
    }
}
