//! The server's side of one connection.

use std::io;
use std::net::{IpAddr, Shutdown};
use std::time::{Duration, Instant};

use transport::Stream;

use super::decision::{Answer, ClaimRequest, MAX_EPOCH};
use super::lines::{LineError, Lines, Patience};
use super::names::{ServerNumber, VmName};
use super::protocol::{
    ErrorCode, Greeting, PAGE, Request, Response, SERVICE, VERSIONS, VmRecord, page,
};
use super::store::StoreError;
use crate::export::Exports;
use crate::fence::{AcknowledgeError, Claimed, FencedStore, ForgetError, NotYet, WaitLimit};
use crate::fleet::{FleetService, OperateError, Operation};
use crate::logging::{Limited, excerpt};
use crate::policy::{Act, Caller, Guard};
use crate::stream;
use crate::views::{Role, TooManyHosts};

/// How patient a session is with its client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionLimits {
    /// Between two requests.
    pub(crate) idle: Duration,
    /// Within a line, the greeting, and for the client to take an answer.
    pub(crate) line: Duration,
    /// For what must have been done before a claim is answered.
    pub(crate) clearing: Duration,
}

/// What sessions tell and decide of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) store: &'a FencedStore,
    pub(crate) exports: &'a Exports,
    pub(crate) fleet: &'a FleetService,
    pub(crate) guard: &'a Guard,
}

/// Serves one client until it leaves, errs, or is idle for too long.
pub(crate) fn serve(stream: Stream, subject: Subject<'_>, limits: SessionLimits) {
    let caller = Caller::of(&stream);
    let peer = stream::peer(&stream);
    let mut lines = Lines::new(stream);
    match converse(&mut lines, (&caller, &peer), subject, limits) {
        End::Left => {}
        End::Gone(error) => log::debug!("client {peer}: {error}"),
        End::Refused { code, message } => {
            static REFUSED: Limited = Limited::new();
            // Who is denied something is told already.
            if code != ErrorCode::Denied
                && let Some(left_out) = REFUSED.let_through()
            {
                log::info!("client {peer} refused: {}{left_out}", excerpt(&message));
            }
            refuse(&lines, code, message);
        }
    }
}

/// How a conversation ended.
enum End {
    Left,
    Gone(io::Error),
    Refused { code: ErrorCode, message: String },
}

fn converse(
    lines: &mut Lines,
    (caller, peer): (&Caller, &str),
    subject: Subject<'_>,
    limits: SessionLimits,
) -> End {
    let version = match greet(lines, subject.store.server_number(), limits) {
        Ok(version) => version,
        Err(end) => return end,
    };
    log::debug!("client {peer} is spoken with in version {version}");
    let from = match lines.stream().peer_addr() {
        Ok(address) => address.ip(),
        Err(error) => return End::Gone(error),
    };
    loop {
        let line = match lines.next(Patience {
            idle: limits.idle,
            line: limits.line,
            cancel: None,
        }) {
            Ok(line) => line,
            Err(error) => return end_of(error),
        };
        let request = match read(&line, version) {
            Ok(request) => request,
            Err(error) => return refused(ErrorCode::Malformed, format!("not a request: {error}")),
        };
        if let Err(denied) = subject.guard.permit(caller, &Act::of(&request), peer) {
            return refused(ErrorCode::Denied, denied.to_string());
        }
        let request = heard(request, |act| {
            subject.guard.permit(caller, act, peer).is_ok()
        });
        let limit = WaitLimit::with(limits.clearing, lines.stream());
        let response = match respond(subject, caller, request, from, limit) {
            Ok(response) => response,
            Err(end) => return end,
        };
        if let Err(error) = lines.send(&response) {
            return End::Gone(error);
        }
    }
}

/// The request in a line of this version.
#[cfg_attr(
    not(feature = "next-protocol"),
    expect(
        unused_variables,
        reason = "no request differs between the versions that are spoken"
    )
)]
fn read(line: &[u8], version: u16) -> serde_json::Result<Request> {
    #[cfg(feature = "next-protocol")]
    let line = &super::next::take(version, line)?;
    serde_json::from_slice(line)
}

