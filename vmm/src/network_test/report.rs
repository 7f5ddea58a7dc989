//! What a test found, for people and for programs.

use std::fmt;
use std::net::SocketAddr;

use disk_server::views::MAX_PROCESSES;
use serde::Serialize;
use transport::Peer;

use super::loads::{Cost, LOADS, Load};
use super::pressed::Pressed;
use super::stage::{Heartbeats, Ran, Stage, TimesTold};

/// What a test found. *There* is the side that listens, and sends as a primary does; *here* is the one that connects.
#[derive(Debug)]
pub struct Report {
    address: SocketAddr,
    /// `None`: plain.
    peer: Option<String>,
    pub(super) parts: Vec<Part>,
    /// That came there, and here.
    pub(super) heartbeats: Option<(Heartbeats, Heartbeats)>,
}

/// A stage, as both sides saw it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) ran: Ran,
    /// What was busy here.
    pub(super) pressed: Option<Pressed>,
}

/// What a stage could not have gone faster for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
enum HeldUp {
    /// No thread of either side, the busiest of which had this share: the network, or the way through it and back.
    Network { busiest: f64 },
    /// A thread of the side that sends.
    There(Pressed),
    /// One of the side that receives.
    Here(Pressed),
    /// A kernel does not tell.
    Unknown,
}

impl HeldUp {
    fn found(there: Option<&Pressed>, here: Option<&Pressed>) -> Self {
        let (Some(there), Some(here)) = (there, here) else {
            return Self::Unknown;
        };
        match (there.share >= here.share, there.is_bound(), here.is_bound()) {
            (true, true, _) => Self::There(there.clone()),
            (false, _, true) => Self::Here(here.clone()),
            _ => Self::Network {
                busiest: there.share.max(here.share),
            },
        }
    }
}

impl fmt::Display for HeldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { busiest } => write!(f, "network (threads: {:.0} %)", busiest * 100.0),
            Self::There(Pressed { thread, share }) => {
                write!(f, "{thread} there, {:.0} %", share * 100.0)
            }
            Self::Here(Pressed { thread, share }) => {
                write!(f, "{thread} here, {:.0} %", share * 100.0)
            }
            Self::Unknown => f.write_str("not known"),
        }
    }
}

/// A stage in which as much went as could.
#[derive(Debug, Serialize)]
struct Throughput {
    stage: Stage,
    gbit_per_s: f64,
    /// `None` of bare TCP.
    entries_per_s: Option<f64>,
    /// Its share of bare TCP's bytes.
    of_bare: Option<f64>,
    held_up: HeldUp,
}

#[derive(Debug, Serialize)]
struct Guests {
    load: &'static str,
    log_mbit_per_s: f64,
    /// At most as many as a host has.
    guests: u64,
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Json<'a> {
    address: SocketAddr,
    peer: Option<&'a str>,
    acknowledgement: Option<TimesTold>,
    bare_answer: Option<TimesTold>,
    throughput: Vec<Throughput>,
    heartbeats_there: Option<Heartbeats>,
    heartbeats_here: Option<Heartbeats>,
    guests: Vec<Guests>,
}

impl Report {
    pub(super) fn new(address: SocketAddr, peer: Option<&Peer>) -> Self {
        Self {
            address,
            peer: peer.map(ToString::to_string),
            parts: Vec::new(),
            heartbeats: None,
        }
    }

    /// Whether each stage was gone through once.
    pub(super) fn is_whole(&self) -> bool {
        let stages = self.parts.iter().map(|part| part.ran.stage);
        stages.eq(Stage::ALL)
    }

    /// One JSON object.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = Json {
            address: self.address,
            peer: self.peer.as_deref(),
            acknowledgement: self.times(Stage::Acknowledgements),
            bare_answer: self.times(Stage::BareAnswers),
            throughput: self.throughput(),
            heartbeats_there: self.heartbeats.map(|(there, _)| there),
            heartbeats_here: self.heartbeats.map(|(_, here)| here),
            guests: self.guests(),
        };
        serde_json::to_string(&json).expect("figures can be written")
    }

    fn part(&self, stage: Stage) -> Option<&Part> {
        self.parts.iter().find(|part| part.ran.stage == stage)
    }

    fn times(&self, stage: Stage) -> Option<TimesTold> {
        self.part(stage)?.ran.times
    }

    fn throughput(&self) -> Vec<Throughput> {
        let bare = self.part(Stage::BareStream);
        let bare = bare.map(|part| part.ran.gbit_per_s());
        let all = self.parts.iter().filter(|part| part.ran.times.is_none());
        let told = all.map(|Part { ran, pressed }| {
            let is_log = ran.stage.stretch().is_some();
            Throughput {
                stage: ran.stage,
                gbit_per_s: ran.gbit_per_s(),
                entries_per_s: is_log.then(|| ran.entries_per_s()),
                of_bare: bare.filter(|_| is_log).map(|bare| ran.gbit_per_s() / bare),
                held_up: HeldUp::found(ran.pressed.as_ref(), pressed.as_ref()),
            }
        });
        told.collect()
    }

    fn guests(&self) -> Vec<Guests> {
        let ran = |stage| Some(self.part(stage)?.ran.clone());
        let Some(cost) = Cost::found(ran) else {
            return Vec::new();
        };
        let guests = |load: &Load| Guests {
            load: load.name,
            log_mbit_per_s: load.log_mbit_per_s,
            guests: cost.guests(load).min(MAX_PROCESSES as u64),
        };
        LOADS.iter().map(guests).collect()
    }
}

