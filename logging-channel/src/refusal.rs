//! Why a primary refuses a backup.

use std::fmt;

use crate::bytes::{FieldError, Fields};

/// Longest message of a refusal, in bytes.
pub const MAX_REFUSAL_MESSAGE: usize = 1024;

/// Why a primary refuses a backup, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// Another protocol version.
    OtherVersion,
    /// Another VM.
    OtherVm,
    /// Another guest image.
    OtherImage,
    /// Another CPU model.
    OtherCpu,
    /// Another memory size.
    OtherMemorySize,
    /// Another TSC frequency.
    OtherClock,
    /// The primary already has a backup.
    AlreadyHasBackup,
    /// The VM's host cannot take a backup at the moment.
    NotNow,
    /// The VM is ending.
    Ending,
    /// What the peer sent is not a handshake.
    NotUnderstood,
    /// Its host lacks what this guest needs.
    HostUnfit,
    /// Another disk, or one where the other has none.
    OtherDisk,
    /// Another disk server decides who may run it.
    OtherArbiter,
    /// Its host's processor does otherwise.
    OtherProcessor,
    /// A code of a later version.
    Unknown(u16),
}

impl RefusalCode {
    fn number(self) -> u16 {
        match self {
            RefusalCode::OtherVersion => 1,
            RefusalCode::OtherVm => 2,
            RefusalCode::OtherImage => 3,
            RefusalCode::OtherCpu => 4,
            RefusalCode::OtherMemorySize => 5,
            RefusalCode::OtherClock => 6,
            RefusalCode::AlreadyHasBackup => 7,
            RefusalCode::NotNow => 8,
            RefusalCode::Ending => 9,
            RefusalCode::NotUnderstood => 10,
            RefusalCode::HostUnfit => 11,
            RefusalCode::OtherDisk => 12,
            RefusalCode::OtherArbiter => 13,
            RefusalCode::OtherProcessor => 14,
            RefusalCode::Unknown(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            1 => RefusalCode::OtherVersion,
            2 => RefusalCode::OtherVm,
            3 => RefusalCode::OtherImage,
            4 => RefusalCode::OtherCpu,
            5 => RefusalCode::OtherMemorySize,
            6 => RefusalCode::OtherClock,
            7 => RefusalCode::AlreadyHasBackup,
            8 => RefusalCode::NotNow,
            9 => RefusalCode::Ending,
            10 => RefusalCode::NotUnderstood,
            11 => RefusalCode::HostUnfit,
            12 => RefusalCode::OtherDisk,
            13 => RefusalCode::OtherArbiter,
            14 => RefusalCode::OtherProcessor,
            other => RefusalCode::Unknown(other),
        }
    }
}

/// Why a primary refuses a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For a program.
    pub code: RefusalCode,
    /// For a person: what differs, with both values, and what to do.
    pub message: String,
}

impl Refusal {
    /// Appends the refusal: code u16, length of the message u16, message. No version changes this.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let end = self.message.floor_char_boundary(MAX_REFUSAL_MESSAGE);
        out.extend_from_slice(&self.code.number().to_le_bytes());
        out.extend_from_slice(&(end as u16).to_le_bytes());
        out.extend_from_slice(&self.message.as_bytes()[..end]);
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Result<Self, FieldError> {
        let code = RefusalCode::from_number(fields.u16()?);
        let len = usize::from(fields.u16()?);
        let text = String::from_utf8_lossy(fields.bytes(len)?);
        // It goes into logs, and to terminals.
        let mut message = text.replace(char::is_control, " ");
        message.truncate(message.floor_char_boundary(MAX_REFUSAL_MESSAGE));
        Ok(Self { code, message })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever answers in place of a primary, where no keys are asked for, can say anything.
    #[test]
    fn a_refusal_is_read_as_words_that_can_be_printed() {
        let said = |message: &[u8]| {
            let len = (message.len() as u16).to_le_bytes();
            let bytes = [&[8, 0], &len[..], message].concat();
            Refusal::decode(&mut Fields::new(&bytes)).expect("whole")
        };
        let refusal = said(b"not now\x1b[2J\nprimary: all is well");
        assert_eq!(refusal.code, RefusalCode::NotNow);
        assert_eq!(refusal.message, "not now [2J primary: all is well");
        // What is no UTF-8 gets longer.
        for byte in [b'a', 0xff] {
            let refusal = said(&[byte; 3 * MAX_REFUSAL_MESSAGE]);
            let mut again = Vec::new();
            refusal.encode(&mut again);
            assert_eq!(Refusal::decode(&mut Fields::new(&again)), Ok(refusal));
        }
    }
}
