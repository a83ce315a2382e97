//! Files: bytes kept once, workspaces apart, pages, expiry, limits.

use falaj_store::{FileFilter, NewFile, Page, Store, StoreError, StoredFile};

use crate::{Folder, blobs};

async fn add(store: &Store, workspace: &str, name: &str, bytes: &[u8]) -> StoredFile {
    let mut upload = store.blobs().begin(1 << 20).await.unwrap();
    for piece in bytes.chunks(7) {
        upload.write(piece).await.unwrap();
    }
    let file = NewFile { name: name.into(), purpose: "fine-tune".into(), lines: Some(2), ..NewFile::default() };
    store.add_file(workspace, &file, upload).await.unwrap()
}

#[tokio::test]
pub(crate) async fn equal_bytes_are_kept_once_and_go_with_the_last_file() {
    let folder = Folder::new();
    let store = folder.open().await;
    let one = add(&store, "a", "one.jsonl", b"water for everyone").await;
    let two = add(&store, "b", "two.jsonl", b"water for everyone").await;
    assert_eq!(one.digest, two.digest);
    assert_eq!(blobs::read(&store, &one.digest, None).await, b"water for everyone");
    assert_eq!(blobs::count(&folder), 1);
    store.remove_file("a", &one.id).await.unwrap();
    assert_eq!(blobs::count(&folder), 1);
    store.remove_file("b", &two.id).await.unwrap();
    assert_eq!(blobs::count(&folder), 0);
}

#[tokio::test]
pub(crate) async fn another_workspace_finds_nothing() {
    let folder = Folder::new();
    let store = folder.open().await;
    let file = add(&store, "a", "one.jsonl", b"1").await;
    assert_eq!(store.file("a", &file.id).await.unwrap(), file);
    assert!(matches!(store.file("b", &file.id).await, Err(StoreError::Unknown { what: "file", .. })));
    assert!(matches!(store.remove_file("b", &file.id).await, Err(StoreError::Unknown { .. })));
    assert_eq!(store.files("b", &FileFilter::default(), &Page::default()).await.unwrap().total, 0);
    let behind = Page { after: Some(file.id.clone()), ..Page::default() };
    assert!(store.files("b", &FileFilter::default(), &behind).await.is_err());
}

#[tokio::test]
pub(crate) async fn pages_and_filters() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(add(&store, "a", &format!("Part-{number}"), &[number]).await.id);
    }
    let page = Page { take: 2, ..Page::default() };
    let first = store.files("a", &FileFilter::default(), &page).await.unwrap();
    assert_eq!(first.rows.iter().map(|file| &file.id).collect::<Vec<_>>(), [&ids[4], &ids[3]]);
    assert!(first.has_more && first.total == 5);
    let next = Page { after: Some(ids[3].clone()), take: 2, newest_first: true, skip: 1 };
    let next = store.files("a", &FileFilter::default(), &next).await.unwrap();
    assert_eq!(next.rows.iter().map(|file| &file.id).collect::<Vec<_>>(), [&ids[1], &ids[0]]);
    assert!(!next.has_more);
    let oldest = Page { newest_first: false, take: 1, ..Page::default() };
    assert_eq!(store.files("a", &FileFilter::default(), &oldest).await.unwrap().rows[0].id, ids[0]);
    let search = FileFilter { search: Some("part-3".into()), ..FileFilter::default() };
    assert_eq!(store.files("a", &search, &Page::default()).await.unwrap().rows[0].id, ids[3]);
    let any = FileFilter { search: Some(String::new()), ..FileFilter::default() };
    assert_eq!(store.files("a", &any, &Page::default()).await.unwrap().total, 5);
    let none = FileFilter { purpose: Some("batch".into()), ..FileFilter::default() };
    assert_eq!(store.files("a", &none, &Page::default()).await.unwrap().total, 0);
}

#[tokio::test]
pub(crate) async fn too_many_bytes_and_dropped_uploads_leave_nothing() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mut upload = store.blobs().begin(4).await.unwrap();
    upload.write(b"1234").await.unwrap();
    assert!(matches!(upload.write(b"5").await, Err(StoreError::TooLarge { limit_bytes: 4 })));
    drop(upload);
    assert_eq!(blobs::count(&folder), 0, "no part is left either");
}

#[tokio::test]
pub(crate) async fn expired_files_are_gone() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mut upload = store.blobs().begin(10).await.unwrap();
    upload.write(b"old").await.unwrap();
    let file = NewFile { name: "old".into(), expires_s: Some(1), ..NewFile::default() };
    assert!(store.add_file("a", &file, upload).await.is_err(), "it had expired before it came");
    assert_eq!(store.sweep_files().await.unwrap(), 1);
    assert_eq!(blobs::count(&folder), 0);
}
