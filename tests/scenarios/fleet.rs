//! Hosts look after a guest: it is started on one of them by a word, gets its backup by itself, and another
//! one whenever a host is lost. An operator's failover changes the places of its two copies. A daemon that is
//! killed in the middle of a join leaves both in peace. The shell at the guest's console is the same on whichever host.

use std::thread;
use std::time::{Duration, Instant};

use disk_server::fleet::{State, Verb};
use testbed::fleet::{Daemon, Operator, log_of, process_of, watched};
use testbed::pair::{DiskServer, Guest, PATIENCE};
use testbed::workload::Client;
use testbed::{Exit, Host, LIMIT, Result, Testbed};

#[test]
fn a_guest_is_protected_again_by_hosts_alone() -> Result<()> {
    let testbed = Testbed::new("fleet")?;
    let mut hosts: Vec<Host> = testbed.start_hosts(["a", "b"])?.into();
    let mut service = DiskServer::start(&testbed)?;
    let daemons = hosts.iter().map(|host| Daemon::start(host, &service));
    let _daemons: Vec<Daemon> = daemons.collect::<Result<_>>()?;
    let operator = Operator::new(&testbed, &service);
    operator.define(&Guest::redis("db").quick(), &hosts[0], PATIENCE)?;
    operator.start("db")?;
    let protected = || {
        let protected = operator.protected("db", LIMIT);
        protected.inspect_err(|_| {
            for host in hosts.iter().filter(|host| host.is_alive()) {
                let log = log_of(host, "db").unwrap_or_default();
                eprintln!("the log of db on {}:\n{log}", host.name());
            }
        })
    };
    let places = protected()?;
    those_who_watch_find_it(&hosts, &places)?;
    let client = Client::redis_with_pauses(testbed.client());
    client.goes_on("by its own protected guest")?;
    let (primary, backup) = the_places_change(&operator, places)?;
    client.goes_on("of the host that was its backup's")?;

    // A third host takes over the role; its daemon dies as soon as the guest's process is there.
    hosts.push(testbed.start_host("c")?);
    let mut third = Daemon::start(&hosts[2], &service)?;
    let name = third.host().to_owned();
    let lost_at = Instant::now();
    find(&mut hosts, &backup).kill();
    third.says("is to have its backup here", LIMIT)?;
    third.says("started, as process ", LIMIT)?;
    third.kill()?;
    client.goes_on("without the daemon of the new backup")?;
    let host = find(&mut hosts, &name);
    let process = process_of(host, "db")?;
    let mut third = Daemon::start(host, &service)?;
    let protected = operator.protected("db", LIMIT)?;
    assert_eq!(protected, (primary.clone(), name.clone()));
    assert_eq!(process_of(host, "db")?, process, "the same one as before");
    client.goes_on("with a backup on the third host")?;
    let third_host = find(&mut hosts, &name);
    let asks = asks_on(&testbed, &service, third_host)?;
    consoles_are_for_operators(third_host, &asks)?;
    let typed = "n=$((6 * 7)); echo \"n is $n\"";
    answers_at_its_console(third_host, &asks, typed, "n is 42")?;

    // And that host runs it when the first one is lost, too, with the same shell.
    find(&mut hosts, &primary).kill();
    client.goes_on("on the third host")?;
    let status = operator.wait_for("db", "that it runs there", LIMIT, |status| {
        let primary = status.placement.primary.as_ref();
        primary.is_some_and(|member| member.live && member.host.as_str() == name)
    })?;
    eprintln!("{}; {:?}", status.state, status.last_failover);
    let third_host = find(&mut hosts, &name);
    let typed = "echo \"n is still $n\"";
    answers_at_its_console(third_host, &asks, typed, "n is still 42")?;

    // A host that comes back is its backup again.
    let host = find(&mut hosts, &backup);
    testbed.boot_again(host)?;
    let _daemon = Daemon::start(host, &service)?;
    assert_eq!(operator.protected("db", LIMIT)?, (name.clone(), backup));
    let gap = client.lost_nothing().longest_gap(lost_at);
    eprintln!(
        "{gap:?} at most without a reply\n{}",
        operator.history("db")?
    );

    service.kill();
    nobody_tells_how_it_is(&operator, find(&mut hosts, &name), &asks)?;
    service.restart(&testbed)?;
    operator.order("db", Verb::Stop {})?;
    third.says("its process has ended, status 0", LIMIT)?;
    testbed.succeed();
    Ok(())
}

