//! From what was typed to what is used: the settings file, then the environment, then flags.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use url::Url;

use super::{Common, Connection, Data, ModelHub, Serve};
use crate::config::{self, Config, Token};

/// The service that client commands talk to, where nothing names another.
const SERVER: &str = "http://127.0.0.1:8080";

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("settings file {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The file is no TOML, or has a key or a value that means nothing. The text has line and key.
    #[error("settings file {}: {error}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        error: Box<toml::de::Error>,
    },
    /// `--set` names no setting, or gives it a value it can't have.
    #[error("--set {assignment}: {reason}")]
    Set {
        /// As typed.
        assignment: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing says where data belongs.
    #[error("no folder for data: set --data, DORMOUSE_DATA or HOME")]
    NoHome,
}

/// A settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    listen: Option<SocketAddr>,
    public_url: Option<String>,
    token: Option<Token>,
    owner: Option<String>,
    tls: Option<config::Tls>,
    data_dir: Option<PathBuf>,
    http: config::Http,
    deploy: config::Deploy,
    predict: config::Predict,
    queue: config::Queue,
    webhook: config::Webhook,
    runtime: config::Runtime,
    engine: config::Engine,
    residency: config::Residency,
    files: config::Files,
    batch: config::Batch,
    aws: config::Aws,
    client: Client,
    hub: config::Hub,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Client {
    #[serde(deserialize_with = "url")]
    server: Option<Url>,
    token: Option<Token>,
}

fn url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
    config::url_text::deserialize(from).map(Some)
}

/// The service as a client sees it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Root of its URLs.
    pub url: Url,
    /// Sent with every request.
    pub token: Option<String>,
}

impl Settings {
    /// Reads the file that `common` names, or the one in its usual place if it is there.
    pub fn load(common: &Common) -> Result<Self, Error> {
        let usual = || dir("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("config.toml"));
        let (path, required) = match &common.config {
            Some(path) => (path.clone(), true),
            None => match usual() {
                Some(path) => (path, false),
                None => return Ok(Self::default()),
            },
        };
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(error) => Err(Error::Read { path, error }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| Error::Parse { path: path.to_owned(), error: Box::new(error) })
    }

    /// What the service runs with.
    pub fn service(self, serve: &Serve) -> Result<Config, Error> {
        let mut config = Config::new(self.data_dir(&serve.data)?);
        if let Some(listen) = serve.listen.or(self.listen) {
            config.listen = listen;
        }
        config.hub = self.hub(&serve.hub);
        config.owner = self.owner.unwrap_or(config.owner);
        config.tls = match (&serve.tls_cert, &serve.tls_key) {
            (Some(cert), Some(key)) => Some(config::Tls { cert: cert.clone(), key: key.clone() }),
            _ => self.tls,
        };
        config.public_url = serve.public_url.clone().or(self.public_url);
        (config.http, config.deploy, config.predict) = (self.http, self.deploy, self.predict);
        (config.queue, config.webhook) = (self.queue, self.webhook);
        (config.runtime, config.engine, config.residency) = (self.runtime, self.engine, self.residency);
        (config.files, config.batch, config.aws) = (self.files, self.batch, self.aws);
        let own_secret = serve.aws_secret_access_key.clone().map(Token);
        let secret = own_secret.or(config.aws.secret_access_key.clone());
        config.aws.access_key_id = serve.aws_access_key_id.clone().or(config.aws.access_key_id);
        let hub_token = config.hub.token.clone();
        for assignment in &serve.set {
            config = set(config, assignment)?;
        }
        config.engine.device = serve.device.clone().unwrap_or(config.engine.device);
        config.aws.secret_access_key = secret.or(config.aws.secret_access_key);
        config.hub.token = config.hub.token.or(hub_token);
        config.token = serve.token.clone().map(Token).or(self.token);
        Ok(config)
    }

    /// Where client commands go.
    pub fn server(&self, connection: &Connection) -> Server {
        let default = || Url::parse(SERVER).expect("the default is a URL");
        let token = self.client.token.as_ref().or(self.token.as_ref()).map(|token| token.0.clone());
        Server {
            url: connection.server.clone().or_else(|| self.client.server.clone()).unwrap_or_else(default),
            token: connection.token.clone().or(token),
        }
    }

    /// The hub that models are pulled from.
    pub fn hub(&self, given: &ModelHub) -> config::Hub {
        let token = given.hub_token.clone().map(Token);
        config::Hub {
            endpoint: given.hub.clone().unwrap_or_else(|| self.hub.endpoint.clone()),
            token: token.or_else(|| self.hub.token.clone()),
        }
    }

    /// Folder of the model catalogue.
    pub fn models_dir(&self, data: &Data) -> Result<PathBuf, Error> {
        Ok(Config::new(self.data_dir(data)?).models_dir())
    }

    /// Folder of what builds projects of guest languages.
    pub fn tools_dir(&self, data: &Data) -> Result<PathBuf, Error> {
        Ok(self.data_dir(data)?.join("tools"))
    }

    fn data_dir(&self, data: &Data) -> Result<PathBuf, Error> {
        let usual = || dir("XDG_DATA_HOME", ".local/share");
        data.data.clone().or_else(|| self.data_dir.clone()).or_else(usual).ok_or(Error::NoHome)
    }
}

/// Our folder under a base directory of the XDG specification.
fn dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)));
    base.map(|base| base.join("dormouse"))
}

