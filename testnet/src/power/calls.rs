//! The calls of the system by which files are changed, and made durable.

/// The calls that change files or make changes durable, and those by which that could be done unseen.
pub(super) const CALLS: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
    #[cfg(target_arch = "aarch64")]
    libc::SYS_renameat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_mmap,
    libc::SYS_ioctl,
    libc::SYS_io_uring_setup,
];

/// What a call does, whichever of its forms it has.
#[derive(Clone, Copy)]
pub(super) enum Plain {
    /// With the places of its arguments.
    Open {
        folder: bool,
        path: usize,
        flags: usize,
    },
    Open2,
    Creat,
    Write {
        vector: bool,
        at: bool,
    },
    Resize,
    Truncate,
    Sync,
    Rename {
        folders: bool,
    },
    Link {
        folders: bool,
    },
    Remove {
        folder: bool,
    },
    MakeFolder {
        folder: bool,
    },
    /// It changes the file in this argument in a way that is not recorded.
    Unseen {
        file: usize,
        what: &'static str,
    },
    Ring,
    Other,
}

impl Plain {
    /// Whether a call that could change a file unseen does not.
    pub(super) fn is_harmless(self, second: u64, third: u64, fourth: u64) -> bool {
        const CLONE: u64 = 0x4004_9409;
        const CLONE_RANGE: u64 = 0x4020_940d;
        match self {
            Self::Unseen { what: MAPPED, .. } => {
                third & libc::PROT_WRITE as u64 == 0 || fourth & libc::MAP_TYPE as u64 == libc::MAP_PRIVATE as u64
            }
            Self::Unseen { what: CLONED, .. } => second != CLONE && second != CLONE_RANGE,
            _ => false,
        }
    }
}

const MAPPED: &str = "a file that is mapped to be written";
const CLONED: &str = "a file that is a clone";

/// What the call with this number does.
pub(super) fn plain(number: i64) -> Plain {
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_open => return Plain::Open { folder: false, path: 0, flags: 1 },
        libc::SYS_creat => return Plain::Creat,
        libc::SYS_rename => return Plain::Rename { folders: false },
        libc::SYS_link => return Plain::Link { folders: false },
        libc::SYS_unlink | libc::SYS_rmdir => return Plain::Remove { folder: false },
        libc::SYS_mkdir => return Plain::MakeFolder { folder: false },
        _ => {}
    }
    match number {
        libc::SYS_openat => Plain::Open { folder: true, path: 1, flags: 2 },
        libc::SYS_openat2 => Plain::Open2,
        libc::SYS_write => Plain::Write { vector: false, at: false },
        libc::SYS_pwrite64 => Plain::Write { vector: false, at: true },
        libc::SYS_writev => Plain::Write { vector: true, at: false },
        libc::SYS_pwritev | libc::SYS_pwritev2 => Plain::Write { vector: true, at: true },
        libc::SYS_ftruncate => Plain::Resize,
        libc::SYS_truncate => Plain::Truncate,
        libc::SYS_fsync | libc::SYS_fdatasync => Plain::Sync,
        libc::SYS_renameat | libc::SYS_renameat2 => Plain::Rename { folders: true },
        libc::SYS_linkat => Plain::Link { folders: true },
        libc::SYS_unlinkat => Plain::Remove { folder: true },
        libc::SYS_mkdirat => Plain::MakeFolder { folder: true },
        libc::SYS_fallocate => Plain::Unseen { file: 0, what: "a file whose space is reserved" },
        libc::SYS_copy_file_range | libc::SYS_splice => Plain::Unseen { file: 2, what: "a file that is copied" },
        libc::SYS_sendfile => Plain::Unseen { file: 0, what: "a file that is sent" },
        libc::SYS_mmap => Plain::Unseen { file: 4, what: MAPPED },
        libc::SYS_ioctl => Plain::Unseen { file: 0, what: CLONED },
        libc::SYS_io_uring_setup => Plain::Ring,
        _ => Plain::Other,
    }
}
