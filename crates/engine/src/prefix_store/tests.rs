//! Files that are good, damaged, hostile, too many.

use std::time::Duration;

use super::*;
use crate::request::EngineOptions;

const PAGE_BYTES: usize = 1000;

/// An empty directory under the system's, for one test.
fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("falaj-prefix-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

fn open(dir: &Path, limit_bytes: u64) -> (PrefixStore, Arc<Shared>) {
    let shared = Arc::new(Shared::new(&EngineOptions::default()));
    let store = PrefixStore::open(dir, Digest::of(b"model"), PAGE_BYTES, limit_bytes, Arc::clone(&shared)).unwrap();
    (store, shared)
}

fn tokens(pages: usize) -> Vec<u32> {
    (0..(pages * PAGE_TOKENS) as u32).map(|i| i * i % 1000).collect()
}

fn page(number: usize) -> Vec<u8> {
    (0..PAGE_BYTES).map(|i| (i * 7 + number) as u8).collect()
}

fn write(store: &PrefixStore, pages: usize) {
    for number in 0..pages {
        assert!(store.write_waiting(5, tokens(number + 1), page(number)));
    }
}

/// How many of six pages come back, as they were.
fn find(store: &mut PrefixStore, salt: u64, from: usize) -> usize {
    assert!(store.ask(1, salt, &tokens(6), from, None));
    let found = store.found.recv_timeout(Duration::from_secs(60)).unwrap();
    store.outstanding -= 1;
    assert_eq!((found.id, found.from, found.more), (1, from, false));
    for (number, bytes) in (from..).zip(&found.pages) {
        assert_eq!(*bytes, page(number));
    }
    found.pages.len()
}

/// The files of the store, in order of their pages.
fn files(dir: &Path) -> Vec<PathBuf> {
    let inner = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    Names::new(5, &tokens(6)).map(|name| inner.join(format!("{name}{SUFFIX}"))).collect()
}

#[test]
fn pages_come_back_after_a_restart() {
    let dir = directory("restart");
    let (store, _) = open(&dir, 1 << 20);
    write(&store, 4);
    drop(store);
    let (mut store, shared) = open(&dir, 1 << 20);
    assert_eq!((find(&mut store, 5, 0), find(&mut store, 5, 2), find(&mut store, 6, 0)), (4, 2, 0));
    // What is there is not written again.
    write(&store, 4);
    drop(store);
    assert_eq!(Stats::get(&shared.stats.disk_pages_written), 0);
    // Another model finds nothing.
    let other = PrefixStore::open(&dir, Digest::of(b"other"), PAGE_BYTES, 1 << 20, shared);
    assert_eq!(find(&mut other.unwrap(), 5, 0), 0);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn damaged_and_hostile_files_are_left_out() {
    let dir = directory("hostile");
    let harm: [fn(&Path); 6] = [
        // A bit of the payload; of the tokens; of the checksum.
        |path| flip(path, 600),
        |path| flip(path, 8 + 32 + 24 + 5),
        |path| flip(path, fs::metadata(path).unwrap().len() as usize - 1),
        // Half of it; far too much of it; no file at all.
        |path| fs::write(path, &fs::read(path).unwrap()[..500]).unwrap(),
        |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
    ];
    for harm in harm {
        let (store, _) = open(&dir, 1 << 20);
        write(&store, 4);
        drop(store);
        harm(&files(&dir)[2]);
        let (mut store, shared) = open(&dir, 1 << 60);
        assert_eq!(find(&mut store, 5, 0), 2);
        // It is not offered again, and can be written anew where nothing stands in its place.
        assert_eq!(find(&mut store, 5, 0), 2);
        assert!(Stats::get(&shared.stats.disk_files_damaged) <= 1);
        let _ = fs::remove_dir(&files(&dir)[2]);
        write(&store, 4);
        assert_eq!(find(&mut store, 5, 0), 4);
    }
    // One page in the place of another: right in itself, and wrong there.
    let paths = files(&dir);
    fs::copy(&paths[0], &paths[1]).unwrap();
    let (mut store, shared) = open(&dir, 1 << 20);
    assert_eq!((find(&mut store, 5, 0), Stats::get(&shared.stats.disk_files_damaged)), (1, 1));
    drop(store);
    fs::remove_dir_all(dir).unwrap();
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_directory_keeps_to_its_bytes() {
    let dir = directory("bytes");
    let (mut store, _) = open(&dir, 4 * file::file_bytes(6 * PAGE_TOKENS, PAGE_BYTES));
    write(&store, 2);
    assert_eq!(find(&mut store, 5, 0), 2);
    for number in 2..6 {
        store.write_waiting(5, tokens(number + 1), page(number));
    }
    // The first two were the least recently used.
    assert_eq!((find(&mut store, 5, 0), find(&mut store, 5, 2)), (0, 4));
    drop(store);
    fs::write(files(&dir)[0].with_extension("77.tmp"), "half a page").unwrap();
    let (store, _) = open(&dir, 2 * file::file_bytes(6 * PAGE_TOKENS, PAGE_BYTES));
    drop(store);
    let inner = files(&dir)[0].parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(inner).unwrap().count(), 2);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn slow_disks_are_not_asked_but_now_and_then() {
    let dir = directory("slow");
    let (mut store, _) = open(&dir, 1 << 20);
    store.page_seconds.store(0.5_f32.to_bits(), Ordering::Relaxed);
    let asked = (0..130).filter(|_| store.ask(1, 5, &tokens(1), 0, Some(0.1))).count();
    assert_eq!(asked, 2);
    assert!(store.ask(1, 5, &tokens(1), 0, Some(0.9)) && store.ask(1, 5, &tokens(1), 0, None));
    // Four answers are to come: no more until one was taken.
    assert!(!store.ask(1, 5, &tokens(1), 0, None));
    drop(store);
    fs::remove_dir_all(dir).unwrap();
}
