//! The judgement of a failover: what was seen of it, and what speaks against it.

use std::time::{Duration, Instant};

use super::disk::Fsck;
use super::report::{Judgement, KillMoment, Run, ServerRestart, millis};
use crate::pair::ReportedStats;
use crate::ping::PingRecord;
use crate::workload::{ClientRecord, LoadRecord};

/// What was seen of a failover, beside the client.
#[derive(Debug, Clone, Default)]
pub(super) struct Observations {
    pub(super) number: u32,
    pub(super) hosts: [String; 2],
    /// The moment of the kill, or of the freezing.
    pub(super) killed: Option<Instant>,
    /// When the disk server was restarted.
    pub(super) server_restarted: Option<Instant>,
    /// What is on the disk.
    pub(super) fsck: Option<Fsck>,
    /// When the other host's report of the loss arrived.
    pub(super) noticed: Option<Instant>,
    /// When its report of going live arrived.
    pub(super) live: Option<Instant>,
    /// When the client had a reply of the other host.
    pub(super) resumed: Option<Instant>,
    /// The newest figures before the kill.
    pub(super) stats: Option<ReportedStats>,
    /// The pings all the time.
    pub(super) pings: PingRecord,
    /// What was seen of the load, if there is one.
    pub(super) load: Option<LoadRecord>,
    /// The client got no further than this.
    pub(super) trouble: Option<String>,
}

impl Run {
    /// Judges what was seen.
    pub(super) fn judge(seen: &Observations, client: &ClientRecord) -> Self {
        let acked = client.acked();
        let lost = client
            .final_counter
            .map_or(0, |counter| acked.saturating_sub(counter))
            .max(client.missing);
        let reason = reason(seen, client, acked);
        let pings = Pings::outside_the_outage(seen);
        Self {
            number: seen.number,
            hosts: seen.hosts.clone(),
            kill: seen.killed.map(|killed| kill_moment(killed, client)),
            disk_server: seen.server_restarted.map(|at| {
                match seen.killed.is_some_and(|killed| killed <= at) {
                    true => ServerRestart::After,
                    false => ServerRestart::Before,
                }
            }),
            acked,
            final_counter: client.final_counter,
            lost,
            duplicates: client.duplicates,
            fsck: seen.fsck.clone(),
            reconnects: client.reconnects,
            outage_ms: seen
                .killed
                .and_then(|killed| outage(killed, client))
                .map(millis),
            detect_ms: seen
                .killed
                .zip(seen.noticed)
                .map(|(killed, noticed)| millis(noticed.saturating_duration_since(killed))),
            live_ms: seen
                .killed
                .zip(seen.live)
                .map(|(killed, live)| millis(live.saturating_duration_since(killed))),
            log_bytes: seen.stats.map(|stats| stats.log_bytes),
            log_entries: seen.stats.map(|stats| stats.log_entries),
            guest_seconds: seen.stats.map(|stats| stats.guest_seconds),
            lag_ms_p50: seen.stats.map(|stats| stats.lag_ms_p50),
            lag_ms_p99: seen.stats.map(|stats| stats.lag_ms_p99),
            ping_ms_max: pings.max.map(|max| max.as_secs_f64() * 1e3),
            pings_lost: pings.lost,
            state_deltas: seen.stats.map(|stats| stats.state_deltas),
            state_delta_bytes: seen.stats.map(|stats| stats.state_delta_bytes),
            load_results: seen.load.as_ref().map(|load| {
                let after = seen.killed.map_or(0, |killed| load.since(killed));
                [load.results.len() - after, after]
            }),
            judgement: if reason.is_none() {
                Judgement::Pass
            } else {
                Judgement::Fail
            },
            reason,
        }
    }
}

/// The pings that were not in the way of the kill.
#[derive(Debug, Default)]
struct Pings {
    max: Option<Duration>,
    lost: usize,
}

impl Pings {
    fn outside_the_outage(seen: &Observations) -> Self {
        let Some(up) = seen.pings.first_answer() else {
            return Self::default();
        };
        let end = Instant::now();
        let mut pings = Self::default();
        for (from, to) in [
            (Some(up), seen.killed.or(Some(end))),
            (seen.resumed, Some(end)),
        ] {
            let (Some(from), Some(to)) = (from, to) else {
                continue;
            };
            pings.max = pings
                .max
                .max(seen.pings.answers(from, to).into_iter().max());
            pings.lost += seen.pings.lost(from, to);
        }
        pings
    }
}

