//! Benchmarks beside peers and limits. Every figure is a ratio from one run,
//! peer and ours in turn, so that a slow machine slows both; nothing here is
//! asserted. `cargo xtask bench NAME` builds what is measured and runs this.

mod agent_memory;
mod by_hand;
mod command_latency;
mod guest;
mod guest_wire;
mod hub_flood;
mod hub_scale;
mod peers;
mod restart_adopt;
mod samples;
mod vm_start;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Measures beside peers and limits, and rewrites the table in
/// bench/RESULTS.md.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// The built programs: infiniservice, vmm-service and vmmctl.
    #[arg(long, global = true, default_value = "target/release")]
    programs: PathBuf,
    /// The static agent, as guests get it.
    #[arg(
        long,
        global = true,
        default_value = "target/x86_64-unknown-linux-musl/agent/infiniservice"
    )]
    agent: PathBuf,
}

#[derive(Subcommand)]
enum Benchmark {
    /// What an agent holds in a guest: infiniservice, qemu-ga and node_exporter.
    AgentMemory,
    /// guest-ping round trips: infiniservice, qemu-ga and a raw echo.
    CommandLatency,
    /// What a hundred guests notice of one that floods.
    HubFlood {
        /// Measure one pair of each kind, and publish nothing.
        #[arg(long)]
        once: bool,
    },
    /// The daemon at thousands of guests: a bare reader of the same sockets.
    HubScale {
        /// Record anew what the guests replay, and measure nothing.
        #[arg(long, conflicts_with = "once")]
        record: bool,
        /// Measure one pair with so many guests, and publish nothing.
        #[arg(long, value_name = "GUESTS")]
        once: Option<usize>,
    },
    /// What hub-scale runs beside the daemon; not for people.
    #[command(hide = true)]
    HubScalePart {
        /// Which.
        #[command(subcommand)]
        part: hub_scale::Part,
    },
    /// From start to the agent's hello: the daemon, and its command line by hand.
    VmStart,
    /// From a daemon's start until all VMs answer again: ours and libvirtd.
    RestartAdopt {
        /// Measure one round with so many quiet machines, and publish nothing.
        #[arg(long, value_name = "MACHINES")]
        once: Option<usize>,
    },
    /// The raw echo that command-latency measures against; not for people.
    #[command(hide = true)]
    Echo {
        /// The unix socket to listen on.
        socket: PathBuf,
        /// Wait by epoll(7).
        #[arg(long)]
        epoll: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.benchmark {
        Benchmark::AgentMemory => {
            agent_memory::run(&args.programs.join("vmm-service"), &args.agent)
                .context("agent-memory did not finish")
        }
        Benchmark::CommandLatency => {
            command_latency::run(&args.programs.join("vmm-service"), &args.agent)
                .context("command-latency did not finish")
        }
        Benchmark::HubFlood { once } => {
            hub_flood::run(&args.programs, once).context("hub-flood did not finish")
        }
        Benchmark::HubScale { record: true, .. } => {
            hub_scale::record(&args.programs.join("vmm-service"), &args.agent)
                .context("nothing was recorded")
        }
        Benchmark::HubScale { record: false, once } => {
            hub_scale::run(&args.programs, once).context("hub-scale did not finish")
        }
        Benchmark::HubScalePart { part } => {
            hub_scale::run_part(&part).context("a part of hub-scale ended")
        }
        Benchmark::VmStart => {
            vm_start::run(&args.programs, &args.agent).context("vm-start did not finish")
        }
        Benchmark::RestartAdopt { once } => restart_adopt::run(&args.programs, &args.agent, once)
            .context("restart-adopt did not finish"),
        Benchmark::Echo { socket, epoll } => peers::echo(&socket, epoll).context("the echo ended"),
    }
}
