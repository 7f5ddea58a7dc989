//! QEMU's machine protocol (QMP), over the standard input and output of a QEMU in a host.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Error, HostProcess, Result};

/// For an answer that will never come.
const LIMIT: Duration = Duration::from_secs(120);

/// What a QEMU is started with for this.
pub(crate) const OPTIONS: [&str; 2] = ["-qmp", "stdio"];

/// Waits for a QEMU's greeting, after which it takes commands.
pub(crate) fn greet(side: &mut HostProcess) -> Result<()> {
    side.wait_for_line("\"QMP\"", LIMIT)?;
    execute(side, "qmp_capabilities", &json!({})).map(drop)
}

/// Sends a command and gives its answer.
pub(crate) fn execute(side: &mut HostProcess, name: &str, arguments: &Value) -> Result<Value> {
    let request = json!({ "execute": name, "arguments": arguments, "id": name });
    side.write(format!("{request}\n").as_bytes())?;
    let id = format!("\"id\": \"{name}\"");
    let line = side.wait_for_line(&id, LIMIT)?;
    let mut answer: Value = serde_json::from_str(&line.text).unwrap_or_default();
    if answer["return"].is_null() {
        return Err(Error::Command {
            command: request.to_string(),
            stderr: line.text,
        });
    }
    Ok(answer["return"].take())
}
