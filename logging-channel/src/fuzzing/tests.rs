//! A short share of the targets.

#[path = "../../../tests/fuzz/inputs.rs"]
mod inputs;

use proptest::prelude::*;

use self::inputs::inputs;
use super::*;

proptest! {
    #[test]
    fn a_message_of_the_handshake_is_understood_or_refused(input in inputs(handshakes())) {
        handshake(&input);
    }

    #[test]
    fn a_caller_is_let_in_or_refused(input in inputs(callers())) {
        door(&input);
    }

    #[test]
    fn a_datagram_of_a_stranger_is_not_heard(input in inputs(heartbeats())) {
        heartbeat(&input);
    }

    #[test]
    fn a_batch_is_understood_or_refused(input in inputs(batches())) {
        batch(&input);
    }

    #[test]
    fn a_block_of_memory_is_understood_or_refused(input in inputs(blocks())) {
        memory(&input);
    }
}
