//! A function for tests. Its first argument chooses what it does, others are its operands:
//!
//! | arguments | what happens |
//! |---|---|
//! | none, or `echo` | the result is the input, streamed through a blob if it came as one |
//! | `describe` | the job as the guest sees it: id, attempt, arguments, environment, length of the input |
//! | `fail SENTENCE` | the failure with that sentence |
//! | `panic SENTENCE` | a panic with that message |
//! | `trap` | the instruction `unreachable` |
//! | `loop` | computes for ever, without a call to the host |
//! | `grow` | takes memory until there is none |
//! | `log` | writes to the log for ever |
//! | `log-lines COUNT` | writes so many numbered lines, at all levels in turn |
//! | `work STEPS` | so many steps of about a millisecond each, with progress; the result is their number |
//! | `steps TO [STOP [LEN]]` | saves each step as a checkpoint of at least LEN bytes, from where the last run was; a run that begins anew fails after STOP steps |
//! | `bytes COUNT` | a result of so many bytes, as bytes |
//! | `blob COUNT` | a result of so many bytes, as a blob |
//! | `blobs` | begins blobs for ever and keeps them open |
//! | `read ID` | the result is that blob |
//! | `seek ID POSITION COUNT` | the result is that part of the blob |
//! | `forge ID` | names a blob as its result that it has never opened |
//! | `get OWNER SCOPE KEY` | what the key holds: `none`, `text ..`, `bytes ..` (hexadecimal), `blob ..` or `counter ..` |
//! | `set OWNER SCOPE KEY TEXT` | writes a text |
//! | `set-blob OWNER SCOPE KEY` | stores the input as a blob and writes its id |
//! | `delete OWNER SCOPE KEY` | removes the key; the result is `true` or `false` |
//! | `keys OWNER SCOPE PREFIX` | the keys, one a line |
//! | `count OWNER SCOPE KEY BY` | increments; the result is the sum |
//! | `cas OWNER KEY VERSION [TEXT]` | compare-and-set, without a text removes; the result is `true` or `false` |
//!
//! OWNER is `function`, `project` or `user`, SCOPE `global` or `local`. The bytes of `bytes` and `blob` are those of
//! [`pattern`].

use std::io::{self, Read, Seek, SeekFrom, Write};

use shoal_guest::job::{self, Level};
use shoal_guest::{Input, Output, blob, checkpoint, kv, progress};

shoal_guest::function!(run);

type Answer = Result<Output, Box<dyn std::error::Error>>;

fn run(input: Input) -> Answer {
    let arguments = job::arguments();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["echo"] => echo(input),
        ["describe"] => describe(input),
        ["fail", sentence] => Err((*sentence).into()),
        ["panic", sentence] => panic!("{sentence}"),
        ["trap"] => trap(),
        ["loop"] => compute_for_ever(),
        ["grow"] => grow(),
        ["log"] => log_for_ever(),
        ["log-lines", count] => log_lines(count.parse()?),
        ["work", steps] => work(steps.parse()?),
        ["steps", to, more @ ..] if more.len() <= 2 => {
            let more: Vec<u64> = more.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
            steps(to.parse()?, more.first().copied(), more.get(1).copied().unwrap_or(0))
        }
        ["bytes", count] => Ok(pattern(0).take(count.parse()?).collect::<Vec<u8>>().into()),
        ["blob", count] => write_pattern(count.parse()?),
        ["blobs"] => begin_blobs(),
        ["read", id] => Ok(blob::read(&blob::Id::new(*id))?.into()),
        ["seek", id, position, count] => read_part(&blob::Id::new(*id), position.parse()?, count.parse()?),
        ["forge", id] => Ok(blob::Id::new(*id).into()),
        [operation @ ("get" | "set" | "set-blob" | "delete" | "keys" | "count"), owner, scope, operands @ ..] => {
            key_value(operation, namespace(owner, scope)?, operands, input)
        }
        ["cas", owner, key, version, text @ ..] if text.len() <= 1 => {
            let value = text.first().map(|text| kv::Value::from(*text));
            Ok(namespace(owner, "local")?.compare_and_set(key, version.parse()?, value)?.to_string().into())
        }
        _ => Err(format!("no such probe: {}", words.join(" ")).into()),
    }
}

/// Bytes that differ from place to place, so that a shifted or repeated part shows.
fn pattern(start: u64) -> impl Iterator<Item = u8> {
    (start..).map(|place| (place ^ (place >> 8) ^ (place >> 16)) as u8)
}

fn echo(input: Input) -> Answer {
    let mut reader = input.reader()?;
    if reader.size() <= 16 * 1024 {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        return Ok(bytes.into());
    }
    let mut writer = blob::create()?;
    io::copy(&mut reader, &mut writer)?;
    Ok(writer.finish()?.into())
}

