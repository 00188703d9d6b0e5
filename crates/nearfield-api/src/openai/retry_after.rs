//! When a refused request may come again.

use std::time::{Duration, SystemTime};

/// No refusal is taken to last longer than this.
const LONGEST: Duration = Duration::from_hours(24);

/// Reads a `Retry-After` header: seconds (fractions allowed) or an HTTP date, which counts from `now`. A moment that
/// has passed is zero; a day is the longest.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return (seconds >= 0.0)
            .then(|| Duration::try_from_secs_f64(seconds.min(LONGEST.as_secs_f64())).unwrap_or(LONGEST));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let parse = |text| parse_retry_after(text, now);
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse(" 0.5 "), Some(Duration::from_millis(500)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("1e300"), Some(LONGEST));
        assert_eq!(parse("inf"), Some(LONGEST));
        assert_eq!(parse("Sat, 06 Nov 2094 08:49:37 GMT"), Some(LONGEST));
        for bad in ["", "-1", "NaN", "soon"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
