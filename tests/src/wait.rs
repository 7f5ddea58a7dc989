//! Waiting for conditions.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// For what will never happen, on however slow a machine.
pub const LIMIT: Duration = Duration::from_secs(600);

/// How often a condition is looked at, at first.
const POLL: Duration = Duration::from_millis(20);
/// And later, each time this part of what was waited already: to look may cost the hosts that are waited for.
const PART: u32 = 50;
/// How often it is looked at, at least.
const RARE: Duration = Duration::from_millis(500);

/// Waits until `condition` holds.
///
/// # Errors
///
/// When it does not hold within `limit`, or cannot be looked at.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let since = Instant::now();
    while !condition()? {
        if since.elapsed() > limit {
            return Err(Error::Timeout {
                what: what.to_owned(),
                limit,
                seen: "the condition never held".to_owned(),
            });
        }
        std::thread::sleep((since.elapsed() / PART).clamp(POLL, RARE));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_polled() {
        let mut looks = 0;
        let third = || {
            looks += 1;
            Ok(looks == 3)
        };
        wait_until("the third look", Duration::from_secs(60), third).expect("it comes");
        assert_eq!(looks, 3);
        let never = wait_until("never", Duration::ZERO, || Ok(false));
        assert!(matches!(never, Err(Error::Timeout { .. })));
    }
}
