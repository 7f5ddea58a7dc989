//! Each state that a guest on three hosts comes into is told by `ftvm vm status`, for people and as JSON, for as long
//! as its cause lasts, and then the guest is protected again; `ftvm history` has one after the other. Another guest on
//! the same hosts is not disturbed when a copy of the one crashes.

use std::time::Duration;

use disk_server::arbiter::Claimant;
use disk_server::fleet::{LagBounds, Member};
use serde_json::Value;
use testbed::fleet::{Daemon, Operator, Stage, signal_guest, start_guests_with};
use testbed::pair::{DiskServer, Guest, PATIENCE};
use testbed::workload::Client;
use testbed::{
    Error, Host, LIMIT, Layout, Network, Result, SABOTAGED_FTVM, Testbed, guest_address, wait_until,
};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const VM: &str = "db";
/// The other guest.
const BESIDE: &str = "web";
/// Between two requests of a client.
const REST: Duration = Duration::from_millis(200);

/// The lag of a guest with whose log nothing is wrong is far below that, also on emulated hosts.
const LAG: LagBounds = LagBounds {
    yellow_ms: 500,
    red_ms: 1000,
};
/// By how long the log is held up: more than a red lag, and less than the heartbeat timeout.
const DELAY: Duration = Duration::from_millis(1800);
const _: () = assert!(DELAY.as_millis() < PATIENCE.as_millis());

/// What the hosts start as `ftvm`, with the sabotaged one as its first argument. A state is sent so slowly that a join
/// and a repair are seen, and digests are so frequent that a flipped bit is found before it is flipped back.
const WRAPPER: &str = r#"cat > /tmp/wrapper <<END
#!/bin/sh
case \$1 in
backup) set -- "\$@" --sabotage memory ;;
esac
exec $1 "\$@" --transfer-limit 16 --digest-interval 100
END
chmod 755 /tmp/wrapper"#;

/// The guest's initramfs, of which each host has a copy that can be spoilt.
const INITRD: &str = "/tmp/initrd.cpio";

/// The states, by what `state` or else `reason` is in JSON. Others may come in between.
const TOLD: [&str; 16] = [
    "protected",
    "suspended",
    "joining",
    "protected",
    "lagging",
    "protected",
    "diverged",
    "protected",
    // Its primary crashes.
    "joining",
    "protected",
    "logging_network_down",
    "joining",
    "protected",
    "no_idle_host",
    "joining",
    "protected",
];

/// The guest, and the operator anna.
struct Scene(Stage);

#[test]
fn each_state_is_told_and_the_guest_is_protected_again() -> Result<()> {
    let testbed = Testbed::new("states")?;
    let service = DiskServer::start(&testbed)?;
    let mut scene = Scene::start(&testbed, &service)?;
    scene.0.operator.start(BESIDE)?;
    scene.0.operator.protected(BESIDE, LIMIT)?;
    let beside = Client::counting(testbed.client(), guest_address(2), REST);
    beside.goes_on("beside the other one")?;
    let told = scene.goes_through_all().and_then(|()| scene.has_history());
    told.inspect_err(|_| scene.0.print_logs())?;
    beside.goes_on("at the end")?;
    beside.lost_nothing();
    let stage = scene.0;
    stage.client.goes_on("at the end")?;
    stage.client.lost_nothing();
    for vm in [VM, BESIDE] {
        stage.operator.stop(vm, LIMIT)?;
    }
    testbed.succeed();
    Ok(())
}

/// Copies the guest's initramfs to its own place.
fn copy_initrd(host: &Host) -> Result<()> {
    let image = host.image("tiny.cpio");
    host.check(&["cp", &image, INITRD]).map(drop)
}

impl Scene {
    /// The one guest is protected, and the other one is defined.
    fn start(testbed: &Testbed, service: &DiskServer) -> Result<Self> {
        let hosts: Vec<Host> = testbed.start_hosts(HOSTS)?.into();
        let mut daemons = Vec::new();
        let sabotaged = Layout::find().program(SABOTAGED_FTVM)?;
        for host in &hosts {
            copy_initrd(host)?;
            daemons.push(Daemon::start(host, service)?);
            let program = host.provide(&sabotaged, SABOTAGED_FTVM)?;
            host.check(&["sh", "-c", WRAPPER, "sh", &program])?;
            start_guests_with(host, "/tmp/wrapper")?;
        }
        let operator = Operator::called("anna", testbed, service);
        let mut guest = Guest::counting(VM, 1).quick();
        guest.initrd = INITRD.to_owned();
        operator.define_with(&guest, &hosts[0], PATIENCE, LAG)?;
        let beside = Guest::counting(BESIDE, 2).quick();
        operator.define(&beside, &hosts[0], PATIENCE)?;
        let client = || Client::counting(testbed.client(), guest_address(1), REST);
        Stage::start_on(hosts, daemons, operator, VM, client).map(Self)
    }

