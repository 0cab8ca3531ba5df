//! `vmmctl guest`.

use serde_json::json;
use vmm_api::client::Client;

use crate::cli::{Format, Guest};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::{channel, guest};

pub(super) async fn run(client: &Client, output: Output, asked: &Guest) -> Result<(), Failure> {
    let name = &asked.one.name;
    let about = |error| Failure::about(name, error);
    let guest = client.guest(name).await.map_err(about)?;
    if output.format == Format::Json {
        return if asked.channel {
            output.document(&json!({"channel": guest.channel, "dropped": guest.dropped}))
        } else {
            output.document(&guest)
        };
    }
    let vm = client.vm(name).await.map_err(about)?;
    let page = if asked.channel { channel::page } else { guest::page };
    output.lines(&page(&vm, &guest, &Clock::now(), output.width()))
}
