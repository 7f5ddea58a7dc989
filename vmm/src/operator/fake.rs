//! A service that answers operators as a test has it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use disk_server::arbiter::ServerNumber;
use disk_server::arbiter::protocol::{ErrorCode, Greeting, Request, Response};
use disk_server::fleet::{Answer, LagBounds, Member, Operation, Placement, State, VmStatus};
use disk_server::views::{HostRecord, Text};
use transport::{Endpoint, Opening, Patience, Service};

use super::client::Client;

/// A client of a service that tells these hosts and answers by `operate`; an error is a refusal.
pub(super) fn service(
    hosts: Vec<HostRecord>,
    operate: impl FnMut(Operation) -> Result<Answer, String> + Send + 'static,
) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut operate = operate;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A refusal ends the connection, as it does at the real one.
            let _ = serve(stream, &hosts, &mut operate);
        }
    });
    Client::new(address.into(), Endpoint::plain(), Text::cut("anna@ops1"))
}

fn serve(
    socket: TcpStream,
    hosts: &[HostRecord],
    operate: &mut impl FnMut(Operation) -> Result<Answer, String>,
) -> std::io::Result<()> {
    let opening = Opening::Preface(Service::DiskServer);
    let patience = Patience::of(Duration::from_secs(60));
    let mut out = Endpoint::plain().answer(socket, opening, &[], patience)?;
    let greeting = serde_json::to_string(&Greeting::of(ServerNumber(1)))?;
    writeln!(out, "{greeting}")?;
    for line in BufReader::new(out.clone()).lines().skip(1) {
        let response = match serde_json::from_str(&line?)? {
            Request::ListHosts { .. } => Response::Hosts {
                hosts: hosts.to_vec(),
                more: false,
            },
            Request::Operate { operation } => match operate(operation) {
                Ok(outcome) => Response::Operated { outcome },
                Err(message) => Response::Error {
                    code: ErrorCode::Refused,
                    message,
                },
            },
            other => panic!("nobody asks this: {other:?}"),
        };
        writeln!(out, "{}", serde_json::to_string(&response)?)?;
        if let Response::Error { .. } = response {
            break;
        }
    }
    Ok(())
}

/// A guest that is protected.
pub(super) fn guest(vm: &str, primary: &str, backup: &str) -> VmStatus {
    let member = |host: &str| Member {
        host: host.parse().expect("a name"),
        claimant: format!("{host}/1").parse().expect("a name"),
        live: true,
        console: None,
    };
    VmStatus {
        vm: vm.parse().expect("a name"),
        defined: true,
        state: State::Protected,
        view: 4,
        placement: Placement {
            primary: Some(member(primary)),
            backup: Some(member(backup)),
        },
        lag_ms: Some(12),
        lag: LagBounds::default(),
        log_bytes_per_second: Some(512_500),
        last_failover: None,
        last_failure: None,
        pending: None,
    }
}

/// A host with a daemon.
pub(super) fn host(name: &str) -> HostRecord {
    let record = serde_json::json!({
        "host": format!("{name}/0"), "live": true, "proposed": false, "unfit": null,
        "carries": {"memory_mib": 3412, "processor": "AMD family 23 model 49", "instructions": 1,
            "paging": "shadow", "exports": []},
        "role": {"host": {"processes": {}, "ended": [], "machine": "", "console": "0.0.0.0:7422"}},
    });
    serde_json::from_value(record).expect("a host")
}