    fn goes_through_all(&mut self) -> Result<()> {
        self.is_protected()?;
        self.protection_is_suspended_and_resumed()?;
        self.the_log_is_held_up()?;
        self.the_backup_differs()?;
        self.the_primary_crashes()?;
        self.no_host_is_reached()?;
        self.the_last_host_has_another_image()
    }

    fn protection_is_suspended_and_resumed(&self) -> Result<()> {
        self.0.order(&["suspend-protection", VM])?;
        let told = self.says("suspended", "suspended by anna", &[])?;
        assert_eq!(told["backup"], Value::Null, "{told}");
        self.0
            .operator
            .told(&["resume-protection", VM, "--no-wait"])?;
        let told = self.says("joining", "joining ", &[" %"])?;
        let words = told["words"].as_str().unwrap_or_default();
        let percent = words.strip_prefix("Not protected: joining ");
        let percent = percent.and_then(|it| it.strip_suffix(" %")?.parse().ok());
        assert!(percent.is_some_and(|it: u8| it <= 100), "{told}");
        self.is_protected()
    }

    /// The backup's host answers late.
    fn the_log_is_held_up(&self) -> Result<()> {
        let (_, backup) = self.0.protected()?;
        let backup = self.0.host(&backup);
        backup.delay(Network::Logging, DELAY)?;
        let told = self.says("lagging", "lagging by ", &[" ms"])?;
        assert_eq!(told["lag_colour"], "red", "{told}");
        assert!(told["lag_ms"].as_u64() > Some(LAG.red_ms), "{told}");
        backup.undisturb(Network::Logging)?;
        self.is_protected()
    }

    fn the_backup_differs(&self) -> Result<()> {
        let (_, backup) = self.0.protected()?;
        signal_guest(self.0.host(&backup), VM, "USR1")?;
        let told = self.says("diverged", "diverged (repairing)", &[])?;
        assert_eq!(told["backup"]["host"], *backup, "{told}");
        self.is_protected()
    }

    /// Its backup goes on, and another one joins. The other guest stays as it is.
    fn the_primary_crashes(&self) -> Result<()> {
        let [before, beside] = [self.copies_of(VM)?, self.copies_of(BESIDE)?];
        let (primary, backup) = self.0.protected()?;
        signal_guest(self.0.host(&primary), VM, "KILL")?;
        let what = "that the backup runs it";
        self.0.operator.wait_for(VM, what, LIMIT, |status| {
            let runs = status.placement.primary.as_ref();
            status.view > before.0 && runs.is_some_and(|it| it.host.as_str() == backup)
        })?;
        self.is_protected()?;
        assert_eq!(self.copies_of(BESIDE)?, beside, "{BESIDE} beside {VM}");
        Ok(())
    }

    /// The only two hosts that may have it are cut off from one another: it goes on, on one of them.
    fn no_host_is_reached(&self) -> Result<()> {
        let idle = self.0.idle_host()?;
        self.0.order(&["host", "drain", &idle])?;
        let (primary, backup) = self.0.protected()?;
        self.0.host(&backup).cut(Network::Logging)?;
        let because = ["does not reach the primary: "];
        let told = self.says("logging_network_down", "logging network down", &because)?;
        let other = match told["primary"]["host"] == *primary {
            true => &backup,
            false => &primary,
        };
        let named = format!("logging network down: {other} does not reach the primary");
        let words = told["words"].as_str().unwrap_or_default();
        assert!(words.contains(&named), "{told}");
        self.0.host(&backup).heal(Network::Logging)?;
        self.0.order(&["host", "undrain", &idle])?;
        self.is_protected()
    }

