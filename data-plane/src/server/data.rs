//! What configuration refers to on this machine.

use data_plane_core::translate::DataLoader;
use std::path::Path;

/// Largest file that a `DataSource` may point at.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Reads files and environment variables.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemData;

impl DataLoader for SystemData {
    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
        if size > MAX_FILE_BYTES {
            return Err(format!("{size} bytes are more than {MAX_FILE_BYTES}"));
        }
        std::fs::read(path).map_err(|e| e.to_string())
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        std::env::var(name).map_err(|e| e.to_string())
    }
}
