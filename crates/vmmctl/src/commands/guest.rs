//! `vmmctl guest`.

use jiff::Timestamp;
use vmm_api::client::Client;

use crate::cli::{Format, One};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::guest;

pub(super) async fn run(client: &Client, output: Output, one: &One) -> Result<(), Failure> {
    let guest = client.guest(&one.name).await?;
    if output.format == Format::Json {
        return output.document(&guest);
    }
    let vm = client.vm(&one.name).await?;
    output.lines(&guest::page(&vm, &guest, Timestamp::now(), output.width()))
}
