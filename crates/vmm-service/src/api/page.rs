//! Pages of VMs, and where each of them goes on.
//!
//! Whoever goes from page to page gets every VM that stays exactly once,
//! whatever comes and goes meanwhile. By what never changes of a VM, such as
//! its name, a page goes on after the last VM of the page before. By what does
//! change, such as its state, that would pass over VMs and give others twice:
//! the order is kept then, as the first page found it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmm_api::guest::{AgentState, GuestSummary};
use vmm_api::list::{Filter, Seen, Sort, SortKey};
use vmm_api::problem::FieldError;
use vmm_api::vm::{State, Vm, VmList, VmSpec};

use super::Context;
use super::problem::{ApiError, Result};
use super::query::Parameters;
use crate::vm::driver::View;

/// How many VMs a page holds when the caller names no number.
const DEFAULT_PAGE: usize = 200;

/// The most that a page holds.
const MAX_PAGE: usize = 1000;

/// About how many bytes of specifications a page holds at most. Ordinary ones
/// are half a kilobyte; a hundred long paths and labels in each must not make
/// an answer that no client reads.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How many orders are kept for callers on their way through them: at ten
/// thousand VMs these are 5 MiB. The one that was used longest ago goes first.
const MOST_ORDERS: usize = 32;

/// What a caller asked for.
pub struct Asked {
    filter: Filter,
    sort: Sort,
    limit: usize,
    cursor: Option<Cursor>,
}

impl Asked {
    /// # Errors
    ///
    /// Every parameter that is wrong.
    pub fn parse(query: Vec<(String, String)>) -> Result<Self> {
        let mut given = Parameters::new(query);
        let right = format!("a number from 1 to {MAX_PAGE}");
        let limit = given.one("limit", &right, |text| {
            text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit))
        });
        let right = "what a page before this one gave as next_cursor";
        let cursor = given.one("cursor", right, Cursor::decode);
        let states = given.words("state", &State::ALL.map(|state| (state.as_str(), state)));
        let agents = given.words("agent", &AgentState::ALL.map(|agent| (agent.as_str(), agent)));
        let name = given.one("name", "a name or a pattern such as web-*", |text| {
            (!text.is_empty()).then(|| text.to_owned())
        });
        let labels = given.all("label", "a key and a value, as in tier:web", |text| {
            text.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned()))
        });
        let words = SortKey::ALL.map(SortKey::as_str).join(", ");
        let right = format!("one of {words}; with '-' before it the order is turned round");
        let sort: Sort = given.one("sort", &right, |text| text.parse().ok()).unwrap_or_default();
        if let Some(cursor) = &cursor
            && cursor.sort != sort.to_string()
        {
            let detail = format!(
                "it goes on with a list with sort={}: ask for the same order, or leave it out to \
                 begin again",
                cursor.sort
            );
            given.wrong("cursor", detail);
        }
        given.finish()?;
        let filter = Filter { states, agents, name, labels };
        Ok(Self { filter, sort, limit: limit.unwrap_or(DEFAULT_PAGE), cursor })
    }

    fn sees<'a>(&self, context: &Context, view: &'a View) -> Seen<'a> {
        // Asked for only where it matters: it takes two locks.
        let matters = !self.filter.agents.is_empty()
            || matches!(self.sort.key, SortKey::AgentAge | SortKey::Problem);
        let GuestSummary { agent, age_s, .. } =
            if matters { context.hub.summary(view.id) } else { GuestSummary::default() };
        let View { spec, state, created_at, state_changed_at, .. } = view;
        let (state, created_at, state_changed_at) = (*state, *created_at, *state_changed_at);
        Seen { spec, state, created_at, state_changed_at, agent, age_s }
    }
}

/// The page that was asked for.
///
/// # Errors
///
/// When its cursor goes on with an order that is no longer kept.
pub fn page(context: &Context, asked: &Asked) -> Result<VmList> {
    match asked.cursor.as_ref().map(|cursor| &cursor.place) {
        None => Ok(first(context, asked)),
        Some(Place::After { rank, name }) => Ok(after(context, asked, Some((*rank, name)))),
        Some(Place::In { order, from }) => {
            let Some(ids) = context.orders.find(*order) else {
                return Err(Cursor::outlived());
            };
            Ok(within(context, asked, &Order { id: *order, ids }, *from))
        }
    }
}

fn first(context: &Context, asked: &Asked) -> VmList {
    if asked.sort.key.is_fixed() {
        return after(context, asked, None);
    }
    let found = fitting(context, asked);
    let order = Order { id: Uuid::new_v4(), ids: found.iter().map(|found| found.id).collect() };
    let list = within(context, asked, &order, 0);
    if list.next_cursor.is_some() {
        context.orders.keep(order);
    }
    list
}

