//! `disk-server`: the command line.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use confinement::{Calls, Capability, Confinement, Reach, Use};
use disk_server::arbiter::{Arbiter, ServerAddress, Settings, VmName};
use disk_server::export::ExportSpec;
use disk_server::logging;
use disk_server::server::{Config, Limits, NbdConfig, Server};
use disk_server::state::StateDirectory;
use disk_server::status::Status;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use transport::{
    Endpoint, EndpointError, KEY_FILE, Mode, TRUST_FILE, key_of_person, socket_address,
};

/// The disk server of ftvm: decides which host of a replicated virtual machine may run it alone, and
/// serves the disks that both hosts share.
#[derive(Debug, Parser)]
#[command(
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    serve: Option<Serve>,
    #[command(flatten)]
    keys: Keys,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Who this is to others, and who they are.
#[derive(Debug, Args)]
struct Keys {
    /// This machine's key, or yours, as `ftvm key generate` makes it. If not given, /etc/ftvm/key.pem, or what is
    /// asked of a server with ~/.config/ftvm/key.pem, if that is there
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Whose keys are trusted
    #[arg(long, global = true, value_name = "FILE", default_value = TRUST_FILE)]
    trust: PathBuf,
    /// Do without keys: nothing is authenticated or encrypted. Every side has to say so
    #[arg(long, global = true, conflicts_with_all = ["key", "trust"])]
    plain: bool,
}

impl Keys {
    /// As this machine's server.
    fn of_server(&self) -> Result<Endpoint, EndpointError> {
        self.endpoint(Path::new(KEY_FILE))
    }

    /// As the person who runs this, if it has a key of its own, and as this machine otherwise.
    fn of_person(&self) -> Result<Endpoint, EndpointError> {
        self.endpoint(&key_of_person())
    }

    /// The files of a server's key, and of whose keys are trusted.
    fn files_of_server(&self) -> Option<(&Path, &Path)> {
        let key = self.key.as_deref().unwrap_or(Path::new(KEY_FILE));
        (!self.plain).then_some((key, &self.trust))
    }

    fn endpoint(&self, default: &Path) -> Result<Endpoint, EndpointError> {
        match self.plain {
            true => Ok(Endpoint::plain()),
            false => Endpoint::read(self.key.as_deref().unwrap_or(default), &self.trust),
        }
    }
}

#[derive(Debug, Args)]
struct Serve {
    /// Where to listen; port 0 takes a free port, which the first line of output names
    #[arg(long, value_name = "IP:PORT", value_parser = socket_address)]
    listen: SocketAddr,
    /// Directory for the state, which is made if it is missing. Keep it: epochs must never go back
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where NBD clients reach the disks; port 0 takes a free port, which the second line of output
    /// names. The usual port is 10809
    #[arg(long, value_name = "IP:PORT", value_parser = socket_address, requires = "exports")]
    nbd_listen: Option<SocketAddr>,
    /// A disk: an image file or block device, and the virtual machine that owns it, if one does. Can
    /// be given any number of times
    #[arg(
        long = "export",
        value_name = "NAME=PATH[,vm=VM][,read-only]",
        requires = "nbd_listen"
    )]
    exports: Vec<ExportSpec>,
    /// Where Prometheus reads metrics, and load balancers ask whether the server is well: in the clear, without keys.
    /// Give an address of the management network, or of loopback; port 0 takes a free port, which the last line of
    /// output names
    #[arg(long, value_name = "IP:PORT", value_parser = socket_address)]
    metrics: Option<SocketAddr>,
    /// How many clients of the arbiter, and how many of the disks, may be connected at a time
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,
}

