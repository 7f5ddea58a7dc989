//! What a processor does where processors differ: what a table of instructions came to on it.
//!
//! ```text
//!   results  count u8, at most 140
//!   result   digest u32; 0: the processor does not know the instruction
//! ```
//!
//! The results are in the order of the table (`vmm::doctor`), whose names do not travel: both sides
//! have the same protocol version, and so the same table.

use crate::bytes::{FieldError, Fields};

/// Most instructions in a table.
pub const MAX_INSTRUCTIONS: usize = 140;

/// So many instructions are named where hosts differ.
const NAMED: usize = 8;

/// The longest results.
pub(crate) const MAX_RESULTS: usize = 1 + 4 * MAX_INSTRUCTIONS;

/// What an instruction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstructionResult {
    /// It faults as one that the processor does not know (#UD), whatever its operands are.
    Undefined,
    /// A digest of all that it did with all its operands: results, flags, exceptions.
    Digest(u32),
}

impl InstructionResult {
    fn to_wire(self) -> u32 {
        match self {
            Self::Undefined => 0,
            Self::Digest(digest) => digest.max(1),
        }
    }

    fn from_wire(value: u32) -> Self {
        match value {
            0 => Self::Undefined,
            digest => Self::Digest(digest),
        }
    }
}

/// What the table of instructions came to on a host. Empty where it was not tried.
#[derive(Debug, Clone, Default)]
pub struct InstructionResults {
    /// None of what came from the peer.
    names: Vec<&'static str>,
    results: Vec<InstructionResult>,
}

impl PartialEq for InstructionResults {
    /// What they came to: the names are the same wherever there are some.
    fn eq(&self, other: &Self) -> bool {
        self.results == other.results
    }
}

impl Eq for InstructionResults {}

/// Why bytes are not results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstructionResultsError {
    /// The bytes end early.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// More than [`MAX_INSTRUCTIONS`].
    #[error("{0} instructions: at most {MAX_INSTRUCTIONS} are allowed")]
    TooMany(u8),
}

impl InstructionResults {
    /// What each instruction of the table came to.
    ///
    /// # Panics
    /// If they are more than [`MAX_INSTRUCTIONS`].
    #[must_use]
    pub fn new(table: impl IntoIterator<Item = (&'static str, InstructionResult)>) -> Self {
        let (names, results): (Vec<_>, Vec<_>) = table.into_iter().unzip();
        assert!(results.len() <= MAX_INSTRUCTIONS, "the table is too long");
        Self { names, results }
    }

    /// Each instruction's name and what it came to, in the order of the table. Empty for what came
    /// from a peer.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, InstructionResult)> + '_ {
        self.names.iter().copied().zip(self.results.iter().copied())
    }

    /// A digest of all of them.
    #[must_use]
    pub fn digest(&self) -> u32 {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        crc32fast::hash(&bytes)
    }

    /// In what another host's processor differs, in words; `None` if it does the same.
    #[must_use]
    pub fn difference(&self, there: &Self) -> Option<String> {
        let (ours, theirs) = (self.results.len(), there.results.len());
        if ours != theirs {
            return Some(format!(
                "{ours} instructions were tried here and {theirs} there, so they cannot be compared \
                 (`ftvm doctor` says why)"
            ));
        }
        let differing: Vec<String> = (0..ours)
            .filter(|&n| self.results[n] != there.results[n])
            .map(|n| {
                let unnamed = || format!("instruction {n}");
                let name = (self.names.get(n).or(there.names.get(n)))
                    .map_or_else(unnamed, |name| (*name).to_owned());
                match (self.results[n], there.results[n]) {
                    (InstructionResult::Undefined, _) => format!("{name} (known only there)"),
                    (_, InstructionResult::Undefined) => format!("{name} (known only here)"),
                    _ => name,
                }
            })
            .collect();
        let named = differing.len().min(NAMED);
        let text = differing[..named].join(", ");
        match differing.len() - named {
            0 if named == 0 => None,
            0 => Some(format!("other results of {text}")),
            more => Some(format!("other results of {text} and {more} more")),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.results.len() as u8);
        for result in &self.results {
            out.extend_from_slice(&result.to_wire().to_le_bytes());
        }
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Result<Self, InstructionResultsError> {
        let count = fields.u8()?;
        if usize::from(count) > MAX_INSTRUCTIONS {
            return Err(InstructionResultsError::TooMany(count));
        }
        let results = (0..count).map(|_| Ok(InstructionResult::from_wire(fields.u32()?)));
        Ok(Self {
            names: Vec::new(),
            results: results.collect::<Result<_, FieldError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::InstructionResult::{Digest, Undefined};
    use super::*;

    fn results() -> InstructionResults {
        InstructionResults::new([
            ("MUL", Digest(7)),
            ("RCPPS", Digest(0x1234_5678)),
            ("RDRAND", Digest(3)),
        ])
    }

    fn from_wire(results: &InstructionResults) -> InstructionResults {
        let mut bytes = Vec::new();
        results.encode(&mut bytes);
        assert!(bytes.len() <= MAX_RESULTS);
        for len in 0..bytes.len() {
            assert!(InstructionResults::decode(&mut Fields::new(&bytes[..len])).is_err());
        }
        InstructionResults::decode(&mut Fields::new(&bytes)).expect("results")
    }

    #[test]
    fn they_survive_the_wire_but_for_their_names() {
        let there = from_wire(&results());
        assert_eq!(there, results());
        assert_eq!(there.named().count(), 0);
        assert_eq!(results().difference(&there), None);
        let many = [MAX_INSTRUCTIONS as u8 + 1];
        let error = InstructionResultsError::TooMany(many[0]);
        assert_eq!(
            InstructionResults::decode(&mut Fields::new(&many)),
            Err(error)
        );
    }

    #[test]
    fn what_differs_is_named() {
        let there = from_wire(&InstructionResults::new([
            ("", Digest(7)),
            ("", Digest(0x1234_5679)),
            ("", Undefined),
        ]));
        let told = results().difference(&there).expect("two differ");
        assert_eq!(told, "other results of RCPPS, RDRAND (known only here)");
        let told = there.difference(&results()).expect("two differ");
        assert_eq!(told, "other results of RCPPS, RDRAND (known only there)");

        let all = |digest| InstructionResults::new(["FSIN"; 20].map(|name| (name, Digest(digest))));
        let told = all(1).difference(&all(2)).expect("all differ");
        assert!(told.ends_with("FSIN and 12 more"), "{told}");

        let none = InstructionResults::default();
        assert_eq!(none.difference(&none), None);
        for told in [results().difference(&none), none.difference(&results())] {
            assert!(told.expect("not compared").contains("ftvm doctor"));
        }
    }
}
