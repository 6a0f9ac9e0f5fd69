//! How Lambda names functions: `NAME`, `NAME:QUALIFIER`, a partial ARN or a full one.

use std::fmt;

use super::Refusal;
use crate::config;

/// The version that is not numbered.
pub(super) const LATEST: &str = "$LATEST";

/// A function's name, and which of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) function: String,
    pub(super) qualifier: Option<String>,
}

impl Name {
    /// Reads a name; a qualifier of the query must not contradict it.
    pub(super) fn parse(text: &str, qualifier: Option<&str>) -> Result<Self, Refusal> {
        let invalid = || Refusal::invalid(format!("\"{text}\" names no function"));
        let parts: Vec<_> = text.split(':').collect();
        let rest = match parts.as_slice() {
            ["arn", _, "lambda", _, _, "function", rest @ ..] => rest,
            [_, "function", rest @ ..] => rest,
            ["function", rest @ ..] if !rest.is_empty() => rest,
            rest => rest,
        };
        let (function, own) = match *rest {
            [function] => (function, None),
            [function, own] => (function, Some(own)),
            _ => return Err(invalid()),
        };
        if function.is_empty() {
            return Err(invalid());
        }
        match (own, qualifier) {
            (Some(own), Some(other)) if own != other => {
                Err(Refusal::invalid("the qualifier of the name is not that of the query"))
            }
            (own, other) => {
                Ok(Self { function: function.to_owned(), qualifier: own.or(other).map(str::to_owned) })
            }
        }
    }

    /// The qualifier, if it is not the one that goes without saying.
    pub(super) fn qualifier(&self) -> Option<&str> {
        self.qualifier.as_deref().filter(|qualifier| *qualifier != LATEST)
    }
}

/// A function's ARN.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arn<'a> {
    pub(super) aws: &'a config::Aws,
    pub(super) function: &'a str,
    pub(super) qualifier: Option<&'a str>,
}

impl fmt::Display for Arn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config::Aws { region, account, .. } = self.aws;
        write!(f, "arn:aws:lambda:{region}:{account}:function:{}", self.function)?;
        match self.qualifier {
            Some(qualifier) => write!(f, ":{qualifier}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, function: &str, qualifier: Option<&str>) {
        let expected = Name { function: function.to_owned(), qualifier: qualifier.map(str::to_owned) };
        assert_eq!(Name::parse(text, None).unwrap(), expected);
    }

    #[test]
    fn a_function_is_named_in_each_of_the_ways() {
        check("hello", "hello", None);
        check("hello:prod", "hello", Some("prod"));
        check("000000000000:function:hello", "hello", None);
        check("arn:aws:lambda:us-east-1:000000000000:function:hello", "hello", None);
        check("arn:aws:lambda:us-east-1:000000000000:function:hello:$LATEST", "hello", Some("$LATEST"));
    }

    #[test]
    fn what_names_nothing_or_two_things_is_refused() {
        for text in ["", "a:b:c", "arn:aws:lambda:r:a:function:", ":x"] {
            assert!(Name::parse(text, None).is_err(), "{text}");
        }
        assert!(Name::parse("a:b", Some("c")).is_err());
        assert_eq!(Name::parse("a:b", Some("b")).unwrap().qualifier(), Some("b"));
        assert_eq!(Name::parse("a", Some("$LATEST")).unwrap().qualifier(), None);
    }

    #[test]
    fn an_arn_reads_back() {
        let arn = Arn { aws: &config::Aws::default(), function: "hello", qualifier: Some("2") }.to_string();
        assert_eq!(arn, "arn:aws:lambda:us-east-1:000000000000:function:hello:2");
        check(&arn, "hello", Some("2"));
    }
}
