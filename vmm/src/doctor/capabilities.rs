//! What a host has for guests, in the words of the view service.

use std::collections::BTreeSet;

use disk_server::nbd::ExportName;
use disk_server::views::{Capabilities, Paging, Text};
use logging_channel::HostReport;

use super::catalogue::PROCESSOR;
use super::has_shadow_paging;

/// What a host has, by its report, or a guest needs that runs on it: with so much memory, and these exports.
#[must_use]
pub fn capabilities(
    host: &HostReport,
    memory_mib: u64,
    exports: BTreeSet<ExportName>,
) -> Capabilities {
    let checks = host.checks();
    let processor = checks.iter().find(|check| check.name == PROCESSOR);
    Capabilities {
        memory_mib,
        processor: Text::cut(processor.map_or("unknown", |check| &check.measured)),
        instructions: host.instructions().digest(),
        paging: match has_shadow_paging(host) {
            true => Paging::Shadow,
            false => Paging::Nested,
        },
        exports,
    }
}
