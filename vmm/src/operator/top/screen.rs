//! The terminal, and the thread that asks the service.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use disk_server::arbiter::VmName;
use disk_server::fleet::{Entry, OrderNumber};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::draw::draw;
use super::keys::{Action, Key};
use super::model::{Model, Snapshot};
use crate::operator::client::{Client, ClientError};

/// Between two questions to the service.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a key, a signal and an answer may wait, in milliseconds.
const TICK: u8 = 50;

/// So much of what happened is shown.
const HISTORY: usize = 200;

/// Why the screen ends, other than by a key or a signal.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// There is none.
    #[error("`ftvm top` needs a terminal: `ftvm vm list` is for everything else")]
    NoTerminal,
    /// It fails.
    #[error("the terminal")]
    Terminal(#[source] io::Error),
}

/// What the service said.
enum News {
    Snapshot(Snapshot),
    Lost(String),
    Order(Action, Result<OrderNumber, String>),
    History(Result<Vec<Entry>, String>),
}

/// Shows the fleet until a person has seen enough, the terminal is gone, or `ended` is set. `console` gives the
/// terminal, as it was before, to a guest's console, and says why that is not there.
///
/// # Errors
/// See [`TopError`].
pub fn run(
    client: Client,
    ended: &AtomicBool,
    mut console: impl FnMut(&VmName) -> Result<(), String>,
) -> Result<(), TopError> {
    if !io::IsTerminal::is_terminal(&io::stdout()) || !io::IsTerminal::is_terminal(&io::stdin()) {
        return Err(TopError::NoTerminal);
    }
    // A line of the log would stand across the screen.
    log::set_max_level(log::LevelFilter::Off);
    let mut model = Model::new(client.address().to_string());
    let (orders, news) = start(client).map_err(TopError::Terminal)?;
    // It has a panic put the terminal back first.
    let mut terminal = ratatui::try_init().map_err(TopError::Terminal)?;
    let shown = show(
        &mut terminal,
        &mut model,
        (&orders, &news),
        ended,
        &mut console,
    );
    // One that is gone needs nothing.
    let _ = ratatui::try_restore();
    shown.map_err(TopError::Terminal)
}

fn show(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    (orders, news): (&Sender<Action>, &Receiver<News>),
    ended: &AtomicBool,
    console: &mut impl FnMut(&VmName) -> Result<(), String>,
) -> io::Result<()> {
    let (mut changed, mut patience) = (true, TICK);
    while !ended.load(Ordering::Relaxed) {
        if changed {
            terminal.draw(|frame| draw(frame, model))?;
        }
        changed = false;
        for news in news.try_iter() {
            changed = true;
            match news {
                News::Snapshot(snapshot) => model.see(snapshot),
                News::Lost(why) => model.lose(why),
                News::Order(action, outcome) => model.told(&action, outcome),
                News::History(history) => model.remember(history),
            }
        }
        // At a terminal that is gone, the library would read for ever.
        if !is_there(io::stdin().as_fd(), patience)? {
            return Ok(());
        }
        if !event::poll(Duration::ZERO)? {
            patience = TICK;
            continue;
        }
        // It may have read more than one key.
        (changed, patience) = (true, 0);
        let Event::Key(key) = event::read()? else {
            // The size: it is drawn anew.
            continue;
        };
        match key_of(key).and_then(|key| model.hit(key)) {
            None => {}
            Some(Action::Quit) => return Ok(()),
            Some(Action::Console(vm)) => {
                ratatui::restore();
                if let Err(why) = console(&vm) {
                    model.complain(why);
                }
                if ended.load(Ordering::Relaxed) {
                    return Ok(());
                }
                *terminal = ratatui::try_init()?;
                terminal.clear()?;
            }
            // The thread lives as long as this.
            Some(action) => drop(orders.send(action)),
        }
    }
    Ok(())
}

/// Waits for something to read, so many milliseconds: whether the terminal is there still.
fn is_there(terminal: BorrowedFd<'_>, patience: u8) -> nix::Result<bool> {
    let mut fds = [PollFd::new(terminal, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(patience)) {
        Err(Errno::EINTR) => return Ok(true),
        polled => polled?,
    };
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    let found = fds[0].revents().unwrap_or(PollFlags::empty());
    Ok(!found.intersects(gone))
}

fn key_of(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    match event.code {
        KeyCode::Char('c') if control => Some(Key::Letter('q')),
        KeyCode::Char(_) if control => None,
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
        KeyCode::Tab | KeyCode::BackTab => Some(Key::Tab),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Esc => Some(Key::Escape),
        KeyCode::Char(letter) => Some(Key::Letter(letter)),
        _ => None,
    }
}

/// Starts the thread that asks the service, every [`INTERVAL`] and for what it is sent.
fn start(client: Client) -> io::Result<(Sender<Action>, Receiver<News>)> {
    let (orders, to_do) = unbounded();
    let (tell, news) = unbounded();
    thread::Builder::new()
        .name("service".into())
        .spawn(move || {
            loop {
                let looked = match look(&client) {
                    Ok(snapshot) => News::Snapshot(snapshot),
                    Err(error) => News::Lost(chain(&error)),
                };
                let told = tell.send(looked);
                let done = match to_do.recv_timeout(INTERVAL) {
                    Ok(action) => carry_out(&client, action).map_or(Ok(()), |news| tell.send(news)),
                    Err(RecvTimeoutError::Timeout) => Ok(()),
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                if told.is_err() || done.is_err() {
                    return;
                }
            }
        })?;
    Ok((orders, news))
}

fn look(client: &Client) -> Result<Snapshot, ClientError> {
    let vms = client.list()?;
    let hosts = client.hosts(&vms)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Snapshot {
        vms,
        hosts,
        unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    })
}

fn carry_out(client: &Client, action: Action) -> Option<News> {
    Some(match &action {
        Action::Guest(vm, verb) => {
            let order = client.order_guest(vm, verb.clone());
            News::Order(action, order.map_err(|error| chain(&error)))
        }
        Action::Host(host, verb) => {
            let order = client.order_host(host, *verb);
            News::Order(action, order.map_err(|error| chain(&error)))
        }
        Action::History(vm) => {
            let mut left = HISTORY;
            let history = client.history(vm.as_ref(), |_| {
                left = left.saturating_sub(1);
                left > 0
            });
            News::History(history.map_err(|error| chain(&error)))
        }
        Action::Quit | Action::Console(_) => return None,
    })
}

/// An error with what caused it, in a line.
fn chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_terminal_that_is_gone_is_seen() {
        let (mut keyboard, terminal) = UnixStream::pair().unwrap();
        let is_there = |patience| is_there(terminal.as_fd(), patience).unwrap();
        assert!(is_there(0));
        keyboard.write_all(b"q").unwrap();
        assert!(is_there(TICK));
        drop(keyboard);
        assert!(!is_there(0));
    }
}
