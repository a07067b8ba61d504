//! The process's allocator, and giving memory back to the system.

#![expect(unsafe_code, reason = "mimalloc offers its collection as a C function only")]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Has the process do without huge pages from now on, where the system gives them unasked: of 2 MiB, they double the memory
/// of a small proxy (8 MiB instead of 3.7), and stay until all that lies in one is free. Call it first. mimalloc does not
/// ask for them either (its feature `no_thp`).
pub(crate) fn without_huge_pages() {
    // A system that knows of none has none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Returns memory that is free to the system. mimalloc does so by itself only when threads go on allocating, and
/// a proxy that has read its configuration goes quiet: without this it keeps what reading took (3x a small
/// proxy's memory), and a worker what a burst of connections took. Of the calling thread's memory only. Takes about a
/// millisecond; not for requests.
pub(crate) fn give_back() {
    // SAFETY: the function takes no pointer and may be called from any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_in_use_stays_whole_when_free_memory_is_given_back() {
        let kept: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte; 4096]).collect();
        drop((0..4096).map(|_| vec![1_u8; 4096]).collect::<Vec<_>>());
        super::give_back();
        assert!(kept.iter().enumerate().all(|(i, page)| page.iter().all(|byte| usize::from(*byte) == i)));
    }
}
