//! Unit and property tests of the stream.

use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use serde_json::Value;
use vmm_api::guest::AgentState;

use super::*;

const CONNECTED: EventKind = EventKind::Agent { agent: AgentState::Connected };

fn now(subscriber: &mut Subscriber) -> Option<Next> {
    subscriber.next().now_or_never()
}

fn sequence(next: Option<Next>) -> u64 {
    match next {
        Some(Next::Event(event)) => event.sequence,
        other => panic!("expected an event, got {other:?}"),
    }
}

fn id(bus: &EventBus, sequence: u64) -> EventId {
    EventId { epoch: bus.shared.epoch.clone(), sequence }
}

#[test]
fn the_kind_is_the_word_in_the_json() {
    let bus = EventBus::new(8);
    let mut subscriber = bus.subscribe(None);
    let kinds = [
        EventKind::Created { name: "a".to_owned() },
        EventKind::Deleted { name: "a".to_owned() },
        CONNECTED,
        EventKind::Facts { full: true, facts: Value::Null },
        EventKind::Missed { count: None },
    ];
    for kind in kinds {
        bus.publish(None, kind.clone());
        let Some(Next::Event(event)) = now(&mut subscriber) else { panic!("no event") };
        let json: Event = serde_json::from_str(&event.json).unwrap();
        let value: Value = serde_json::from_str(&event.json).unwrap();
        assert_eq!(json.kind, kind);
        assert_eq!(value["kind"], event.kind);
        let place = subscriber.place_of(&event);
        assert_eq!(place, subscriber.place());
        assert_eq!(place.to_string().parse::<EventId>().unwrap(), place);
    }
}

#[test]
fn resumes_exactly_after_the_last_event_id() {
    let bus = EventBus::new(8);
    (0..5).for_each(|_| bus.publish(None, CONNECTED));
    let mut subscriber = bus.subscribe(Some(&id(&bus, 3)));
    assert_eq!(sequence(now(&mut subscriber)), 4);
    assert_eq!(sequence(now(&mut subscriber)), 5);
    assert!(now(&mut subscriber).is_none());
}

#[test]
fn an_id_that_is_too_old_yields_the_exact_gap() {
    let bus = EventBus::new(4);
    (0..10).for_each(|_| bus.publish(None, CONNECTED));
    let mut subscriber = bus.subscribe(Some(&id(&bus, 2)));
    assert!(matches!(now(&mut subscriber), Some(Next::Missed(Some(4)))));
    assert_eq!(sequence(now(&mut subscriber)), 7);
}

#[test]
fn an_id_of_another_run_or_of_the_future_yields_an_unknown_gap_and_what_is_there() {
    let bus = EventBus::new(4);
    bus.publish(None, CONNECTED);
    let other = EventId { epoch: "another".to_owned(), sequence: 1 };
    for since in [other, id(&bus, 99), id(&bus, u64::MAX)] {
        let mut subscriber = bus.subscribe(Some(&since));
        assert!(matches!(now(&mut subscriber), Some(Next::Missed(None))));
        assert_eq!(sequence(now(&mut subscriber)), 1);
        assert!(now(&mut subscriber).is_none());
    }
}

#[test]
fn long_events_push_out_older_ones_but_the_newest_stays() {
    let bus = EventBus::with_limits(100, 1000);
    for length in [10, 10, 10, 900, 5000] {
        let facts = Value::String("x".repeat(length));
        bus.publish(None, EventKind::Facts { full: true, facts });
    }
    let ring = bus.shared.lock();
    assert_eq!(ring.events.len(), 1);
    assert_eq!(ring.first(), 5);
    assert_eq!(ring.bytes, ring.events[0].json.len());
}

#[test]
fn closing_ends_a_stream_after_what_came_before() {
    let bus = EventBus::new(4);
    let mut subscriber = bus.subscribe(None);
    bus.publish(None, CONNECTED);
    bus.close();
    bus.publish(None, CONNECTED);
    assert_eq!(sequence(now(&mut subscriber)), 1);
    assert!(matches!(now(&mut subscriber), Some(Next::Closed)));
    assert!(matches!(now(&mut subscriber), Some(Next::Closed)));
}

