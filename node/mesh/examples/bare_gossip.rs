//! gossipsub by itself, over QUIC and with libp2p's own settings: what `shoal-testnet spread` measures a change beside.
//!
//! Commands are lines of standard input: `dial ADDRESS` and `publish NUMBER LENGTH`. What happens is told in lines of
//! standard output: `address ADDRESS` when it listens, `heard N` when so many others listen to the topic, and
//! `got NUMBER MICROS` when a message has come, with the time since 1970 in microseconds. It ends with its input.
#![allow(clippy::print_stdout, reason = "lines are how it speaks to the program that has started it")]

use std::error::Error;
use std::io::BufRead as _;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use libp2p::gossipsub::{Behaviour, ConfigBuilder, Event, IdentTopic, MessageAuthenticity};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, SwarmBuilder};
use tokio::sync::mpsc;

/// What they all listen to.
const TOPIC: &str = "bare";
/// Lines of input that wait.
const COMMANDS_MAX: usize = 64;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let topic = IdentTopic::new(TOPIC);
    let mut swarm = swarm(&topic)?;
    let mut commands = commands();
    let mut heard = 0_usize;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => obey(&mut swarm, &topic, &command)?,
                None => return Ok(()),
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => println!("address {address}/p2p/{}", swarm.local_peer_id()),
                SwarmEvent::Behaviour(Event::Subscribed { .. }) => {
                    heard += 1;
                    println!("heard {heard}");
                }
                SwarmEvent::Behaviour(Event::Message { message, .. }) => println!("got {} {}", number(&message.data)?, micros()?),
                _ => {}
            },
        }
    }
}

fn swarm(topic: &IdentTopic) -> Result<Swarm<Behaviour>, Failure> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_quic()
        .with_behaviour(|key| {
            let config = ConfigBuilder::default().build()?;
            Ok(Behaviour::new(MessageAuthenticity::Signed(key.clone()), config)?)
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build();
    swarm.behaviour_mut().subscribe(topic)?;
    swarm.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
    Ok(swarm)
}

/// The lines of standard input, which a thread reads.
fn commands() -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel(COMMANDS_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    told
}

fn obey(swarm: &mut Swarm<Behaviour>, topic: &IdentTopic, command: &str) -> Result<(), Failure> {
    match command.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["dial", address] => swarm.dial(address.parse::<Multiaddr>()?)?,
        ["publish", number, len] => {
            let mut data = number.parse::<u64>()?.to_be_bytes().to_vec();
            data.resize(len.parse()?, 0);
            swarm.behaviour_mut().publish(topic.clone(), data)?;
        }
        _ => return Err(format!("{command:?} is neither `dial ADDRESS` nor `publish NUMBER LENGTH`").into()),
    }
    Ok(())
}

fn number(data: &[u8]) -> Result<u64, Failure> {
    let (number, _) = data.split_first_chunk::<8>().ok_or("a message without a number")?;
    Ok(u64::from_be_bytes(*number))
}

fn micros() -> Result<u128, Failure> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros())
}
