//! Quantities as people read them.

use jiff::Timestamp;

/// A time span: `12 ms`, `1.4 s`, `2 min 5 s`, `3 h 4 min`, `5 d`.
#[must_use]
pub fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", s, ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d", s / 86_400),
    }
}

/// How long ago something was, in one unit: `3 min ago`.
#[must_use]
pub fn ago(now_ms: u64, then_ms: u64) -> String {
    // Clocks differ.
    let s = now_ms.saturating_sub(then_ms) / 1000;
    match s {
        0..60 => format!("{s} s ago"),
        60..3600 => format!("{} min ago", s / 60),
        3600..86_400 => format!("{} h ago", s / 3600),
        _ => format!("{} d ago", s / 86_400),
    }
}

/// A bandwidth: `820 kbit/s`, `4.1 Mbit/s`.
#[must_use]
pub fn rate(bytes_per_second: u64) -> String {
    let kilobits = bytes_per_second.saturating_mul(8) / 1000;
    match kilobits {
        0..1000 => format!("{kilobits} kbit/s"),
        1000..1_000_000 => format!("{}.{} Mbit/s", kilobits / 1000, kilobits % 1000 / 100),
        _ => format!(
            "{}.{} Gbit/s",
            kilobits / 1_000_000,
            kilobits % 1_000_000 / 100_000
        ),
    }
}

/// An amount of memory: `512 MiB`, `3.2 GiB`.
#[must_use]
pub fn memory(mib: u64) -> String {
    match mib {
        0..1024 => format!("{mib} MiB"),
        _ => format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024),
    }
}

/// A time, by RFC 3339 in UTC: `2026-11-29T05:12:33Z`.
#[must_use]
pub fn time(unix_ms: u64) -> String {
    let known = i64::try_from(unix_ms).ok();
    let known = known.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.0}", known.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_the_unit_that_fits() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1449, "1.4 s"),
            (125_000, "2 min 5 s"),
            (11_040_000, "3 h 4 min"),
            (450_000_000, "5 d"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(ago(200_000, 20_000), "3 min ago");
        assert_eq!(ago(1, 2), "0 s ago");
        assert_eq!(rate(102_500), "820 kbit/s");
        assert_eq!(rate(512_500), "4.1 Mbit/s");
        assert_eq!(rate(1_250_000_000), "10.0 Gbit/s");
        assert_eq!(
            (memory(512), memory(3277)),
            ("512 MiB".into(), "3.2 GiB".into())
        );
        assert_eq!(time(1_795_929_153_999), "2026-11-29T05:12:33Z");
    }
}
