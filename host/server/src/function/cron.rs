//! Times that come again, as cron writes them: five fields, or six with seconds first. All are UTC.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use croner::parser::{CronParser, Seconds, Year};

/// Bytes of an expression; nobody writes a longer one by hand.
const BYTES_MAX: usize = 256;

/// An expression that is one, and comes.
#[derive(Debug, Clone)]
pub(crate) struct Cron(croner::Cron);

impl Cron {
    /// Reads an expression; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("has {} bytes, at most {BYTES_MAX} are read", text.len()));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text).map(Self).map_err(|error| error.to_string())?;
        // No February has 30 days, in whatever year it is looked for.
        match cron.next(SystemTime::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err("never comes".to_owned()),
        }
    }

    /// The first time after this one.
    pub(crate) fn next(&self, after: SystemTime) -> Option<SystemTime> {
        let next = self.0.find_next_occurrence(&DateTime::<Utc>::from(after), false);
        next.ok().map(SystemTime::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{moment, rfc3339};

    #[track_caller]
    fn check(text: &str, after: &str, expected: &str) {
        let next = Cron::parse(text).unwrap().next(moment(after).unwrap());
        assert_eq!(next.map(rfc3339).as_deref(), Some(expected));
    }

    #[test]
    fn times_come_as_cron_says_in_utc() {
        check("0 8 * * *", "2026-03-01T07:59:59Z", "2026-03-01T08:00:00.000Z");
        check("0 8 * * *", "2026-03-01T08:00:00Z", "2026-03-02T08:00:00.000Z");
        check("0 8 * * *", "2026-03-01T09:30:00+02:00", "2026-03-01T08:00:00.000Z");
        check("30 9 * * MON-FRI", "2026-02-27T09:30:01Z", "2026-03-02T09:30:00.000Z");
        check("*/15 * * * *", "2026-02-28T23:50:00Z", "2026-03-01T00:00:00.000Z");
        check("*/20 * * * * *", "2026-02-28T23:59:41Z", "2026-03-01T00:00:00.000Z");
        check("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00.000Z");
        check("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00.000Z");
    }

    #[test]
    fn what_is_no_time_or_never_comes_is_refused() {
        let refused = |text: &str| Cron::parse(text).unwrap_err();
        for text in ["", "soon", "61 * * * *", "* * *", "0 0 1 1 * 2030 *"] {
            assert!(!refused(text).is_empty(), "{text}");
        }
        assert_eq!(refused("0 0 30 2 *"), "never comes");
        assert_eq!(refused(&format!("0{} * * * *", ",1".repeat(200))), "has 409 bytes, at most 256 are read");
    }
}
