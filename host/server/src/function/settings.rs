//! What a deploy may ask for, and what that comes to on a node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dormouse_engine::{KeepAlive, Priority};
use dormouse_runtime::Limits;
use serde::{Deserialize, Serialize};

use super::{Cron, Manifest, Prefix, Problem, prefix};
use crate::Config;

/// What a deploy asked for. An absent field takes the manifest's wish, then the node's default. Part
/// of a revision's identity: fields are written in this order, names sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Time of a prediction.
    pub(crate) timeout_ms: Option<u64>,
    /// Memory of an instance.
    pub(crate) memory_bytes: Option<usize>,
    /// Predictions that run at once.
    pub(crate) concurrency: Option<usize>,
    /// Predictions that wait.
    pub(crate) queue_max: Option<usize>,
    /// When its models' work goes before that of other functions. Functions of one priority share evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<Priority>,
    /// Tokens that a step may guess for its texts, and check at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guess_tokens: Option<usize>,
    /// Environment variables that the predictor sees.
    pub(crate) env: BTreeMap<String, String>,
    /// Models that the predictor may open beside those of its manifest.
    pub(crate) models: Vec<String>,
    /// Time for which its models stay awake after each use, where that is longer than their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle_after_ms: Option<u64>,
    /// Its models don't sleep while it is live.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) keep_warm: bool,
    /// When its models wake without a prediction, as cron writes it, in UTC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) prewake: Vec<String>,
    /// Beginnings of prompts that are computed at deploy and kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) prefixes: Vec<Prefix>,
    /// Whether predictions whose caller was answered at once are kept for a while, input and output too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep: Option<bool>,
}

/// Written only where it is true, so that what was deployed before keeps its identity.
fn is_false(value: &bool) -> bool {
    !value
}

/// A revision's settings as they act on this node.
#[derive(Debug, Clone)]
pub(crate) struct Effective {
    pub(crate) limits: Limits,
    /// Predictions that run at once.
    pub(crate) concurrency: usize,
    /// Predictions that wait.
    pub(crate) queue_max: usize,
    pub(crate) priority: Priority,
    /// Tokens that a step may guess for its texts; `None` takes the engine's default.
    pub(crate) guess_tokens: Option<usize>,
    /// Models that the predictor may open, the manifest's first.
    pub(crate) models: Arc<[String]>,
    pub(crate) env: Arc<[(String, String)]>,
    /// How long its models stay awake after each use.
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) keep_warm: bool,
    /// When its models wake without a prediction.
    pub(crate) prewake: Arc<[String]>,
    /// Of the manifest, then of the deploy.
    pub(crate) prefixes: Arc<[Prefix]>,
    /// Whether predictions whose caller was answered at once are kept for a while.
    pub(crate) keep: bool,
    /// What was cut down to the node's bounds, in words.
    pub(crate) warnings: Vec<String>,
}

impl Effective {
    /// How long its models stay awake after each use at least, where it says so.
    pub(crate) fn stays(&self) -> Option<Duration> {
        match self.keep_alive {
            Some(KeepAlive::AtLeast(time)) => Some(time),
            _ => None,
        }
    }
}

impl Settings {
    /// Sorts names, so that the order they were given in does not make another revision.
    pub(crate) fn normalized(mut self) -> Self {
        self.models.sort_unstable();
        self.models.dedup();
        self.prewake.sort_unstable();
        self.prewake.dedup();
        self
    }

