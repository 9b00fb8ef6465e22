//! A plain Rust program that knows nothing of Shoal: see ../README.md for what it does.
//!
//! Its first argument may choose something worse instead:
//!
//! | argument | what happens |
//! |---|---|
//! | `panic` | a panic, with its message on standard error |
//! | `exit CODE` | that exit code, after a line on both outputs |
//! | `loop` | computes for ever, without a call to the host |
//! | `grow` | takes memory until there is none |
//! | `print` | writes to standard output for ever |
//! | `complain` | writes to standard error for ever |
//! | `sleep MS` | waits in the host for so long, then answers |
//! | `environment` | prints the environment variables, sorted |

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The libc that it is linked with, Debian's of 2022, believes at its first allocation that all memory up to the end is its
/// own, also what the adapter from WASI 0.1 to 0.2 took for itself when it was first called (assertions in the adapter
/// then fail). So the first allocation comes before the first call. A libc of today needs none of this.
#[used]
#[unsafe(link_section = ".init_array.0")]
static ALLOCATE_FIRST: extern "C" fn() = allocate_first;

extern "C" fn allocate_first() {
    drop(std::hint::black_box(Box::new(0u8)));
}

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = || arguments.get(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    match arguments.first().map(String::as_str) {
        Some("panic") => panic!("asked to panic"),
        Some("exit") => {
            println!("on standard output");
            eprintln!("on standard error");
            std::process::exit(number() as i32);
        }
        Some("loop") => compute_for_ever(),
        Some("grow") => grow(),
        Some("print") => write_for_ever(io::stdout().lock())?,
        Some("complain") => write_for_ever(io::stderr().lock())?,
        Some("sleep") => sleep(number()),
        Some("environment") => print_environment(),
        _ => return shout(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn shout(arguments: &[String]) -> io::Result<ExitCode> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let mut output = io::stdout().lock();
    write!(output, "arguments:")?;
    for argument in arguments {
        write!(output, " {argument}")?;
    }
    writeln!(output)?;
    output.write_all(text.to_uppercase().as_bytes())?;
    output.flush()?;
    eprintln!("read {} characters", text.chars().count());
    let failed = arguments.first().is_some_and(|argument| argument == "fail");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn compute_for_ever() -> ! {
    let mut state = 1u64;
    loop {
        state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

fn grow() {
    const STEP_LEN: usize = 1024 * 1024;
    let mut taken = Vec::new();
    loop {
        // Touched, so that the host has to give real memory.
        taken.push(vec![1u8; STEP_LEN]);
        std::hint::black_box(&taken);
    }
}

fn write_for_ever(mut output: impl Write) -> io::Result<()> {
    let line = [b'x'; 1023];
    loop {
        output.write_all(&line)?;
        output.write_all(b"\n")?;
    }
}

fn sleep(duration_ms: u64) {
    let started = Instant::now();
    std::thread::sleep(Duration::from_millis(duration_ms));
    println!("slept {}", started.elapsed() >= Duration::from_millis(duration_ms));
}

fn print_environment() {
    let mut variables: Vec<_> = std::env::vars().collect();
    variables.sort();
    for (name, value) in variables {
        println!("{name}={value}");
    }
}
