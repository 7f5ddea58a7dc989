//! What an operator does with a guest's two copies.

use clap::Args;
use disk_server::arbiter::{HostName, VmName};
use disk_server::fleet::Verb;

use super::guests::VmOrderArgs;
use super::order::{self, OrderArgs};

#[derive(Args)]
pub(in crate::cli) struct MigrateArgs {
    /// The guest.
    vm: VmName,
    /// The host where the copy is to be.
    host: HostName,
    /// Move the copy that runs, and not the backup.
    #[arg(long)]
    primary: bool,
    #[command(flatten)]
    order: OrderArgs,
}

pub(in crate::cli) fn failover(args: &VmOrderArgs) -> anyhow::Result<()> {
    order::guest(&args.order, &args.vm, Verb::Failover {}, "failover")
}

pub(in crate::cli) fn test_failover(args: &VmOrderArgs) -> anyhow::Result<()> {
    order::guest(
        &args.order,
        &args.vm,
        Verb::TestFailover {},
        "test-failover",
    )
}

pub(in crate::cli) fn restart_backup(args: &VmOrderArgs) -> anyhow::Result<()> {
    order::guest(
        &args.order,
        &args.vm,
        Verb::RestartBackup {},
        "restart-backup",
    )
}

pub(in crate::cli) fn suspend(args: &VmOrderArgs) -> anyhow::Result<()> {
    let verb = Verb::SuspendProtection {};
    order::guest(&args.order, &args.vm, verb, "suspend-protection")
}

pub(in crate::cli) fn resume(args: &VmOrderArgs) -> anyhow::Result<()> {
    let verb = Verb::ResumeProtection {};
    order::guest(&args.order, &args.vm, verb, "resume-protection")
}

pub(in crate::cli) fn migrate(args: &MigrateArgs) -> anyhow::Result<()> {
    let to = args.host.clone();
    let verb = match args.primary {
        true => Verb::MigratePrimary { to },
        false => Verb::MigrateBackup { to },
    };
    order::guest(&args.order, &args.vm, verb, "migrate")
}
