//! `vmmctl watch`: the live table on a terminal, a plain one elsewhere.

mod ask;
mod live;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::interval;
use uuid::Uuid;
use vmm_api::client::Client;
use vmm_api::list::SortKey;

use self::ask::{Ask, ask, take};
use self::live::Live;
use super::list;
use crate::cli::{Format, Watch};
use crate::failure::Failure;
use crate::fleet::{Fleet, Member};
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::text::Text;
use crate::render::watch;

/// How often the plain table is printed when only a count is given.
const PLAIN_INTERVAL: Duration = Duration::from_secs(2);

/// The events that say how VMs stand. Not those with facts, of which ten
/// thousand guests make ten thousand a second: the guests that are shown are
/// asked instead.
const KINDS: [&str; 6] = ["created", "changed", "deleted", "state", "agent", "lifecycle"];

pub(super) async fn run(client: &Client, output: Output, watch: Watch) -> Result<(), Failure> {
    for name in &watch.names {
        client.vm(name).await.map_err(|error| Failure::about(name, error))?;
    }
    let plain = watch.interval.is_some() || watch.count.is_some();
    if plain || !output.terminal || output.format == Format::Json {
        return print(client, output, watch).await;
    }
    let events = client.events_of_kinds(&KINDS, None, None).await?;
    let mut fleet = fleet(&watch);
    let all = ask(client, Ask::all(&fleet)).await?;
    take(&mut fleet, all);
    let limit = watch.limit.and_then(|limit| usize::try_from(limit).ok());
    Live::new(client, output, fleet, limit.unwrap_or(usize::MAX))?.run(events).await
}

fn fleet(watch: &Watch) -> Fleet {
    let select = &watch.select;
    Fleet::new(watch.names.clone(), select.filter(), select.sort(SortKey::Problem))
}

/// Prints the table once, or as often as was asked for.
async fn print(client: &Client, output: Output, watch: Watch) -> Result<(), Failure> {
    let endless = watch.interval.is_some() && watch.count.is_none();
    let mut left = watch.count.unwrap_or(1);
    let mut ticks = interval(watch.interval.map_or(PLAIN_INTERVAL, Duration::from_secs));
    let limit = watch.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut first = true;
    while endless || left > 0 {
        ticks.tick().await;
        let mut fleet = fleet(&watch);
        let all = ask(client, Ask::all(&fleet)).await?;
        take(&mut fleet, all);
        let rows: Vec<Uuid> = fleet.rows().iter().copied().take(limit).collect();
        let now = Timestamp::now();
        let guests = fleet.unasked(&rows, now, now);
        take(&mut fleet, ask(client, Ask { guests, ..Ask::default() }).await?);
        let members: Vec<&Member> = rows.iter().filter_map(|id| fleet.member(*id)).collect();
        if output.format == Format::Json {
            for member in members {
                output.json_line(&json!({"vm": member.vm, "facts": member.facts}))?;
            }
        } else {
            let mut lines = watch::table(&members, &Clock::now(), output.width());
            if !std::mem::take(&mut first) {
                lines.insert(0, Text::default());
            }
            output.lines(&lines)?;
        }
        let fit = fleet.rows().len();
        if rows.len() < fit {
            output.note(&[list::cut(rows.len() as u64, fit as u64)]);
        }
        left = left.saturating_sub(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vmm_api::event::EventKind;

    use super::*;

    #[test]
    fn the_daemon_knows_the_kinds() {
        assert!(KINDS.iter().all(|kind| EventKind::WORDS.contains(kind)));
    }
}
