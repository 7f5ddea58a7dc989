//! What makes a replay differ, by what differs.

use super::{Difference, Divergence, StateDifference};

const PROGRAM: &str = "a program that uses what differs from host to host or from run to run and \
     cannot be intercepted: random numbers of the processor (RDRAND, RDSEED), or the x87 pointers \
     that FNSTENV and FXSAVE store (glibc's fegetenv and swapcontext)";
const HOST: &str = "a host whose processor or memory is faulty, or a fault of ftvm: run `ftvm \
     doctor` on both hosts, look for machine checks in their logs, and test their memory";

impl Divergence {
    /// What most likely caused it, in words, if the same guest differs again and again.
    #[must_use]
    pub fn likely_cause(&self) -> String {
        match &self.difference {
            Difference::State(state) => state.likely_cause(),
            Difference::Register { .. }
            | Difference::RegisterDigest { .. }
            | Difference::Event { .. }
            | Difference::Memory { .. } => format!("{PROGRAM}; or {HOST}"),
            Difference::SharedRead { .. } => {
                "somebody else writes to the disk, or the hosts do not use the same one".into()
            }
            Difference::Transfer(_) => format!(
                "the hosts do not run the same kernel or the same ftvm, so that one does not take \
                 the other's state; or {HOST}"
            ),
            Difference::Seek(_) | Difference::Processor(_) | Difference::Overdue { .. } => {
                format!("the two processors do not count or execute alike; or {HOST}")
            }
        }
    }
}

impl StateDifference {
    fn likely_cause(&self) -> String {
        if self.parts == ["FPU"] && self.registers.is_empty() {
            return "the FPU alone differs: a program that uses x87 instructions, whose pointers \
                    some processors leave as the host has them"
                .into();
        }
        if self.parts.is_empty() && !self.pages.is_empty() {
            let place = self
                .stack
                .map_or(String::new(), |stack| format!(" on {stack}"));
            return format!("memory{place} differs and no device does: {PROGRAM}; or {HOST}");
        }
        if self.parts.iter().any(|part| *part != "FPU") {
            return HOST.into();
        }
        format!("{PROGRAM}; or {HOST}")
    }
}

#[cfg(test)]
mod tests {
    use logging_channel::entry::{ExecutionPoint, Lsn};

    use super::*;

    #[test]
    fn what_differs_tells_the_cause() {
        let cause = |state| {
            Divergence {
                point: ExecutionPoint::at_exit(1),
                lsn: Lsn(1),
                difference: Difference::State(Box::new(state)),
            }
            .likely_cause()
        };
        let fpu = StateDifference {
            parts: vec!["FPU"],
            ..StateDifference::default()
        };
        assert!(cause(fpu).contains("x87"));
        let stack = StateDifference {
            pages: vec![7],
            stack: Some("a program's stack"),
            ..StateDifference::default()
        };
        let told = cause(stack);
        assert!(
            told.contains("on a program's stack") && told.contains("RDRAND"),
            "{told}"
        );
        let device = StateDifference {
            parts: vec!["pit"],
            ..StateDifference::default()
        };
        assert!(cause(device).contains("faulty"));
    }
}