/// Applies `key.key=value`, the value read as TOML or else taken as a string.
fn set(config: Config, assignment: &str) -> Result<Config, Error> {
    let fail = |reason: String| Error::Set { assignment: assignment.to_owned(), reason };
    let (key, value) = assignment.split_once('=').ok_or_else(|| fail("want KEY=VALUE".to_owned()))?;
    let value = match toml::from_str::<toml::Table>(&format!("value = {value}")) {
        Ok(mut table) => table.remove("value").unwrap_or_else(|| value.into()),
        Err(_) => value.into(),
    };
    let mut root = toml::Table::try_from(&config).map_err(|error| fail(error.to_string()))?;
    let mut table = &mut root;
    let mut keys = key.trim().split('.').peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            table.insert(key.to_owned(), value);
            break;
        }
        let inner = table.get_mut(key).and_then(toml::Value::as_table_mut);
        table = inner.ok_or_else(|| fail(format!("there is no table \"{key}\"")))?;
    }
    root.try_into().map_err(|error: toml::de::Error| fail(error.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Result<Settings, Error> {
        Settings::parse(text, Path::new("config.toml"))
    }

    fn serve() -> Serve {
        Serve { data: Data { data: Some("/data".into()) }, ..Serve::default() }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "listen = '127.0.0.1:1'\npublic_url = 'https://file.example'\n[http]\nheaders_max = 7";
        let flags = Serve { listen: Some(([127, 0, 0, 1], 2).into()), ..serve() };
        let config = parse(file).unwrap().service(&flags).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.public_url.as_deref(), Some("https://file.example"));
        assert_eq!(config.http.headers_max, 7);
        assert_eq!(config.predict, config::Predict::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = parse("[http]\nheaders_max = 7\nheader_max = 8\n").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("header_max"), "{error}");
    }

    #[test]
    fn set_reaches_every_setting_and_refuses_what_is_none() {
        let with = |set: &str| {
            parse("token = 't'").unwrap().service(&Serve { set: vec![set.to_owned()], ..serve() })
        };
        assert_eq!(with("predict.timeout=10s").unwrap().predict.timeout, Duration::from_secs(10));
        assert_eq!(with("engine.threads=3").unwrap().engine.threads, 3);
        assert_eq!(with("engine.threads=3").unwrap().token, Some(Token("t".to_owned())));
        for wrong in ["predict", "predict.timeuot=10s", "nothing.at.all=1", "engine.threads=many"] {
            assert!(matches!(with(wrong), Err(Error::Set { .. })), "{wrong}");
        }
    }

    #[test]
    fn the_client_takes_its_own_token_before_the_services() {
        let both = parse("token = 'service'\n[client]\ntoken = 'client'\nserver = 'http://h:1'").unwrap();
        let server = both.server(&Connection::default());
        assert_eq!((server.url.as_str(), server.token.as_deref()), ("http://h:1/", Some("client")));
        let one = parse("token = 'service'").unwrap().server(&Connection::default());
        assert_eq!(one.token.as_deref(), Some("service"));
    }
}
