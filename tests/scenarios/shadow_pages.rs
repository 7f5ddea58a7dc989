//! KVM's shadow pages, as a host counts them.

use testbed::{Host, HostProcess, LIMIT, Result};

/// Writes down in a host, again and again, how many shadow pages KVM has made for the guest that runs, and
/// how many it took away to make others.
pub(crate) struct ShadowPages<'a> {
    host: &'a Host,
    watching: HostProcess,
}

impl<'a> ShadowPages<'a> {
    pub(crate) fn watch(host: &'a Host) -> Result<Self> {
        const AGAIN: &str = "kvm=/sys/kernel/debug/kvm
            [ -d $kvm ] || mount -t debugfs debugfs /sys/kernel/debug
            rm -f /tmp/seen-enough
            until [ -e /tmp/seen-enough ]; do
                echo $(cat $kvm/mmu_cache_miss $kvm/mmu_recycled)
                sleep 0.1
            done > /tmp/shadow-pages";
        let watching = host.spawn(&["sh", "-c", AGAIN])?;
        Ok(Self { host, watching })
    }

    /// There were some, and never too few.
    pub(crate) fn were_enough(self) -> Result<()> {
        self.host.check(&["touch", "/tmp/seen-enough"])?;
        self.watching.wait(LIMIT)?;
        let counted = self.host.check(&["cat", "/tmp/shadow-pages"])?;
        let most = |column| {
            let words = counted
                .lines()
                .filter_map(|line| line.split(' ').nth(column));
            words
                .filter_map(|word| word.parse::<u64>().ok())
                .max()
                .expect("KVM counts")
        };
        println!("shadow pages: {} made, {} recycled", most(0), most(1));
        assert!(most(0) > 0, "{counted}");
        assert_eq!(most(1), 0, "KVM had too few shadow pages: {counted}");
        Ok(())
    }
}
