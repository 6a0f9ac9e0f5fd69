//! A batch's input: one request a line.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::{PROBLEMS_MAX, document::Problem};
use crate::config;

/// A request.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    /// The client's own name for it.
    pub(super) custom_id: String,
    method: String,
    url: String,
    pub(super) body: Value,
}

/// Reads an input's lines, and finds what is wrong with them.
pub(super) struct Lines {
    endpoint: String,
    bounds: config::Batch,
    number: usize,
    total: usize,
    ids: HashSet<String>,
    /// Where each model is named first.
    models: BTreeMap<String, usize>,
    problems: Vec<Problem>,
}

impl Line {
    /// The request of a line.
    pub(super) fn parse(text: &str, endpoint: &str) -> Result<Self, (&'static str, String)> {
        let line: Self =
            serde_json::from_str(text).map_err(|error| ("invalid_json_line", error.to_string()))?;
        if line.method != "POST" {
            return Err(("invalid_method", format!("\"{}\" is not POST", line.method)));
        }
        if line.url != endpoint {
            return Err(("mismatched_url", format!("\"{}\" is not the batch's {endpoint}", line.url)));
        }
        if line.body.get("stream") == Some(&Value::Bool(true)) {
            return Err(("invalid_request", "a batch has no streams".to_owned()));
        }
        if !line.body["model"].is_string() {
            return Err(("invalid_request", "the body names no model".to_owned()));
        }
        Ok(line)
    }
}

impl Lines {
    pub(super) fn new(endpoint: String, bounds: config::Batch) -> Self {
        let (ids, models, problems) = Default::default();
        Self { endpoint, bounds, number: 0, total: 0, ids, models, problems }
    }

    /// Takes a line; answers whether another is wanted.
    pub(super) fn read(&mut self, text: &str) -> bool {
        self.number += 1;
        if text.trim().is_empty() {
            return true;
        }
        let problem = match Line::parse(text, &self.endpoint) {
            Err(problem) => Some(problem),
            Ok(line) => {
                let model = line.body["model"].as_str().expect("it was checked").to_owned();
                self.models.entry(model).or_insert(self.number);
                let message = format!("custom_id \"{}\" is there twice", line.custom_id);
                (!self.ids.insert(line.custom_id)).then_some(("duplicate_custom_id", message))
            }
        };
        if let Some((code, message)) = problem {
            self.problems.push(Problem::new(code, message, Some(self.number)));
        }
        self.total += 1;
        let lines_max = self.bounds.lines_max;
        if self.total > lines_max {
            let message = format!("the input has more than {lines_max} requests");
            self.problems.push(Problem::new("too_many_requests", message, None));
        }
        self.total <= lines_max && self.problems.len() < PROBLEMS_MAX
    }

    /// The number of requests, the models they name and where, and what is wrong.
    pub(super) fn finish(mut self) -> (usize, Vec<(usize, String)>, Vec<Problem>) {
        if self.total == 0 {
            self.problems.push(Problem::new("empty_file", "the input has no requests".to_owned(), None));
        }
        let models = self.models.into_iter().map(|(model, line)| (line, model)).collect();
        (self.total, models, self.problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "/v1/completions";

    fn line(id: &str, url: &str) -> String {
        format!(r#"{{"custom_id":"{id}","method":"POST","url":"{url}","body":{{"model":"m"}}}}"#)
    }

    fn read(lines: &[&str], lines_max: usize) -> (usize, Vec<String>) {
        let bounds = config::Batch { lines_max, ..config::Batch::default() };
        let mut reader = Lines::new(ENDPOINT.to_owned(), bounds);
        for line in lines {
            reader.read(line);
        }
        let (total, _, problems) = reader.finish();
        (total, problems.into_iter().map(|problem| format!("{:?} {}", problem.line, problem.code)).collect())
    }

    #[test]
    fn requests_are_counted_and_blank_lines_are_none() {
        let (a, b) = (line("a", ENDPOINT), line("b", ENDPOINT));
        assert_eq!(read(&[&a, "", &b, " "], 2), (2, vec![]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let (a, other) = (line("a", ENDPOINT), line("b", "/v1/embeddings"));
        let streamed = a.replace(r#""model":"m""#, r#""model":"m","stream":true"#);
        let (_, problems) = read(&[&a, &a, &other, "{", &streamed.replace("\"a\"", "\"c\"")], 9);
        let expected = [
            "Some(2) duplicate_custom_id",
            "Some(3) mismatched_url",
            "Some(4) invalid_json_line",
            "Some(5) invalid_request",
        ];
        assert_eq!(problems, expected);
        assert_eq!(read(&[], 9).1, ["None empty_file"]);
        assert_eq!(read(&[&a, &line("b", ENDPOINT)], 1).1, ["None too_many_requests"]);
    }
}