    /// What breaks a rule of the node. A wish of the manifest is cut down silently; what a deploy asks
    /// for is refused.
    pub(crate) fn problems(&self, config: &Config) -> Vec<Problem> {
        let timeout_max = millis(config.predict.timeout_max);
        let memory_max = config.runtime.memory_bytes_max;
        let names_max = config.deploy.names_max;
        let mut problems = Vec::new();
        let mut add = |field: &str, broken: bool, message: String| {
            if broken {
                problems.push(Problem::new(["settings", field], message));
            }
        };
        let timeout = self.timeout_ms.unwrap_or(1);
        add("timeout_ms", timeout == 0, "is 0, must be at least 1".to_owned());
        add("timeout_ms", timeout > timeout_max, format!("is {timeout}, this node allows {timeout_max}"));
        let memory = self.memory_bytes.unwrap_or(1);
        add("memory_bytes", memory == 0, "is 0, must be at least 1".to_owned());
        add("memory_bytes", memory > memory_max, format!("is {memory}, this node allows {memory_max}"));
        add("concurrency", self.concurrency == Some(0), "is 0, must be at least 1".to_owned());
        let (guesses, guesses_max) = (self.guess_tokens.unwrap_or(0), config.engine.guess_tokens_max);
        let too_many = format!("is {guesses}, this node allows {guesses_max} (guess_tokens_max)");
        add("guess_tokens", guesses > guesses_max, too_many);
        let names = |count: usize| format!("has {count} entries, this node allows {names_max}");
        add("env", self.env.len() > names_max, names(self.env.len()));
        add("models", self.models.len() > names_max, names(self.models.len()));
        let bad = self
            .env
            .iter()
            .find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'));
        add("env", bad.is_some(), "has an empty name, or one with \"=\", or a zero character".to_owned());
        let blank = self.models.iter().any(|model| model.trim().is_empty());
        add("models", blank, "has an empty name".to_owned());
        let (prewakes, prewakes_max) = (self.prewake.len(), config.deploy.prewakes_max);
        let many = format!("has {prewakes} entries, this node allows {prewakes_max} (deploy.prewakes_max)");
        add("prewake", prewakes > prewakes_max, many);
        for text in self.prewake.iter().take(prewakes_max) {
            if let Err(reason) = Cron::parse(text) {
                add("prewake", true, format!("\"{text}\": {reason}"));
            }
        }
        let prefixes = self.prefixes.len();
        add("prefixes", prefixes > names_max, names(prefixes));
        for problem in prefix::problems(&self.prefixes, &config.deploy) {
            add("prefixes", true, problem);
        }
        problems
    }

