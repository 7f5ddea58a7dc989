//! A debugger at a replayed guest, doing anything.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::inspect::{Debugger, Inspector};
use logging_channel::entry::Lsn;
use proptest::prelude::*;

use crate::replayer;
use crate::shadow_pages::{first_difference, record, replay_with, writers};
use crate::world::{MadeUpWorld, Playback};

/// Where [`ftvm_vmm::fake_cpu`] has its code.
const CODE: u64 = 0xffff_ffff_8100_0000;

/// What a debugger does.
#[derive(Debug, Clone)]
enum Act {
    Step,
    /// Continues to a breakpoint at this operation of the script.
    Break(u8),
    /// Reads registers and memory, and tries to write both.
    Look,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => Just(Act::Step),
        2 => any::<u8>().prop_map(Act::Break),
        1 => Just(Act::Look),
    ];
    prop::collection::vec(act, 0..40)
}

/// A client of GDB's remote protocol.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        loop {
            // The port opens when the guest stands.
            if let Ok(stream) = TcpStream::connect(address) {
                let limit = Some(Duration::from_secs(60));
                stream.set_read_timeout(limit).expect("a limit");
                return Self(stream);
            }
            thread::yield_now();
        }
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).expect("an answer");
        byte[0]
    }

    /// Sends a packet and gives the answer to it.
    fn ask(&mut self, packet: &str) -> String {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        write!(self.0, "${packet}#{sum:02x}").expect("sent");
        while self.byte() != b'$' {}
        let mut answer = String::new();
        loop {
            match self.byte() {
                b'#' => break,
                // Run-length encoding.
                b'*' => {
                    let last = answer.pop().expect("something to repeat");
                    let times = usize::from(self.byte() - 28);
                    answer.extend(std::iter::repeat_n(last, times));
                }
                other => answer.push(other.into()),
            }
        }
        self.byte(); // the checksum: TCP has its own
        self.byte();
        self.0.write_all(b"+").expect("sent");
        answer
    }

    /// Does it. `false` when the guest has ended.
    fn act(&mut self, act: &Act) -> bool {
        match act {
            Act::Step => self.ask("s").starts_with('T'),
            Act::Break(op) => {
                let at = format!("0,{:x},1", CODE + 64 * u64::from(*op));
                assert_eq!(self.ask(&format!("Z{at}")), "OK");
                let answer = self.ask("c");
                answer.starts_with('T') && self.ask(&format!("z{at}")) == "OK"
            }
            Act::Look => {
                let registers = self.ask("g");
                assert!(registers.len() > 300, "{registers}");
                assert_eq!(self.ask("m1000,8").len(), 16);
                assert!(self.ask(&format!("G{registers}")).starts_with('E'));
                assert!(self.ask("M1000,1:ff").starts_with('E'));
                true
            }
        }
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("it is bound")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Single steps leave traces in a fake guest, as they do in a real one, and change its memory; none is
    /// left in the replay. Nor does it show in what the hypervisor does to the guest's paging.
    #[test]
    fn a_debugger_does_not_disturb_a_replay(script in writers(), acts in acts(), seed: u64) {
        let mut dice = Dice(seed);
        let world = MadeUpWorld::new(dice.roll(u64::MAX), 0);
        let (recorded, log, noticed) = record(world, &script, &mut dice, None);
        prop_assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
        let address = free_address();
        let client = thread::spawn(move || {
            let mut client = Client::connect(address);
            let on = acts.iter().all(|act| client.act(act));
            if on {
                assert_eq!(client.ask("D"), "OK");
            }
        });
        let (replayed, noticed_again) = replay_with(&script, &mut dice, |memory| {
            let next = Rc::new(Cell::new(Lsn(1)));
            let replayer = replayer(Playback::with_state(log), memory);
            let inspector = Inspector::new(replayer, memory.clone(), next);
            Box::new(inspector.with_debugger(Debugger::new(address)))
        });
        client.join().expect("the debugger was answered");
        prop_assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
        prop_assert!(replayed.is_like(&recorded));
        prop_assert!(replayed.contents() == recorded.contents());
        prop_assert_eq!(first_difference(&noticed, &noticed_again), None);
    }
}