fn describe(input: Input) -> Answer {
    let mut environment = job::environment();
    environment.sort();
    let environment: Vec<String> = environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(format!(
        "id {}\nattempt {}\narguments {}\nenvironment {}\ninput {}\n",
        job::id(),
        job::attempt(),
        job::arguments().join(" "),
        environment.join(" "),
        input.reader()?.size()
    )
    .into())
}

fn trap() -> Answer {
    std::process::abort()
}

fn compute_for_ever() -> Answer {
    let mut state = 1u64;
    loop {
        state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

fn grow() -> Answer {
    const STEP_LEN: usize = 1024 * 1024;
    let mut taken = Vec::new();
    loop {
        // Touched, so that the host has to give real memory.
        taken.push(vec![1u8; STEP_LEN]);
        std::hint::black_box(&taken);
    }
}

fn log_for_ever() -> Answer {
    let line = "x".repeat(1000);
    loop {
        job::log(Level::Info, &line);
    }
}

fn log_lines(count: u64) -> Answer {
    let levels = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];
    for (line, level) in (0..count).zip(levels.into_iter().cycle()) {
        job::log(level, &format!("line {line}"));
    }
    Ok(().into())
}

fn work(steps: u64) -> Answer {
    // About a millisecond on a machine of 2020.
    const ROUNDS: u64 = 400_000;
    for step in 0..steps {
        progress!(step, steps, "step {step}");
        let mut state = step;
        for _ in 0..ROUNDS {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    progress!(steps, steps, "done");
    Ok(steps.to_string().into())
}

fn steps(to: u64, stop: Option<u64>, len: u64) -> Answer {
    let saved = checkpoint::last()?.map(String::from_utf8).transpose()?;
    let first: u64 = saved.as_deref().map_or(Ok(0), |text| text.trim_end().parse())?;
    for step in first + 1..=to {
        if first == 0 && stop.is_some_and(|stop| step > stop) {
            return Err(format!("stopped before step {step}").into());
        }
        let mut state = step.to_string().into_bytes();
        state.resize(state.len().max(len as usize), b' ');
        checkpoint::save(&state)?;
        progress!(step, to, "step {step}");
    }
    Ok(format!("from {first} to {to}").into())
}

fn write_pattern(count: u64) -> Answer {
    const CHUNK_LEN: u64 = 64 * 1024;
    let mut writer = blob::create()?;
    for start in (0..count).step_by(CHUNK_LEN as usize) {
        let len = CHUNK_LEN.min(count - start) as usize;
        writer.write_all(&pattern(start).take(len).collect::<Vec<u8>>())?;
    }
    Ok(writer.finish()?.into())
}

fn begin_blobs() -> Answer {
    let mut open = Vec::new();
    loop {
        let mut writer = blob::create()?;
        writer.write_all(b"unfinished")?;
        writer.flush()?;
        open.push(writer);
    }
}

fn read_part(id: &blob::Id, position: u64, count: u64) -> Answer {
    let mut reader = blob::open(id)?;
    reader.seek(SeekFrom::Start(position))?;
    let mut bytes = Vec::new();
    reader.take(count).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn namespace(owner: &str, scope: &str) -> Result<kv::Namespace, String> {
    let namespace = match owner {
        "function" => kv::function(),
        "project" => kv::project(),
        "user" => kv::user(),
        _ => return Err(format!("no such owner: {owner}")),
    };
    match scope {
        "global" => Ok(namespace),
        "local" => Ok(namespace.local()),
        _ => Err(format!("no such scope: {scope}")),
    }
}

fn key_value(operation: &str, namespace: kv::Namespace, operands: &[&str], input: Input) -> Answer {
    match (operation, operands) {
        ("get", [key]) => Ok(show(namespace.get(key)?).into()),
        ("set", [key, text]) => Ok(namespace.set(key, *text)?.into()),
        ("set-blob", [key]) => {
            let id = blob::write(&input.bytes()?)?;
            namespace.set(key, id.clone())?;
            Ok(id.to_string().into())
        }
        ("delete", [key]) => Ok(namespace.delete(key)?.to_string().into()),
        ("keys", [prefix]) => Ok(namespace.keys(prefix).collect::<Result<Vec<_>, _>>()?.join("\n").into()),
        ("count", [key, by]) => Ok(namespace.increment(key, by.parse()?)?.to_string().into()),
        _ => Err(format!("{operation} does not take {} operands", operands.len()).into()),
    }
}

fn show(value: Option<kv::Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(kv::Value::Text(text)) => format!("text {text}"),
        Some(kv::Value::Bytes(bytes)) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("bytes {digits}")
        }
        Some(kv::Value::Blob(id)) => format!("blob {id}"),
        Some(kv::Value::Counter(sum)) => format!("counter {sum}"),
    }
}
