//! The agent: the server inside a host that runs commands for the testbed.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{ClockId, clock_settime};
use nix::unistd::{Pid, setsid};
use parking_lot::Mutex;

use crate::protocol::{AGENT_PORT, CHUNK, Exit, Frame, Request, TerminalSize};

/// Serves requests until the host goes down.
///
/// # Errors
///
/// When the port cannot be listened on.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, AGENT_PORT))?;
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || {
            if let Err(error) = handle(&connection) {
                // The testbed may be gone already; the console is kept as a log.
                let _ = Frame::Failed(error.to_string()).write_to(&connection);
                eprintln!("host-agent: {error}");
            }
        });
    }
    Ok(())
}

/// Sets the clock to a time since 1970, and seeds the kernel's random numbers: what a host shares
/// with others that were restored from the same snapshot.
///
/// # Errors
///
/// When the kernel refuses it.
pub fn awaken(time: Duration, seed: &[u8]) -> io::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, time.into())?;
    // What is written there is mixed in, but is not used before the next reseeding, which may be a
    // minute away.
    let mut random = fs::OpenOptions::new().write(true).open("/dev/urandom")?;
    random.write_all(seed)?;
    // SAFETY: the request has no argument.
    unsafe { requests::reseed(random.as_raw_fd()) }?;
    Ok(())
}

/// Sends a line to a Unix socket, and gives the line that comes back.
///
/// # Errors
///
/// When nobody answers there.
pub fn ask(socket: &str, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}

/// Requests to devices.
mod requests {
    nix::ioctl_none! {
        /// `RNDRESEEDCRNG` of linux/random.h.
        reseed, b'R', 0x07
    }

    nix::ioctl_write_int_bad! {
        /// `TIOCSCTTY` of ioctl_tty(2).
        set_controlling_terminal, nix::libc::TIOCSCTTY
    }
}

fn handle(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    match Frame::read_from(connection)? {
        None => Ok(()),
        Some(Frame::Request(request @ Request::Run { .. })) => run(connection, &request),
        Some(Frame::Request(Request::Put { path, mode })) => {
            put(connection, Path::new(&path), mode)
        }
        Some(Frame::Request(Request::Get { path })) => get(connection, Path::new(&path)),
        Some(Frame::Request(Request::Glance { paths })) => glance(connection, &paths),
        Some(other) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a connection begins with a request, not with {other:?}"),
        )),
    }
}

/// Adds the path to an error of the file system.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn put(connection: &TcpStream, path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    // A running program cannot be written to; its replacement can be moved there.
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&partial)
        .map_err(at(&partial))?;
    loop {
        match Frame::read_from(connection)? {
            Some(Frame::Input(bytes)) => file.write_all(&bytes).map_err(at(&partial))?,
            Some(Frame::EndOfInput) => break,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(at(&partial))?;
    drop(file);
    fs::rename(&partial, path).map_err(at(path))?;
    Frame::Exit(Exit::Code(0)).write_to(connection)
}

fn get(connection: &TcpStream, path: &Path) -> io::Result<()> {
    let file = File::open(path).map_err(at(path))?;
    pump(file, connection, Frame::Stdout)?;
    Frame::Exit(Exit::Code(0)).write_to(connection)
}

/// Reads files, but for those that are not there, as of a process that has just ended.
fn glance(connection: &TcpStream, paths: &[String]) -> io::Result<()> {
    let paths = paths.iter().flat_map(|path| each(path));
    let files: Vec<(String, String)> = paths
        .filter_map(|path| {
            let contents = fs::read(&path).ok()?;
            Some((path, String::from_utf8_lossy(&contents).into_owned()))
        })
        .collect();
    pump(
        serde_json::to_vec(&files)?.as_slice(),
        connection,
        Frame::Stdout,
    )?;
    Frame::Exit(Exit::Code(0)).write_to(connection)
}

/// The paths that one with a directory `*` stands for.
fn each(path: &str) -> Vec<String> {
    let Some((parent, rest)) = path.split_once("/*/") else {
        return vec![path.to_owned()];
    };
    let names = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .map(|name| format!("{parent}/{name}/{rest}"))
        .collect()
}

/// Sends all that `input` gives.
fn pump(
    mut input: impl Read,
    output: impl Write + Copy,
    frame: fn(Vec<u8>) -> Frame,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(()),
            length => frame(buffer[..length].to_vec()).write_to(output)?,
        }
    }
}

/// The process group of a running command; `None` once the command is reaped,
/// when its number may belong to another.
type Group = Arc<Mutex<Option<Pid>>>;

fn signal(group: &Group, signal: Signal) {
    if let Some(pid) = *group.lock() {
        // The group may have ended by itself.
        let _ = killpg(pid, signal);
    }
}

/// What a command prints to, and the frames that carry it.
type Printed = (Box<dyn Read + Send>, fn(Vec<u8>) -> Frame);

