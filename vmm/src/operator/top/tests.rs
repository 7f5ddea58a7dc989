//! The screen, drawn into memory.

use disk_server::fleet::{Entry, HostVerb, Reason, State, Subject, Verb, What};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::operator::fake::{guest, host};
use crate::operator::hosts::summarise;

fn snapshot() -> Snapshot {
    let mut joins = guest("wiki", "hostb", "hosta");
    joins.state = State::NotProtected(Reason::Joining { percent: 40 });
    let vms = vec![guest("db", "hosta", "hostb"), joins];
    let hosts = ["hosta", "hostb", "hostc"].map(host);
    Snapshot {
        hosts: summarise(&hosts, &vms),
        vms,
        unix_ms: 1_795_929_153_000,
    }
}

fn seen() -> Model {
    let mut model = Model::new("192.0.2.1:7420".into());
    model.see(snapshot());
    model
}

fn screen(model: &Model, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn everything_is_there_on_a_small_terminal() {
    let text = screen(&seen(), (80, 24));
    for part in [
        "2 guests  1 protected  1 not",
        "192.0.2.1:7420",
        "●  db    Protected     hosta    hostb   12 ms  4.1 Mbit/s",
        "●  wiki  joining 40 %  hostb    hosta   12 ms  4.1 Mbit/s",
        "■  hosta  live   3.3 GiB  db          wiki",
        "f failover  t test-failover  b restart-backup  s suspend  p stop",
        "m migrate  c console  h history  Tab hosts  q quit",
    ] {
        assert!(text.contains(part), "no \"{part}\" in\n{text}");
    }
}

#[test]
fn what_can_be_done_about_the_selected_guest_is_told() {
    let mut model = seen();
    let mut snapshot = snapshot();
    snapshot.vms[0].state = State::NotProtected(Reason::Lagging { lag_ms: 1400 });
    model.see(snapshot);
    let text = screen(&model, (80, 24));
    for part in ["lagging by 1400 ms", "its limit is 1.0 s"] {
        assert!(text.contains(part), "no \"{part}\" in\n{text}");
    }
}

#[test]
fn any_size_will_do() {
    let mut model = seen();
    for size in [(1, 1), (10, 3), (40, 10), (300, 90)] {
        screen(&model, size);
    }
    model.hit(Key::Letter('f'));
    screen(&model, (5, 2));
    model.hit(Key::Escape);
    model.hit(Key::Letter('h'));
    screen(&model, (5, 2));
}

#[test]
fn what_is_dangerous_is_asked_before() {
    let mut model = seen();
    assert_eq!(model.hit(Key::Letter('f')), None);
    let text = screen(&model, (80, 24));
    assert!(text.contains("Hand db over to its backup?"), "{text}");
    assert_eq!(model.hit(Key::Letter('n')), None);
    assert_eq!(model.hit(Key::Letter('t')), None);
    let action = Action::Guest("db".parse().unwrap(), Verb::TestFailover {});
    assert_eq!(model.hit(Key::Letter('y')), Some(action.clone()));
    model.told(&action, Ok(7));
    assert!(screen(&model, (80, 24)).contains("db: test-failover: accepted as order 7"));
}

#[test]
fn each_verb_for_a_guest_has_its_key() {
    let mut model = seen();
    let guest = |verb| Action::Guest("db".parse().unwrap(), verb);
    for (letter, verb) in [
        ('f', Verb::Failover {}),
        ('t', Verb::TestFailover {}),
        ('b', Verb::RestartBackup {}),
        ('s', Verb::SuspendProtection {}),
        ('p', Verb::Stop {}),
    ] {
        assert_eq!(model.hit(Key::Letter(letter)), None, "{letter} asks first");
        assert_eq!(model.hit(Key::Letter('y')), Some(guest(verb)));
    }
    let mut snapshot = snapshot();
    snapshot.vms[0].state = State::Stopped { reason: None };
    model.see(snapshot.clone());
    let start = Verb::Start { force: false };
    assert_eq!(model.hit(Key::Letter('p')), Some(guest(start)));
    assert!(screen(&model, (80, 24)).contains("p start"));
    let by = disk_server::views::Text::cut("anna");
    snapshot.vms[0].state = State::NotProtected(Reason::Suspended { by });
    model.see(snapshot);
    let resume = Verb::ResumeProtection {};
    assert_eq!(model.hit(Key::Letter('s')), Some(guest(resume)));
}

#[test]
fn a_guest_is_moved_to_a_host() {
    let db = || "db".parse().unwrap();
    for (letter, verb) in [
        (
            'm',
            Verb::MigrateBackup {
                to: "hostc".parse().unwrap(),
            },
        ),
        (
            'M',
            Verb::MigratePrimary {
                to: "hostc".parse().unwrap(),
            },
        ),
    ] {
        let mut model = seen();
        assert_eq!(model.hit(Key::Letter('m')), None);
        let text = screen(&model, (80, 24));
        assert!(text.contains("m backup here  M primary here"), "{text}");
        model.hit(Key::Down);
        model.hit(Key::Down);
        assert_eq!(model.hit(Key::Letter(letter)), None, "it asks first");
        assert_eq!(model.hit(Key::Letter('y')), Some(Action::Guest(db(), verb)));
        assert_eq!(model.hit(Key::Letter('m')), None);
        assert!(screen(&model, (80, 24)).contains("Tab goes to the guests"));
    }
    // Tab is for somebody who does not want that after all.
    let mut model = seen();
    for key in [Key::Letter('m'), Key::Tab, Key::Tab, Key::Letter('M')] {
        assert_eq!(model.hit(key), None);
    }
    assert!(screen(&model, (80, 24)).contains("Tab goes to the guests"));
}

#[test]
fn keys_are_about_the_line_that_is_selected() {
    let mut model = seen();
    model.hit(Key::Down);
    assert_eq!(
        model.hit(Key::Letter('c')),
        Some(Action::Console("wiki".parse().unwrap()))
    );
    assert_eq!(model.hit(Key::Letter('d')), None);
    assert!(screen(&model, (80, 24)).contains("Tab goes to the hosts"));
    model.hit(Key::Tab);
    model.hit(Key::Down);
    model.hit(Key::Letter('d'));
    let drain = Action::Host("hostb".parse().unwrap(), HostVerb::Drain);
    assert_eq!(model.hit(Key::Enter), Some(drain));

    // It stays on its host, whatever comes before that.
    let mut snapshot = snapshot();
    snapshot.hosts.remove(0);
    snapshot.hosts[0].draining = true;
    model.see(snapshot);
    let undrain = Action::Host("hostb".parse().unwrap(), HostVerb::Undrain);
    assert_eq!(model.hit(Key::Letter('d')), Some(undrain));
    assert_eq!(model.hit(Key::Letter('q')), Some(Action::Quit));
}

#[test]
fn a_service_that_does_not_answer_is_told_beside_what_it_said_last() {
    let mut model = seen();
    model.lose("connection refused".into());
    let text = screen(&model, (80, 24));
    assert!(text.contains("service unreachable: trying again"), "{text}");
    assert!(text.contains("●  db    Protected"), "{text}");
    assert!(text.contains("connection refused"), "{text}");
    model.see(snapshot());
    assert!(!screen(&model, (80, 24)).contains("unreachable"));
}

#[test]
fn what_happened_is_shown_until_another_key() {
    let mut model = seen();
    let asked = model.hit(Key::Letter('h'));
    assert_eq!(asked, Some(Action::History(Some("db".parse().unwrap()))));
    model.remember(Ok(vec![Entry {
        number: 1,
        unix_ms: 1_795_929_153_000,
        subject: Subject::Vm("db".parse().unwrap()),
        what: What::State(State::Protected),
    }]));
    let text = screen(&model, (80, 24));
    assert!(
        text.contains("history: db") && text.contains("2026-11-29T05:12:33Z"),
        "{text}"
    );
    model.hit(Key::Escape);
    assert!(!screen(&model, (80, 24)).contains("history: db"));
}

/// Words as they are, wherever lines end.
fn flat(screen: &str) -> String {
    let inside = screen.replace(['│', '"'], " ");
    inside.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_long_is_told_to_its_end() {
    let long = |letter: &str| letter.repeat(64);
    let mut longest = guest(&long("v"), "hosta", "hostb");
    longest.state = State::NotProtected(Reason::Starting {});
    let mut snapshot = snapshot();
    snapshot.vms = vec![longest];
    snapshot.hosts = summarise(&[host(&long("h"))], &snapshot.vms);
    let mut model = Model::new("192.0.2.1:7420".into());
    model.see(snapshot);
    for key in [Key::Letter('m'), Key::Letter('m')] {
        assert_eq!(model.hit(key), None);
    }
    let question = format!(
        "Let {} run without a backup until it has one on {}?",
        long("v"),
        long("h")
    );
    let text = screen(&model, (80, 24));
    let asked = flat(&text);
    assert!(asked.contains("y yes n no"), "{text}");
    // Each of its lines stands beside others.
    for word in question.split(' ') {
        assert!(asked.contains(word), "{word} in\n{text}");
    }
    model.hit(Key::Escape);

    model.hit(Key::Letter('h'));
    let why = "ended with status 1: it said: no primary answered in time: see the logging network";
    let why = disk_server::views::Text::cut(why);
    model.remember(Ok(vec![Entry {
        number: 1,
        unix_ms: 1_795_929_153_000,
        subject: Subject::Vm("db".parse().unwrap()),
        what: What::Failed {
            order: 7,
            why: why.clone(),
        },
    }]));
    let text = screen(&model, (80, 24));
    assert!(flat(&text).contains(why.as_str()), "{text}");
}
