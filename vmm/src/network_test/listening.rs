//! The side that listens: sends what a primary would.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use logging_channel::entry::{Entry, ExecutionPoint, Lsn, Payload};
use logging_channel::handshake::Title;
use logging_channel::sender::{Commit, Finish, Sender};
use logging_channel::session::{AcceptError, Admission, Listener};
use logging_channel::trial::{Stretch, Turns, marker_bytes};
use logging_channel::{HostReport, Settings};

use super::bare;
use super::error::NetworkTestError;
use super::pressed::Watch;
use super::session::identity;
use super::stage::{Heartbeats, Ran, Stage, TimesTold, Word, piece};

/// As whom this side holds what there is nothing to hold of.
const HOLDER: &str = "network test";
const EPOCH: u64 = 1;

/// How often somebody who waits looks whether it still should.
const LOOK: Duration = Duration::from_millis(100);

/// How long the other side may take for its last acknowledgement.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// How many outputs go one after the other before it is looked at the clock.
const TURNS: u64 = 50;

/// Why this side did not come to the end of a test.
enum Stopped {
    /// It was told to end.
    Cancelled,
    Lost(String),
}

/// Tests the network with whoever comes, one after the other and each for so long, until `cancel` is set.
///
/// # Errors
/// [`NetworkTestError`], if nobody can be waited for any more. A test that breaks off is told in the log.
pub fn serve(
    listener: &mut Listener,
    time: Duration,
    cancel: &AtomicBool,
) -> Result<(), NetworkTestError> {
    let settings = Settings {
        // One's socket is what bare TCP goes over.
        memory_streams: 1,
        ..Settings::default()
    };
    let title = |_: Option<&_>| {
        Ok(Title {
            epoch: EPOCH,
            holder: HOLDER.into(),
        })
    };
    let admit = |_: &str, _: Option<&_>| Admission::Admitted(EPOCH);
    loop {
        let host = HostReport::default();
        let accepted =
            listener.accept_backup(&identity(), &host, title, &settings, Some(cancel), admit);
        let sender = match accepted {
            Ok(sender) => Arc::new(sender),
            Err(AcceptError::Cancelled) => return Ok(()),
            // The one that came is gone.
            Err(AcceptError::Begin(error)) => {
                log::warn!("a network test could not begin: {error}");
                continue;
            }
            Err(error) => return Err(NetworkTestError::Accept(error)),
        };
        let peer = sender.session().peer_in_words();
        log::info!("{peer} tests the network, for {} s", time.as_secs());
        match Test::new(sender, time, cancel).and_then(Test::run) {
            Ok(told) => log::info!("{peer} is through: {told}"),
            Err(Stopped::Lost(why)) => log::warn!("the test with {peer} broke off: {why}"),
            Err(Stopped::Cancelled) => {
                log::warn!("the test with {peer} is broken off: this side is to end");
                return Ok(());
            }
        }
    }
}

/// A test, at this end.
struct Test<'a> {
    sender: Arc<Sender>,
    turns: Arc<Turns>,
    bare: TcpStream,
    time: Duration,
    cancel: &'a AtomicBool,
    /// The last exit of the guest that there is not.
    exit: u64,
}

impl<'a> Test<'a> {
    fn new(sender: Arc<Sender>, time: Duration, cancel: &'a AtomicBool) -> Result<Self, Stopped> {
        let bare = sender.bare_sockets().map_err(|error| failed(&error))?;
        let bare = bare.into_iter().next();
        Ok(Self {
            turns: Turns::of(&sender),
            bare: bare.ok_or_else(|| Stopped::Lost("it has no memory stream".into()))?,
            sender,
            time,
            cancel,
            exit: 0,
        })
    }

