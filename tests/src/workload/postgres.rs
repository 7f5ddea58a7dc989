//! The client that commits numbered rows to the guest's PostgreSQL over one connection, one row a
//! transaction, as fast as the commits are acknowledged.
//!
//! The table has no unique index: a row that is there twice shall be seen. Rows of earlier runs on
//! the same disk stay in it. They have been through the end of their guest, which was never shut
//! down, and through the recovery of the next one's file system and server.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::client::{Client, ClientRecord};
use super::psql::{Psql, PsqlError};
use crate::network::{GUEST, Position};
use crate::worker::{Desk, Worker};

/// How long one attempt to connect may take, in seconds. Generous: on a busy machine a session of the
/// database needs seconds to begin, and one that is given up burdens the guest all the same.
const ATTEMPT: u32 = 60;
/// Time between attempts: a port where nobody listens yet refuses at once.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the last request may take, and a second connection to look for the rows when the first
/// one broke.
const LAST: Duration = Duration::from_secs(60);

/// Settings of the server without which an acknowledged commit may be lost: all must be on.
const DURABLE: [&str; 3] = ["fsync", "synchronous_commit", "full_page_writes"];

const TABLE: &str = "SET client_min_messages = error; \
    CREATE TABLE IF NOT EXISTS commits (run integer NOT NULL, number bigint NOT NULL); \
    SELECT 'ready';";

/// A line for each run: the rows, how many different numbers they have, and the highest.
const ROWS: &str = "SELECT run || ' ' || count(*) || ' ' || count(DISTINCT number) || ' ' || \
    max(number) FROM commits GROUP BY run;";

/// Rows of an earlier run, which are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The run.
    pub run: u32,
    /// Its rows: their numbers begin with 1, and each is there once.
    pub rows: u64,
}

/// What the table has of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rows {
    all: u64,
    different: u64,
    highest: u64,
}

impl Client {
    /// Starts to connect to the guest's PostgreSQL from `position`, and goes on with commits of
    /// numbered rows, as fast as they are answered. At the end it looks for the rows of earlier
    /// runs on the same disk as well.
    #[must_use]
    pub fn postgres(position: &Position, run: u32, earlier: Vec<Committed>) -> Self {
        let position = position.clone();
        Self(Worker::start(move |desk| {
            work(desk, &position, run, &earlier);
        }))
    }
}

fn work(desk: &Desk<ClientRecord>, position: &Position, run: u32, earlier: &[Committed]) {
    let Some(mut psql) = connect(position, || desk.goes_on()) else {
        return;
    };
    let deadline = Mutex::new(None);
    // The limit for the last request begins when it is known to be the last.
    let give_up = || {
        let mut deadline = deadline.lock();
        let last = desk
            .finishing()
            .then(|| *deadline.get_or_insert_with(|| Instant::now() + LAST));
        desk.abandoned() || last.is_some_and(|last| Instant::now() > last)
    };
    if let Err(error) = commits(desk, &mut psql, run, give_up) {
        if desk.abandoned() {
            return;
        }
        desk.record().trouble = Some(error.to_string());
        if !matches!(error, PsqlError::Broken(_)) {
            // A late answer would be taken for that of the next request.
            return;
        }
        desk.record().reconnects += 1;
        let deadline = Instant::now() + LAST;
        let waits = || !desk.abandoned() && Instant::now() < deadline;
        match connect(position, waits) {
            Some(second) => psql = second,
            None => return,
        }
    }
    let deadline = Instant::now() + LAST;
    let rows = rows(&mut psql, || desk.abandoned() || Instant::now() > deadline);
    let mut record = desk.record();
    match rows {
        Ok(rows) => count(&mut record, &rows, run, earlier),
        Err(error) => {
            if matches!(error, PsqlError::Broken(_)) {
                record.reconnects += 1;
            }
            let trouble = format!("the rows cannot be read: {error}");
            record.trouble.get_or_insert(trouble);
        }
    }
}

/// Tries to connect for as long as somebody waits for it.
fn connect(position: &Position, waits: impl Fn() -> bool) -> Option<Psql> {
    let conninfo =
        format!("host={GUEST} user=postgres dbname=ftvm sslmode=disable connect_timeout={ATTEMPT}");
    while waits() {
        match Psql::start(position, &conninfo) {
            Ok(mut psql) => match psql.line("SELECT 'connected';", || !waits()) {
                Ok(answer) if answer == "connected" => return Some(psql),
                Ok(answer) => log::debug!("no connection yet: {answer}"),
                Err(error) => log::debug!("no connection yet: {error}"),
            },
            Err(error) => log::warn!("psql cannot be started: {error}"),
        }
        thread::sleep(PAUSE);
    }
    None
}

