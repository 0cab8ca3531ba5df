//! `vmmctl guest`.

use vmm_api::client::Client;

use crate::cli::{Format, One};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::guest;

pub(super) async fn run(client: &Client, output: Output, one: &One) -> Result<(), Failure> {
    let about = |error| Failure::about(&one.name, error);
    let guest = client.guest(&one.name).await.map_err(about)?;
    if output.format == Format::Json {
        return output.document(&guest);
    }
    let vm = client.vm(&one.name).await.map_err(about)?;
    output.lines(&guest::page(&vm, &guest, &Clock::now(), output.width()))
}