#[tokio::test]
async fn a_waiting_subscriber_is_woken() {
    let bus = EventBus::default();
    let mut subscriber = bus.subscribe(None);
    let waiting = tokio::spawn(async move { subscriber.next().await });
    tokio::task::yield_now().await;
    bus.publish(None, CONNECTED);
    let next = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(sequence(Some(next)), 1);
}

#[test]
fn a_filter_is_forgotten_with_its_subscriber() {
    let bus = EventBus::new(4);
    let vm = Uuid::new_v4();
    let first = bus.subscribe(None).only(vm);
    let second = bus.subscribe(None).only(vm);
    drop(first);
    assert_eq!(bus.shared.lock().evicted[&vm].subscribers, 1);
    drop(second);
    assert!(bus.shared.lock().evicted.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    Read(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u8..3).prop_map(Step::Publish),
        2 => (1usize..5).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 0..200)
}

/// What a subscriber was told so far: how many events it knows of, delivered
/// or missed, and the checks that each further thing must pass.
struct Told {
    subscriber: Subscriber,
    vm: Option<Uuid>,
    known: usize,
}

impl Told {
    /// `published` are the VMs of all events in order.
    fn read(&mut self, published: &[Option<Uuid>]) -> bool {
        let mine: Vec<u64> = published
            .iter()
            .zip(1..)
            .filter(|(vm, _)| self.vm.is_none() || **vm == self.vm)
            .map(|(_, sequence)| sequence)
            .collect();
        match now(&mut self.subscriber) {
            Some(Next::Event(event)) => {
                // The next one that it does not know of: nothing skipped
                // unsaid, nothing twice.
                assert_eq!(event.sequence, mine[self.known]);
                self.known += 1;
                true
            }
            Some(Next::Missed(Some(count))) => {
                assert!(count > 0);
                self.known += usize::try_from(count).unwrap();
                true
            }
            Some(other) => panic!("unexpected {other:?}"),
            None => {
                assert_eq!(self.known, mine.len());
                false
            }
        }
    }
}

proptest! {
    #[test]
    fn any_interleaving_accounts_for_every_event(steps in steps(), capacity in 1usize..8) {
        let bus = EventBus::new(capacity);
        let vms = [None, Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2))];
        let mut published = Vec::new();
        let mut told: Vec<Told> = vms
            .into_iter()
            .map(|vm| {
                let all = bus.subscribe(None);
                let subscriber = match vm {
                    Some(vm) => all.only(vm),
                    None => all,
                };
                Told { subscriber, vm, known: 0 }
            })
            .collect();
        for step in steps {
            match step {
                Step::Publish(which) => {
                    let vm = vms[usize::from(which)];
                    published.push(vm);
                    bus.publish(vm, CONNECTED);
                }
                Step::Read(times) => {
                    for one in &mut told {
                        (0..times).for_each(|_| { one.read(&published); });
                    }
                }
            }
        }
        for one in &mut told {
            while one.read(&published) {}
        }
    }

    #[test]
    fn a_filter_that_starts_in_the_middle_counts_from_there(
        before in prop::collection::vec(0u8..3, 0..20),
        after in prop::collection::vec(0u8..3, 0..20),
        since in 0u64..20,
        capacity in 1usize..8,
    ) {
        let bus = EventBus::new(capacity);
        let vms = [None, Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2))];
        let mut published: Vec<Option<Uuid>> = Vec::new();
        let mut publish = |which: u8| {
            published.push(vms[usize::from(which)]);
            bus.publish(vms[usize::from(which)], CONNECTED);
        };
        before.iter().copied().for_each(&mut publish);
        let last = before.len() as u64;
        let oldest_known = last.saturating_sub(capacity as u64);
        // An id whose followers are all still there.
        let since = since.clamp(oldest_known, last);
        let subscriber = bus.subscribe(Some(&id(&bus, since))).only(Uuid::from_u128(1));
        after.iter().copied().for_each(&mut publish);
        let passed = usize::try_from(since).unwrap();
        let known = published[..passed].iter().filter(|vm| **vm == vms[1]).count();
        let mut told = Told { subscriber, vm: vms[1], known };
        while told.read(&published) {}
    }
}
