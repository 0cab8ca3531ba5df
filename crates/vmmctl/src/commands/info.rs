//! `vmmctl info`.

use vmm_api::client::Client;

use crate::cli::{Format, One};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::text::Text;
use crate::render::vm;

pub(super) async fn run(client: &Client, output: Output, one: &One) -> Result<(), Failure> {
    let vm = client.vm(&one.name).await.map_err(|error| Failure::about(&one.name, error))?;
    if output.format == Format::Json {
        return output.document(&vm);
    }
    if output.format == Format::Name {
        return output.lines(&[Text::new(&vm.spec.name)]);
    }
    output.lines(&vm::info(&vm, &Clock::now(), output.width()))
}
