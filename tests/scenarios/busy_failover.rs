//! A failover as users meet it: with ftvm's own timeouts, on hosts with two processors, of a guest that
//! serves several connections at a time, each with requests under way, and bulk data both ways. Before
//! that it computes, and inputs do not wait for it longer than is promised.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use guest_images::agent::{self, STATUS};
use testbed::pair::{Guest, Pair, Side, one_goes_on};
use testbed::{GUEST, Result, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
const REDIS: u16 = 6379;
/// Inputs that show how long one waits.
const INPUTS: u64 = 60;
/// Replies that show that a connection goes on.
const REPLIES: usize = 5;
/// Bytes of a value that is sent and asked for.
const BULK: usize = 64 << 10;

/// What a connection asks for, one request after the other. A reply that is missing, or comes twice, is
/// not the one to the request.
#[derive(Clone, Copy)]
struct Requests {
    /// How many are under way.
    window: usize,
    /// The request of this number, from 1, of this connection.
    ask: fn(u8, usize) -> Vec<u8>,
    /// Takes the reply to that request.
    hear: fn(&mut BufReader<TcpStream>, usize),
}

const MANY: Requests = Requests {
    window: 16,
    ask: |connection, _| format!("INCR count-{connection}\r\n").into_bytes(),
    hear: |replies, number| assert_eq!(line(replies), format!(":{number}\r\n")),
};

const IN_BULK: Requests = Requests {
    window: 4,
    ask: |connection, number| {
        let mut request =
            format!("*3\r\n$3\r\nSET\r\n$1\r\n{connection}\r\n${BULK}\r\n").into_bytes();
        request.extend(value(number));
        request.extend(format!("\r\nGET {connection}\r\n").into_bytes());
        request
    },
    hear: |replies, number| {
        assert_eq!(line(replies), "+OK\r\n");
        assert_eq!(line(replies), format!("${BULK}\r\n"));
        let mut found = vec![0; BULK + 2];
        replies.read_exact(&mut found).expect("a value");
        assert!(found[..BULK] == value(number), "value {number} differs");
    },
};

/// The value of this number. It cannot be compressed.
fn value(number: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut value = vec![0; BULK];
    random.fill(&mut value);
    value
}

fn line(replies: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    replies.read_line(&mut line).expect("a reply");
    line
}

/// A connection to the guest's Redis that asks all the time.
struct Connection {
    over: Arc<AtomicBool>,
    replies: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Connection {
    fn start(testbed: &Testbed, number: u8, requests: Requests) -> Self {
        let stream = testbed.client().connect(GUEST, REDIS, LIMIT);
        let stream = stream.expect("Redis takes a connection");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.set_nodelay(true).expect("a setting");
        let over = Arc::new(AtomicBool::new(false));
        let replies = Arc::<AtomicUsize>::default();
        let (is_over, heard) = (Arc::clone(&over), Arc::clone(&replies));
        let thread = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let (mut asked, mut answered) = (0, 0);
            loop {
                while asked < answered + requests.window && !is_over.load(Ordering::Relaxed) {
                    asked += 1;
                    let request = (requests.ask)(number, asked);
                    let sent = stream.get_mut().write_all(&request);
                    sent.expect("the connection takes it");
                }
                if answered == asked {
                    return;
                }
                answered += 1;
                (requests.hear)(&mut stream, answered);
                heard.store(answered, Ordering::Relaxed);
            }
        });
        Self {
            over,
            replies,
            thread,
        }
    }

    fn goes_on(&self, when: &str) -> Result<()> {
        let count = || self.replies.load(Ordering::Relaxed);
        let before = count();
        let what = format!("replies {when}");
        wait_until(&what, LIMIT, || Ok(count() >= before + REPLIES))
    }

    /// Ends with a reply to every request.
    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("every reply was the right one");
    }
}

/// Has the guest's agent run a command, and gives what that printed.
fn in_guest(testbed: &Testbed, command: &str) -> String {
    let stream = testbed.client().connect(GUEST, agent::PORT, LIMIT);
    let mut stream = stream.expect("the agent takes a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    writeln!(stream, "{command}").expect("the connection takes it");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let output = text.trim_end().strip_suffix(&format!("{STATUS}0"));
    output
        .unwrap_or_else(|| panic!("{command}: {text}"))
        .trim()
        .to_owned()
}

/// How long inputs wait for the guest from now on, in milliseconds: the median.
fn input_wait(primary: &mut Side) -> Result<f64> {
    primary.keep_figures();
    primary.take_figures();
    let mut waits = BTreeMap::<u64, u64>::new();
    wait_until("inputs", LIMIT, || {
        for (_, mut figures) in primary.take_figures() {
            let counts = figures["input_waits_us"].take();
            let counts: Vec<(u64, u64)> = serde_json::from_value(counts).unwrap_or_default();
            for (wait, count) in counts {
                *waits.entry(wait).or_default() += count;
            }
        }
        Ok(waits.values().sum::<u64>() >= INPUTS)
    })?;
    let half = waits.values().sum::<u64>() / 2;
    let mut below = 0;
    let median = waits.into_iter().find(|(_, count)| {
        below += count;
        below > half
    });
    let (median, _) = median.expect("there were some");
    Ok(median as f64 / 1e3)
}

#[test]
fn nothing_of_several_connections_is_lost() -> Result<()> {
    let testbed = Testbed::new("busy-failover")?.with_host_processors(2);
    let mut guest = Guest::tools("busy");
    guest.words.push_str(&format!(" {}", agent::WORD));
    // ftvm's own.
    let timeout = ["--heartbeat-timeout", "500"];
    let mut pair = Pair::start_with(&testbed, guest, &timeout, &[])?;
    for host in [&pair.a, &pair.b] {
        assert_eq!(host.check(&["nproc"])?.trim(), "2");
    }

    let idle = input_wait(&mut pair.primary)?;
    let endless = "sh -c 'while :; do i=$((i + 1)); done' > /dev/null 2>&1 & echo $!";
    let computing = in_guest(&testbed, endless);
    let computes = input_wait(&mut pair.primary)?;
    let stats = pair.primary.told().stats.expect("figures");
    let bound = stats.latency_bound_ms;
    let waits = format!(
        "inputs wait {computes} ms where the guest computes, {idle} ms where it does not; the bound is \
         {bound} ms"
    );
    eprintln!("{waits}");
    // Against what the machine does just now: it may have other work.
    assert!(computes < 2.0 * (idle + bound), "{waits}");
    in_guest(&testbed, &format!("kill {computing}"));

    let connections = [(1, MANY), (2, MANY), (3, MANY), (4, IN_BULK)];
    let connections =
        connections.map(|(number, requests)| Connection::start(&testbed, number, requests));
    let all_go_on = |when: &str| -> Result<()> {
        pair.client.goes_on(when)?;
        connections
            .iter()
            .try_for_each(|connection| connection.goes_on(when))
    };
    all_go_on("before the failover")?;
    // Where the machine's processors are somebody else's for half a second, the hosts lose each other
    // by themselves: that is a failover too.
    let lost = [&mut pair.primary, &mut pair.backup].map(|side| side.told().has("peer-lost"));
    let mut live = if lost.contains(&true) {
        eprintln!("the hosts lost each other by themselves");
        one_goes_on(pair.primary, pair.backup, LIMIT)?.winner
    } else {
        pair.a.kill();
        pair.backup
    };
    live.wait_for("live", LIMIT)?;
    all_go_on("after the failover")?;
    connections.into_iter().for_each(Connection::end);
    pair.client.lost_nothing();

    testbed.succeed();
    Ok(())
}
