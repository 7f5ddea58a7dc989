//! Commands and files in a host.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use testbed::{
    Error, Exit, LIMIT, Network, Result, Signal, Source, TerminalSize, Testbed, wait_until,
};

#[test]
fn commands_run_and_files_are_copied() -> Result<()> {
    let testbed = Testbed::new("commands")?;
    let host = testbed.start_host("a")?;

    let output = host.run(&["sh", "-c", "echo out; echo err >&2; exit 3"])?;
    assert_eq!(output.exit, Exit::Code(3));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert!(matches!(host.check(&["false"]), Err(Error::Failed { .. })));
    assert!(matches!(
        host.run(&["/no/such/program"]),
        Err(Error::Refused { .. })
    ));
    // What a command leaves in the background ends with it, or this would hang.
    host.check(&["sh", "-c", "sleep 1000 &"])?;

    let mut shell = host.spawn(&[
        "sh",
        "-c",
        "read -r word; echo got $word >&2; exec sleep 1000",
    ])?;
    shell.write(b"this\n")?;
    let line = shell.wait_for_line("got this", LIMIT)?;
    assert_eq!(line.source, Source::Stderr);
    shell.signal(Signal::SIGTERM)?;
    assert_eq!(shell.wait(LIMIT)?, Exit::Signal(Signal::SIGTERM as i32));

    let mut printed = Vec::new();
    let exit = host.agent().interact(
        &[
            "sh",
            "-c",
            "stty size; read -r word; echo got $word; exit 4",
        ],
        &BTreeMap::new(),
        TerminalSize {
            rows: 33,
            columns: 111,
        },
        &b"this\n"[..],
        |_, bytes| printed.extend_from_slice(bytes),
    )?;
    let printed = String::from_utf8_lossy(&printed);
    assert_eq!(exit, Exit::Code(4));
    assert!(
        printed.contains("33 111") && printed.contains("got this"),
        "{printed}"
    );

    let abandoned = host.spawn(&["sleep", "4321"])?;
    let runs = || Ok(host.run(&["pidof", "sleep"])?.exit.success());
    wait_until("the start of a command", LIMIT, runs)?;
    drop(abandoned);
    wait_until("the end of an abandoned command", LIMIT, || Ok(!runs()?))?;

    let (sent, back) = (testbed.logs().join("sent"), testbed.logs().join("back"));
    let contents: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(&sent, &contents).expect("a file to send");
    host.put(&sent, "/tmp/new/directory/file")?;
    host.get("/tmp/new/directory/file", &back)?;
    assert!(fs::read(&back).expect("the file that came back") == contents);
    assert!(matches!(
        host.get("/no/such/file", &back),
        Err(Error::Refused { .. })
    ));

    testbed.succeed();
    Ok(())
}

#[test]
fn positions_are_on_their_networks() -> Result<()> {
    let testbed = Testbed::new("positions")?;
    let host = testbed.start_host("a")?;

    // A server at the disk server's position, a client in the host.
    let listener = testbed
        .disk()
        .namespace()
        .within(|| TcpListener::bind((testbed.disk().address(), 7000)))
        .and_then(|listener| listener)
        .expect("a socket on the storage network");
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("the host's connection");
        let mut question = [0; 5];
        connection.read_exact(&mut question).expect("its question");
        connection.write_all(b"fine\n").expect("our answer");
        question
    });
    let answer = host.check(&["sh", "-c", "echo how? | nc 10.77.2.1 7000"])?;
    assert_eq!(answer, "fine\n");
    assert_eq!(&server.join().expect("the server's end"), b"how?\n");

    // A server in the host, a client at the clients' position.
    let _server = host.spawn(&["nc", "-ll", "-p", "7", "-e", "/bin/cat"])?;
    let mut connection = None;
    wait_until("a connection to the host", LIMIT, || {
        let address = host.address(Network::Client);
        connection = testbed
            .client()
            .connect(address, 7, Duration::from_secs(1))
            .ok();
        Ok(connection.is_some())
    })?;
    let mut connection = connection.expect("the connection that was waited for");
    connection.write_all(b"echo").expect("a question");
    let mut echo = [0; 4];
    connection.read_exact(&mut echo).expect("an answer");
    assert_eq!(&echo, b"echo");

    let route = testbed
        .client()
        .command("ip")?
        .args(["-4", "address"])
        .output();
    let route = route.expect("ip on this machine").stdout;
    assert!(String::from_utf8_lossy(&route).contains("10.77.0.100/24"));

    testbed.succeed();
    Ok(())
}
