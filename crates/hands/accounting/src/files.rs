//! The seam to the disk, under everything a log file goes through, so that tests can have it full, slow or gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// A segment being written, always at its end.
pub trait LogFile: Write + Send {
    /// Makes durable what was written.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub octets: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// What accounting asks of a disk.
pub trait Files: Send + Sync {
    /// Opens a file for appending, made if absent.
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// Moves a file; the target does not exist.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The files of a folder; those with names that are not UTF-8 are not ours and left out.
    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>>;
}

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

impl LogFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Files for DiskFiles {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        // Addresses of other people's correspondents are not for every user of the machine.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
        Ok(Box::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            if meta.is_file() {
                listed.push(Listed { name, octets: meta.len(), modified: meta.modified()? });
            }
        }
        Ok(listed)
    }
}