impl Serve {
    /// Confines the server to its state, and for its start to its key, its disks and its ports. Before there is a
    /// second thread.
    fn confine(&self, keys: &Keys) -> anyhow::Result<Confinement> {
        // What is not there cannot be told the kernel.
        StateDirectory::make(&self.state)?;
        let mut later = Reach::of_every_program().with(&self.state, Use::Own);
        let addresses = [Some(self.listen), self.nbd_listen, self.metrics];
        let ports = addresses.iter().flatten().map(SocketAddr::port).collect();
        let mut start = Reach::default().binding(&ports);
        if let Some((key, trust)) = keys.files_of_server() {
            start = start.with(key, Use::Read);
            later = later.with_replaced(trust, Use::Read);
        }
        for export in &self.exports {
            start = start.with(&export.path, Use::Device);
        }
        // Files of others, as root opens them, and ports below 1024.
        let capabilities = [Capability::DacOverride, Capability::NetBindService];
        let confinement = Confinement::begin(start, later, &capabilities);
        Ok(confinement.calling(&[Calls::Threads, Calls::Files, Calls::Storage, Calls::Accept]))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the virtual machines, their epochs and who holds them; the hosts, and which of them is to be
    /// a backup, or why none is; and the disks with their clients and how many requests were refused
    Status {
        /// The disk server to ask
        #[arg(long, value_name = "HOST:PORT")]
        server: ServerAddress,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove the record of a virtual machine that is not needed any more: that has stopped, and has
    /// no disk here
    Forget {
        /// The virtual machine
        vm: VmName,
        /// The disk server that has the record
        #[arg(long, value_name = "HOST:PORT")]
        server: ServerAddress,
    },
    /// Write the manual pages
    #[command(hide = true)]
    ManPages {
        /// The directory they go to
        directory: PathBuf,
    },
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    // The log is a second thread.
    let confinement = match (&cli.command, &cli.serve) {
        (None, Some(serve)) => Some(serve.confine(&cli.keys)).transpose(),
        _ => Ok(None),
    };
    logging::start();
    let status = match confinement.and_then(|confinement| run(cli, confinement)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            disk_server::lossy_writer::say(&format!("disk-server: {error:#}\n"));
            ExitCode::FAILURE
        }
    };
    logging::end();
    status
}

fn run(cli: Cli, confinement: Option<Confinement>) -> anyhow::Result<()> {
    match (cli.command, cli.serve) {
        (Some(Command::Status { server, json }), _) => {
            let endpoint = cli.keys.of_person()?;
            let plain = endpoint.mode() == Mode::Plain;
            let arbiter = Arbiter::new(server, endpoint, Settings::default());
            let status = Status {
                plain,
                vms: arbiter.list()?,
                exports: arbiter.list_exports()?,
                hosts: arbiter.list_hosts()?,
            };
            let text = if json { status.json() } else { status.text() };
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
        (Some(Command::Forget { vm, server }), _) => {
            Ok(Arbiter::new(server, cli.keys.of_person()?, Settings::default()).forget(&vm)?)
        }
        (Some(Command::ManPages { directory }), _) => {
            std::fs::create_dir_all(&directory)?;
            Ok(clap_mangen::generate_to(Cli::command(), &directory)?)
        }
        (None, Some(serve)) => run_server(serve, cli.keys.of_server()?, confinement.as_ref()),
        (None, None) => anyhow::bail!("--listen and --state are needed; see --help"),
    }
}

fn run_server(
    args: Serve,
    endpoint: Endpoint,
    confinement: Option<&Confinement>,
) -> anyhow::Result<()> {
    let nbd = match args.nbd_listen {
        None => None,
        Some(listen) => Some(NbdConfig {
            listen,
            exports: args
                .exports
                .iter()
                .map(|spec| {
                    spec.open()
                        .with_context(|| format!("cannot export {}", spec.name))
                })
                .collect::<anyhow::Result<_>>()?,
        }),
    };
    let server = Server::bind(Config {
        listen: args.listen,
        endpoint,
        state: args.state,
        nbd,
        metrics: args.metrics,
        limits: Limits {
            connections: args.max_connections,
            ..Limits::default()
        },
    })?;
    if let Some(confinement) = confinement {
        confinement.has_started();
    }
    let stop = server.stop_handle();
    // SIGHUP asks to open the log anew, and standard error has no file to open. SIGXFSZ comes with a
    // write beyond the limit of file sizes (setrlimit(2)), which is no reason to stop all machines: it
    // fails, and its client is told that there is no room.
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM, SIGXFSZ]).context("cannot handle signals")?;
    let heed = move || {
        (signals
            .forever()
            .filter(|signal| [SIGINT, SIGTERM].contains(signal)))
        .for_each(|_| stop.stop());
    };
    let named = thread::Builder::new().name("signals".to_owned());
    confinement::spawn(named, &[], heed).context("cannot start a thread")?;
    // One line of output for each address, for people and for programs that need the port.
    let mut lines = format!("listening on {}\n", server.local_addr());
    if let Some(address) = server.nbd_addr() {
        lines.push_str(&format!("nbd on {address}\n"));
    }
    if let Some(address) = server.metrics_addr() {
        lines.push_str(&format!("metrics on {address}\n"));
    }
    // In a thread of its own: a pipe that nobody reads keeps nobody from being served.
    let announce = move || {
        let mut out = std::io::stdout();
        let said = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
        if let Err(error) = said {
            log::warn!("cannot say where the server listens: {error}");
        }
    };
    let named = thread::Builder::new().name("announce".to_owned());
    confinement::spawn(named, &[], announce).context("cannot start a thread")?;
    server.run()?;
    log::info!("ended in order");
    Ok(())
}
