//! The judgement of a failover: what was seen of it, and what speaks against it.

use std::time::{Duration, Instant};

use super::disk::Fsck;
use super::report::{Judgement, KillMoment, Run, ServerRestart, millis};
use crate::pair::{Joined, ReportedStats};
use crate::ping::PingRecord;
use crate::workload::{ClientRecord, LoadRecord};

/// What was seen of a failover, beside the client.
#[derive(Debug, Clone, Default)]
pub(super) struct Observations {
    pub(super) number: u32,
    /// The host that was killed, and the one that went on.
    pub(super) hosts: [String; 2],
    /// When the guest's run before this one was over, if there was one.
    pub(super) begin: Option<Instant>,
    /// The moment of the kill, or of the freezing.
    pub(super) killed: Option<Instant>,
    /// When the disk server was restarted.
    pub(super) server_restarted: Option<Instant>,
    /// When it was once more, after a backup began to join.
    pub(super) server_restarted_in_join: Option<Duration>,
    /// When the other host's report of the loss arrived.
    pub(super) noticed: Option<Instant>,
    /// How long the replay of a cold backup was to take, as that said when it began.
    pub(super) replay: Option<Duration>,
    /// When its report of going live arrived.
    pub(super) live: Option<Instant>,
    /// When the client had a reply of the other host.
    pub(super) resumed: Option<Instant>,
    /// The newest figures before the kill.
    pub(super) stats: Option<ReportedStats>,
    /// When the report of its protection by a new backup arrived, and what the join took.
    pub(super) protected: Option<(Instant, Joined)>,
    /// Joins before that whose backup's host was killed in the middle.
    pub(super) joins_cut: u32,
    /// When the run was over.
    pub(super) end: Option<Instant>,
    /// The run got no further than this.
    pub(super) trouble: Option<String>,
}

/// What goes on beside all failovers of a guest.
#[derive(Debug)]
pub(super) struct Beside<'a> {
    pub(super) client: &'a ClientRecord,
    pub(super) pings: &'a PingRecord,
    /// What was seen of the load, if there is one.
    pub(super) load: Option<&'a LoadRecord>,
    /// The guest's end, if it has come.
    pub(super) end: Option<&'a End>,
}

/// What was looked at when a guest's last failover was over.
#[derive(Debug, Default)]
pub(super) struct End {
    /// What is on the disk.
    pub(super) fsck: Option<Fsck>,
}

