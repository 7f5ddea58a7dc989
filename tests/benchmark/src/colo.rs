//! QEMU COLO (`docs/COLO-FT.txt` in QEMU's sources): two QEMUs run the guest at the same time, their
//! frames are compared, and the secondary gets the primary's state at checkpoints.
//!
//! It is started at the guest's beginning, without a disk, and with the default time between
//! checkpoints, 20 s. A COLO that has lost a side waits for commands; nobody sends them here.

use std::time::Duration;

use serde_json::json;
use testbed::{Error, Host, HostProcess, Network, Result, wait_until};

use crate::qmp;

/// QEMU's default time between two checkpoints (`x-checkpoint-delay`).
pub(crate) const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(20);
/// For what will never happen: an answer, or the first checkpoint.
const LIMIT: Duration = Duration::from_secs(120);
/// Where the secondary gets the primary's state.
const STATE_PORT: &str = "9998";

/// Options of the primary, whose mirror and comparison listen at ADDRESS. Every filter must know of
/// the header that virtio puts before a frame.
const PRIMARY: &str = "
    -chardev socket,id=mirror,host=ADDRESS,port=9003,server=on,wait=off
    -chardev socket,id=from-secondary,host=ADDRESS,port=9004,server=on,wait=off
    -chardev socket,id=to-compare,host=127.0.0.1,port=9001,server=on,wait=off
    -chardev socket,id=compare-in,host=127.0.0.1,port=9001
    -chardev socket,id=released,host=127.0.0.1,port=9005,server=on,wait=off
    -chardev socket,id=compare-out,host=127.0.0.1,port=9005
    -object filter-mirror,id=m0,netdev=client,queue=tx,outdev=mirror,vnet_hdr_support=on
    -object filter-redirector,id=r0,netdev=client,queue=rx,indev=released,vnet_hdr_support=on
    -object filter-redirector,id=r1,netdev=client,queue=rx,outdev=to-compare,vnet_hdr_support=on
    -object iothread,id=io
    -object colo-compare,id=compare,primary_in=compare-in,secondary_in=from-secondary,\
outdev=compare-out,iothread=io,vnet_hdr_support=on";

/// Options of the secondary, for the primary at ADDRESS.
const SECONDARY: &str = "
    -chardev socket,id=mirror,host=ADDRESS,port=9003,reconnect=1
    -chardev socket,id=to-primary,host=ADDRESS,port=9004,reconnect=1
    -object filter-redirector,id=f1,netdev=client,queue=tx,indev=mirror,vnet_hdr_support=on
    -object filter-redirector,id=f2,netdev=client,queue=rx,outdev=to-primary,vnet_hdr_support=on
    -object filter-rewriter,id=w0,netdev=client,queue=all,vnet_hdr_support=on
    -incoming tcp:0.0.0.0:STATE_PORT";

/// The two QEMUs.
#[derive(Debug)]
pub(crate) struct Colo {
    primary: HostProcess,
    secondary: HostProcess,
}

impl Colo {
    /// Starts both sides with these options of a QEMU that has its network as `client`, and
    /// protects the guest: there has been a first checkpoint.
    pub(crate) fn start(argv: &[String], [a, b]: [&Host; 2]) -> Result<Self> {
        // The secondary gets the frames of the client network from the primary only.
        b.check(&["/usr/sbin/ip", "link", "set", "tap0", "nomaster"])?;
        Self::start_protected(argv, [a, b]).or_else(|error| {
            restore(b)?;
            Err(error)
        })
    }

    fn start_protected(argv: &[String], [a, b]: [&Host; 2]) -> Result<Self> {
        let address = a.address(Network::Logging).to_string();
        let spawn = |host: &Host, own: &str| {
            let own = own
                .replace("ADDRESS", &address)
                .replace("STATE_PORT", STATE_PORT);
            let all = argv
                .iter()
                .map(String::as_str)
                .chain(own.split_whitespace());
            host.spawn(&all.chain(qmp::OPTIONS).collect::<Vec<_>>())
        };
        let mut colo = Self {
            primary: spawn(a, PRIMARY)?,
            secondary: spawn(b, SECONDARY)?,
        };
        let protect = json!([{ "capability": "x-colo", "state": true }]);
        let protect = json!({ "capabilities": protect });
        for side in [&mut colo.secondary, &mut colo.primary] {
            qmp::greet(side)?;
            qmp::execute(side, "migrate-set-capabilities", &protect)?;
        }
        let uri = format!("tcp:{}:{STATE_PORT}", b.address(Network::Logging));
        qmp::execute(&mut colo.primary, "migrate", &json!({ "uri": uri }))?;
        wait_until("the protection of the guest by QEMU COLO", LIMIT, || {
            let state = qmp::execute(&mut colo.primary, "query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("colo") => Ok(true),
                Some("failed" | "cancelled" | "completed") => Err(Error::Refused {
                    host: a.name().to_owned(),
                    reason: format!("QEMU COLO does not protect: {state}"),
                }),
                _ => Ok(false),
            }
        })?;
        Ok(colo)
    }

    /// Why it cannot be measured any more, if so.
    pub(crate) fn trouble(&mut self) -> Option<String> {
        for (name, side) in [
            ("primary", &mut self.primary),
            ("secondary", &mut self.secondary),
        ] {
            if let Some(exit) = side.last_word(Duration::ZERO) {
                return Some(format!("QEMU COLO's {name} ended: {exit}"));
            }
        }
        let state = qmp::execute(&mut self.primary, "query-colo-status", &json!({})).ok()?;
        (state["mode"] != "primary").then(|| format!("QEMU COLO does not protect: {state}"))
    }

    /// Its two processes.
    pub(crate) fn into_processes(self) -> [HostProcess; 2] {
        [self.primary, self.secondary]
    }
}

/// Undoes on the secondary's host what COLO needed.
pub(crate) fn restore(b: &Host) -> Result<()> {
    b.check(&["/usr/sbin/ip", "link", "set", "tap0", "master", "br0"])
        .map(drop)
}
