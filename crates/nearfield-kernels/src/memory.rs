//! Anonymous memory in huge pages: they save the processor lookups, and let it read ahead further.

use memmap2::MmapMut;

/// Zeroed memory, taken from the system as it is touched.
#[derive(Debug)]
pub struct LargeMemory {
    map: MmapMut,
}

impl LargeMemory {
    /// So many bytes. Those from `huge_from` on are asked for in huge pages, which are taken whole when a byte of them is
    /// touched; where the system has none everything works as well.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn new(bytes: usize, huge_from: usize) -> std::io::Result<Self> {
        let map = MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        if let Some(length) = bytes.checked_sub(huge_from).filter(|length| *length > 0) {
            // Only a wish.
            let _ = map.advise_range(memmap2::Advice::HugePage, huge_from, length);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = huge_from;
        Ok(Self { map })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}