impl Run {
    /// Judges what was seen.
    pub(super) fn judge(seen: &Observations, beside: &Beside<'_>) -> Self {
        let Beside { client, end, .. } = beside;
        let acked = client.acked();
        let reason = reason(seen, beside, acked);
        let pings = Pings::outside_the_outage(seen, beside.pings);
        let [killed, live_on] = seen.hosts.clone();
        let since_kill = |moment: Option<Instant>| {
            let time = moment?.saturating_duration_since(seen.killed?);
            Some(millis(time))
        };
        let joined = seen.protected.map(|(_, joined)| joined).unwrap_or_default();
        Self {
            number: seen.number,
            killed,
            live_on,
            kill: seen.killed.map(|killed| kill_moment(killed, client)),
            disk_server: seen.server_restarted.map(|at| {
                match seen.killed.is_some_and(|killed| killed <= at) {
                    true => ServerRestart::After,
                    false => ServerRestart::Before,
                }
            }),
            disk_server_in_join_ms: seen.server_restarted_in_join.map(millis),
            acked,
            final_counter: end.and(client.final_counter),
            lost: end.map(|_| {
                let counter = client.final_counter;
                counter
                    .map_or(0, |counter| acked.saturating_sub(counter))
                    .max(client.missing)
            }),
            duplicates: end.map(|_| client.duplicates),
            fsck: end.and_then(|end| end.fsck.clone()),
            reconnects: client.reconnects,
            outage_ms: outage(seen, client).map(millis),
            predicted_ms: seen
                .replay
                .zip(seen.noticed)
                .and_then(|(replay, noticed)| since_kill(Some(noticed + replay))),
            detect_ms: since_kill(seen.noticed),
            live_ms: since_kill(seen.live),
            unprotected_ms: since_kill(seen.protected.map(|(at, _)| at)),
            join_ms: joined.join_ms,
            pause_ms: joined.pause_ms,
            transfer_bytes: joined.bytes,
            rounds: joined.rounds,
            joins_cut: seen.joins_cut,
            log_bytes: seen.stats.map(|stats| stats.log_bytes),
            log_entries: seen.stats.map(|stats| stats.log_entries),
            guest_seconds: seen.stats.map(|stats| stats.guest_seconds),
            lag_ms_p50: seen.stats.map(|stats| stats.lag_ms_p50),
            lag_ms_p99: seen.stats.map(|stats| stats.lag_ms_p99),
            ping_ms_max: pings.max.map(|max| max.as_secs_f64() * 1e3),
            pings_lost: pings.lost,
            state_deltas: seen.stats.map(|stats| stats.state_deltas),
            state_delta_bytes: seen.stats.map(|stats| stats.state_delta_bytes),
            load_results: beside.load.map(|load| {
                let run = seen
                    .begin
                    .map_or(load.results.len(), |begin| load.since(begin));
                let after = seen.killed.map_or(0, |killed| load.since(killed));
                [run.saturating_sub(after), after]
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
    fn outside_the_outage(seen: &Observations, record: &PingRecord) -> Self {
        let Some(up) = record.first_answer() else {
            return Self::default();
        };
        let begin = seen.begin.map_or(up, |begin| begin.max(up));
        let end = seen.end.unwrap_or_else(Instant::now);
        let mut pings = Self::default();
        for (from, to) in [
            (Some(begin), seen.killed.or(Some(end))),
            (seen.resumed, Some(end)),
        ] {
            let (Some(from), Some(to)) = (from, to) else {
                continue;
            };
            pings.max = pings.max.max(record.answers(from, to).into_iter().max());
            pings.lost += record.lost(from, to);
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

/// The longest silence that ended after the kill, and not after the first reply of the other host. A
/// reply that the killed host had sent just before may arrive just after the kill; the silence comes
/// then.
fn outage(seen: &Observations, client: &ClientRecord) -> Option<Duration> {
    let killed = seen.killed?;
    if kill_moment(killed, client) == KillMoment::Boot {
        return None;
    }
    let ends = |at: Instant| at >= killed && seen.resumed.is_none_or(|resumed| at <= resumed);
    client
        .replies
        .windows(2)
        .filter(|pair| ends(pair[1].0))
        .map(|pair| pair[1].0 - pair[0].0)
        .max()
}

fn reason(seen: &Observations, beside: &Beside<'_>, acked: u64) -> Option<String> {
    let client = beside.client;
    if let Some((value, expected)) = client.irregular {
        return Some(format!(
            "a request was answered with {value} instead of {expected}"
        ));
    }
    if let Some(trouble) = seen.trouble.as_ref().or(client.trouble.as_ref()) {
        return Some(trouble.clone());
    }
    if let Some(load) = beside.load
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
    if let Some(end) = beside.end
        && let Some(reason) = end.reason(client, acked)
    {
        return Some(reason);
    }
    if client.replies.last().is_none_or(|(at, _)| *at < killed) {
        return Some("nothing was acknowledged after the kill".to_owned());
    }
    if beside.load.is_some_and(|load| load.since(killed) == 0) {
        return Some("the load gave no result after the kill".to_owned());
    }
    None
}

impl End {
    /// What speaks against what the server has.
    fn reason(&self, client: &ClientRecord, acked: u64) -> Option<String> {
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
        if let Some(Fsck::Dirty(found)) = &self.fsck {
            return Some(format!("the file system is not clean: {found}"));
        }
        None
    }
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
        judge_with(&observations, &record, &End::default())
    }

    /// At the guest's end.
    fn judge_with(seen: &Observations, client: &ClientRecord, end: &End) -> Run {
        let beside = Beside {
            client,
            pings: &PingRecord::default(),
            load: None,
            end: Some(end),
        };
        Run::judge(seen, &beside)
    }

    const GOOD: [(u64, u64); 4] = [(980, 1), (1001, 2), (2001, 3), (2020, 4)];

    #[test]
    fn nothing_lost_is_a_pass() {
        let run = judge(&GOOD, 4);
        assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
        assert_eq!(
            (run.acked, run.final_counter, run.lost, run.reconnects),
            (4, Some(4), Some(0), 0)
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
        assert_eq!((run.judgement, run.lost), (Judgement::Fail, Some(3)));
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
            let (observations, mut record) = seen(&GOOD, 4);
            record.missing = missing;
            record.duplicates = duplicates;
            judge_with(&observations, &record, &End { fsck: Some(fsck) })
        };
        let good = run(0, 0, Fsck::Clean);
        assert_eq!(good.judgement, Judgement::Pass, "{:?}", good.reason);
        let json = serde_json::to_value(&good).expect("plain data");
        assert_eq!(
            (&json["fsck"], &json["duplicates"]),
            (&"clean".into(), &0.into())
        );
        let missing = run(2, 0, Fsck::Clean);
        assert_eq!(
            (missing.judgement, missing.lost),
            (Judgement::Fail, Some(2))
        );
        let twice = run(0, 1, Fsck::Clean);
        assert_eq!(
            (twice.judgement, twice.duplicates),
            (Judgement::Fail, Some(1))
        );
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
        let judged = |seen: &Observations| judge_with(seen, &record, &End::default());
        assert_eq!(judged(&observations).disk_server, None);
        let killed = observations.killed.expect("it was");
        for (at, when) in [
            (killed - ms(1), ServerRestart::Before),
            (killed + ms(1), ServerRestart::After),
        ] {
            observations.server_restarted = Some(at);
            assert_eq!(judged(&observations).disk_server, Some(when));
        }
    }

    #[test]
    fn a_second_connection_is_a_failure() {
        let (observations, mut record) = seen(&GOOD, 4);
        record.reconnects = 1;
        let run = judge_with(&observations, &record, &End::default());
        assert_eq!(run.judgement, Judgement::Fail);
        let (observations, mut record) = seen(&GOOD, 4);
        record.irregular = Some((7, 3));
        let run = judge_with(&observations, &record, &End::default());
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
            let beside = Beside {
                client: &client,
                pings: &PingRecord::default(),
                load: Some(&load),
                end: Some(&End::default()),
            };
            Run::judge(&observations, &beside)
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
    fn what_the_server_has_is_known_at_the_guests_end() {
        // A second failover, with an outage of its own.
        let replies = [&GOOD[..], &[(5000, 5), (5010, 6)]].concat();
        let (mut observations, mut record) = seen(&replies, 6);
        let at = |millis| {
            observations
                .killed
                .map(|killed| killed + ms(millis) - ms(1000))
        };
        let (resumed, protected, killed) = (at(2001), at(3000), at(3500));
        observations.resumed = resumed;
        observations.protected = protected.map(|at| (at, Joined::default()));
        record.final_counter = None;
        let beside = Beside {
            client: &record,
            pings: &PingRecord::default(),
            load: None,
            end: None,
        };
        let first = Run::judge(&observations, &beside);
        assert_eq!(first.judgement, Judgement::Pass, "{:?}", first.reason);
        assert_eq!(
            (first.outage_ms, first.unprotected_ms),
            (Some(1000), Some(2000))
        );
        assert_eq!((first.lost, first.duplicates), (None, None));
        let second = Observations {
            begin: protected,
            killed,
            ..Observations::default()
        };
        let second = judge_with(&second, &record, &End::default());
        assert_eq!((second.judgement, second.lost), (Judgement::Fail, Some(0)));
        assert_eq!(second.outage_ms, Some(2980));
        record.final_counter = Some(3);
        let lost = judge(&replies, 3);
        let report = Report::new(
            &Options::default(),
            vec![vec![first, lost], vec![judge(&GOOD, 4)]],
        );
        assert_eq!((report.acked, report.lost), (10, 3));
        assert_eq!(report.judgement, Judgement::Fail);
    }

    #[test]
    fn a_run_without_a_kill_fails() {
        let run = judge_with(
            &Observations::default(),
            &ClientRecord::default(),
            &End::default(),
        );
        assert_eq!(run.judgement, Judgement::Fail);
        let options = Options::default();
        let report = Report::new(&options, vec![vec![judge(&GOOD, 4)], vec![run]]);
        assert_eq!(report.judgement, Judgement::Fail);
        assert_eq!(Report::new(&options, vec![]).judgement, Judgement::Fail);
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(json["verdict"], "FAIL");
        assert_eq!(json["workload"], "redis");
        assert_eq!(json["fault"], "kill");
        assert_eq!((&json["acked"], &json["lost"]), (&4.into(), &0.into()));
        assert_eq!(json["runs"][0]["kill"], "load");
        assert_eq!(json["runs"][1]["outage_ms"], serde_json::Value::Null);
    }
}
