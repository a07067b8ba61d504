//! Memory of strings that requests are made of: what a dropped one had serves the next one of the same thread.

use std::cell::RefCell;

/// Room of a new string: what most paths and hosts need, bytes.
const USUAL: usize = 128;
/// Larger ones are freed and not kept, bytes.
const KEPT_SIZE: usize = 4 * 1024;
/// Most strings that a thread keeps.
const KEPT: usize = 128;

thread_local! {
    static SPARE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// `text` in a string of its own.
pub fn text(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut copy = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| String::with_capacity(USUAL));
    copy.push_str(text);
    copy
}

/// Keeps the memory of a string that is of no more use.
pub(super) fn put(text: &mut String) {
    if !(USUAL..=KEPT_SIZE).contains(&text.capacity()) {
        return;
    }
    let mut text = std::mem::take(text);
    text.clear();
    // A thread that ends has nothing to keep it for.
    let _ = SPARE.try_with(|spare| {
        let spare = &mut *spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(text);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_dropped_text_serves_the_next() {
        let mut first = text("/shoes");
        let memory = first.as_ptr();
        put(&mut first);
        assert_eq!(first, "");
        let next = text("shop.example.com");
        assert_eq!((&*next, next.as_ptr()), ("shop.example.com", memory));
        put(&mut text(&"a".repeat(KEPT_SIZE + 1)));
        assert!(text("/").capacity() <= KEPT_SIZE, "large ones are freed");
    }
}
