//! How the allocator keeps what was freed.

/// Blocks of this size and more come from the kernel and go back to it, in bytes.
/// It is glibc's own first value.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: libc::c_int = 128 * 1024;

/// Has large blocks go back to the kernel when they are freed, for good. Without
/// this, glibc raises that limit to 32 MiB with the first large block that is
/// freed, by mallopt(3), and a guest whose reports are as long as they may be
/// leaves holes in the daemon's heap.
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the allocator's settings have no safe form")
)]
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers and changes nothing but the allocator's
    // settings.
    let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK) };
    #[cfg(target_env = "gnu")]
    if set == 0 {
        tracing::debug!("The allocator keeps its own limit for large blocks.");
    }
}
