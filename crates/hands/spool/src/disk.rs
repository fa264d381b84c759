//! The seam under the spool: the few things it asks of a file system, and the real one.

use crate::OpenError;
use nix::fcntl::{Flock, FlockArg};
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What the spool asks of a directory. Names are relative to the spool's directory; the only folder in it is
/// `quarantine/`.
pub trait Disk: Send + Sync {
    /// Plain files directly in the directory, with their lengths.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a file, empty; an existing one is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing the target; durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; durable only after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Octets an ordinary process may still write.
    fn free_bytes(&self) -> io::Result<u64>;
    /// A number nobody can foresee, to tell the lives of a file apart.
    fn nonce(&self) -> u64;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Writes some of the slices at an offset; how many octets were taken.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Reads at an offset; 0 only at the end of the file.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// An offset behind which there are only noughts to the end of the file, as near as the file system can tell
    /// without reading; the length where it cannot.
    fn data_end(&self) -> io::Result<u64>;
    /// Makes what was written durable, as far as it is needed to read it back (fdatasync).
    fn datasync(&self) -> io::Result<()>;
    /// Gives the file `len` octets of room, and that length.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// True if the length is nought.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
}

/// Writes all of the slices, in as many calls as it takes.
pub(crate) fn write_all(
    file: &dyn DiskFile,
    mut slices: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_at(slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                IoSlice::advance_slices(&mut slices, n);
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `into` is full or the file ends; how many octets were read.
pub(crate) fn read_full(file: &dyn DiskFile, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// True if an error says that there is no room, rather than that the disk is ill.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull, WriteZero};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | WriteZero)
}

/// A directory of the real file system, locked against any other process for as long as this lives.
pub struct RealDisk {
    directory: PathBuf,
    _lock: Flock<fs::File>,
    nonces: Mutex<u64>,
}

impl RealDisk {
    /// Opens and locks a spool's directory, making it if it does not exist (mode 0700).
    ///
    /// It must be a directory, no symbolic link, owned by the user we run as, and writable by nobody else.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let io = |what: &'static str| {
            let path = directory.to_path_buf();
            move |source| OpenError::Io { what, path, source }
        };
        match fs::symlink_metadata(directory) {
            Ok(meta) => check_directory(directory, &meta)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)
                    .map_err(io("make the directory"))?;
                let meta = fs::symlink_metadata(directory).map_err(io("look at the directory"))?;
                check_directory(directory, &meta)?;
            }
            Err(error) => return Err(io("look at the directory")(error)),
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(directory.join("LOCK"))
            .map_err(io("open LOCK"))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
                let pid = text.trim().parse().ok();
                return Err(OpenError::Locked { path: directory.to_path_buf(), pid });
            }
            Err((_, errno)) => return Err(io("lock LOCK")(errno.into())),
        };
        // The number is only for the message above; a full disk must not keep us from starting.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        let nonces = Mutex::new(std::collections::hash_map::RandomState::new().hash_one(0));
        Ok(Self { directory: directory.to_path_buf(), _lock: lock, nonces })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn options() -> fs::OpenOptions {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        options
    }
}

fn check_directory(path: &Path, meta: &fs::Metadata) -> Result<(), OpenError> {
    let path = path.to_path_buf();
    if meta.file_type().is_symlink() {
        return Err(OpenError::Symlink { path });
    }
    if !meta.is_dir() {
        return Err(OpenError::NotADirectory { path });
    }
    let ours = nix::unistd::geteuid().as_raw();
    if meta.uid() != ours {
        return Err(OpenError::Owner { path, owner: meta.uid(), ours });
    }
    if meta.mode() & 0o022 != 0 {
        return Err(OpenError::Writable { path, mode: meta.mode() & 0o7777 });
    }
    Ok(())
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                names.push((name, meta.len()));
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(Self::options().open(self.directory.join(name))?)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.directory.join(name);
        let mut options = Self::options();
        options.create(true).truncate(true);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.contains('/') => {
                let folder = path.parent().unwrap_or(&self.directory);
                fs::DirBuilder::new().mode(0o700).create(folder)?;
                options.open(&path)
            }
            other => other,
        }?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.directory.join(to);
        match fs::rename(self.directory.join(from), &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = to.parent().unwrap_or(&self.directory);
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                fs::rename(self.directory.join(from), &to)
            }
            other => other,
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        match fs::File::open(self.directory.join("quarantine")) {
            Ok(folder) => folder.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::File::open(&self.directory)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.directory)?;
        // The types of these fields differ between platforms.
        #[allow(clippy::unnecessary_cast)]
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    fn nonce(&self) -> u64 {
        // The keys of a `RandomState` come from the operating system, and its hash is keyed with them.
        let mut last = self.nonces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u64(*last);
        *last = hasher.finish();
        *last
    }
}

struct RealFile(fs::File);

/// Stretches of data in one file after which looking for the last of them is given up.
const STRETCHES_MAX: u32 = 10_000;

/// Slices one call may carry (IOV_MAX of Linux and the BSDs).
const SLICES_MAX: usize = 1024;

impl DiskFile for RealFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let slices = &slices[..slices.len().min(SLICES_MAX)];
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Ok(nix::sys::uio::pwritev(&self.0, slices, offset)?)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.0, into, offset)
    }

    fn data_end(&self) -> io::Result<u64> {
        let len = self.len()?;
        #[cfg(any(target_os = "linux", target_os = "freebsd"))]
        {
            use nix::errno::Errno;
            use nix::unistd::{Whence, lseek};
            let mut end = 0u64;
            for _ in 0..STRETCHES_MAX {
                let from = i64::try_from(end).map_err(|_| io::ErrorKind::FileTooLarge)?;
                end = match lseek(&self.0, from, Whence::SeekData) {
                    // From there on, or from the end on, there is a hole.
                    Ok(data) => match lseek(&self.0, data, Whence::SeekHole) {
                        Ok(hole) if hole > from => u64::try_from(hole).unwrap_or(len),
                        _ => return Ok(len),
                    },
                    Err(Errno::ENXIO) => return Ok(end.min(len)),
                    Err(_) => return Ok(len),
                };
            }
        }
        Ok(len)
    }

    fn datasync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use nix::errno::Errno;
            use nix::fcntl::{FallocateFlags, fallocate};
            let room = i64::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            match fallocate(&self.0, FallocateFlags::empty(), 0, room) {
                Ok(()) => return Ok(()),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if self.0.metadata()?.len() < len { self.0.set_len(len) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
