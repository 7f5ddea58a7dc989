//! `redis-benchmark`.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use testbed::{GUEST, Result};

use super::{Driver, Rates, command, senseless};
use crate::sample::Latency;
use crate::workload::Workload;

const PORT: u16 = 6379;
/// How long an attempt to connect, and a reply, may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Requests before the measurement, of each client: they tell how many the measurement takes.
const WARM_UP: u64 = 100;
/// Requests on the way at a time.
const PIPELINE: u64 = 16;

/// The test of `redis-benchmark` that a workload is, and how many requests are on the way at a time.
fn test(workload: Workload) -> (&'static str, u64) {
    match workload {
        Workload::RedisSet => ("set", 1),
        Workload::RedisGet => ("get", 1),
        Workload::RedisSetPipelined => ("set", PIPELINE),
        Workload::RedisGetPipelined => ("get", PIPELINE),
        other => unreachable!("{other} is no workload of Redis"),
    }
}

/// How many requests fill the window.
pub(super) fn requests(driver: &Driver<'_>, workload: Workload) -> Result<u64> {
    let (_, pipeline) = test(workload);
    let least = WARM_UP * pipeline * u64::from(driver.clients);
    let (rate, _) = benchmark(driver, workload, least)?;
    let filling = (rate * driver.window.as_secs_f64()) as u64;
    // With a last batch that is not full, `redis-benchmark` may take its own end for a lost
    // connection: it compares what was answered with what was asked for.
    Ok(least.max(filling).next_multiple_of(pipeline))
}

pub(super) fn run(driver: &Driver<'_>, workload: Workload, requests: u64) -> Result<Rates> {
    let (throughput, latency) = benchmark(driver, workload, requests)?;
    Ok((Some(throughput), Some(latency)))
}

fn benchmark(driver: &Driver<'_>, workload: Workload, requests: u64) -> Result<(f64, Latency)> {
    let (test, pipeline) = test(workload);
    let numbers = [u64::from(PORT), driver.clients.into(), requests, pipeline];
    let numbers = numbers.map(|number| number.to_string());
    let [port, clients, requests, pipeline] = numbers.each_ref().map(String::as_str);
    let address = GUEST.to_string();
    #[rustfmt::skip]
    let arguments = [
        "-h", &address, "-p", port, "-c", clients, "-n", requests, "-P", pipeline, "-t", test,
    ];
    let text = command::run(driver, "redis-benchmark", &arguments)?;
    parts(&text).ok_or_else(|| senseless("redis-benchmark", &text))
}

/// Reads the throughput and the latencies out of what `redis-benchmark` prints (7.0, without
/// `--csv`, which has no 99.9th percentile).
fn parts(text: &str) -> Option<(f64, Latency)> {
    // Its progress is in the same line, behind carriage returns.
    let lines = || text.split(['\n', '\r']).map(str::trim);
    let throughput = lines().find_map(|line| {
        let rate = line.strip_prefix("throughput summary: ")?;
        rate.strip_suffix(" requests per second")?.parse().ok()
    })?;
    // `99.902% <= 31.343 milliseconds (cumulative count 1022)`, ascending, twice: by percentiles
    // first, then by steps of latency.
    let distribution: Vec<(f64, f64)> = lines()
        .skip_while(|line| !line.starts_with("Latency by percentile"))
        .take_while(|line| !line.starts_with("Cumulative distribution"))
        .filter_map(|line| {
            let (percent, rest) = line.split_once("% <= ")?;
            let (millis, _) = rest.split_once(" milliseconds")?;
            Some((percent.parse().ok()?, millis.parse().ok()?))
        })
        .collect();
    let percentile = |percent: f64| {
        let found = distribution.iter().find(|(at, _)| *at >= percent);
        found.map(|(_, millis)| *millis)
    };
    Some((
        throughput,
        Latency {
            p50: percentile(50.0)?,
            p99: percentile(99.0)?,
            p999: percentile(99.9),
        },
    ))
}

pub(super) fn answers(driver: &Driver<'_>) -> bool {
    ping(driver).unwrap_or(false)
}

fn ping(driver: &Driver<'_>) -> std::io::Result<bool> {
    let mut stream = driver.client.connect(GUEST, PORT, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
SET: rps=0.0 (overall: 0.0) avg_msec=nan (overall: nan)\rSET: rps=381.0 (overall: 410.2)\r====== SET ======
  1000 requests completed in 2.40 seconds
  1 parallel clients
  3 bytes payload
  keep alive: 1
  host configuration \"save\":
  multi-thread: no

Latency by percentile distribution:
0.000% <= 1.623 milliseconds (cumulative count 1)
50.000% <= 2.167 milliseconds (cumulative count 503)
98.438% <= 5.007 milliseconds (cumulative count 985)
99.219% <= 6.031 milliseconds (cumulative count 993)
99.902% <= 31.343 milliseconds (cumulative count 1000)
100.000% <= 31.343 milliseconds (cumulative count 1000)

Cumulative distribution of latencies:
0.000% <= 0.103 milliseconds (cumulative count 0)
99.950% <= 99.999 milliseconds (cumulative count 1000)

Summary:
  throughput summary: 416.02 requests per second
";

    #[test]
    fn a_report_is_read() {
        let (throughput, latency) = parts(REPORT).expect("a report");
        assert_eq!(throughput, 416.02);
        assert_eq!((latency.p50, latency.p99), (2.167, 6.031));
        assert_eq!(latency.p999, Some(31.343));
        let cut = REPORT.replace("throughput", "put");
        assert_eq!(parts(&cut), None);
    }
}
