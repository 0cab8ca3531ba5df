//! `vmmctl create`.

use std::io::{self, Read as _};
use std::path::Path;

use serde_json::Value;
use vmm_api::client::Client;

use crate::cli::{Create, Format};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::render::text::Text;

/// The longest specification that is read, as long as the longest body that
/// the daemon takes.
const MAX_SPEC_BYTES: u64 = 1024 * 1024;

pub(super) async fn run(client: &Client, output: Output, create: &Create) -> Result<(), Failure> {
    let name = if create.file == Path::new("-") {
        "standard input".to_owned()
    } else {
        create.file.display().to_string()
    };
    let text = read(&create.file).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{name} cannot be read: {error}"),
            "name a file with a specification, or - for standard input",
        )
    })?;
    let spec = parse(&name, &text)?;
    let vm = client.create(&spec).await?;
    if output.format == Format::Json {
        return output.document(&vm);
    }
    if output.format == Format::Name {
        return output.lines(&[Text::new(&vm.spec.name)]);
    }
    output.raw(format!("{}\n", vm.id).as_bytes())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_SPEC_BYTES + 1).read_to_string(&mut text)?
    } else {
        std::fs::File::open(path)?.take(MAX_SPEC_BYTES + 1).read_to_string(&mut text)?
    };
    if read as u64 > MAX_SPEC_BYTES {
        return Err(io::Error::other(format!("it is longer than {MAX_SPEC_BYTES} bytes")));
    }
    Ok(text)
}

/// Reads TOML of any content: what a specification may hold is the daemon's to
/// say, which names every mistake at once.
fn parse(name: &str, text: &str) -> Result<Value, Failure> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        let source = text.lines().nth(line - 1).unwrap_or_default();
        Failure::new(
            Exit::Failed,
            format!("{name}:{line}:{column}: {}", error.message().replace('\n', ", ")),
            "correct the TOML there",
        )
        .with_details([source.to_owned()])
    })
}

/// Line and column of a byte, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one() {
        assert_eq!(position("a = 1\nb = é?", 0), (1, 1));
        assert_eq!(position("a = 1\nb = é?", 12), (2, 6));
    }

    #[test]
    fn names_the_place_of_a_syntax_error() {
        let failure = parse("spec.toml", "name = \"a\"\nvcpus = = 2\n").unwrap_err();
        let lines: Vec<String> = failure.lines().iter().map(|line| line.to_line(false)).collect();
        assert!(lines[0].starts_with("vmmctl: spec.toml:2:9: "), "{lines:?}");
        assert_eq!(lines[1], "  vcpus = = 2");
        assert_eq!(lines[2], "  → correct the TOML there");
    }

    #[test]
    fn passes_on_whatever_the_toml_holds() {
        let spec = parse("-", "name = 7\n[[disks]]\npath = 'x'\nwhat = true\n").unwrap();
        assert_eq!(spec, serde_json::json!({"name": 7, "disks": [{"path": "x", "what": true}]}));
    }
}
