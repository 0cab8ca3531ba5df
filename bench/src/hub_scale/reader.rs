//! The limit: what it costs to hold the same sockets, find the same objects in
//! the same bytes and read them into the same types, and to do nothing more.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::Read;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::Result;
use guest_protocol::codec::{Decoder, Frame, MAX_FEED_BYTES, parse_guest_message};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

thread_local! {
    /// As in the daemon: one for a thread, for most guests are silent.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_FEED_BYTES]);
}

/// Reads these sockets until its standard input ends.
pub fn run(sockets: Vec<PathBuf>) -> Result<()> {
    super::raise_open_files()?;
    // The daemon's runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for socket in sockets {
            let stream = UnixStream::connect(&socket).await?;
            tasks.spawn(read(stream));
        }
        println!("ready");
        tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 64])).await??;
        tasks.shutdown().await;
        Ok(())
    })
}

async fn read(mut stream: UnixStream) -> Result<()> {
    let mut decoder = Decoder::default();
    loop {
        let read = poll_fn(|context| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut stream).poll_read(context, &mut buffer))?;
                decoder.feed(buffer.filled());
                Poll::Ready(std::io::Result::Ok(buffer.filled().len()))
            })
        });
        if read.await? == 0 {
            return Ok(());
        }
        while let Some(frame) = decoder.next_frame() {
            if let Frame::Object(object) = frame {
                drop(parse_guest_message(object)?);
            }
        }
    }
}
