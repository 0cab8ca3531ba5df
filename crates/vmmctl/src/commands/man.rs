//! `vmmctl man`: the manual in roff, made of the same words as `--help`.

use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(super) fn run(output: Output, folder: Option<&Path>) -> Result<(), Failure> {
    if let Some(folder) = folder {
        return clap_mangen::generate_to(Cli::command(), folder).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("the pages cannot be written into {}: {error}", folder.display()),
                "name a folder that exists and may be written",
            )
        });
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    output.raw(&page)
}
