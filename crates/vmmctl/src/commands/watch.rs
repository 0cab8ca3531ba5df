//! `vmmctl watch`: the live table on a terminal, a plain one elsewhere.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, OptionFuture};
use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use uuid::Uuid;
use vmm_api::client::{Client, Error, EventStream, ListQuery, Next};
use vmm_api::guest::Guest;
use vmm_api::vm::Vm;

use crate::cli::{Format, Watch};
use crate::failure::Failure;
use crate::fleet::{Change, Fleet};
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::text::{Style, Text};
use crate::render::watch;
use crate::sys::terminal::{Input, Said, Screen, Size};

/// How often ages are drawn anew.
const TICK: Duration = Duration::from_secs(1);

/// How often the list is asked for: heartbeats are no events, and the age of
/// the agent's last word comes with the list.
const ASK_INTERVAL: Duration = Duration::from_secs(3);

/// The least time between two drawings, however much happens.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// How often the plain table is printed when only a count is given.
const PLAIN_INTERVAL: Duration = Duration::from_secs(2);

/// How many guests are asked for at once.
const ASK_AT_ONCE: usize = 8;

pub(super) async fn run(client: &Client, output: Output, watch: Watch) -> Result<(), Failure> {
    for name in &watch.names {
        client.vm(name).await.map_err(|error| Failure::about(name, error))?;
    }
    let plain = watch.interval.is_some() || watch.count.is_some();
    if plain || !output.terminal || output.format == Format::Json {
        return print(client, output, watch).await;
    }
    let events = client.events(None, None).await?;
    let mut fleet = Fleet::new(watch.names);
    take(&mut fleet, ask(client, None).await?);
    Live::new(client, output, fleet)?.run(events).await
}

/// Prints the table once, or as often as was asked for.
async fn print(client: &Client, output: Output, watch: Watch) -> Result<(), Failure> {
    let endless = watch.interval.is_some() && watch.count.is_none();
    let mut left = watch.count.unwrap_or(1);
    let mut ticks = interval(watch.interval.map_or(PLAIN_INTERVAL, Duration::from_secs));
    let mut first = true;
    while endless || left > 0 {
        ticks.tick().await;
        let mut fleet = Fleet::new(watch.names.clone());
        take(&mut fleet, ask(client, None).await?);
        if output.format == Format::Json {
            for member in fleet.sorted() {
                output.json_line(&json!({"vm": member.vm, "facts": member.facts}))?;
            }
        } else {
            let mut lines = watch::table(&fleet, &Clock::now(), output.width());
            if !std::mem::take(&mut first) {
                lines.insert(0, Text::default());
            }
            output.lines(&lines)?;
        }
        left = left.saturating_sub(1);
    }
    Ok(())
}

/// The daemon's list, and the guests that were asked for.
struct Answer {
    vms: Vec<Vm>,
    guests: Vec<(Uuid, Guest)>,
}

/// Asks for the list, and for `guests` or all of them.
async fn ask(client: &Client, guests: Option<Vec<Uuid>>) -> Result<Answer, Error> {
    let vms = client.list_all(&ListQuery::default()).await?;
    let wanted: Vec<Uuid> = vms
        .iter()
        .map(|vm| vm.id)
        .filter(|id| guests.as_ref().is_none_or(|guests| guests.contains(id)))
        .collect();
    let mut asked = stream::iter(wanted)
        .map(|id| async move { (id, client.guest(&id.to_string()).await) })
        .buffer_unordered(ASK_AT_ONCE);
    let mut guests = Vec::new();
    while let Some((id, guest)) = asked.next().await {
        match guest {
            Ok(guest) => guests.push((id, guest)),
            // Deleted since the list was made.
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Answer { vms, guests })
}

fn take(fleet: &mut Fleet, answer: Answer) {
    let now = Timestamp::now();
    fleet.listed(answer.vms, now);
    for (id, guest) in answer.guests {
        fleet.told(id, guest, now);
    }
}

/// The table that redraws.
struct Live<'a> {
    client: &'a Client,
    output: Output,
    fleet: Fleet,
    screen: Screen,
    input: Input,
    /// What stands at the right of the first line when not all is well.
    trouble: Option<&'static str>,
    /// Whether the daemon has to be asked for all guests.
    ask_all: bool,
    ask_at: Instant,
    asking: Option<BoxFuture<'a, Result<Answer, Error>>>,
    draw_at: Instant,
}

impl<'a> Live<'a> {
    fn new(client: &'a Client, output: Output, fleet: Fleet) -> Result<Self, Failure> {
        let now = Instant::now();
        Ok(Self {
            client,
            output,
            fleet,
            input: Input::new()?,
            screen: Screen::enter()?,
            trouble: None,
            ask_all: false,
            ask_at: now + ASK_INTERVAL,
            asking: None,
            draw_at: now,
        })
    }

