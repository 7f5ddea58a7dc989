//! `redis-benchmark`.

use std::time::Duration;

use testbed::{GUEST, Result};

use super::command;
use super::driver::{Driver, Rates, senseless};

const PORT: u16 = 6379;
/// How long an attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Requests before the measurement, of each client: they tell how many the measurement takes.
const WARM_UP: u64 = 100;
/// Requests on the way at a time, where there is more than one.
pub(super) const PIPELINE: u64 = 16;

/// How many requests fill the window, with so many on the way at a time.
pub(super) fn requests(driver: &Driver<'_>, pipeline: u64) -> Result<u64> {
    let least = WARM_UP * pipeline * u64::from(driver.clients);
    let (rate, _) = run(driver, "set", pipeline, least)?;
    let filling = (rate * driver.window.as_secs_f64()) as u64;
    // With a last batch that is not full, `redis-benchmark` may take its own end for a lost
    // connection: it compares what was answered with what was asked for.
    Ok(least.max(filling).next_multiple_of(pipeline))
}

/// Makes so many requests.
pub(super) fn run(driver: &Driver<'_>, test: &str, pipeline: u64, requests: u64) -> Result<Rates> {
    let numbers = [u64::from(PORT), driver.clients.into(), requests, pipeline];
    let numbers = numbers.map(|number| number.to_string());
    let [port, clients, requests, pipeline] = numbers.each_ref().map(String::as_str);
    let address = GUEST.to_string();
    #[rustfmt::skip]
    let arguments = [
        "-h", &address, "-p", port, "-c", clients, "-n", requests, "-P", pipeline, "-t", test,
        "--csv",
    ];
    let text = command::run(driver, "redis-benchmark", &arguments)?;
    rates(&text).ok_or_else(|| senseless("redis-benchmark", &text))
}

/// Reads the table of `redis-benchmark --csv` (since 6.2): a head, and a line for each test.
fn rates(text: &str) -> Option<Rates> {
    let mut lines = text
        .lines()
        .map(|line| line.split(',').map(|cell| cell.trim_matches('"')));
    let head = lines.find(|cells| cells.clone().next() == Some("test"))?;
    let values: Vec<&str> = lines.next()?.collect();
    let value = |title: &str| -> Option<f64> {
        let column = head.clone().position(|cell| cell == title)?;
        values.get(column)?.parse().ok()
    };
    let latency = [value("p50_latency_ms")?, value("p99_latency_ms")?];
    Some((value("rps")?, Some(latency)))
}

/// Redis listens once it serves.
pub(super) fn answers(driver: &Driver<'_>) -> bool {
    driver.client.connect(GUEST, PORT, ATTEMPT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
             \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
             \"SET\",\"416.02\",\"2.385\",\"1.616\",\"2.167\",\"4.015\",\"6.031\",\"31.343\"\n";
        assert_eq!(rates(text), Some((416.02, Some([2.167, 6.031]))));
        assert_eq!(rates(&text.replace("rps", "rate")), None);
        assert_eq!(rates("Could not connect to Redis"), None);
    }
}
