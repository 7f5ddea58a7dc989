//! What the version after the newest that is released has more, in the build for tests of upgrades: a field in each
//! ping, which a server that does not know it refuses.

use serde_json::{Value, json};

use super::protocol::{RELEASED, Request};

const FIELD: &str = "next";

/// A request as `version` has it.
pub(super) fn put(version: u16, request: &Request) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(request)?;
    if version > RELEASED && matches!(request, Request::Ping(_)) {
        value[FIELD] = json!(version);
    }
    Ok(value)
}

/// The line of a request of `version`, without what that has more.
pub(super) fn take(version: u16, line: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(line)?;
    if version > RELEASED && value["op"] == "ping" {
        let field = value.as_object_mut().and_then(|it| it.remove(FIELD));
        if field != Some(json!(version)) {
            return Err(serde::de::Error::missing_field(FIELD));
        }
    }
    serde_json::to_vec(&value)
}
