//! A fence around a machine's control group: nothing in it reaches the host's
//! loopback, whatever destination a guest writes into its packets.
//!
//! passt turns a guest's packets into connections of its own, on the host. Old
//! versions, among them that of Debian 12, do so for a destination of
//! 127.0.0.1 too, which only a hostile guest sends. So the kernel refuses such
//! connections, by four tiny programs that are attached to the group.

#![expect(unsafe_code, reason = "the kernel's program loader has no safe form")]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

const LOAD: libc::c_int = 5;
const ATTACH: libc::c_int = 8;
/// The kind of program that is asked about a socket's address.
const KIND: u32 = 18;
/// Beside what systemd or another has attached.
const BESIDE_OTHERS: u32 = 2;
const CONNECT_4: u32 = 10;
const CONNECT_6: u32 = 11;
const SEND_4: u32 = 14;
const SEND_6: u32 = 15;

/// Where the kernel shows the destination: an IPv4 address, and the four words
/// of an IPv6 address, in network byte order.
const ADDRESS_4: i16 = 4;
const ADDRESS_6: i16 = 8;

/// Forbids the loopback to everything in the control group at `group`.
///
/// # Errors
///
/// When the kernel refuses, or the group is not there.
pub fn close_loopback(group: &Path) -> io::Result<()> {
    let group = File::open(group)?;
    for (hook, program) in
        [(CONNECT_4, ipv4()), (SEND_4, ipv4()), (CONNECT_6, ipv6()), (SEND_6, ipv6())]
    {
        let program = load(&program, hook)?;
        attach(group.as_raw_fd(), program.as_raw_fd(), hook)?;
    }
    Ok(())
}

/// Refuses 127.0.0.0/8, and 0.0.0.0/8, by which the kernel means itself.
fn ipv4() -> Vec<Instruction> {
    vec![
        load_word(ADDRESS_4),
        Instruction::new(0x54, 2, 0, network([255, 0, 0, 0])),
        // Past the next two, to the refusal.
        if_equal(network([127, 0, 0, 0]), 3),
        if_equal(0, 2),
        verdict(1),
        END,
        verdict(0),
        END,
    ]
}

/// Refuses ::1, :: and IPv4 addresses in the shape of IPv6 ones.
fn ipv6() -> Vec<Instruction> {
    vec![
        load_word(ADDRESS_6),
        if_other(0, 5),
        load_word(ADDRESS_6 + 4),
        if_other(0, 3),
        load_word(ADDRESS_6 + 8),
        if_equal(0, 3),
        if_equal(network([0, 0, 255, 255]), 2),
        verdict(1),
        END,
        verdict(0),
        END,
    ]
}

/// One instruction of the kernel's own machine.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    jump: i16,
    value: i32,
}

const END: Instruction = Instruction { code: 0x95, registers: 0, jump: 0, value: 0 };

impl Instruction {
    fn new(code: u8, registers: u8, jump: i16, value: i32) -> Self {
        Self { code, registers, jump, value }
    }
}

/// Into register 2, from the description of the call, which register 1 names.
fn load_word(at: i16) -> Instruction {
    Instruction::new(0x61, 0x12, at, 0)
}

fn if_equal(value: i32, jump: i16) -> Instruction {
    Instruction::new(0x16, 2, jump, value)
}

fn if_other(value: i32, jump: i16) -> Instruction {
    Instruction::new(0x56, 2, jump, value)
}

/// 1 lets the call go on, 0 makes it fail with EPERM.
fn verdict(value: i32) -> Instruction {
    Instruction::new(0xb7, 0, 0, value)
}

fn network(bytes: [u8; 4]) -> i32 {
    i32::from_ne_bytes(bytes)
}

#[repr(C)]
#[derive(Default)]
struct LoadRequest {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    hook: u32,
}

#[repr(C)]
struct AttachRequest {
    group: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

fn load(program: &[Instruction], hook: u32) -> io::Result<OwnedFd> {
    let request = LoadRequest {
        kind: KIND,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().addr() as u64,
        license: c"MIT".as_ptr().addr() as u64,
        hook,
        ..LoadRequest::default()
    };
    // SAFETY: the request has the kernel's layout and size, and what it points
    // to lives until the call returns; the kernel only reads it.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, LOAD, &raw const request, size_of::<LoadRequest>()) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone. It closes
    // at exec by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(group: RawFd, program: RawFd, hook: u32) -> io::Result<()> {
    let request = AttachRequest {
        group: group.cast_unsigned(),
        program: program.cast_unsigned(),
        hook,
        flags: BESIDE_OTHERS,
    };
    // SAFETY: the request has the kernel's layout and size; the kernel only
    // reads it, and both descriptors are open.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, ATTACH, &raw const request, size_of::<AttachRequest>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_programs() {
        for (hook, program) in
            [(CONNECT_4, ipv4()), (SEND_4, ipv4()), (CONNECT_6, ipv6()), (SEND_6, ipv6())]
        {
            load(&program, hook).unwrap();
        }
    }
}