/// A command with the ends of its pipes, or of its terminal, that are ours.
struct Started {
    child: Child,
    input: Box<dyn Write + Send>,
    outputs: Vec<Printed>,
}

fn run(connection: &TcpStream, request: &Request) -> io::Result<()> {
    let Started {
        mut child,
        input,
        outputs,
    } = start(request)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let group: Group = Arc::new(Mutex::new(Some(pid)));

    let requests = connection.try_clone()?;
    let control = thread::spawn({
        let group = Arc::clone(&group);
        move || follow(&requests, input, &group)
    });
    // Frames of the two outputs must not mix.
    let writer = Arc::new(Mutex::new(connection.try_clone()?));
    let pumps: Vec<_> = outputs
        .into_iter()
        .map(|(pipe, frame)| pump_thread(pipe, Arc::clone(&writer), frame))
        .collect();

    // What the command left running in its group goes with it. The command
    // itself is still a zombie then, so that the number is not another's.
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    signal(&group, Signal::SIGKILL);
    let status = reap(&mut child, &group)?;
    for pump in pumps {
        // A pump fails when the testbed is gone, and so will the next line; a
        // terminal's fails when its last user is gone.
        let _ = pump.join();
    }
    Frame::Exit(exit_of(status)).write_to(connection)?;
    connection.shutdown(std::net::Shutdown::Both)?;
    let _ = control.join();
    Ok(())
}

fn start(request: &Request) -> io::Result<Started> {
    let Request::Run {
        argv,
        env,
        terminal,
    } = request
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).envs(env);
    // SAFETY: between fork and exec the closure makes a single system call and
    // allocates nothing.
    unsafe {
        // This thread waits for the command, so that the two die together only
        // when the agent dies.
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let started = match terminal {
        Some(size) => start_in_terminal(command, *size),
        None => start_in_pipes(command),
    };
    started.map_err(at(Path::new(program)))
}

fn start_in_pipes(mut command: Command) -> io::Result<Started> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.process_group(0).spawn()?;
    let missing = "the pipe was asked for";
    let input = Box::new(child.stdin.take().expect(missing));
    let output = Box::new(child.stdout.take().expect(missing));
    let errors = Box::new(child.stderr.take().expect(missing));
    let outputs: Vec<Printed> = vec![(output, Frame::Stdout), (errors, Frame::Stderr)];
    Ok(Started {
        child,
        input,
        outputs,
    })
}

fn start_in_terminal(mut command: Command, size: TerminalSize) -> io::Result<Started> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None)?;
    command
        .stdin(pty.slave.try_clone()?)
        .stdout(pty.slave.try_clone()?)
        .stderr(pty.slave);
    // SAFETY: between fork and exec the closure makes two system calls and
    // allocates nothing.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            // Descriptor 0 is the terminal.
            requests::set_controlling_terminal(0, 0)?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    let master = File::from(pty.master);
    let input = Box::new(master.try_clone()?);
    Ok(Started {
        child,
        input,
        outputs: vec![(Box::new(master), Frame::Stdout)],
    })
}

fn reap(child: &mut Child, group: &Group) -> io::Result<ExitStatus> {
    let mut group = group.lock();
    let status = child.wait()?;
    *group = None;
    Ok(status)
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

fn pump_thread(
    pipe: impl Read + Send + 'static,
    writer: Arc<Mutex<TcpStream>>,
    frame: fn(Vec<u8>) -> Frame,
) -> thread::JoinHandle<io::Result<()>> {
    struct Locked<'a>(&'a Mutex<TcpStream>);
    impl Write for &Locked<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Frames are written in one piece.
            self.0.lock().write_all(bytes)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    thread::spawn(move || pump(pipe, &Locked(&writer), frame))
}

/// Takes input and signals for a command; kills it when the connection ends.
fn follow(connection: &TcpStream, input: impl Write, group: &Group) {
    let mut input = Some(input);
    loop {
        match Frame::read_from(connection) {
            Ok(Some(Frame::Input(bytes))) => {
                if let Some(pipe) = &mut input
                    && pipe.write_all(&bytes).is_err()
                {
                    input = None;
                }
            }
            Ok(Some(Frame::EndOfInput)) => input = None,
            Ok(Some(Frame::Signal(number))) => {
                if let Ok(number) = Signal::try_from(number) {
                    signal(group, number);
                }
            }
            _ => break,
        }
    }
    signal(group, Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_every_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_str().expect("a path");
        for name in ["1", "2"] {
            fs::create_dir(format!("{root}/{name}")).expect("a directory");
        }
        let mut paths = each(&format!("{root}/*/stat"));
        paths.sort();
        assert_eq!(paths, [format!("{root}/1/stat"), format!("{root}/2/stat")]);
        assert_eq!(each("/proc/uptime"), ["/proc/uptime"]);
        assert_eq!(each("/nowhere/*/stat"), [""; 0]);
    }
}
