//! Blobs on the disk and in S3: large ones, parts of them, what breaks off, what is away, and the move from one to the other.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::Ordering;

use falaj_artifact::Digest;
use falaj_store::{FileFilter, NewFile, Page, Places, S3Credentials, S3Settings, Store, StoreError, StoredFile};
use futures_util::TryStreamExt;

use crate::s3::{BUCKET, KEY_ID, S3, SECRET};
use crate::{Folder, files};

thread_local! {
    /// The address of the server, while tests of this thread keep their blobs in S3.
    static ENDPOINT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Where the blobs of `folder` are kept; `None` for its disk.
pub(crate) fn place_of(folder: &Path) -> Option<S3Settings> {
    ENDPOINT.with_borrow(Clone::clone).map(|endpoint| settings(&endpoint, folder))
}

fn prefix(folder: &Path) -> String {
    format!("blobs/{}", folder.file_name().unwrap().to_str().unwrap())
}

fn settings(endpoint: &str, folder: &Path) -> S3Settings {
    S3Settings {
        url: format!("s3://{BUCKET}/{}", prefix(folder)),
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        credentials: S3Credentials { key_id: KEY_ID.into(), secret: SECRET.to_owned().into(), session_token: None },
        ca_pem: None,
    }
}

/// How many blobs and parts of uploads there are.
pub(crate) fn count(folder: &Folder) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder.0.join("blobs")).unwrap() {
        count += std::fs::read_dir(entry.unwrap().path()).unwrap().count();
    }
    count + SERVER.with_borrow(|server| server.as_ref().map_or(0, |server| server.objects(&prefix(&folder.0)).len()))
}

thread_local! {
    static SERVER: RefCell<Option<S3>> = const { RefCell::new(None) };
}

/// Everything that tests keep in blobs is in S3 until the answer is dropped.
struct InS3;

impl InS3 {
    fn begin(name: &str) -> Self {
        let server = S3::start(name);
        ENDPOINT.set(Some(server.endpoint()));
        SERVER.set(Some(server));
        Self
    }
}

impl Drop for InS3 {
    fn drop(&mut self) {
        ENDPOINT.take();
        SERVER.take();
    }
}

fn with<T>(use_it: impl FnOnce(&mut S3) -> T) -> T {
    SERVER.with_borrow_mut(|server| use_it(server.as_mut().unwrap()))
}

async fn add(store: &Store, bytes: &[u8]) -> Result<StoredFile, StoreError> {
    let mut upload = store.blobs().begin(u64::MAX).await?;
    for piece in bytes.chunks(1 << 20) {
        upload.write(piece).await?;
    }
    store.add_file("a", &NewFile { name: "x".into(), ..NewFile::default() }, upload).await
}

pub(crate) async fn read(store: &Store, digest: &Digest, range: Option<std::ops::Range<u64>>) -> Vec<u8> {
    let pieces: Vec<_> = store.blobs().read(digest, range).await.unwrap().try_collect().await.unwrap();
    pieces.concat()
}

