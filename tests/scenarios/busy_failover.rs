//! A failover as users meet it: with ftvm's own timeouts, on hosts with two processors, of a guest that
//! serves several connections at a time, each with requests under way, and bulk data both ways. Before
//! that it computes, and what comes does not wait for it longer than is promised.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use testbed::pair::{Boot, Guest, Pair, one_goes_on};
use testbed::{GUEST, HostKind, LIMIT, Result, Testbed, wait_until};

const REDIS: u16 = 6379;
/// Replies that show that a connection goes on.
const REPLIES: usize = 3;
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

/// Redis computes without a system call until the next request is there, and that is always so.
const COMPUTATION: Requests = Requests {
    window: 2,
    ask: |_, _| b"EVAL \"local i = 0 while i < 1e6 do i = i + 1 end return i\" 0\r\n".to_vec(),
    hear: |replies, _| assert_eq!(line(replies), ":1000000\r\n"),
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

/// How long pings wait for their answers, in milliseconds: the median.
fn ping_takes(testbed: &Testbed) -> Result<f64> {
    let mut ping = testbed.client().command("ping")?;
    ping.args(["-n", "-c", "50", "-i", "0.04", &GUEST.to_string()]);
    let output = ping.output().expect("ping starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("time="));
    let mut times: Vec<f64> = times.filter_map(|time| time.parse().ok()).collect();
    times.sort_unstable_by(f64::total_cmp);
    Ok(*times
        .get(times.len() / 2)
        .unwrap_or_else(|| panic!("no answers: {text}")))
}

#[test]
fn nothing_of_several_connections_is_lost() -> Result<()> {
    // Namespaces have this machine's processors, and perhaps a counter, with which inputs wait for no delta.
    let testbed = Testbed::with_hosts("busy-failover", HostKind::Qemu)?.with_host_processors(2);
    // ftvm's own.
    let timeout = ["--heartbeat-timeout", "500"];
    let guest = Guest::redis("busy").boots(Boot::QuickWithTimer);
    let mut pair = Pair::start_with(&testbed, guest, &timeout, &[])?;
    for host in [&pair.a, &pair.b] {
        assert_eq!(host.check(&["nproc"])?.trim(), "2");
    }

    let idle = ping_takes(&testbed)?;
    let computing = Connection::start(&testbed, 0, COMPUTATION);
    computing.goes_on("of a guest that computes")?;
    let busy = ping_takes(&testbed)?;
    let stats = pair.primary.told().stats.expect("figures");
    let bound = stats.latency_bound_ms;
    let takes = format!(
        "a ping takes {busy} ms where the guest computes, {idle} ms where it does not; the bound is \
         {bound} ms"
    );
    eprintln!("{takes}");
    // Against what the machine does just now: it may have other work.
    assert!(busy < 3.0 * (idle + bound), "{takes}");
    computing.end();

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
