//! The bridge of the client network, and TAP interfaces that are made for guests and join it.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::tap::{TapError, attached, flags, named, socket};

/// A bridge of this host.
#[derive(Debug, Clone)]
pub struct Bridge {
    name: String,
}

/// Why a bridge, or a TAP interface that is to join it, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// There is none of this name.
    #[error(
        "there is no bridge {0}: make it with `ip link add {0} type bridge`, put the client network's \
         interface into it with `ip link set INTERFACE master {0}`, and `ip link set {0} up`; or name \
         another one (bridge = \"…\")"
    )]
    Missing(String),
    /// Something else has this name.
    #[error("the interface {0} is no bridge: name one that is (bridge = \"…\")")]
    NotABridge(String),
    /// The TAP interface cannot be made.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The system refuses a request.
    #[error("cannot {what}: run as root, or with CAP_NET_ADMIN")]
    Request {
        /// What.
        what: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl Bridge {
    /// The bridge of this name.
    ///
    /// # Errors
    /// [`BridgeError`].
    pub fn find(name: &str) -> Result<Self, BridgeError> {
        // No interface has the number 0: a bridge finds that out itself.
        match join(name, 0) {
            Ok(()) | Err(Errno::EINVAL) => Ok(Self {
                name: name.to_owned(),
            }),
            Err(Errno::ENODEV) => Err(BridgeError::Missing(name.to_owned())),
            Err(Errno::EOPNOTSUPP) => Err(BridgeError::NotABridge(name.to_owned())),
            Err(error) => Err(refused(&format!("use the bridge {name}"))(error)),
        }
    }

    /// Makes a TAP interface `tap` that lasts until it is removed, is up, and has joined this bridge. One of
    /// this name that nobody uses is made anew.
    ///
    /// # Errors
    /// [`BridgeError`].
    pub fn add_tap(&self, tap: &str) -> Result<(), BridgeError> {
        remove_tap(tap)?;
        let file = attached(tap)?;
        // SAFETY: TUNSETPERSIST takes a plain number.
        unsafe { persist(file.as_raw_fd(), 1) }.map_err(refused(&format!("keep {tap}")))?;
        set_address(tap).map_err(refused(&format!("give {tap} an address")))?;
        let joining = format!("put {tap} into the bridge {}", self.name);
        let index = if_nametoindex(tap).map_err(refused(&joining))?;
        join(&self.name, index.cast_signed()).map_err(refused(&joining))?;
        set_up(tap).map_err(refused(&format!("set {tap} up")))
    }
}

/// Removes a TAP interface that lasts. One that is not there is removed already.
///
/// # Errors
/// [`BridgeError`], also while a program uses it.
pub fn remove_tap(tap: &str) -> Result<(), BridgeError> {
    if if_nametoindex(tap).is_err() {
        return Ok(());
    }
    let file = attached(tap)?;
    // SAFETY: TUNSETPERSIST takes a plain number.
    unsafe { persist(file.as_raw_fd(), 0) }.map_err(refused(&format!("remove {tap}")))?;
    Ok(())
}

fn refused(what: &str) -> impl Fn(Errno) -> BridgeError + '_ {
    move |error| BridgeError::Request {
        what: what.to_owned(),
        source: error.into(),
    }
}

// Linux, include/uapi/linux/if_tun.h and sockios.h.
nix::ioctl_write_int!(persist, b'T', 203);
nix::ioctl_write_ptr_bad!(add_to_bridge, 0x89a2, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_hardware_address, libc::SIOCSIFHWADDR, libc::ifreq);

fn join(bridge: &str, interface: i32) -> Result<(), Errno> {
    let mut request = named(bridge);
    request.ifr_ifru.ifru_ifindex = interface;
    // SAFETY: SIOCBRADDIF takes an ifreq with an interface's number.
    unsafe { add_to_bridge(socket()?.as_raw_fd(), &request) }.map(drop)
}

fn set_up(name: &str) -> Result<(), Errno> {
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = flags(name)? | libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS takes an ifreq with flags.
    unsafe { set_flags(socket()?.as_raw_fd(), &request) }.map(drop)
}

/// Gives an interface an address that is above those of network cards: a bridge without one of its own has
/// the lowest of its ports, and would change it, and with it this host's, as guests come and go.
fn set_address(name: &str) -> Result<(), Errno> {
    let mut hash = xxhash_rust::xxh64::xxh64(name.as_bytes(), 0).to_le_bytes();
    hash[0] = 0xfe;
    let mut request = named(name);
    let mut address = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: [0; 14],
    };
    for (to, from) in address.sa_data.iter_mut().zip(&hash[..6]) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: SIOCSIFHWADDR takes an ifreq with a hardware address.
    unsafe { set_hardware_address(socket()?.as_raw_fd(), &request) }.map(drop)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    nix::ioctl_write_ptr_bad!(add_bridge, 0x89a0, libc::c_char);

    /// In a network of this thread's own.
    #[test]
    fn a_tap_joins_its_bridge_and_goes() {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return; // not root
        }
        set_up("lo").expect("each network has one");
        let name = c"bridge";
        // SAFETY: SIOCBRADDBR reads a name.
        let made = unsafe { add_bridge(socket().expect("any").as_raw_fd(), name.as_ptr()) };
        if made.is_err() {
            return; // this kernel has no bridges
        }
        let bridge = Bridge::find("bridge").expect("it was made");
        for _again in 0..2 {
            bridge.add_tap("ftvm-db").expect("nobody uses it");
            let index = if_nametoindex("ftvm-db").expect("it lasts");
            let joined = join("bridge", index.cast_signed());
            assert_eq!(joined, Err(Errno::EBUSY), "it is in a bridge");
            assert!(crate::io::tap::is_up("ftvm-db").expect("it is there"));
        }
        let used = crate::io::Tap::open("ftvm-db", [0; 6]).expect("it is a TAP interface");
        assert!(bridge.add_tap("ftvm-db").is_err(), "it is used");
        assert!(remove_tap("ftvm-db").is_err(), "it is used");
        drop(used);
        remove_tap("ftvm-db").expect("nobody uses it");
        assert!(if_nametoindex("ftvm-db").is_err());
        remove_tap("ftvm-db").expect("it is gone already");
    }

    #[test]
    fn what_is_no_bridge_is_named() {
        let root = nix::unistd::geteuid().is_root();
        for (name, says) in [
            ("ftvm-missing", "no bridge ftvm-missing"),
            ("lo", "is no bridge"),
        ] {
            let error = Bridge::find(name).expect_err(name).to_string();
            assert!(error.contains(says) || !root, "{error}");
        }
        remove_tap("ftvm-missing").expect("it is not there");
    }
}
