//! Jobs that return the hash of their input: handed over, waited for, compared, and remembered to be read again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use serde::Serialize;
use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::limits::INLINE_LEN_MAX;
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{self, Job, State, Submit};

use super::FUNCTION;
use super::arrivals::INPUT_LEN;
use super::times::Spread;
use crate::cli::Progress;

/// The name under which the function is deployed.
pub(super) const NAME: &str = "digest";
/// Results that are read again at once.
const READ_AT_ONCE: usize = 64;

/// The input of one job, unlike that of any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Input {
    number: u64,
    len: u32,
}

impl Input {
    /// One of the usual length.
    pub(super) fn usual(number: u64) -> Self {
        Self { number, len: INPUT_LEN }
    }

    /// Its bytes. Chance, so that nothing on the way can make them shorter.
    pub(super) fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or_default()];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&self.number.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }
}

/// A job that has succeeded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    id: ObjectId,
    input: Input,
    /// Until it was acknowledged: durable.
    pub(super) submit: Duration,
    /// Until its result was here.
    pub(super) result: Duration,
}

/// How long jobs took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    /// From the beginning to the acknowledgement.
    pub(super) submit: Spread,
    /// From the beginning to the result, which is then compared.
    pub(super) result: Spread,
}

impl Latency {
    /// Of these jobs.
    pub(super) fn of(done: &[Done]) -> Self {
        Self {
            submit: Spread::of(done.iter().map(|done| done.submit).collect()),
            result: Spread::of(done.iter().map(|done| done.result).collect()),
        }
    }
}

/// Who hands over jobs. Clones share the connection.
#[derive(Clone)]
pub(super) struct Submitter {
    client: Client,
    seed: u64,
}

impl Submitter {
    /// Deploys the function.
    pub(super) async fn deploy(client: Client, seed: u64) -> anyhow::Result<Self> {
        let component = client.put_bytes(FUNCTION, false, NAME).await?.id;
        // Inputs above 16 KiB come as blobs: the function imports the interface.
        let function = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new(NAME, component) };
        client.deploy(&function).await?;
        Ok(Self { client, seed })
    }

    /// One job from the handing over to its result, which is compared with what it must be. `begun`: when it was to
    /// begin, if that was not now; the times count from there.
    pub(super) async fn job(&self, input: Input, begun: Option<Instant>) -> anyhow::Result<Done> {
        let bytes = input.bytes(self.seed);
        let expected = blake3::hash(&bytes);
        let begun = begun.unwrap_or_else(Instant::now);
        // What is too long for a record has to be put first, which is a part of handing the job over.
        let handed = match bytes.len() <= INLINE_LEN_MAX {
            true => job::Input::Bytes(bytes.into()),
            false => job::Input::Blob(self.client.put_bytes(&bytes, false, "").await?.id),
        };
        let id = self.client.submit(&Submit { function: NAME.into(), input: handed, ..Submit::default() }).await?;
        let submit = begun.elapsed();
        let job = self.client.wait(id, None, true).await?;
        let result = begun.elapsed();
        check(&job, &expected)?;
        Ok(Done { id, input, submit, result })
    }
}

/// The jobs of a run.
pub(super) struct Jobs {
    submitter: Submitter,
    given: u64,
    done: Vec<Done>,
}

impl Jobs {
    pub(super) fn new(submitter: Submitter) -> Self {
        Self { submitter, given: 0, done: Vec::new() }
    }

    /// Who hands them over.
    pub(super) fn submitter(&self) -> &Submitter {
        &self.submitter
    }

    /// An input for the next job.
    pub(super) fn next_input(&mut self, len: u32) -> Input {
        self.given += 1;
        Input { number: self.given, len }
    }

    /// An input of the usual length for the next job.
    pub(super) fn next_usual(&mut self) -> Input {
        self.next_input(INPUT_LEN)
    }

    /// Remembers jobs, for [`Jobs::read_again`].
    pub(super) fn remember(&mut self, done: &[Done]) {
        self.done.extend_from_slice(done);
    }

    /// How many have succeeded.
    pub(super) fn count(&self) -> usize {
        self.done.len()
    }

    /// Jobs one after the other.
    pub(super) async fn one_by_one(&mut self, jobs: u32) -> anyhow::Result<Latency> {
        let mut done = Vec::new();
        for _ in 0..jobs {
            let input = self.next_input(INPUT_LEN);
            done.push(self.submitter.job(input, None).await?);
        }
        self.remember(&done);
        Ok(Latency::of(&done))
    }