fn commits(
    desk: &Desk<ClientRecord>,
    psql: &mut Psql,
    run: u32,
    give_up: impl Fn() -> bool,
) -> Result<(), PsqlError> {
    psql.line(TABLE, &give_up)?;
    for setting in DURABLE {
        let value = psql.line(&format!("SHOW {setting};"), &give_up)?;
        if value != "on" {
            let objection = format!("the server may lose commits: {setting} is {value}");
            return Err(PsqlError::Refused(objection));
        }
    }
    let mut number = 0;
    while desk.goes_on() {
        number += 1;
        // What is printed was committed: the server ends its answer after the commit, and psql
        // prints no answer before its end.
        let insert = format!("INSERT INTO commits VALUES ({run}, {number}) RETURNING number;");
        let answer = psql.number(&insert, &give_up)?;
        desk.record().reply(Instant::now(), answer);
    }
    Ok(())
}

fn rows(psql: &mut Psql, give_up: impl Fn() -> bool) -> Result<BTreeMap<u32, Rows>, PsqlError> {
    psql.lines(ROWS, give_up)?
        .iter()
        .map(|line| parse(line).ok_or_else(|| PsqlError::Refused(line.clone())))
        .collect()
}

fn parse(line: &str) -> Option<(u32, Rows)> {
    let (run, numbers) = line.split_once(' ')?;
    let numbers: Vec<u64> = numbers
        .split(' ')
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    let [all, different, highest] = numbers[..] else {
        return None;
    };
    let rows = Rows {
        all,
        different,
        highest,
    };
    Some((run.parse().ok()?, rows))
}

/// Compares the table with what it must have.
fn count(record: &mut ClientRecord, rows: &BTreeMap<u32, Rows>, run: u32, earlier: &[Committed]) {
    let own = Committed {
        run,
        rows: record.acked(),
    };
    record.final_counter = Some(rows.get(&run).map_or(0, |rows| rows.highest));
    record.duplicates = rows.values().map(|rows| rows.all - rows.different).sum();
    record.missing = earlier
        .iter()
        .chain([&own])
        .map(|committed| {
            let rows = rows.get(&committed.run);
            // Numbers above the acknowledged ones do not make up for those that are missing.
            let there = rows.map_or(0, |rows| {
                rows.different
                    - rows
                        .highest
                        .saturating_sub(committed.rows)
                        .min(rows.different)
            });
            committed.rows.saturating_sub(there)
        })
        .sum();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a table with these lines, after run 2 had `acked` acknowledged, and run 1
    /// had ten rows.
    fn judge(acked: u64, lines: &[&str]) -> (Option<u64>, u64, u64) {
        let mut record = ClientRecord::default();
        (1..=acked).for_each(|number| record.reply(Instant::now(), number));
        let rows = lines
            .iter()
            .map(|line| parse(line).expect("a line"))
            .collect();
        let earlier = [Committed { run: 1, rows: 10 }];
        count(&mut record, &rows, 2, &earlier);
        (record.final_counter, record.missing, record.duplicates)
    }

    #[test]
    fn missing_rows_and_rows_that_are_there_twice_are_counted() {
        assert_eq!(judge(5, &["1 10 10 10", "2 5 5 5"]), (Some(5), 0, 0));
        // One more, whose acknowledgement was not waited for.
        assert_eq!(judge(5, &["1 10 10 10", "2 6 6 6"]), (Some(6), 0, 0));
        // One more, but one of the acknowledged ones is missing.
        assert_eq!(judge(5, &["1 10 10 10", "2 5 5 6"]), (Some(6), 1, 0));
        assert_eq!(judge(5, &["1 10 10 10", "2 6 5 5"]), (Some(5), 0, 1));
        assert_eq!(judge(5, &["1 10 10 10", "2 5 4 4"]), (Some(4), 1, 1));
        assert_eq!(judge(5, &["1 9 9 10", "2 5 5 5"]), (Some(5), 1, 0));
        assert_eq!(judge(5, &["1 10 10 10"]), (Some(0), 5, 0));
        assert_eq!(judge(0, &[]), (Some(0), 10, 0));
    }

    #[test]
    fn other_lines_are_no_rows() {
        for line in ["", "1", "1 2 3", "1 2 3 4 5", "1 2 3 x", "ERROR: no"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
