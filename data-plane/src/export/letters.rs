//! Dead letters: batches that could not be delivered, one file each, the oldest of which go when room runs out.
//!
//! Files are written beside their place and renamed into it, so that a crash leaves none half written. A later
//! process finds and sends them: the folder is all the state there is.

use bytes::Bytes;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ENDING: &str = "batch";

/// The letters of one exporter.
#[derive(Debug)]
pub(super) struct Letters {
    folder: PathBuf,
    limit_bytes: u64,
    /// Number and size, oldest first.
    files: VecDeque<(u64, u64)>,
    bytes: u64,
    next: u64,
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Older ones that went for it.
    pub(super) overwritten: u64,
}

impl Letters {
    /// The letters in `folder`, which is made.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(super) fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            match number.filter(|_| path.extension().is_some_and(|ending| ending == ENDING)) {
                Some(number) => files.push((number, entry.metadata()?.len())),
                // What a crash left.
                None if path.extension().is_some_and(|ending| ending == "new") => fs::remove_file(&path)?,
                None => {}
            }
        }
        files.sort_unstable();
        let next = files.last().map_or(0, |(number, _)| number + 1);
        let bytes = files.iter().map(|(_, size)| size).sum();
        Ok(Self { folder: folder.to_owned(), limit_bytes, files: files.into(), bytes, next })
    }

    /// Keeps a batch.
    ///
    /// # Errors
    /// It is larger than all the room, or cannot be written.
    pub(super) fn keep(&mut self, batch: &[u8]) -> io::Result<Kept> {
        let size = batch.len() as u64;
        if size > self.limit_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut overwritten = 0;
        while self.bytes + size > self.limit_bytes {
            let Some((number, _)) = self.files.front().copied() else { break };
            self.remove(number)?;
            overwritten += 1;
        }
        let path = self.path(self.next);
        let new = path.with_extension("new");
        fs::write(&new, batch)?;
        fs::rename(&new, &path)?;
        self.files.push_back((self.next, size));
        self.bytes += size;
        self.next += 1;
        Ok(Kept { overwritten })
    }

    /// The oldest letter; it stays until it is removed. One that cannot be read any more is left out for good.
    pub(super) fn oldest(&mut self) -> Option<(u64, Bytes)> {
        while let Some((number, _)) = self.files.front().copied() {
            match fs::read(self.path(number)) {
                Ok(batch) => return Some((number, batch.into())),
                Err(_) => self.forget(number),
            }
        }
        None
    }

    /// Removes a letter.
    ///
    /// # Errors
    /// The file cannot be removed; it is forgotten until the next start all the same.
    pub(super) fn remove(&mut self, number: u64) -> io::Result<()> {
        self.forget(number);
        fs::remove_file(self.path(number))
    }

    /// Bytes of all letters.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn forget(&mut self, number: u64) {
        if let Some(at) = self.files.iter().position(|(other, _)| *other == number)
            && let Some((_, size)) = self.files.remove(at)
        {
            self.bytes -= size;
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:012}.{ENDING}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_found_again_oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut letters = Letters::open(&folder.path().join("otlp"), 100).unwrap();
        for text in ["one", "two", "three"] {
            assert_eq!(letters.keep(text.as_bytes()).unwrap(), Kept { overwritten: 0 });
        }
        fs::write(folder.path().join("otlp/000000000009.new"), "half").unwrap();
        let mut again = Letters::open(&folder.path().join("otlp"), 100).unwrap();
        assert_eq!(again.bytes(), 11);
        for text in ["one", "two", "three"] {
            let (number, batch) = again.oldest().unwrap();
            assert_eq!(batch, text);
            again.remove(number).unwrap();
        }
        assert!(again.oldest().is_none());
        assert_eq!(fs::read_dir(folder.path().join("otlp")).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn the_oldest_letters_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut letters = Letters::open(folder.path(), 10).unwrap();
        letters.keep(b"aaaa").unwrap();
        letters.keep(b"bbbb").unwrap();
        assert_eq!(letters.keep(b"cccccc").unwrap(), Kept { overwritten: 1 });
        assert_eq!((letters.bytes(), &*letters.oldest().unwrap().1), (10, &b"bbbb"[..]));
        assert!(letters.keep(b"more than ten").is_err());
        assert_eq!(letters.bytes(), 10, "what is there stays");
    }

    #[test]
    fn a_letter_that_somebody_took_away_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut letters = Letters::open(folder.path(), 100).unwrap();
        letters.keep(b"a").unwrap();
        letters.keep(b"b").unwrap();
        fs::remove_file(letters.path(0)).unwrap();
        assert_eq!(&*letters.oldest().unwrap().1, b"b");
        assert_eq!(letters.bytes(), 1);
    }
}
