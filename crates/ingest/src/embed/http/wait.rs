//! How long a service asks to wait, from the headers of its answer.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

/// No service is waited for longer than this, whatever it says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long to wait at least, if the headers say so.
///
/// `retry-after-ms` and `retry-after` (seconds, or a date) come first. When the answer is about a limit, the time until
/// those limits are lifted that are used up stands in: `x-ratelimit-reset-*` where `x-ratelimit-remaining-*` is 0, or
/// where nothing says what remains.
pub(super) fn wait(headers: &HeaderMap, limited: bool) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let wait = text("retry-after-ms")
        .and_then(|value| value.parse::<f64>().ok())
        .and_then(|milliseconds| seconds(milliseconds / 1000.0))
        .or_else(|| text("retry-after").and_then(retry_after))
        .or_else(|| {
            let of = |kind: &str| {
                let remaining = text(&format!("x-ratelimit-remaining{kind}"));
                let used_up =
                    remaining.is_none_or(|remaining| remaining.parse::<f64>().is_ok_and(|n| n <= 0.0));
                text(&format!("x-ratelimit-reset{kind}")).filter(|_| used_up && limited).and_then(reset)
            };
            ["-requests", "-tokens", ""].into_iter().filter_map(of).max()
        });
    wait.map(|wait| wait.min(LONGEST))
}

fn seconds(seconds: f64) -> Option<Duration> {
    // A wait that a duration can not hold is longer than any that is honoured.
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST))
}

fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(number) = value.parse::<f64>() {
        return seconds(number);
    }
    // A date that has passed asks for no more patience.
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// `1s`, `6m0s`, `20ms`, `1h2m`, a number of seconds, or seconds since 1970.
fn reset(value: &str) -> Option<Duration> {
    if let Ok(number) = value.parse::<f64>() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        // More than 30 years is no wait but a moment.
        return seconds(if number > 1e9 { (number - now).max(0.0) } else { number });
    }
    let mut total = 0.0;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        total += number.parse::<f64>().ok()?
            * match unit {
                "d" => 86_400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = after;
    }
    (!value.is_empty()).then(|| seconds(total)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        wait(&map, true)
    }

    fn ms(milliseconds: u64) -> Option<Duration> {
        Some(Duration::from_millis(milliseconds))
    }

    #[test]
    fn all_the_ways_to_ask_for_patience_are_understood() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("retry-after", "2")]), ms(2000));
        assert_eq!(of(&[("retry-after", "0.5")]), ms(500));
        assert_eq!(of(&[("retry-after", "60"), ("retry-after-ms", "1250")]), ms(1250));
        assert_eq!(
            of(&[("x-ratelimit-reset-requests", "1s"), ("x-ratelimit-reset-tokens", "6m0s")]),
            ms(360_000)
        );
        assert_eq!(of(&[("x-ratelimit-reset-tokens", "1h2m3.5s")]), ms(3_723_500));
        assert_eq!(of(&[("x-ratelimit-reset-tokens", "20ms")]), ms(20));
        assert_eq!(of(&[("x-ratelimit-reset", "7")]), ms(7000));
        let left = [("x-ratelimit-reset-tokens", "9s"), ("x-ratelimit-remaining-tokens", "5")];
        assert_eq!(of(&left), None, "a limit that is not used up asks for nothing");
        assert_eq!(of(&[("retry-after", "1e300")]), Some(LONGEST));
        for nonsense in ["-1", "soon", "", "NaN", "5 parsecs"] {
            assert_eq!(of(&[("retry-after", nonsense)]), None, "{nonsense}");
            assert_eq!(of(&[("x-ratelimit-reset", nonsense)]), None, "{nonsense}");
        }
    }

    #[test]
    fn dates_are_understood() {
        let date = |offset: i64| {
            let now = SystemTime::now();
            let wait = Duration::from_secs(offset.unsigned_abs());
            httpdate::fmt_http_date(if offset < 0 { now - wait } else { now + wait })
        };
        let wait = of(&[("retry-after", &date(3600))]).unwrap();
        // A date has no parts of seconds, and the test may take a while.
        assert!(wait > Duration::from_secs(3000) && wait <= Duration::from_secs(3600), "{wait:?}");
        assert_eq!(of(&[("retry-after", &date(-3600))]), Some(Duration::ZERO));
    }
}
