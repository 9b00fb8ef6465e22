//! The two system calls that no safe wrapper in the tree offers.
#![expect(unsafe_code, reason = "setns and TUNSETIFF have no safe wrapper among the dependencies")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use anyhow::Context as _;

/// An Ethernet device, and frames without a header of the driver's.
const TAP_FLAGS: libc::c_short = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;

/// Moves the calling thread into a network namespace. Its sockets and its children are there from now on.
///
/// # Errors
/// When the namespace is another user's.
pub(super) fn enter(namespace: &impl AsFd) -> io::Result<()> {
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: a borrowed descriptor is open, and the call takes nothing else.
    let answer = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new Ethernet device in the calling thread's network namespace. What the system sends over it is read from the
/// descriptor, one frame a read; what is written comes in. Dropped, the device is gone.
///
/// # Errors
/// When `/dev/net/tun` may not be opened, or the name is taken.
pub(super) fn tap(name: &str) -> anyhow::Result<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("/dev/net/tun, by which links with a delay are made")?;
    // SAFETY: all zeros are a valid `ifreq`: it holds numbers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, &byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.as_bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = TAP_FLAGS;
    // SAFETY: the descriptor is open, and the request outlives the call and is what it takes.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer < 0 {
        return Err(io::Error::last_os_error()).context(format!("making the device {name}"));
    }
    rustix::io::ioctl_fionbio(&device, true)?;
    Ok(device.into())
}