/// What is heard of a request: the ping of a daemon without the guests that do not name its host, of which it has
/// nothing to say. The ping itself is heard, because the others are.
fn heard(request: Request, may: impl Fn(&Act<'_>) -> bool) -> Request {
    match request {
        Request::Ping(mut ping) => {
            if let Role::Host(tended) = &mut ping.role {
                tended.processes.retain(|vm, _| may(&Act::Tell { vm }));
                tended
                    .ended
                    .retain(|ended| may(&Act::Tell { vm: &ended.vm }));
            }
            Request::Ping(ping)
        }
        other => other,
    }
}

/// Exchanges greetings, and gives the version that is spoken from there on. Ours goes first: a client that speaks
/// another version reads who we are.
fn greet(lines: &mut Lines, number: ServerNumber, limits: SessionLimits) -> Result<u16, End> {
    let stream = lines.stream();
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_write_timeout(Some(limits.line)))
        .and_then(|()| lines.send(&Greeting::of(number)))
        .map_err(End::Gone)?;
    let line = lines
        .next(Patience {
            idle: limits.line,
            line: limits.line,
            cancel: None,
        })
        .map_err(end_of)?;
    let greeting: Greeting = serde_json::from_slice(&line)
        .map_err(|error| refused(ErrorCode::Malformed, format!("not a greeting: {error}")))?;
    greeting.common().ok_or_else(|| {
        refused(
            ErrorCode::Version,
            format!(
                "this server speaks {SERVICE} version {VERSIONS}, not {:?} version {}",
                greeting.ftvm,
                greeting.versions()
            ),
        )
    })
}

fn respond(
    subject: Subject<'_>,
    caller: &Caller,
    request: Request,
    from: IpAddr,
    limit: WaitLimit<'_>,
) -> Result<Response, End> {
    let Subject {
        store,
        exports,
        fleet,
        guard: _,
    } = subject;
    Ok(match request {
        Request::CompareAndSet {
            vm,
            expected_epoch: expected,
            claimant,
            next,
        } => {
            let request = ClaimRequest {
                expected,
                claimant,
                next,
            };
            claim(store, &vm, &request, limit)?
        }
        Request::Acknowledge { vm, epoch, holder } => {
            match store.acknowledge(&vm, (epoch, &holder), limit) {
                Ok(record) => Response::Record(record),
                Err(AcknowledgeError::NotYet(reason)) => {
                    return Err(not_yet(reason.to_string(), reason));
                }
                Err(AcknowledgeError::Store(error)) => return Err(not_stored(error)),
            }
        }
        Request::Forget { vm } => forget(store, &vm, limit)?,
        Request::Read { vm } => Response::Record(store.read(&vm)),
        Request::List { after } => {
            let mut records = store.list(after.as_ref(), PAGE + 1);
            let more = records.len() > PAGE;
            records.truncate(PAGE);
            let vms = records
                .into_iter()
                .map(|(vm, record)| VmRecord { vm, record })
                .collect();
            Response::Page { vms, more }
        }
        Request::ListExports { after } => {
            let (exports, more) = page(exports.records(after.as_ref()));
            Response::Exports { exports, more }
        }
        Request::Ping(ping) => {
            let order = fleet.ping(&ping, from, store);
            let full = |error: TooManyHosts| refused(ErrorCode::Full, error.to_string());
            Response::Pinged {
                order: order.map_err(full)?,
                record: ping.role.vm().map(|vm| store.read(vm)),
            }
        }
        Request::ListHosts { after } => {
            let (hosts, more) = fleet.with_hosts(after.as_ref(), store, |hosts| page(hosts));
            Response::Hosts { hosts, more }
        }
        Request::Operate { operation } => {
            let operation = match caller {
                Caller::Known(peer) => operation.asked_by(&peer.name),
                Caller::Anybody => operation,
            };
            operate(subject, operation, limit)?
        }
        Request::Echo {} => Response::Echo {},
    })
}

fn claim(
    store: &FencedStore,
    vm: &VmName,
    request: &ClaimRequest,
    limit: WaitLimit<'_>,
) -> Result<Response, End> {
    let ClaimRequest {
        expected, claimant, ..
    } = request;
    if *expected >= MAX_EPOCH {
        let message = format!("no epoch follows {expected}; the last is {MAX_EPOCH}");
        return Err(refused(ErrorCode::Malformed, message));
    }
    static WON: Limited = Limited::new();
    static LOST: Limited = Limited::new();
    log::debug!("{vm}: {claimant} claims epoch {}", expected + 1);
    match store.claim(vm, request, limit).map_err(not_stored)? {
        Claimed::Answered(Answer::Won { epoch }) => {
            if let Some(left_out) = WON.let_through() {
                log::info!("{vm}: epoch {epoch} is held by {claimant}{left_out}");
            }
            Ok(Response::Won { epoch })
        }
        Claimed::Answered(Answer::Lost { epoch, holder }) => {
            if let Some(left_out) = LOST.let_through() {
                let lost = expected + 1;
                log::info!("{vm}: {claimant} lost epoch {lost}, now {epoch}{left_out}");
            }
            Ok(Response::Lost { epoch, holder })
        }
        Claimed::NotClear { epoch, reason } => Err(not_yet(
            format!(
                "epoch {epoch} of {vm} is given to {claimant}, but writes of an earlier one are \
                 under way: {reason}"
            ),
            reason,
        )),
        Claimed::Undecided(reason) => Err(not_yet(
            format!("the claim of {claimant} to {vm} is not decided: {reason}"),
            reason,
        )),
    }
}