/// Three parts of S3's, no two pieces alike.
fn large() -> Vec<u8> {
    (0..(20_u32 << 18) + 1).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

#[tokio::test]
async fn a_large_blob_comes_back_whole_and_in_parts() {
    let folder = Folder::new();
    let store = folder.open().await;
    let bytes = large();
    let file = add(&store, &bytes).await.unwrap();
    assert_eq!((file.bytes, file.digest), (bytes.len() as u64, Digest::of(&bytes)));
    assert!(read(&store, &file.digest, None).await == bytes);
    let part = (8 << 20) - 5..(16 << 20) + 7;
    assert!(read(&store, &file.digest, Some(part.start as u64..part.end as u64)).await == bytes[part]);
    let end = bytes.len() as u64;
    assert_eq!(read(&store, &file.digest, Some(end - 3..end)).await, bytes[bytes.len() - 3..]);
    let copy = folder.0.join("copy");
    store.blobs().copy(&file.digest, &copy).await.unwrap();
    assert!(std::fs::read(&copy).unwrap() == bytes);
    let empty = add(&store, b"").await.unwrap();
    assert_eq!(read(&store, &empty.digest, None).await, b"");
    let none = store.blobs().read(&Digest::of(b"none"), None).await.err().unwrap();
    assert!(matches!(none, StoreError::Unknown { what: "blob", .. }), "{none}");
    assert!(store.blobs().copy(&Digest::of(b"none"), &copy).await.is_err());
    store.blobs().probe().await.unwrap();
}

#[test]
fn s3_holds_what_the_disk_holds() {
    let _in_s3 = InS3::begin("all");
    files::equal_bytes_are_kept_once_and_go_with_the_last_file();
    files::another_workspace_finds_nothing();
    files::pages_and_filters();
    files::too_many_bytes_and_dropped_uploads_leave_nothing();
    files::expired_files_are_gone();
    a_large_blob_comes_back_whole_and_in_parts();
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let _in_s3 = InS3::begin("broken");
    let folder = Folder::new();
    let store = folder.open().await;
    let kept = with(|server| server.kept());
    for writes in [0, 1, 2] {
        with(|server| server.writes_left.store(writes, Ordering::SeqCst));
        let error = add(&store, &large()).await.unwrap_err();
        assert!(matches!(&error, StoreError::BlobsAway { .. }), "{error}");
        assert_eq!(store.files("a", &FileFilter::default(), &Page::default()).await.unwrap().total, 0);
        assert_eq!((count(&folder), with(|server| server.kept())), (0, kept), "after {writes} writes");
    }
    with(|server| server.writes_left.store(usize::MAX, Ordering::SeqCst));
    let file = add(&store, &large()).await.unwrap();
    assert!(read(&store, &file.digest, None).await == large());
}

#[tokio::test]
async fn s3_that_is_away_is_named_and_found_again() {
    let _in_s3 = InS3::begin("away");
    let folder = Folder::new();
    let store = folder.open().await;
    let file = add(&store, b"water for everyone").await.unwrap();
    with(|server| server.down());
    let digest = &file.digest;
    let errors = [
        store.blobs().read(digest, None).await.err().unwrap(),
        store.blobs().copy(digest, &folder.0.join("x")).await.unwrap_err(),
        store.blobs().probe().await.unwrap_err(),
        add(&store, b"another").await.unwrap_err(),
    ];
    for error in errors {
        let StoreError::BlobsAway { place, reason } = &error else { panic!("{error}") };
        assert!(place.starts_with("s3://site/blobs/") && reason.contains("refused"), "{error}");
        assert!(!format!("{error:?}").contains(SECRET));
    }
    // Rows and all else go on; so does a site that starts meanwhile.
    assert_eq!(store.file("a", &file.id).await.unwrap(), file);
    let other = folder.open().await;
    with(|server| server.up());
    assert_eq!(read(&other, digest, None).await, b"water for everyone");
    store.remove_file("a", &file.id).await.unwrap();
    assert_eq!(count(&folder), 0);
}

#[tokio::test]
async fn who_may_not_come_in_is_told_without_secrets() {
    let _in_s3 = InS3::begin("refused");
    let folder = Folder::new();
    let mut settings = place_of(&folder.0).unwrap();
    settings.credentials.secret = "another-secret".to_owned().into();
    let places = Places { database: None, blobs: Some(settings) };
    let store = Store::open_at(&folder.0, &places).await.unwrap();
    let error = store.blobs().probe().await.unwrap_err();
    assert!(error.to_string().contains("credentials_file"), "{error}");
    assert!(!format!("{error:?}").contains("secret\"") && !format!("{error:?} {store:?}").contains("another-secret"));
}

#[tokio::test]
async fn other_bytes_under_a_name_are_found_out() {
    let _in_s3 = InS3::begin("forged");
    let folder = Folder::new();
    let store = folder.open().await;
    let file = add(&store, b"water for everyone").await.unwrap();
    let object = with(|server| server.objects(&prefix(&folder.0))).pop().unwrap();
    std::fs::write(object, b"water for somebody").unwrap();
    let copy = folder.0.join("copy");
    let error = store.blobs().copy(&file.digest, &copy).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { table: "blobs", .. }), "{error}");
    assert!(!copy.exists());
}

/// Broken off after every blob and gone on with; after it nobody takes the disk for where the blobs are.
#[tokio::test]
async fn blobs_move_to_s3_however_often_it_breaks_off() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mut files = Vec::new();
    for number in 0..5_u8 {
        files.push(add(&store, &[number; 100]).await.unwrap());
    }
    files.push(add(&store, &[0; 100]).await.unwrap());
    let _in_s3 = InS3::begin("move");
    let target = place_of(&folder.0).unwrap();
    let early = Store::open_at(&folder.0, &Places { database: None, blobs: Some(target.clone()) }).await.unwrap_err();
    assert!(early.to_string().contains("migrate"), "{early}");
    let mut breaks = 0;
    let moved = loop {
        let mut blobs = 0;
        let mut progress = |_: &'static str, _| {
            blobs += 1;
            if blobs > breaks { Err(StoreError::Stopped) } else { Ok(()) }
        };
        match store.move_to_s3(&target, &mut progress).await {
            Ok(moved) => break moved,
            Err(StoreError::Stopped) => breaks += 1,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((moved.rows, breaks), (5, 5));
    assert!(moved.copied <= 1, "it went on, not again: {moved:?}");
    drop(store);
    let late = Store::open(&folder.0).await.unwrap_err();
    assert!(late.to_string().contains("s3://"), "{late}");
    let store = folder.open().await;
    for file in &files {
        assert_eq!(read(&store, &file.digest, None).await.len(), 100);
    }
    let again = store.move_to_s3(&target, &mut |_, _| Ok(())).await.unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");

    // What the disk has lost is not handed on.
    let damaged = Folder::new();
    ENDPOINT.take();
    let store = damaged.open().await;
    let file = add(&store, b"1234").await.unwrap();
    let name = file.digest.to_string();
    std::fs::write(damaged.0.join("blobs").join(&name[..2]).join(&name), b"5678").unwrap();
    let error = store.move_to_s3(&target, &mut |_, _| Ok(())).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}
