//! The system calls by which a process is watched: ptrace with a filter, so that only what changes files stops it.
#![expect(unsafe_code, reason = "ptrace and seccomp have no safe wrapper among the dependencies")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What was stopped, and why, as `waitpid` says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    pub(super) thread: i32,
    pub(super) status: i32,
}

/// A call of the system at its beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) number: i64,
    pub(super) arguments: [u64; 6],
}

/// Bytes of `struct ptrace_syscall_info`; see ptrace(2). What all kinds of stop begin with has 24 of them.
const INFO_LEN: usize = 88;
const INFO_HEAD_LEN: usize = 24;
/// Where the kernel's `struct seccomp_data` has the number of the call.
const NUMBER_AT: u32 = 0;

/// Lets a program be watched by the thread that starts it: stopped after its start and at each of these calls, in all its
/// threads and children.
pub(super) fn watch(command: &mut Command, calls: &[i64]) {
    let filter = filter(calls);
    let prepare = move || {
        // SAFETY: all zeros are a valid `sock_fprog`; its pointer is set to the filter, which outlives the call.
        let mut program: libc::sock_fprog = unsafe { std::mem::zeroed() };
        program.len = filter.len() as libc::c_ushort;
        program.filter = filter.as_ptr().cast_mut();
        // SAFETY: these calls take numbers only, the last one besides them a valid program.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it only makes system calls, on memory that was allocated before.
    unsafe { command.pre_exec(prepare) };
}

/// The filter: each of these calls stops, all others go on.
fn filter(calls: &[i64]) -> Vec<libc::sock_filter> {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER_AT)];
    for call in calls {
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call as u32));
        program.push(step(answer, 0, 0, libc::SECCOMP_RET_TRACE));
    }
    program.push(step(answer, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

/// Waits for the next stop of what this thread watches; none when nothing is left.
pub(super) fn wait() -> io::Result<Option<Stop>> {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is valid for the call. Children of other threads are left to those.
        let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if thread > 0 {
            return Ok(Some(Stop { thread, status }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Says what is wanted of a stopped thread and of all that it starts.
pub(super) fn prepare(thread: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SETOPTIONS, thread, options as usize)
}

/// Lets a stopped thread go on, with a signal; 0: none.
pub(super) fn go_on(thread: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, thread, signal as usize)
}

/// Lets a stopped thread go on to the end of the call that it has begun.
pub(super) fn to_end(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, thread, 0)
}

/// A thread that was killed meanwhile is no failure: its end is heard of by the next wait.
fn request(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: these requests take numbers only.
    if unsafe { libc::ptrace(request, thread, 0usize, data) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// The call at whose beginning a thread has stopped; none if it was killed meanwhile.
pub(super) fn call(thread: i32) -> io::Result<Option<Call>> {
    let Some(info) = info(thread)? else { return Ok(None) };
    let mut words = words(&info);
    let number = words.next().unwrap_or_default() as i64;
    let mut arguments = [0; 6];
    arguments.iter_mut().zip(words).for_each(|(argument, word)| *argument = word);
    Ok(Some(Call { number, arguments }))
}

/// What a call has answered at whose end a thread has stopped; none if it was killed meanwhile.
pub(super) fn answer(thread: i32) -> io::Result<Option<i64>> {
    Ok(info(thread)?.map(|info| words(&info).next().unwrap_or_default() as i64))
}

fn words(info: &[u8; INFO_LEN]) -> impl Iterator<Item = u64> {
    let (words, _) = info.split_at(INFO_HEAD_LEN).1.as_chunks::<8>();
    words.iter().map(|word| u64::from_ne_bytes(*word))
}

fn info(thread: i32) -> io::Result<Option<[u8; INFO_LEN]>> {
    let mut info = [0u8; INFO_LEN];
    // SAFETY: the kernel writes at most the length that it is given into the buffer, which has it.
    let len = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, INFO_LEN, info.as_mut_ptr()) };
    if len >= 0 {
        return Ok(Some(info));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) }
}