    /// The backup's host is lost, and the one that is left lacks the guest's image.
    fn the_last_host_has_another_image(&mut self) -> Result<()> {
        let (primary, backup) = self.0.protected()?;
        let idle = self.0.idle_host()?;
        let spoil = format!("echo >> {INITRD}");
        self.0.host(&idle).check(&["sh", "-c", &spoil])?;
        self.0.kill(&backup);
        let is_lost = format!("{backup} is dead: its pings stay away");
        let is_unfit = format!(
            "{idle} was proposed, and is not a backup: not started: the image {INITRD} is another one here"
        );
        let because = [&is_lost[..], &is_unfit];
        let told = self.says("no_idle_host", "no idle host", &because)?;
        assert_eq!(told["primary"]["host"], *primary, "{told}");

        wait_until("what `ftvm host list` has of it", LIMIT, || {
            let told = self.0.operator.told(&["host", "list"])?.remove(0);
            let mut hosts = told["hosts"].as_array().into_iter().flatten();
            let unfit = hosts.find(|host| host["host"] == *idle);
            let unfit = unfit.and_then(|host| host["unfit"].as_array()?.first().cloned());
            Ok(unfit.is_some_and(|it| it["vm"] == VM && it["reason"] == "declined"))
        })?;
        copy_initrd(self.0.host(&idle))?;
        self.is_protected()?;
        assert_eq!(self.0.protected()?, (primary, idle));
        Ok(())
    }

    /// The states were all told, in this order, and who wanted one of them.
    fn has_history(&self) -> Result<()> {
        let history = self.0.operator.told(&["history", VM, "--limit", "1000"])?;
        let states = history.iter().filter(|entry| entry["event"] == "state");
        let states = states.map(|entry| {
            let reason = entry["reason"].as_str();
            reason.or(entry["state"].as_str()).unwrap_or_default()
        });
        let states: Vec<&str> = states.collect();
        eprintln!("{states:?}");
        let mut told = states.iter();
        for state in TOLD {
            assert!(told.any(|it| *it == state), "{state}, in {states:?}");
        }
        let text = self.history()?;
        eprintln!("{text}");
        for words in ["suspended by anna", "diverged (repairing)", "no idle host"] {
            assert!(text.contains(words), "{words}, in {text}");
        }
        Ok(())
    }

    /// The same for people.
    fn history(&self) -> Result<String> {
        self.0.operator.said(&["history", VM, "--limit", "1000"])
    }

    /// `ftvm vm status` says so.
    fn is_protected(&self) -> Result<()> {
        let told = self.comes_to("Protected", &[], |told| {
            told["state"] == "protected" && told["reason"].is_null() && told["words"] == "Protected"
        })?;
        for copy in ["primary", "backup"] {
            assert_eq!(told[copy]["live"], true, "{told}");
        }
        Ok(())
    }

    /// Waits until `ftvm vm status` says that the guest is not protected for this reason, as it is named in JSON and as
    /// it begins in words, and all of `because`.
    fn says(&self, reason: &str, words: &str, because: &[&str]) -> Result<Value> {
        let words = format!("Not protected: {words}");
        self.comes_to(&words, because, |told| {
            let all = told["words"].as_str().unwrap_or_default();
            told["state"] == "not_protected"
                && told["reason"] == reason
                && all.starts_with(&words)
                && because.iter().all(|it| all.contains(it))
        })
    }

    /// Waits until `ftvm vm status` begins so for people, and has all of `because`, and what it says as JSON is as
    /// `is_so` wants it.
    fn comes_to(
        &self,
        words: &str,
        because: &[&str],
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let status = ["vm", "status", VM];
        let begin = format!("{VM}  {words}");
        let (mut told, mut said) = (Value::Null, String::new());
        let waited = wait_until(words, LIMIT, || {
            told = self.0.operator.told(&status)?.remove(0);
            said = self.0.operator.said(&status)?;
            let is_said = said.starts_with(&begin) && because.iter().all(|it| said.contains(it));
            Ok(is_said && is_so(&told))
        });
        waited.map_err(|error| match error {
            Error::Timeout { what, limit, .. } => Error::Timeout {
                what,
                limit,
                seen: format!("{told}\n{said}\n{:?}", self.history()),
            },
            error => error,
        })?;
        eprintln!("{said}{told}");
        Ok(told)
    }

    /// The guest's view, and who has its copies in it.
    fn copies_of(&self, vm: &str) -> Result<(u64, [Option<Claimant>; 2])> {
        let status = self.0.operator.status(vm)?;
        let claimant = |member: Option<Member>| member.map(|it| it.claimant);
        let placement = status.placement;
        let copies = [placement.primary, placement.backup].map(claimant);
        Ok((status.view, copies))
    }
}
