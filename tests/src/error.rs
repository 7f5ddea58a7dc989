//! What can go wrong in the testbed itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::Exit;

/// The testbed could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program that the testbed needs is missing.
    #[error("`{program}` is not at {path}: run `cargo xtask setup`")]
    MissingProgram {
        /// The program.
        program: String,
        /// Where it was expected.
        path: PathBuf,
    },
    /// The host image could not be made.
    #[error("cannot make what hosts boot")]
    Image(#[from] guest_images::error::ImageError),
    /// A file could not be read or written.
    #[error("cannot access {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command on this machine could not be started.
    #[error("cannot start `{command}`: is it installed (`cargo xtask setup`), and are you root?")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command on this machine failed.
    #[error("`{command}` failed: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its standard error.
        stderr: String,
    },
    /// A network namespace could not be entered.
    #[error("cannot enter network namespace {name}")]
    Namespace {
        /// The namespace.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU ended while the host was booting.
    #[error("host {host}: QEMU ended during the boot; its last words:\n{output}")]
    Died {
        /// The host.
        host: String,
        /// The end of QEMU's errors and of the serial console.
        output: String,
    },
    /// QEMU did not do what it was told.
    #[error("host {host}: QEMU's monitor; its last words:\n{output}")]
    Monitor {
        /// The host.
        host: String,
        /// The end of QEMU's errors and of the serial console.
        output: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A client of the guest got no further.
    #[error("the client got no {what}: {trouble}")]
    Client {
        /// What it waited for.
        what: String,
        /// What went wrong.
        trouble: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}; last seen:\n{seen}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// What was seen instead.
        seen: String,
    },
    /// Something that was tested is not as it should be.
    #[error("{what}; seen:\n{seen}")]
    Wrong {
        /// What is not.
        what: String,
        /// What shows it.
        seen: String,
    },
    /// The connection to a host's agent failed.
    #[error("host {host} does not answer")]
    Agent {
        /// The host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent could not carry out a request.
    #[error("host {host}: {reason}")]
    Refused {
        /// The host.
        host: String,
        /// The agent's words.
        reason: String,
    },
    /// A command in a host failed.
    #[error("host {host}: `{command}`: {exit}\n{output}")]
    Failed {
        /// The host.
        host: String,
        /// The command line.
        command: String,
        /// How it ended.
        exit: Exit,
        /// What it printed.
        output: String,
    },
    /// There is no such host.
    #[error(
        "there is no running host `{host}`: `cargo xtask host --keep --name {host}` starts one"
    )]
    NoSuchHost {
        /// The host.
        host: String,
    },
    /// A host of that name is running already.
    #[error("host `{host}` is running already: `cargo xtask stop {host}` ends it")]
    HostExists {
        /// The host.
        host: String,
    },
}

/// Results of the testbed.
pub type Result<T> = std::result::Result<T, Error>;
