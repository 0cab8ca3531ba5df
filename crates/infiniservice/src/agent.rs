//! The one loop: what collectors read goes to the channel, what the host asks
//! is done, until the machine or somebody ends the agent.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::collect::Collectors;
use crate::command::{Commands, PowerMode};
use crate::identity::Identity;
use crate::lifecycle::Boot;
use crate::publish::Publisher;
use crate::publish::channel::{Channel, Effect, Transport};
use crate::sys::alarm::Alarm;
use crate::sys::{power, signal::Termination};

/// How soon a boot that is still going on is looked at again.
const BOOT_INTERVAL: Duration = Duration::from_secs(1);

/// How fresh the facts must be for a host that wants all of them. A host that
/// asks more often gets the same ones again.
const FRESH: Duration = Duration::from_secs(1);

/// How long the last words may take. A host that does not read must not keep a
/// guest from going down.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the channel is.
    pub transport: Transport,
    /// How often is collected and reported.
    pub interval: Duration,
    /// The file that tells the end of the boot, if the owner makes one.
    pub boot_complete_file: Option<PathBuf>,
}

/// The running agent.
pub struct Agent {
    collectors: Collectors,
    channel: Channel,
    boot: Boot,
    interval: Duration,
    alarm: Alarm,
    collected_at: Instant,
}

impl Agent {
    /// Collects for the first time and begins to watch the boot. Fails when the
    /// socket to listen on cannot be bound, or the system has no timer for us.
    pub fn start(settings: Settings, identity: Identity, commands: Commands) -> io::Result<Self> {
        let mut channel = Channel::new(settings.transport, identity, commands);
        channel.bind()?;
        let mut agent = Self {
            collectors: Collectors::default(),
            channel,
            boot: Boot::watch(settings.boot_complete_file),
            interval: settings.interval,
            alarm: Alarm::new()?,
            collected_at: Instant::now(),
        };
        agent.collect();
        Ok(agent)
    }

    /// Runs until a signal ends it. Fails when the system's timer does, without
    /// which there would be neither reports nor heartbeats.
    pub async fn run(mut self, mut termination: Termination) -> io::Result<()> {
        let mut next_report = Instant::now() + self.interval;
        loop {
            self.alarm.set(self.next_wake(next_report))?;
            tokio::select! {
                biased;
                name = termination.received() => {
                    tracing::info!(signal = name, "The agent ends.");
                    break;
                }
                effect = self.channel.converse() => self.act(effect).await,
                rung = self.alarm.rings() => {
                    rung?;
                    if next_report <= Instant::now() {
                        self.collect();
                        next_report = Instant::now() + self.interval;
                    }
                    self.look_at_boot();
                }
            }
        }
        if power::is_going_down().await {
            self.boot.begin_shutdown();
        }
        self.say_last_words().await;
        Ok(())
    }

    fn next_wake(&self, next_report: Instant) -> Instant {
        let boot = self.boot.is_moving().then(|| Instant::now() + BOOT_INTERVAL);
        [boot, self.channel.deadline()].into_iter().flatten().fold(next_report, Instant::min)
    }

    async fn act(&mut self, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Collect) => {
                if self.collected_at.elapsed() >= FRESH {
                    self.collect();
                }
                self.look_at_boot();
            }
            Some(Effect::TurnOff { mode, id }) => self.turn_off(mode, id).await,
        }
    }

    fn collect(&mut self) {
        self.collected_at = Instant::now();
        let facts = self.collectors.collect();
        if let Err(error) = self.channel.publish(&facts) {
            tracing::error!(%error, "The facts cannot be written as JSON.");
        }
        self.look_at_boot();
    }

    fn look_at_boot(&mut self) {
        self.boot.look();
        self.channel.tell_stages(self.boot.stages());
    }

    async fn turn_off(&mut self, mode: PowerMode, id: Option<Value>) {
        self.boot.begin_shutdown();
        self.say_last_words().await;
        if let Err(error) = power::turn_off(mode).await {
            tracing::error!(%error, "The machine could not be told to go down.");
            self.boot.abandon_shutdown();
            self.channel.tell_stages(self.boot.stages());
            self.channel.fail(id, format!("The machine could not be told to go down: {error}"));
        }
    }

    async fn say_last_words(&mut self) {
        self.channel.tell_stages(self.boot.stages());
        match tokio::time::timeout(LAST_WORDS, self.channel.drain()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "The host did not hear the last words."),
            Err(_) => tracing::info!("The host did not read the last words in time."),
        }
    }
}