/// The backup runs the guest by an operator's word: hosts do the rest, and the old primary is the backup then.
/// Gives where primary and backup are.
fn the_places_change(
    operator: &Operator,
    (primary, backup): (String, String),
) -> Result<(String, String)> {
    let before = operator.status("db")?.view;
    operator.order("db", Verb::Failover {})?;
    operator.wait_for("db", "that the places are changed", LIMIT, |status| {
        let primary = status.placement.primary.as_ref();
        primary.is_some_and(|member| member.host.as_str() == backup)
            && status.state == State::Protected
    })?;
    let places = operator.protected("db", LIMIT)?;
    assert_eq!(places, (backup, primary));
    let status = operator.status("db")?;
    // The backup won the next view, and took its own backup into the one after that.
    assert!(status.view > before + 1, "{}", operator.history("db")?);
    eprintln!("{:?}", status.last_failover);
    Ok(places)
}

/// The metrics of its host have the guest protected, and a load balancer is sent to that one.
fn those_who_watch_find_it(hosts: &[Host], (primary, backup): &(String, String)) -> Result<()> {
    let on = |name: &str| hosts.iter().find(|host| host.name() == name);
    let [primary, backup] = [primary, backup].map(|name| on(name).expect("one of these"));
    let deadline = Instant::now() + LIMIT;
    let is_told = |metrics: String| metrics.contains("ftvm_vm_protected{vm=\"db\"} 1.0\n");
    while !watched(primary, "/metrics")?.is_some_and(is_told) {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            watched(primary, "/metrics")?
        );
        thread::sleep(Duration::from_millis(100));
    }
    let metrics = watched(backup, "/metrics")?.expect("it listens");
    assert!(!metrics.contains("ftvm_vm_protected{"), "{metrics}");
    let path = "/healthz/vm/db/primary";
    assert_eq!(watched(primary, path)?.as_deref(), Some("ok\n"));
    assert_eq!(watched(backup, path)?, None);
    Ok(())
}

/// The options with which `ftvm` on a host asks the service in an operator's name.
fn asks_on(testbed: &Testbed, service: &DiskServer, host: &Host) -> Result<Vec<String>> {
    let keys = testbed.keys().expect("it is not plain");
    let keys = keys.lend("anna", host)?.map(str::to_owned);
    let service = ["--disk-server", service.address()].map(str::to_owned);
    Ok([&service[..], &keys].concat())
}

/// `ftvm` with these words and options.
fn ftvm<'a>(words: &[&'a str], options: &'a [String]) -> Vec<&'a str> {
    let options = options.iter().map(String::as_str);
    let words = words.iter().copied();
    ["ftvm"].into_iter().chain(words).chain(options).collect()
}

/// Each host has the consoles of its guests, and gives them to an operator on another one. A host's own key does not
/// get them.
fn consoles_are_for_operators(on: &Host, asks: &[String]) -> Result<()> {
    let console = |options: &[String]| on.run(&ftvm(&["vm", "console", "db"], options));
    let operators = console(asks)?;
    assert!(operators.exit.success(), "{operators:?}");
    let hosts = asks.iter().map(|it| it.replace("operator.pem", "key.pem"));
    let denied = console(&hosts.collect::<Vec<_>>())?;
    assert!(
        !denied.exit.success() && denied.stderr.contains("operator"),
        "{denied:?}"
    );
    Ok(())
}

/// An operator on a host types a line at the guest's console, where a shell reads it, and is answered.
fn answers_at_its_console(on: &Host, asks: &[String], typed: &str, answer: &str) -> Result<()> {
    let mut console = on.spawn(&ftvm(&["vm", "console", "db"], asks))?;
    // The shell comes once Enter is pressed.
    console.write(format!("\n{typed}\n").as_bytes())?;
    console.wait_for_line(answer, LIMIT)?;
    console.end_input()?;
    assert_eq!(console.wait(LIMIT)?, Exit::Code(0));
    Ok(())
}

/// Where no daemon is configured that could be asked instead, `ftvm` says that the service does not answer, and fails.
fn nobody_tells_how_it_is(operator: &Operator, on: &Host, asks: &[String]) -> Result<()> {
    for words in [&["vm", "status", "db"][..], &["vm", "list"]] {
        let told = on.run(&ftvm(words, asks))?;
        assert_eq!(told.exit, Exit::Code(1), "{told:?}");
        assert_eq!(told.stdout, "", "{told:?}");
        assert!(told.stderr.contains("service unreachable"), "{told:?}");
    }
    for words in [&["vm", "status", "db"], &["failover", "db"][..]] {
        let refusal = operator.told_refusal(words)?;
        assert_eq!(refusal["outcome"], "unreachable", "{refusal}");
        let why = refusal["words"].as_str().unwrap_or_default();
        assert!(why.starts_with("service unreachable"), "{refusal}");
    }
    Ok(())
}

fn find<'a>(hosts: &'a mut [Host], name: &str) -> &'a mut Host {
    let mut hosts = hosts.iter_mut();
    hosts
        .find(|host| host.name() == name)
        .expect("it is one of them")
}
