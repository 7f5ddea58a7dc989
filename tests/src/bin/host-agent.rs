//! The agent that runs in every host of the testbed; see `testbed::agent`.
//!
//! `host-agent awaken NANOSECONDS SEED` makes a host that was restored from a snapshot differ from
//! the others of that snapshot. `host-agent ask SOCKET LINE` shows what a Unix socket answers.

use std::io;
use std::time::Duration;

use testbed::agent;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [] => agent::serve(),
        [verb, time, seed] if verb == "awaken" => {
            let nanoseconds = time.parse().map_err(io::Error::other)?;
            agent::awaken(Duration::from_nanos(nanoseconds), seed.as_bytes())
        }
        [verb, socket, line] if verb == "ask" => {
            print!("{}", agent::ask(socket, line)?);
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
