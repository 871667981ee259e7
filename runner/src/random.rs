//! Names and bytes that nobody can guess.

/// 128 random bits as 32 hex digits.
pub(crate) fn name() -> String {
    let mut text = String::with_capacity(32);
    for byte in bytes::<16>() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Bytes nobody can guess.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Fails only before the kernel's pool is seeded, which a blocking call waits for, or
        // interrupted by a signal.
        if let Ok(count) =
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
        {
            filled += count;
        }
    }
    bytes
}

/// 256 random bits as 64 hex digits: the id of a container or a network, the name of a volume.
pub(crate) fn id() -> String {
    name() + &name()
}