    /// Goes through all stages. Gives the result in a few words.
    fn run(mut self) -> Result<String, Stopped> {
        let mut told = Vec::new();
        for stage in Stage::ALL {
            self.say(&Word::Begins(stage));
            let ran = self.stage(stage)?;
            match (stage, ran.times) {
                (Stage::BareAnswers | Stage::BareStream, _) => {}
                (_, Some(times)) => told.push(format!("{} {} µs", stage.words(), times.p50_us)),
                (_, None) => told.push(format!("{} {:.3} Gbit/s", stage.words(), ran.gbit_per_s())),
            }
            self.say(&Word::Ended(ran));
        }
        let heartbeats = Heartbeats::from(self.sender.stats().arrivals);
        self.say(&Word::Over(heartbeats));
        match self.sender.finish(LAST_PATIENCE) {
            Finish::Orderly => Ok(told.join(", ")),
            Finish::TimedOut => Err(Stopped::Lost("it did not take the end".into())),
            Finish::PeerLost(reason) => Err(Stopped::Lost(reason.to_string())),
        }
    }

    fn stage(&mut self, stage: Stage) -> Result<Ran, Stopped> {
        let time = stage.time(self.time);
        let before = self.sender.stats();
        let watch = Watch::begin();
        let since = Instant::now();
        let mut bare_bytes = None;
        let mut times = None;
        match (stage, stage.stretch()) {
            (_, Some(stretch)) => self.log(stretch, time)?,
            (Stage::BareStream, None) => {
                let sent = bare::send(&self.bare, piece(), time, || self.is_over());
                bare_bytes = Some(sent.map_err(|error| self.stopped(&error))?);
            }
            (Stage::BareAnswers, None) => {
                let asked = bare::ask(&self.bare, marker_bytes().len(), time, || self.is_over());
                let asked = asked.map_err(|error| self.stopped(&error))?;
                times = Some(TimesTold::new(asked.figures(), asked.count()));
            }
            (_, None) => times = Some(self.acknowledgements(time)?),
        }
        let seconds = since.elapsed().as_secs_f64();
        let after = self.sender.stats();
        Ok(Ran {
            stage,
            seconds,
            bytes: bare_bytes.unwrap_or(after.bytes - before.bytes),
            entries: after.entries - before.entries,
            times,
            pressed: watch.end(),
        })
    }

    /// Logs as much as the channel takes.
    fn log(&mut self, stretch: Stretch, time: Duration) -> Result<(), Stopped> {
        let since = Instant::now();
        let mut last = Lsn::default();
        while since.elapsed() < time && !self.is_over() {
            self.exit += 1;
            last = self.sender.append(stretch.entry(self.exit));
        }
        self.sender.flush();
        while !self.is_over() {
            match self.sender.wait_committed(last, LOOK) {
                Commit::Committed => return Ok(()),
                Commit::TimedOut | Commit::PeerLost => {}
            }
        }
        Err(self.why())
    }

    /// Outputs, each when the one before may leave.
    fn acknowledgements(&mut self, time: Duration) -> Result<TimesTold, Stopped> {
        let since = Instant::now();
        while since.elapsed() < time {
            let turned = self
                .turns
                .run(&self.sender, self.exit, TURNS, || self.is_over());
            // Turns look only while they wait, and a good network never has them wait.
            if turned.is_none() || self.is_over() {
                return Err(self.why());
            }
            self.exit += TURNS;
        }
        let (figures, count) = self.turns.times();
        Ok(TimesTold::new(figures, count))
    }

    /// Says a word in the log, at once.
    fn say(&self, word: &Word) {
        let line = serde_json::to_vec(word).expect("words can be written");
        self.sender.append_and_flush(Entry {
            point: ExecutionPoint::at_exit(self.exit),
            check: None,
            payload: Payload::ConsoleInput(line),
        });
    }

    fn is_over(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.sender.is_lost()
    }

    fn why(&self) -> Stopped {
        match self.sender.lost() {
            Some(reason) => Stopped::Lost(reason.to_string()),
            None => Stopped::Cancelled,
        }
    }

    /// Bare TCP failed, mostly because the session did, or because this is to end.
    fn stopped(&self, error: &io::Error) -> Stopped {
        match self.is_over() {
            true => self.why(),
            false => Stopped::Lost(error.to_string()),
        }
    }
}

fn failed(error: &io::Error) -> Stopped {
    Stopped::Lost(format!("this host cannot serve it: {error}"))
}