fn forget(store: &FencedStore, vm: &VmName, limit: WaitLimit<'_>) -> Result<Response, End> {
    match store.forget(vm, limit) {
        Ok(()) => {
            static FORGOTTEN: Limited = Limited::new();
            if let Some(left_out) = FORGOTTEN.let_through() {
                log::info!("{vm} is forgotten{left_out}");
            }
            Ok(Response::Forgotten {})
        }
        Err(ForgetError::NotYet(reason)) => Err(not_yet(reason.to_string(), reason)),
        Err(ForgetError::Store(error)) => Err(not_stored(error)),
        Err(error) => Err(refused(ErrorCode::Refused, error.to_string())),
    }
}

fn operate(
    subject: Subject<'_>,
    operation: Operation,
    limit: WaitLimit<'_>,
) -> Result<Response, End> {
    let undefined = match &operation {
        Operation::Undefine { vm, .. } => Some(vm.clone()),
        _ => None,
    };
    let outcome = subject.fleet.operate(operation, subject.store);
    let outcome = outcome.map_err(|error| match error {
        OperateError::Refused(why) => refused(ErrorCode::Refused, why.to_string()),
        OperateError::Storage(_) => {
            let error = anyhow::Error::from(error);
            let message = format!("{error:#}");
            storage_fails(error);
            refused(ErrorCode::Storage, message)
        }
    })?;
    if let Some(vm) = undefined
        && let Err(error) = subject.store.forget(&vm, limit)
    {
        // It has a disk here, or never ran: a record more, and no harm.
        log::debug!("{vm} is kept no longer, and its record is: {error}");
    }
    Ok(Response::Operated { outcome })
}

fn not_stored(error: StoreError) -> End {
    match error {
        StoreError::Full => refused(ErrorCode::Full, error.to_string()),
        StoreError::Storage(_) => {
            storage_fails(error);
            let message = "the server cannot store decisions; its log says why".to_owned();
            refused(ErrorCode::Storage, message)
        }
    }
}

fn storage_fails(error: impl Into<anyhow::Error>) {
    static NOT_STORED: Limited = Limited::new();
    if let Some(left_out) = NOT_STORED.let_through() {
        let error: anyhow::Error = error.into();
        log::error!("{error:#}; who asked waits, and asks again{left_out}");
    }
}

/// Not an answer of its own kind: to every client, however old, "busy" means to ask again.
fn not_yet(message: String, reason: NotYet) -> End {
    match reason {
        NotYet::Left => End::Gone(io::Error::new(io::ErrorKind::BrokenPipe, message)),
        NotYet::Slow | NotYet::Crowded => refused(ErrorCode::Busy, message),
    }
}

fn refused(code: ErrorCode, message: String) -> End {
    End::Refused { code, message }
}

fn end_of(error: LineError) -> End {
    let message = error.to_string();
    match error {
        LineError::Closed | LineError::Idle(_) | LineError::Cancelled => End::Left,
        LineError::ClosedInLine => End::Gone(io::ErrorKind::UnexpectedEof.into()),
        LineError::Io(error) => End::Gone(error),
        LineError::TooLong => refused(ErrorCode::TooLong, message),
        LineError::Slow(_) => refused(ErrorCode::TimedOut, message),
    }
}

/// Tells an error and ends the connection so that the client can read it.
fn refuse(lines: &Lines, code: ErrorCode, message: String) {
    let stream = lines.stream();
    let told = lines.send(&Response::Error { code, message });
    if (told.and_then(|()| stream.shutdown(Shutdown::Write))).is_err() {
        return;
    }
    // A socket that is closed with unread bytes resets the connection, and the reset overtakes the
    // answer. So read on for a moment what a client of oversize lines still sends.
    let end = Instant::now() + Duration::from_secs(1);
    let mut chunk = [0_u8; 4096];
    let mut allowance: usize = 1 << 20;
    while allowance > 0 {
        match stream.read_until(&mut chunk, end) {
            Ok(0) | Err(_) => return,
            Ok(n) => allowance = allowance.saturating_sub(n),
        }
    }
}
