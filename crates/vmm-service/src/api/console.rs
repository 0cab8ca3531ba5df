//! `/vms/{id}/console/log`: what a VM wrote to its serial console, from the
//! first byte that is still kept.

use std::io::SeekFrom;
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::Context;
use super::answers::Asking;
use super::problem::{ApiError, Result};
use super::query::Parameters;
use super::vms::find;

/// How much is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The console's bytes as the guest wrote them: escape them before they reach a
/// terminal.
#[utoipa::path(get, path = "/vms/{id}/console/log", tag = "guest",
    params(("id" = String, Path, description = "UUID or name"),
           ("tail_bytes" = Option<u64>, Query, description = "Only the newest so many bytes")),
    responses((status = 200, description = "The console's bytes", content_type = "application/octet-stream"), Asking))]
pub async fn log(
    State(context): State<Context>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response> {
    let mut given = Parameters::new(query);
    let tail = given.one("tail_bytes", "a number of bytes", |text| text.parse().ok());
    given.finish()?;
    let id = find(&context, &id)?;
    let tail = tail.unwrap_or(u64::MAX);
    let parts = open(context.registry.console_log(id), tail).await.map_err(|error| {
        ApiError::internal(format!("The console log could not be read: {error}."))
    })?;
    let body = Body::from_stream(stream::try_unfold(parts.into_iter(), read));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

/// A file of the log, and how much of it is to be sent: what is written while
/// it is being sent belongs to the next request.
struct Part {
    file: File,
    left: u64,
}

async fn open(paths: Vec<PathBuf>, mut tail: u64) -> std::io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for path in paths.into_iter().rev() {
        let mut file = match File::open(path).await {
            Ok(file) => file,
            // Rotated away between being listed and being opened.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let length = file.metadata().await?.len();
        let left = length.min(tail);
        file.seek(SeekFrom::Start(length - left)).await?;
        tail -= left;
        parts.push(Part { file, left });
    }
    parts.reverse();
    Ok(parts)
}

async fn read(
    mut parts: std::vec::IntoIter<Part>,
) -> std::io::Result<Option<(Bytes, std::vec::IntoIter<Part>)>> {
    while let Some(part) = parts.as_mut_slice().first_mut() {
        let wanted = usize::try_from(part.left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut chunk = vec![0; wanted];
        let read = part.file.read(&mut chunk).await?;
        if read > 0 {
            part.left -= read as u64;
            chunk.truncate(read);
            return Ok(Some((chunk.into(), parts)));
        }
        parts.next();
    }
    Ok(None)
}
