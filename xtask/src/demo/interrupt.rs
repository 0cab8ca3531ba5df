//! Ctrl-C and its kin: they ask the demo to end, and it ends in its own order,
//! so that no VM is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Between two looks while nothing else happens.
const INTERVAL: Duration = Duration::from_millis(100);

/// Whether somebody asked us to end.
pub struct Interrupt {
    came: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes the signals over.
    pub fn install() -> Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&came))
                .context("cannot take over the signals that end the demo")?;
        }
        Ok(Self { came })
    }

    /// True once a signal came.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Fails once a signal came.
    pub fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// A moment between two looks.
    pub fn pause(&self) {
        if !self.came() {
            std::thread::park_timeout(INTERVAL);
        }
    }
}
