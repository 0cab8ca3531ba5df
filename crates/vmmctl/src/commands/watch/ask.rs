//! What the fleet does not know, asked of the daemon.

use std::future::Future;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use uuid::Uuid;
use vmm_api::client::{Client, Error, ListQuery, MAX_PAGE};
use vmm_api::guest::Guest;
use vmm_api::list::Filter;
use vmm_api::vm::Vm;

use crate::fleet::Fleet;

/// How many requests are under way at once.
const AT_ONCE: usize = 8;

/// What is asked for.
#[derive(Debug, Default)]
pub(super) struct Ask {
    /// All VMs that are watched.
    pub(super) all: Option<Which>,
    /// Single VMs.
    pub(super) vms: Vec<Uuid>,
    /// What these VMs' guests told.
    pub(super) guests: Vec<Uuid>,
}

/// Which VMs are all.
#[derive(Debug)]
pub(super) enum Which {
    /// Those that fit.
    Fitting(Filter),
    /// Those with these names or ids.
    Named(Vec<String>),
}

impl Ask {
    /// For all VMs of a fleet.
    pub(super) fn all(fleet: &Fleet) -> Self {
        let which = match fleet.only() {
            [] => Which::Fitting(fleet.asks_for()),
            names => Which::Named(names.to_vec()),
        };
        Self { all: Some(which), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_none() && self.vms.is_empty() && self.guests.is_empty()
    }
}

/// What the daemon said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) all: Option<Vec<Vm>>,
    vms: Vec<Vm>,
    guests: Vec<(Uuid, Guest)>,
}

/// Asks. What is gone meanwhile is left out.
pub(super) async fn ask(client: &Client, ask: Ask) -> Result<Answer, Error> {
    let all = match ask.all {
        None => None,
        Some(Which::Named(names)) => {
            Some(several(names, async |name: String| client.vm(&name).await).await?)
        }
        Some(Which::Fitting(filter)) => {
            let query = ListQuery { filter, limit: Some(MAX_PAGE), ..ListQuery::default() };
            Some(client.list_all(&query).await?)
        }
    };
    let vms = several(ask.vms, async |id: Uuid| client.vm(&id.to_string()).await).await?;
    let guests = several(ask.guests, async |id: Uuid| {
        client.guest(&id.to_string()).await.map(|guest| (id, guest))
    });
    Ok(Answer { all, vms, guests: guests.await? })
}

/// Hands an answer to the fleet.
pub(super) fn take(fleet: &mut Fleet, answer: Answer) {
    let now = Timestamp::now();
    if let Some(vms) = answer.all {
        fleet.listed(vms, now);
    }
    for vm in answer.vms {
        fleet.came(vm, now);
    }
    for (id, guest) in answer.guests {
        fleet.told(id, guest, now);
    }
}

async fn several<Q, A, F>(questions: Vec<Q>, one: impl Fn(Q) -> F) -> Result<Vec<A>, Error>
where
    F: Future<Output = Result<A, Error>>,
{
    let mut asked = stream::iter(questions).map(one).buffer_unordered(AT_ONCE);
    let mut answers = Vec::new();
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(answer) => answers.push(answer),
            // Deleted since it was heard of.
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answers)
}