    /// A closed loop: as many as `in_flight` at once, each that ends makes room for the next. Returns how long all took,
    /// too.
    pub(super) async fn closed(&mut self, jobs: u32, in_flight: u32) -> anyhow::Result<(Latency, Duration)> {
        let inputs: Vec<Input> = (0..jobs).map(|_| self.next_input(INPUT_LEN)).collect();
        let submitter = self.submitter.clone();
        let mut progress = Progress::new("closed loop:");
        let begun = Instant::now();
        let mut running = futures_util::stream::iter(inputs)
            .map(|input| submitter.job(input, None))
            .buffer_unordered(usize::try_from(in_flight).unwrap_or(1));
        let mut done = Vec::new();
        while let Some(job) = running.next().await {
            done.push(job?);
            progress.say(&format!("{} of {jobs} jobs", done.len()));
        }
        let elapsed = begun.elapsed();
        self.remember(&done);
        Ok((Latency::of(&done), elapsed))
    }

    /// So many jobs, handed over one after the other: how long that took. Their results are waited for, and compared.
    pub(super) async fn in_turn(&mut self, jobs: u32) -> anyhow::Result<Duration> {
        let inputs: Vec<Input> = (0..jobs).map(|_| self.next_input(INPUT_LEN)).collect();
        let Submitter { client, seed } = &self.submitter;
        let begun = Instant::now();
        let mut handed = Vec::with_capacity(inputs.len());
        for input in inputs {
            let bytes = job::Input::Bytes(input.bytes(*seed).into());
            handed.push((
                client.submit(&Submit { function: NAME.into(), input: bytes, ..Submit::default() }).await?,
                input,
            ));
        }
        let submitted = begun.elapsed();
        let mut ending = futures_util::stream::iter(handed)
            .map(|(id, input)| async move { anyhow::Ok((client.wait(id, None, true).await?, input)) })
            .buffer_unordered(READ_AT_ONCE);
        while let Some(ended) = ending.next().await {
            let (job, input) = ended?;
            check(&job, &blake3::hash(&input.bytes(*seed)))?;
        }
        Ok(submitted)
    }

    /// Goes on over another connection.
    pub(super) fn reconnect(&mut self, client: Client) {
        self.submitter.client = client;
    }

    /// Reads every result once more, by another client, and compares it.
    pub(super) async fn read_again(&self, client: &Client) -> anyhow::Result<()> {
        let mut progress = Progress::new("reading again:");
        let mut reading = futures_util::stream::iter(&self.done)
            .map(|done| async move {
                let job = client.job(done.id, true).await.with_context(|| format!("job {} after the kill", done.id))?;
                check(&job, &blake3::hash(&done.input.bytes(self.submitter.seed))).context("after the kill")
            })
            .buffer_unordered(READ_AT_ONCE);
        let mut read = 0;
        while let Some(compared) = reading.next().await {
            compared?;
            read += 1;
            progress.say(&format!("{read} of {} results", self.count()));
        }
        ensure!(read == self.count(), "only {read} of {} results were read", self.count());
        Ok(())
    }

    /// Ends the connection.
    pub(super) async fn close(self) {
        self.submitter.client.close().await;
    }
}

/// Compares the result of a job with the hash that it must be.
fn check(job: &Job, expected: &blake3::Hash) -> anyhow::Result<()> {
    let id = job.id;
    if job.state != State::Succeeded {
        let why = job.failure.as_ref().map_or("no reason is given", |failure| failure.message.as_str());
        bail!("job {id} is {}: {why}", job.state.text());
    }
    let result = job.output.as_ref().and_then(|output| output.inline.as_ref());
    let result = result.with_context(|| format!("job {id} has no result"))?;
    ensure!(**result == *expected.as_bytes().as_slice(), "the result of job {id} is not the hash of its input");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_unlike_each_other_and_the_same_for_the_same_seed() {
        assert_eq!(Input::usual(1).bytes(7), Input::usual(1).bytes(7));
        assert_ne!(Input::usual(1).bytes(7), Input::usual(2).bytes(7));
        assert_ne!(Input::usual(1).bytes(7), Input::usual(1).bytes(8));
        assert_eq!(Input { number: 1, len: 100_000 }.bytes(7).len(), 100_000);
    }
}
