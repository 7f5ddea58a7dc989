//! QEMU COLO (`docs/COLO-FT.txt` in QEMU's sources): two QEMUs run the guest at the same time, their
//! frames are compared, and the secondary gets the primary's state at checkpoints.
//!
//! It is started at the guest's beginning, without a disk, and with the default time between
//! checkpoints, 20 s. A COLO that has lost a side waits for commands; nobody sends them here.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::{Error, Host, HostProcess, Network, Result};

/// QEMU's default time between two checkpoints (`x-checkpoint-delay`).
pub(crate) const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(20);
/// For what will never happen: an answer, or the first checkpoint.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at the state.
const LOOK: Duration = Duration::from_millis(200);
/// Where the secondary gets the primary's state.
const STATE_PORT: u16 = 9998;

/// The two QEMUs.
#[derive(Debug)]
pub(crate) struct Colo {
    primary: HostProcess,
    secondary: HostProcess,
}

/// Options of the primary, whose mirror and comparison listen at `address`. Every filter must know
/// of the header that virtio puts before a frame.
fn primary_options(address: &str) -> Vec<String> {
    let socket = |id: &str, host: &str, port: u16, server: &str| {
        let option = format!("socket,id={id},host={host},port={port}{server}");
        ["-chardev".to_owned(), option]
    };
    let object = |what: &str| ["-object".to_owned(), format!("{what},vnet_hdr_support=on")];
    let server = ",server=on,wait=off";
    let here = "127.0.0.1";
    [
        socket("mirror", address, 9003, server),
        socket("from-secondary", address, 9004, server),
        socket("to-compare", here, 9001, server),
        socket("compare-in", here, 9001, ""),
        socket("released", here, 9005, server),
        socket("compare-out", here, 9005, ""),
        object("filter-mirror,id=m0,netdev=client,queue=tx,outdev=mirror"),
        object("filter-redirector,id=r0,netdev=client,queue=rx,indev=released"),
        object("filter-redirector,id=r1,netdev=client,queue=rx,outdev=to-compare"),
        ["-object".to_owned(), "iothread,id=io".to_owned()],
        object(
            "colo-compare,id=compare,primary_in=compare-in,secondary_in=from-secondary,\
             outdev=compare-out,iothread=io",
        ),
    ]
    .concat()
}

/// Options of the secondary, for the primary at `address`.
fn secondary_options(address: &str) -> Vec<String> {
    let socket = |id: &str, port: u16| {
        let option = format!("socket,id={id},host={address},port={port},reconnect=1");
        ["-chardev".to_owned(), option]
    };
    let object = |what: &str| ["-object".to_owned(), format!("{what},vnet_hdr_support=on")];
    [
        socket("mirror", 9003),
        socket("to-primary", 9004),
        object("filter-redirector,id=f1,netdev=client,queue=tx,indev=mirror"),
        object("filter-redirector,id=f2,netdev=client,queue=rx,outdev=to-primary"),
        object("filter-rewriter,id=w0,netdev=client,queue=all"),
        ["-incoming".to_owned(), format!("tcp:0.0.0.0:{STATE_PORT}")],
    ]
    .concat()
}

impl Colo {
    /// Starts both sides with these options of a QEMU that has its network as `client`, and
    /// protects the guest.
    ///
    /// # Errors
    ///
    /// When one of them does not start or does not take a command, or there is no first checkpoint.
    pub(crate) fn start(argv: &[String], [a, b]: [&Host; 2]) -> Result<Self> {
        // The secondary gets the frames of the client network from the primary only.
        b.check(&["/usr/sbin/ip", "link", "set", "tap0", "nomaster"])?;
        Self::start_protected(argv, [a, b]).or_else(|error| {
            restore(b)?;
            Err(error)
        })
    }

    fn start_protected(argv: &[String], [a, b]: [&Host; 2]) -> Result<Self> {
        let spawn = |host: &Host, own: Vec<String>| {
            let all = argv.iter().chain(&own).map(String::as_str);
            host.spawn(&all.chain(["-qmp", "stdio"]).collect::<Vec<_>>())
        };
        let address = a.address(Network::Logging).to_string();
        let mut colo = Self {
            primary: spawn(a, primary_options(&address))?,
            secondary: spawn(b, secondary_options(&address))?,
        };
        let protect = json!([{ "capability": "x-colo", "state": true }]);
        let protect = json!({ "capabilities": protect });
        for side in [&mut colo.secondary, &mut colo.primary] {
            side.wait_for_line("\"QMP\"", LIMIT)?;
            command(side, "qmp_capabilities", &json!({}))?;
            command(side, "migrate-set-capabilities", &protect)?;
        }
        let uri = format!("tcp:{}:{STATE_PORT}", b.address(Network::Logging));
        command(&mut colo.primary, "migrate", &json!({ "uri": uri }))?;
        colo.wait_until_protected()?;
        Ok(colo)
    }

    fn wait_until_protected(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let state = command(&mut self.primary, "query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("colo") => return Ok(()),
                Some("failed" | "cancelled" | "completed") => {}
                _ if Instant::now() < deadline => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                _ => {}
            }
            return Err(Error::Timeout {
                what: "the protection of the guest by QEMU COLO".to_owned(),
                limit: LIMIT,
                seen: state.to_string(),
            });
        }
    }

    /// Why it cannot be measured any more, if so.
    pub(crate) fn trouble(&mut self) -> Option<String> {
        let sides = [
            ("primary", &mut self.primary),
            ("secondary", &mut self.secondary),
        ];
        for (name, side) in sides {
            if let Some(exit) = side.last_word(Duration::ZERO) {
                return Some(format!("QEMU COLO's {name} ended: {exit}"));
            }
        }
        let state = command(&mut self.primary, "query-colo-status", &json!({})).ok()?;
        (state["mode"] != "primary").then(|| format!("QEMU COLO does not protect: {state}"))
    }

    /// Its two processes.
    pub(crate) fn into_processes(self) -> [HostProcess; 2] {
        [self.primary, self.secondary]
    }
}

/// Undoes on the secondary's host what COLO needed.
///
/// # Errors
///
/// When the host does not answer.
pub(crate) fn restore(b: &Host) -> Result<()> {
    b.check(&["/usr/sbin/ip", "link", "set", "tap0", "master", "br0"])
        .map(drop)
}

/// Sends a command (QEMU's machine protocol), and gives its answer.
fn command(side: &mut HostProcess, name: &str, arguments: &Value) -> Result<Value> {
    let request = json!({ "execute": name, "arguments": arguments, "id": name });
    side.write(format!("{request}\n").as_bytes())?;
    let id = format!("\"id\": \"{name}\"");
    let line = side.wait_for_line(&id, LIMIT)?;
    let mut answer: Value = serde_json::from_str(&line.text).unwrap_or_default();
    if answer["return"].is_null() {
        return Err(Error::Command {
            command: request.to_string(),
            stderr: line.text,
        });
    }
    Ok(answer["return"].take())
}