/// A page of an order that stays: what comes after `last`.
fn after(context: &Context, asked: &Asked, last: Option<(i64, &str)>) -> VmList {
    let mut found = fitting(context, asked);
    let matched = found.len() as u64;
    if let Some(last) = last {
        found.retain(|found| asked.sort.compare(found.place(), last).is_gt());
    }
    let mut more = found.len() > asked.limit;
    found.truncate(asked.limit);
    let ids: Vec<Uuid> = found.iter().map(|found| found.id).collect();
    let (vms, looked_at) = show(context, asked, &ids);
    more |= looked_at < found.len();
    let next = looked_at.checked_sub(1).filter(|_| more).map(|last| {
        let Found { rank, spec, .. } = &found[last];
        asked.cursor(Place::After { rank: *rank, name: spec.name.clone() })
    });
    VmList { vms, total: context.registry.len() as u64, matched, next_cursor: next }
}

/// A page of an order that is kept.
fn within(context: &Context, asked: &Asked, order: &Order, from: usize) -> VmList {
    let rest = order.ids.get(from..).unwrap_or_default();
    let (vms, looked_at) = show(context, asked, rest);
    let next = (looked_at < rest.len())
        .then(|| asked.cursor(Place::In { order: order.id, from: from + looked_at }));
    let (total, matched) = (context.registry.len() as u64, order.ids.len() as u64);
    VmList { vms, total, matched, next_cursor: next }
}

/// The first of these VMs that still are there and fit, as many as a page
/// holds, and how many were looked at for that.
fn show(context: &Context, asked: &Asked, ids: &[Uuid]) -> (Vec<Vm>, usize) {
    let mut vms = Vec::with_capacity(ids.len().min(asked.limit));
    let (mut looked_at, mut bytes) = (0, 0);
    for id in ids {
        if vms.len() == asked.limit || bytes >= MAX_PAGE_BYTES {
            break;
        }
        looked_at += 1;
        let vm = context.registry.vm(*id);
        if let Some(vm) = vm.filter(|vm| asked.filter.fits(&Seen::from(vm))) {
            bytes += weight(&vm.spec);
            vms.push(vm);
        }
    }
    (vms, looked_at)
}

/// A VM that fits, and what is needed to put it in its place.
struct Found {
    id: Uuid,
    rank: i64,
    spec: Arc<VmSpec>,
}

impl Found {
    fn place(&self) -> (i64, &str) {
        (self.rank, &self.spec.name)
    }
}

/// Those that fit, in order.
fn fitting(context: &Context, asked: &Asked) -> Vec<Found> {
    let mut all = Vec::new();
    context.registry.each(|view| {
        let seen = asked.sees(context, view);
        if asked.filter.fits(&seen) {
            let (rank, spec) = (asked.sort.rank(&seen), Arc::clone(&view.spec));
            all.push(Found { id: view.id, rank, spec });
        }
    });
    // They come by name. Sorting by numbers alone keeps that among equals, and
    // spares a look into two specifications for each comparison.
    if asked.sort == (Sort { key: SortKey::Name, descending: true }) {
        all.reverse();
    } else {
        all.sort_by_key(|found| found.rank);
    }
    all
}

/// About how long a specification's JSON is.
fn weight(spec: &VmSpec) -> usize {
    let texts = [&spec.kernel, &spec.initrd, &spec.cmdline].into_iter().flatten();
    let disks = spec.disks.iter().map(|disk| disk.path.len());
    let labels = spec.labels.iter().map(|(key, value)| key.len() + value.len());
    texts.map(String::len).chain(disks).chain(labels).sum()
}

/// An order as it was found.
struct Order {
    id: Uuid,
    ids: Arc<[Uuid]>,
}

/// The orders that callers are on their way through. Cheap to clone.
#[derive(Clone, Default)]
pub struct Orders {
    /// The one that was used longest ago comes first.
    kept: Arc<Mutex<VecDeque<Order>>>,
}

impl Orders {
    fn keep(&self, order: Order) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MOST_ORDERS {
            kept.pop_front();
        }
        kept.push_back(order);
    }

    fn find(&self, id: Uuid) -> Option<Arc<[Uuid]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let position = kept.iter().position(|order| order.id == id)?;
        let order = kept.remove(position)?;
        let ids = Arc::clone(&order.ids);
        kept.push_back(order);
        Some(ids)
    }
}

/// Where a page goes on. On the wire it is its JSON in hexadecimal digits, so
/// that nobody is tempted to write one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    /// See [`VERSION`].
    v: u32,
    sort: String,
    place: Place,
}

/// The form of a cursor: one of another form, from before an update, is
/// refused instead of misread.
const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Place {
    /// After a VM of that rank and that name.
    After { rank: i64, name: String },
    /// At a place in an order that is kept.
    In { order: Uuid, from: usize },
}

impl Asked {
    fn cursor(&self, place: Place) -> String {
        Cursor { v: VERSION, sort: self.sort.to_string(), place }.encode()
    }
}

impl Cursor {
    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("a cursor is plain data");
        json.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let bytes: Option<Vec<u8>> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .collect();
        serde_json::from_slice(&bytes?).ok().filter(|cursor: &Self| cursor.v == VERSION)
    }

    fn outlived() -> ApiError {
        let detail = "the order that it goes on with is no longer kept, because the daemon was \
                      restarted or others asked for many lists: begin again without it";
        ApiError::bad_parameters(vec![FieldError {
            field: "cursor".to_owned(),
            detail: detail.to_owned(),
        }])
    }
}

#[cfg(test)]
mod tests;
