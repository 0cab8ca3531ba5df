//! The processors: /proc/stat (proc_stat(5)) and /proc/cpuinfo.

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// How much of /proc/cpuinfo is read, in bytes: the first processor's entry,
/// which names the model.
const CPUINFO_BYTES: usize = 4 * 1024;

/// Time that the processors have spent since boot, in clock ticks, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// All time.
    pub total: u64,
    /// Idle, or waiting for input and output.
    pub idle: u64,
    /// Wanted by this guest and given to others by the hypervisor.
    pub steal: u64,
    /// Processors that are online.
    pub online: u32,
}

/// The processors' times now.
pub fn times(scratch: &mut Scratch) -> Result<Times, ReadError> {
    let text = procfs::read("/proc/stat", scratch)?;
    parse_stat(text).ok_or(ReadError::Form { what: "/proc/stat" })
}

/// The model's name for people; empty where the kernel names none.
pub fn model(scratch: &mut Scratch) -> Result<String, ReadError> {
    let text = procfs::read_up_to("/proc/cpuinfo", CPUINFO_BYTES, scratch)?;
    Ok(parse_model(text))
}

fn parse_stat(text: &[u8]) -> Option<Times> {
    let mut times = None;
    let mut online = 0;
    for line in procfs::lines(text).take_while(|line| line.starts_with(b"cpu")) {
        let mut fields = procfs::fields(line);
        if fields.next()? == b"cpu" {
            times = Some(parse_total(fields)?);
        } else {
            online += 1;
        }
    }
    Some(Times { online, ..times? })
}

/// user nice system idle iowait irq softirq steal; the guest times that follow
/// are already within user and nice.
fn parse_total<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<Times> {
    let mut times = Times::default();
    let mut count = 0;
    for (position, field) in fields.take(8).enumerate() {
        let ticks = procfs::number(field)?;
        times.total = times.total.saturating_add(ticks);
        match position {
            3 | 4 => times.idle = times.idle.saturating_add(ticks),
            7 => times.steal = ticks,
            _ => {}
        }
        count += 1;
    }
    (count >= 4).then_some(times)
}

fn parse_model(text: &[u8]) -> String {
    // "model name" on x86, "Processor" and "cpu model" elsewhere.
    for key in [&b"model name"[..], b"Processor", b"cpu model"] {
        for line in procfs::lines(text) {
            let Some(rest) = line.strip_prefix(key) else { continue };
            if let Some(value) = rest.trim_ascii_start().strip_prefix(b":") {
                return procfs::string(value);
            }
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &[u8] = b"cpu  10 1 5 80 4 0 1 3 9 0\ncpu0 5 0 2 40 2 0 1 1 0 0\n\
        cpu1 5 1 3 40 2 0 0 2 0 0\nintr 55 0 1\nctxt 9\nbtime 1700000000\n";

    #[test]
    fn the_sum_of_all_processors_is_read_without_counting_guest_time_twice() {
        let times = parse_stat(STAT).unwrap();
        assert_eq!(times, Times { total: 104, idle: 84, steal: 3, online: 2 });
    }

    #[test]
    fn an_old_kernel_without_steal_is_read() {
        assert_eq!(parse_stat(b"cpu 1 2 3 4\n").unwrap().total, 10);
        assert!(parse_stat(b"cpu 1 2 3\n").is_none());
        assert!(parse_stat(b"").is_none());
    }

    #[test]
    fn the_model_is_the_first_processors() {
        let text = b"processor\t: 0\nmodel\t\t: 6\nmodel name\t: QEMU Virtual CPU\n";
        assert_eq!(parse_model(text), "QEMU Virtual CPU");
        assert_eq!(parse_model(b"processor : 0\n"), "");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>, tail: Vec<u8>) {
            parse_stat(&text);
            parse_stat(&[b"cpu ", &tail[..]].concat());
            parse_model(&text);
        }
    }
}
