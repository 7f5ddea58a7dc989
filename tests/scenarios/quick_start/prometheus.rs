//! Debian's own Prometheus, which watches the machines as the page on it says.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use guest_images::PackageStore;
use serde_json::Value;
use testbed::{LIMIT, Layout, LocalProcess, Namespace, Network, Result, Testbed, wait_until};

use super::page;

/// Where it is in the page's network, and listens.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 3, 100)), 9090);
const CONNECT: Duration = Duration::from_secs(5);

/// A running one, in the management network.
#[derive(Debug)]
pub(super) struct Prometheus {
    place: Namespace,
    _process: LocalProcess,
}

impl Prometheus {
    /// Starts it with the configuration of `monitoring.md`, and the rules that we give users.
    pub(super) fn start(testbed: &Testbed) -> Result<Self> {
        let layout = Layout::find();
        let place = testbed.fabric().namespace().clone();
        place.ip(&format!(
            "address add {}/24 dev {}\n",
            ADDRESS.ip(),
            Network::Management
        ))?;
        let directory = testbed.logs().join("prometheus");
        let shown = page::file(&page::read("monitoring.md"), "rule_files");
        // The rest is as the page has it; a minute is long where one waits.
        let configuration =
            format!("global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{shown}");
        let rules = layout.root().join("vmm/monitoring/ftvm.rules.yml");
        let path = directory.join("prometheus.yml");
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&path, configuration))
            .and_then(|()| fs::copy(rules, directory.join("ftvm.rules.yml")))
            .expect("the run's logs can be written");
        let package = PackageStore::new(layout.packages()).package("prometheus");
        let program = package
            .and_then(|package| package.file("usr/bin/prometheus"))
            .expect("set-up unpacked it");
        let log = fs::File::create(directory.join("log")).expect("the run's logs can be written");
        let mut command = Command::new(program);
        command
            .current_dir(&directory)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stderr(log);
        place.adopt(&mut command)?;
        Ok(Self {
            place,
            _process: LocalProcess::start(command)?,
        })
    }

    /// Waits until what is asked by `query` (a metric's name) has a value that pleases.
    pub(super) fn sees(&self, query: &str, pleases: impl Fn(&[Sample]) -> bool) -> Result<()> {
        let mut seen = Vec::new();
        let waited = wait_until(query, LIMIT, || {
            let answer = self.get(&format!("/api/v1/query?query={query}"));
            seen = answer.as_ref().map_or_else(Vec::new, samples);
            Ok(pleases(&seen))
        });
        waited.inspect_err(|_| eprintln!("Prometheus' {query}: {seen:?}"))
    }

    /// Waits until an alert is raised.
    pub(super) fn raises(&self, alert: &str) -> Result<()> {
        let mut seen = None;
        let waited = wait_until(alert, LIMIT, || {
            seen = self.get("/api/v1/alerts");
            let alerts = seen.as_ref().and_then(|seen| seen["alerts"].as_array());
            let fires =
                |one: &Value| one["labels"]["alertname"] == alert && one["state"] == "firing";
            Ok(alerts.is_some_and(|alerts| alerts.iter().any(fires)))
        });
        waited.inspect_err(|_| eprintln!("Prometheus' alerts: {seen:?}"))
    }

    /// The data of an answer; `None` while there is none.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = self.place.connect(ADDRESS, CONNECT).ok()?;
        stream.set_read_timeout(Some(CONNECT)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let body: Value = serde_json::from_str(body).ok()?;
        (body["status"] == "success").then(|| body["data"].clone())
    }
}

/// A value, with where it is from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) instance: String,
    pub(super) value: f64,
}

fn samples(data: &Value) -> Vec<Sample> {
    let sample = |one: &Value| {
        Some(Sample {
            instance: one["metric"]["instance"].as_str()?.to_owned(),
            value: one["value"][1].as_str()?.parse().ok()?,
        })
    };
    let all = data["result"].as_array();
    all.into_iter().flatten().filter_map(sample).collect()
}

#[test]
fn samples_are_taken_out_of_an_answer() {
    let answer = r#"{"resultType": "vector", "result": [
        {"metric": {"__name__": "up", "instance": "10.0.3.1:7423"}, "value": [1.5, "1"]}]}"#;
    let answer = serde_json::from_str(answer).expect("JSON");
    let expected = Sample {
        instance: "10.0.3.1:7423".to_owned(),
        value: 1.0,
    };
    assert_eq!(samples(&answer), [expected]);
    assert_eq!(samples(&Value::Null), []);
}
