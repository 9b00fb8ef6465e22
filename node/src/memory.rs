//! How memory that is freed goes back to the system.

/// Blocks from this length on are mapped one by one, and go back to the system when they are freed. Why a fixed length:
/// glibc raises its own to that of the largest block that was ever freed, up to 32 MiB, and keeps such blocks from then on; a
/// worker that had lost its node four times held four receive buffers of 18 MiB. Why 1 MiB: what passes with every blob,
/// 256 KiB at once, is not mapped anew each time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM_LEN: std::ffi::c_int = 1024 * 1024;

/// To be called before anything large is allocated.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "a setting of the C library; this one has no preconditions")]
        // SAFETY: it sets a number of the allocator, under the allocator's own lock.
        let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_LEN) };
        // Refused, memory goes back later: that is all.
        let _ = set;
    }
}