fn kill_moment(killed: Instant, client: &ClientRecord) -> KillMoment {
    match client.replies.first() {
        Some((first, _)) if *first < killed => KillMoment::Load,
        _ => KillMoment::Boot,
    }
}

/// The longest silence that ended after the kill. A reply that the killed host
/// had sent just before may arrive just after the kill; the silence comes then.
fn outage(killed: Instant, client: &ClientRecord) -> Option<Duration> {
    if kill_moment(killed, client) == KillMoment::Boot {
        return None;
    }
    client
        .replies
        .windows(2)
        .filter(|pair| pair[1].0 >= killed)
        .map(|pair| pair[1].0 - pair[0].0)
        .max()
}

fn reason(seen: &Observations, client: &ClientRecord, acked: u64) -> Option<String> {
    if let Some((value, expected)) = client.irregular {
        return Some(format!(
            "a request was answered with {value} instead of {expected}"
        ));
    }
    if let Some(trouble) = seen.trouble.as_ref().or(client.trouble.as_ref()) {
        return Some(trouble.clone());
    }
    if let Some(load) = &seen.load
        && let Some(trouble) = load.wrong.as_ref().or(load.trouble.as_ref())
    {
        return Some(trouble.clone());
    }
    if client.reconnects > 0 {
        return Some("the connection broke".to_owned());
    }
    let Some(killed) = seen.killed else {
        return Some("no host was killed".to_owned());
    };
    match client.final_counter {
        None => return Some("what the server has at the end is not known".to_owned()),
        // One more is a request in flight.
        Some(counter) if counter == acked || counter == acked + 1 => {}
        Some(counter) => {
            return Some(format!(
                "{acked} requests were acknowledged, and the server has come to {counter}"
            ));
        }
    }
    if (client.missing, client.duplicates) != (0, 0) {
        return Some(format!(
            "of the acknowledged rows, {} are missing; {} are there once more",
            client.missing, client.duplicates
        ));
    }
    if let Some(Fsck::Dirty(found)) = &seen.fsck {
        return Some(format!("the file system is not clean: {found}"));
    }
    if client.replies.last().is_none_or(|(at, _)| *at < killed) {
        return Some("nothing was acknowledged after the kill".to_owned());
    }
    if seen
        .load
        .as_ref()
        .is_some_and(|load| load.since(killed) == 0)
    {
        return Some("the load gave no result after the kill".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use guest_images::load::Kind;

    use super::super::{Options, Report};
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Replies at these milliseconds; the kill is at 1000.
    fn seen(replies: &[(u64, u64)], final_counter: u64) -> (Observations, ClientRecord) {
        let start = Instant::now();
        let observations = Observations {
            number: 1,
            killed: Some(start + ms(1000)),
            noticed: Some(start + ms(1550)),
            ..Observations::default()
        };
        let record = ClientRecord {
            replies: replies
                .iter()
                .map(|(at, value)| (start + ms(*at), *value))
                .collect(),
            final_counter: Some(final_counter),
            ..ClientRecord::default()
        };
        (observations, record)
    }

    fn judge(replies: &[(u64, u64)], final_counter: u64) -> Run {
        let (observations, record) = seen(replies, final_counter);
        Run::judge(&observations, &record)
    }

    const GOOD: [(u64, u64); 4] = [(980, 1), (1001, 2), (2001, 3), (2020, 4)];

    #[test]
    fn nothing_lost_is_a_pass() {
        let run = judge(&GOOD, 4);
        assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
        assert_eq!(
            (run.acked, run.final_counter, run.lost, run.reconnects),
            (4, Some(4), 0, 0)
        );
        assert_eq!(run.kill, Some(KillMoment::Load));
        // The reply on its way at the kill does not shorten the outage.
        assert_eq!(run.outage_ms, Some(1000));
        assert_eq!(run.detect_ms, Some(550));
        // A request in flight at the end.
        assert_eq!(judge(&GOOD, 5).judgement, Judgement::Pass);
    }

    #[test]
    fn losses_and_phantoms_are_failures() {
        let run = judge(&GOOD, 1);
        assert_eq!((run.judgement, run.lost), (Judgement::Fail, 3));
        assert_eq!(judge(&GOOD, 6).judgement, Judgement::Fail);
        let silent = judge(&[(980, 1)], 1);
        assert_eq!(
            (silent.judgement, silent.outage_ms),
            (Judgement::Fail, None)
        );
    }

    #[test]
    fn rows_and_the_disk_are_looked_at() {
        let run = |missing, duplicates, fsck| {
            let (mut observations, mut record) = seen(&GOOD, 4);
            observations.fsck = Some(fsck);
            record.missing = missing;
            record.duplicates = duplicates;
            Run::judge(&observations, &record)
        };
        let good = run(0, 0, Fsck::Clean);
        assert_eq!(good.judgement, Judgement::Pass, "{:?}", good.reason);
        let json = serde_json::to_value(&good).expect("plain data");
        assert_eq!(
            (&json["fsck"], &json["duplicates"]),
            (&"clean".into(), &0.into())
        );
        let missing = run(2, 0, Fsck::Clean);
        assert_eq!((missing.judgement, missing.lost), (Judgement::Fail, 2));
        let twice = run(0, 1, Fsck::Clean);
        assert_eq!((twice.judgement, twice.duplicates), (Judgement::Fail, 1));
        let dirty = run(0, 0, Fsck::Dirty("inode 12".to_owned()));
        assert_eq!(dirty.judgement, Judgement::Fail);
        assert!(
            dirty
                .reason
                .is_some_and(|reason| reason.contains("inode 12"))
        );
    }

    #[test]
    fn a_restart_of_the_disk_server_is_before_or_after_the_kill() {
        let (mut observations, record) = seen(&GOOD, 4);
        assert_eq!(Run::judge(&observations, &record).disk_server, None);
        let killed = observations.killed.expect("it was");
        for (at, when) in [
            (killed - ms(1), ServerRestart::Before),
            (killed + ms(1), ServerRestart::After),
        ] {
            observations.server_restarted = Some(at);
            assert_eq!(Run::judge(&observations, &record).disk_server, Some(when));
        }
    }

    #[test]
    fn a_second_connection_is_a_failure() {
        let (observations, mut record) = seen(&GOOD, 4);
        record.reconnects = 1;
        assert_eq!(
            Run::judge(&observations, &record).judgement,
            Judgement::Fail
        );
        let (observations, mut record) = seen(&GOOD, 4);
        record.irregular = Some((7, 3));
        let run = Run::judge(&observations, &record);
        assert!(run.reason.is_some_and(|reason| reason.contains('7')));
    }

    #[test]
    fn a_wrong_or_missing_result_of_a_load_is_a_failure() {
        let (observations, client) = seen(&GOOD, 4);
        let killed = observations.killed.expect("it was");
        let judge = |at, wrong: Option<&str>| {
            let load = LoadRecord {
                results: vec![(at, Kind::Busy, 1, "00000000".to_owned())],
                wrong: wrong.map(str::to_owned),
                trouble: None,
            };
            let load = Some(load);
            let observations = Observations {
                load,
                ..observations.clone()
            };
            Run::judge(&observations, &client)
        };
        let good = judge(killed + ms(1), None);
        assert_eq!(good.judgement, Judgement::Pass, "{:?}", good.reason);
        assert_eq!(good.load_results, Some([0, 1]));
        let silent = judge(killed - ms(1), None);
        assert_eq!(
            (silent.judgement, silent.load_results),
            (Judgement::Fail, Some([1, 0]))
        );
        let wrong = judge(killed + ms(1), Some("load busy 1 gave nonsense"));
        assert_eq!(wrong.reason.as_deref(), Some("load busy 1 gave nonsense"));
    }

    #[test]
    fn a_kill_during_the_boot_has_no_outage() {
        let run = judge(&[(5000, 1), (5010, 2)], 2);
        assert_eq!(run.judgement, Judgement::Pass);
        assert_eq!((run.kill, run.outage_ms), (Some(KillMoment::Boot), None));
    }

    #[test]
    fn a_run_without_a_kill_fails() {
        let run = Run::judge(&Observations::default(), &ClientRecord::default());
        assert_eq!(run.judgement, Judgement::Fail);
        let options = Options::default();
        let report = Report::new(&options, vec![judge(&GOOD, 4), run]);
        assert_eq!(report.judgement, Judgement::Fail);
        assert_eq!(Report::new(&options, vec![]).judgement, Judgement::Fail);
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(json["verdict"], "FAIL");
        assert_eq!(json["workload"], "redis");
        assert_eq!(json["fault"], "kill");
        assert_eq!(json["runs"][0]["kill"], "load");
        assert_eq!(json["runs"][1]["outage_ms"], serde_json::Value::Null);
    }
}