    /// What the settings and the manifest's wishes come to on a node.
    pub(crate) fn resolve(&self, manifest: &Manifest, config: &Config) -> Effective {
        let mut warnings = Vec::new();
        let mut bounded = |name: &str, own: Option<u64>, wish: Option<u64>, default: u64, max: u64| {
            let value = own.or(wish).unwrap_or(default);
            if value > max {
                warnings.push(format!("{name} of {value} is cut to this node's {max}"));
            }
            value.min(max).max(1)
        };
        let predict = &config.predict;
        let timeout_ms = bounded(
            "timeout_ms",
            self.timeout_ms,
            manifest.limits.timeout_ms,
            millis(predict.timeout),
            millis(predict.timeout_max),
        );
        let memory_bytes = bounded(
            "memory_bytes",
            self.memory_bytes.map(|bytes| bytes as u64),
            manifest.limits.memory_bytes,
            predict.memory_bytes as u64,
            config.runtime.memory_bytes_max as u64,
        );
        let limits = Limits {
            timeout: Duration::from_millis(timeout_ms),
            memory_bytes: memory_bytes as usize,
            output_bytes: predict.output_bytes_max,
            log_bytes: predict.log_bytes_max,
            completions_max: predict.completions_max,
            ..Limits::default()
        };
        let added = self.models.iter().filter(|model| !manifest.models.contains(model));
        Effective {
            limits,
            concurrency: self.concurrency.unwrap_or(predict.function_running).max(1),
            queue_max: self.queue_max.unwrap_or(predict.function_queue),
            priority: self.priority.unwrap_or_default(),
            // Of a node whose bound was higher, when it was deployed there.
            guess_tokens: self.guess_tokens.map(|tokens| tokens.min(config.engine.guess_tokens_max)),
            models: manifest.models.iter().chain(added).cloned().collect(),
            env: self.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            keep_alive: self.idle_after_ms.map(|ms| KeepAlive::AtLeast(Duration::from_millis(ms))),
            keep_warm: self.keep_warm,
            prewake: self.prewake.as_slice().into(),
            prefixes: manifest.prefixes.iter().chain(&self.prefixes).cloned().collect(),
            keep: self.keep.unwrap_or(true) && !config.queue.keep_answered.is_zero(),
            warnings,
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::function::manifest;

    fn manifest(limits: serde_json::Value) -> Manifest {
        let mut value = manifest::tests::minimal();
        value["limits"] = limits;
        value["models"] = json!(["own"]);
        Manifest::read(value, &Config::new("").deploy).unwrap()
    }

    #[test]
    fn a_deploys_setting_goes_before_the_manifests_wish_and_that_before_the_default() {
        let config = Config::new("");
        let timeout =
            |settings: Settings, limits| settings.resolve(&manifest(limits), &config).limits.timeout;
        let own = Settings { timeout_ms: Some(5), ..Settings::default() };
        assert_eq!(timeout(own, json!({"timeout_ms": 7})), Duration::from_millis(5));
        assert_eq!(timeout(Settings::default(), json!({"timeout_ms": 7})), Duration::from_millis(7));
        assert_eq!(timeout(Settings::default(), json!({})), config.predict.timeout);
    }

    #[test]
    fn a_wish_beyond_the_node_is_cut_with_a_warning() {
        let config = Config::new("");
        let effective = Settings::default().resolve(&manifest(json!({"memory_bytes": 1_u64 << 40})), &config);
        assert_eq!(effective.limits.memory_bytes, config.runtime.memory_bytes_max);
        assert_eq!(effective.warnings, ["memory_bytes of 1099511627776 is cut to this node's 1073741824"]);
    }

    #[test]
    fn a_setting_beyond_the_node_is_refused_by_name() {
        let settings = Settings {
            timeout_ms: Some(0),
            memory_bytes: Some(1 << 40),
            concurrency: Some(0),
            guess_tokens: Some(17),
            env: BTreeMap::from([("A=B".to_owned(), String::new())]),
            ..Settings::default()
        };
        let problems = settings.problems(&Config::new(""));
        let fields: Vec<_> = problems.iter().map(|problem| problem.loc[1].to_string()).collect();
        assert_eq!(fields, ["timeout_ms", "memory_bytes", "concurrency", "guess_tokens", "env"]);
        assert_eq!(Settings::default().problems(&Config::new("")), []);
    }

    #[test]
    fn a_time_to_wake_that_is_none_is_refused_by_name() {
        let prewake = ["0 8 * * *", "61 * * * *", "0 0 30 2 *"].map(str::to_owned).to_vec();
        let problems = Settings { prewake, ..Settings::default() }.problems(&Config::new(""));
        let told: Vec<_> = problems.iter().map(|problem| problem.msg.as_str()).collect();
        assert!(
            matches!(told[..], [minute, "\"0 0 30 2 *\": never comes"] if minute.starts_with("\"61 * * * *\": ")),
            "{told:?}"
        );
        let prewake = (0..17).map(|minute| format!("{minute} * * * *")).collect();
        let problems = Settings { prewake, ..Settings::default() }.problems(&Config::new(""));
        assert_eq!(problems[0].msg, "has 17 entries, this node allows 16 (deploy.prewakes_max)");
    }

    #[test]
    fn records_are_kept_unless_the_deploy_or_the_node_says_otherwise() {
        let kept = |keep, config: &Config| {
            Settings { keep, ..Settings::default() }.resolve(&manifest(json!({})), config).keep
        };
        let mut config = Config::new("");
        assert_eq!([None, Some(true), Some(false)].map(|keep| kept(keep, &config)), [true, true, false]);
        config.queue.keep_answered = Duration::ZERO;
        assert_eq!([None, Some(true)].map(|keep| kept(keep, &config)), [false, false]);
    }

    #[test]
    fn models_are_those_of_the_manifest_then_those_of_the_deploy() {
        let settings = Settings { models: vec!["own".to_owned(), "more".to_owned()], ..Settings::default() };
        let effective = settings.resolve(&manifest(json!({})), &Config::new(""));
        assert_eq!(&*effective.models, ["own", "more"]);
    }
}