    /// Draws and listens until somebody wants to leave. The screen is restored
    /// when this value goes, however that comes about.
    async fn run(mut self, events: EventStream) -> Result<(), Failure> {
        let mut events = pin!(stream::unfold(events, |mut events| async move {
            let next = events.next().await;
            Some((next, events))
        }));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut drawn_at = Instant::now();
        loop {
            if self.asking.is_none() && self.ask_at <= Instant::now() {
                self.begin_to_ask();
            }
            let idle = self.asking.is_none();
            let asking = OptionFuture::from(self.asking.as_mut());
            tokio::select! {
                leave = self.input.next() => match leave? {
                    Said::Leave => return Ok(()),
                    Said::Resized => self.draw_at = Instant::now(),
                },
                next = events.next() => {
                    let Some(next) = next else { return Ok(()) };
                    if self.heard(next?) {
                        self.draw_at = self.draw_at.min(drawn_at + DRAW_INTERVAL);
                    }
                }
                Some(answer) = asking => {
                    self.asking = None;
                    self.answered(answer)?;
                    self.draw_at = self.draw_at.min(drawn_at + DRAW_INTERVAL);
                }
                _ = tick.tick() => self.draw_at = Instant::now(),
                () = sleep_until(self.draw_at) => {
                    self.draw()?;
                    drawn_at = Instant::now();
                    self.draw_at = drawn_at + TICK;
                }
                () = sleep_until(self.ask_at), if idle => {}
            }
        }
    }

    fn begin_to_ask(&mut self) {
        let guests =
            if std::mem::take(&mut self.ask_all) { None } else { Some(self.fleet.unasked()) };
        self.asking = Some(ask(self.client, guests).boxed());
        self.ask_at = Instant::now() + ASK_INTERVAL;
    }

    /// Whether there is something new to see.
    fn heard(&mut self, next: Next) -> bool {
        let change = match next {
            Next::Event(received) => self.fleet.happened(&received.event),
            Next::Unknown { .. } => Change::None,
            Next::Disconnected(_) => {
                self.trouble = Some("vmm-service is gone; waiting for it");
                Change::Visible
            }
            Next::Reconnected => {
                self.trouble = None;
                Change::AskAll
            }
        };
        if matches!(change, Change::Ask | Change::AskAll) {
            self.ask_all |= change == Change::AskAll;
            self.ask_at = Instant::now();
        }
        change != Change::None
    }

    fn answered(&mut self, answer: Result<Answer, Error>) -> Result<(), Failure> {
        match answer {
            Ok(answer) => take(&mut self.fleet, answer),
            // The stream of events notices too, and brings the daemon back.
            Err(Error::NotReachable { .. } | Error::Lost(_) | Error::TimedOut(_)) => {}
            Err(error) if error.status().is_some_and(|status| status >= 500) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn draw(&mut self) -> Result<(), Failure> {
        let size = self.screen.size();
        let lines: Vec<String> = self
            .frame(size)
            .into_iter()
            .map(|line| line.cut(size.columns).to_line(self.output.colour()))
            .collect();
        self.screen.draw(&lines)?;
        Ok(())
    }

    /// The first line: how the fleet stands, and at its right what there is
    /// room for.
    fn head(&self, left: Text, clock: &Clock, columns: usize) -> Text {
        let time = clock.time_of_day();
        let right = match self.trouble {
            // More important than what it displaces.
            Some(trouble) => vec![Text::styled(Style::Bad, trouble)],
            None => [format!("{time}  q leaves"), time, String::new()]
                .map(|text| Text::styled(Style::Faint, text))
                .to_vec(),
        };
        let fits = |right: &Text| left.width() + right.width() + 2 <= columns;
        let right = right.iter().find(|right| fits(right)).or(right.last()).cloned();
        let right = right.unwrap_or_default();
        let room = columns.saturating_sub(right.width());
        let left = left.cut(room.saturating_sub(2));
        let gap = " ".repeat(room - left.width());
        left.and(Style::Plain, gap).append(right)
    }

    fn frame(&self, size: Size) -> Vec<Text> {
        let clock = Clock::now();
        let left = watch::summary(&self.fleet);
        let mut lines = vec![self.head(left, &clock, size.columns), Text::default()];
        if self.fleet.sorted().is_empty() {
            lines.push(Text::new("There are no VMs yet; `vmmctl create -f spec.toml` makes one."));
            return lines;
        }
        lines.extend(watch::table(&self.fleet, &clock, Some(size.columns)));
        let hidden = lines.len().saturating_sub(size.rows);
        if hidden > 0 {
            // The last line tells of those that it and what follows displace.
            lines.truncate(size.rows.saturating_sub(1));
            let more = format!("and {} more; `vmmctl watch NAME…` shows some of them", hidden + 1);
            lines.push(Text::styled(Style::Faint, more));
        }
        lines
    }
}
