//! Random numbers from the kernel.

use rustix::rand::{GetRandomFlags, getrandom};

/// 128 random bits as 32 hexadecimal digits.
pub fn hex_128() -> String {
    let mut text = String::with_capacity(32);
    for byte in bytes::<16>() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is below 16"));
        }
    }
    text
}

/// 64 random bits.
pub fn bits_64() -> u64 {
    u64::from_ne_bytes(bytes())
}

/// Waits, at an early boot, until the kernel's generator is seeded: a session
/// or an identity that can be guessed is worse than a late one.
fn bytes<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    // Reads of up to 256 bytes are whole; only a signal may come before them.
    while getrandom(&mut buffer[..], GetRandomFlags::empty()).is_err() {}
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_32_digits_and_differ() {
        let (one, other) = (hex_128(), hex_128());
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