/// Milliseconds, to the microsecond.
fn ms(us: u64) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.as_deref().unwrap_or("plain");
        writeln!(f, "Network test with {} ({peer})", self.address)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<32}{:>12}{:>12}{:>12}{:>12}",
            "One at a time, in ms", "p50", "p99", "longest", "times"
        )?;
        for stage in [Stage::Acknowledgements, Stage::BareAnswers] {
            if let Some(times) = self.times(stage) {
                let TimesTold {
                    count,
                    p50_us,
                    p99_us,
                    max_us,
                } = times;
                let [p50, p99, max] = [p50_us, p99_us, max_us].map(ms);
                let words = stage.words();
                writeln!(f, "{words:<32}{p50:>12}{p99:>12}{max:>12}{count:>12}")?;
            }
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<20}{:>10}{:>13}{:>9}  held up by",
            "There to here", "Gbit/s", "entries/s", "of bare"
        )?;
        for it in self.throughput() {
            let figure = |value: Option<f64>, digits| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            writeln!(
                f,
                "{:<20}{:>10.3}{:>13}{:>9}  {}",
                it.stage.words(),
                it.gbit_per_s,
                figure(it.entries_per_s, 0),
                figure(it.of_bare, 2),
                it.held_up
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<32}{:>12}{:>12}{:>12}",
            "Heartbeats", "came", "lost", "jitter, ms"
        )?;
        if let Some((there, here)) = self.heartbeats {
            for (way, it) in [("there to here", here), ("here to there", there)] {
                let jitter = it.jitter_us.map_or_else(|| "-".to_owned(), ms);
                writeln!(f, "{way:<32}{:>12}{:>12}{jitter:>12}", it.heard, it.lost)?;
            }
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<44}{:>18}{:>14}",
            "Guests that take half of it", "each, Mbit/s", "guests"
        )?;
        for it in self.guests() {
            let Guests {
                load,
                log_mbit_per_s,
                guests,
            } = it;
            writeln!(f, "{load:<44}{log_mbit_per_s:>18}{guests:>14}")?;
        }
        writeln!(f)?;
        f.write_str(
            "There is the side that listens. Only what it sends was measured: change the\n\
             sides for the other way. What an acknowledgement takes has in it how soon both\n\
             machines run the threads that it is for. A thread that held a log up, with its\n\
             share of the time, wants faster processors, and not a faster network. Guests\n\
             are counted by their logs alone: their hosts' processors and memory are not.\n",
        )?;
        writeln!(f, "A host has {MAX_PROCESSES} guests at most.")
    }
}

#[cfg(test)]
mod tests {
    use disk_server::views::Text;

    use super::*;

    fn pressed(share: f64) -> Option<Pressed> {
        Some(Pressed {
            thread: Text::cut("log-sender"),
            share,
        })
    }

    fn report() -> Report {
        let peer = Peer {
            name: "a".into(),
            role: transport::Role::Host,
        };
        let address = "10.0.1.1:7421".parse().expect("an address");
        let mut report = Report::new(address, Some(&peer));
        for stage in Stage::ALL {
            assert!(!report.is_whole());
            let is_times = matches!(stage, Stage::Acknowledgements | Stage::BareAnswers);
            let times = TimesTold {
                count: 23_456,
                p50_us: 112,
                p99_us: 1_305,
                max_us: 12_007,
            };
            let ran = Ran {
                stage,
                seconds: 2.0,
                bytes: 2_500_000_000,
                entries: 15_000_000,
                times: is_times.then_some(times),
                pressed: pressed(0.97),
            };
            let pressed = pressed(0.4);
            report.parts.push(Part { ran, pressed });
        }
        let heartbeats = Heartbeats {
            heard: 200,
            lost: 1,
            jitter_us: Some(45),
        };
        report.heartbeats = Some((heartbeats, heartbeats));
        assert!(report.is_whole());
        report
    }

    #[test]
    fn a_terminal_is_wide_enough() {
        let text = report().to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "too long: {line}");
        }
        for told in [
            "10.000",
            "7500000",
            "0.112",
            "12.007",
            "log-sender there, 97 %",
        ] {
            assert!(text.contains(told), "{told} is missing in {text}");
        }
    }

    #[test]
    fn a_program_gets_the_same() {
        let json = report().to_json();
        let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(json["peer"], "host a");
        assert_eq!(json["acknowledgement"]["p99_us"], 1305);
        assert_eq!(json["throughput"][0]["stage"], "bare-stream");
        assert_eq!(json["throughput"][1]["of_bare"], 1.0);
        assert_eq!(json["throughput"][1]["held_up"]["by"], "there");
        assert_eq!(json["heartbeats_here"]["lost"], 1);
        assert_eq!(json["guests"].as_array().map(Vec::len), Some(LOADS.len()));
    }

    #[test]
    fn a_thread_that_always_wants_a_processor_holds_it_up() {
        let found = |there, here| {
            let (there, here) = (pressed(there), pressed(here));
            HeldUp::found(there.as_ref(), here.as_ref())
        };
        assert!(matches!(found(0.97, 0.9), HeldUp::There(_)));
        assert!(matches!(found(0.3, 0.9), HeldUp::Here(_)));
        assert_eq!(found(0.5, 0.6), HeldUp::Network { busiest: 0.6 });
        assert_eq!(HeldUp::found(None, pressed(1.0).as_ref()), HeldUp::Unknown);
    }
}
