//! How far a segment is read.

use crate::disk::{Disk, DiskFile, RealDisk, write_all};
use crate::record::{HEADER, PAGE, RecordHeader};
use crate::scan::{Scanner, Step};
use crate::simulated::SimulatedDisk;
use mail::SpoolId;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const GENERATION: u64 = 0x1234_5678_9abc_def1;
const SIZE: u64 = 64 << 20;

/// A file that counts what is read of it.
struct Counting {
    file: Arc<dyn DiskFile>,
    read: AtomicU64,
}

impl DiskFile for Counting {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.file.write_at(slices, offset)
    }
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read.fetch_add(into.len() as u64, Relaxed);
        self.file.read_at(into, offset)
    }
    fn data_end(&self) -> io::Result<u64> {
        self.file.data_end()
    }
    fn datasync(&self) -> io::Result<()> {
        self.file.datasync()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

/// Writes a record and gives its end.
fn write_record(file: &dyn DiskFile, offset: u64, body: &[u8]) -> u64 {
    let mut octets = vec![0; HEADER];
    octets.extend_from_slice(b"the head");
    octets.resize(octets.len() + RecordHeader::pad(8, body.len() as u64) as usize, 0);
    octets.extend_from_slice(body);
    let header = RecordHeader {
        id: SpoolId(offset),
        recipients: 1,
        origin: None,
        batch: 1,
        head_len: 8,
        body_len: body.len() as u32,
        head_crc: crc32fast::hash(b"the head"),
        body_crc: crc32fast::hash(body),
    };
    header.write(GENERATION, &mut octets);
    write_all(file, &mut [IoSlice::new(&octets)], offset).unwrap();
    offset + header.total()
}

/// Where records were found, and how many octets were read for that.
fn scan(file: Arc<dyn DiskFile>) -> (Vec<u64>, u64) {
    let counting = Arc::new(Counting { file, read: AtomicU64::new(0) });
    let mut scanner = Scanner::new(counting.clone(), GENERATION, SIZE);
    scanner.skip_unwritten();
    let mut found = Vec::new();
    loop {
        match scanner.step() {
            Step::Record { offset, .. } => found.push(offset),
            Step::Hole { .. } => {}
            Step::End { .. } => return (found, counting.read.load(Relaxed)),
        }
    }
}

#[test]
fn a_segment_that_was_hardly_written_is_hardly_read() {
    let disk = SimulatedDisk::new(SIZE * 2);
    let file = disk.create("a").unwrap();
    file.allocate(SIZE).unwrap();
    // Content that ends in noughts is content.
    let mut body = vec![7; 3000];
    body.extend_from_slice(&[0; 5000]);
    let second = write_record(&*file, PAGE, &body);
    let end = write_record(&*file, second, &body);
    let (found, read) = scan(file.clone());
    assert_eq!(found, [PAGE, second]);
    assert!(read < 1 << 20, "{read} octets");
    // Behind damage everything that was written is searched, however far away.
    let far = (SIZE / 2).next_multiple_of(8);
    write_record(&*file, far, b"here");
    let last = SIZE - 80;
    write_record(&*file, last, b"and here");
    write_all(&*file, &mut [IoSlice::new(&[0; HEADER])], second).unwrap();
    assert!(end < far);
    let (found, read) = scan(file);
    assert_eq!(found, [PAGE, far, last]);
    assert!(read > SIZE / 2, "{read} octets");
}

#[test]
fn behind_the_end_of_data_a_file_has_nothing_but_noughts() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(&folder.path().join("spool")).unwrap();
    let file = disk.create("a").unwrap();
    assert_eq!(file.data_end().unwrap(), 0);
    file.allocate(1 << 20).unwrap();
    for offset in [0u64, 4096, 300_001] {
        write_all(&*file, &mut [IoSlice::new(&[7; 100])], offset).unwrap();
        let end = file.data_end().unwrap();
        assert!((offset + 100..=1 << 20).contains(&end), "{end} after {offset}");
        let mut rest = vec![1; (1 << 20) - end as usize];
        assert_eq!(crate::disk::read_full(&*file, &mut rest, end).unwrap(), rest.len());
        assert!(rest.iter().all(|&octet| octet == 0));
    }
}
