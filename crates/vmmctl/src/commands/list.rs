//! `vmmctl list`.

use vmm_api::client::{Client, ListQuery, MAX_PAGE};
use vmm_api::list::{Filter, SortKey};
use vmm_api::vm::{Vm, VmList};

use crate::cli::{Format, List};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::text::{Style, Text};
use crate::render::{units, vm};

/// How many VMs the first page holds: a screen or two, so that it comes at
/// once. The pages after it are as large as the daemon makes them.
const FIRST_PAGE: u32 = 100;

pub(super) async fn run(client: &Client, output: Output, list: &List) -> Result<(), Failure> {
    let filter = list.select.filter();
    let sort = list.select.sort(SortKey::Name);
    let query = ListQuery { filter: filter.clone(), sort, ..ListQuery::default() };
    let limit = list.limit.unwrap_or(u64::MAX);
    let mut pages = client.pages(query);
    let mut printer = Printer { output, table: vm::List::default(), all: Vec::new() };
    let mut printed = 0;
    let mut size = FIRST_PAGE;
    let (mut total, mut matched) = (0, 0);
    while printed < limit {
        pages.set_limit(u32::try_from(limit - printed).unwrap_or(size).min(size));
        let Some(page) = pages.next().await? else { break };
        size = MAX_PAGE;
        (total, matched) = (page.total, page.matched);
        printed += page.vms.len() as u64;
        printer.page(page.vms, page.next_cursor.is_some() && printed < limit)?;
    }
    let count = Count { printed, total, matched };
    printer.end(&count)?;
    if printed < matched {
        output.note(&[cut(printed, matched)]);
    } else if printed == 0 && matches!(output.format, Format::Table | Format::Wide) {
        output.note(&[Text::styled(Style::Faint, empty(&filter))]);
    }
    Ok(())
}

/// How many VMs were printed, there are, and fit.
struct Count {
    printed: u64,
    total: u64,
    matched: u64,
}

/// That there is more than was printed.
pub(super) fn cut(printed: u64, matched: u64) -> Text {
    let what = format!(
        "showing {} of {}: raise --limit, or narrow it down with --state, --agent, --label or \
         --name",
        units::grouped(printed),
        units::count(matched, "VM", "VMs"),
    );
    Text::styled(Style::Warning, what)
}

/// Prints pages as they come, but for JSON: a document that breaks off in its
/// middle is none.
struct Printer {
    output: Output,
    table: vm::List,
    all: Vec<Vm>,
}

impl Printer {
    fn page(&mut self, vms: Vec<Vm>, more: bool) -> Result<(), Failure> {
        match self.output.format {
            Format::Json => self.all.extend(vms),
            Format::Name => {
                let names: Vec<Text> = vms.iter().map(|vm| Text::new(&vm.spec.name)).collect();
                self.output.lines(&names)?;
            }
            Format::Table | Format::Wide if vms.is_empty() => {}
            Format::Table | Format::Wide => {
                let lines = self.table.page(&vms, more, &Clock::now(), self.output.width());
                self.output.lines(&lines)?;
            }
        }
        Ok(())
    }

    fn end(self, count: &Count) -> Result<(), Failure> {
        let Count { printed, total, matched } = *count;
        match self.output.format {
            Format::Json => {
                let list = VmList { vms: self.all, total, matched, next_cursor: None };
                self.output.document(&list)
            }
            Format::Table | Format::Wide if self.output.terminal && printed > 0 => {
                let count = Text::styled(Style::Faint, units::count(printed, "VM", "VMs"));
                self.output.lines(&[Text::default(), count])
            }
            Format::Table | Format::Wide | Format::Name => Ok(()),
        }
    }
}

fn empty(filter: &Filter) -> &'static str {
    if filter.is_empty() {
        "There are no VMs yet; `vmmctl create -f spec.toml` makes one."
    } else {
        "No VM fits."
    }
}
