//! What only the inside can bring about: a full disk.

use tokio::sync::oneshot;

use super::*;

impl Meter {
    async fn pragma(&self, pragma: &'static str) {
        let (promise, done) = oneshot::channel();
        self.queue.push(Item::Pragma(pragma, promise), true).unwrap();
        done.await.unwrap().unwrap();
    }
}

fn opened(number: u8) -> Opened {
    Opened {
        request_id: [number; 16],
        organisation: "o".into(),
        workspace: "w".into(),
        key: "k".into(),
        time_ms: 0,
        model: "m".into(),
        decision: [0; 32],
        input_salt: None,
        output_salt: None,
    }
}

fn settled(number: u8, receipt: usize) -> Settled {
    Settled { request_id: [number; 16], prompt_tokens: 1, receipt: vec![1; receipt], ..Settled::default() }
}

#[tokio::test]
async fn a_full_disk_refuses_what_comes_and_takes_it_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    meter.open(opened(1)).unwrap().await.unwrap();
    meter.open(opened(2)).unwrap().await.unwrap();
    meter.settle(settled(1, 10)).unwrap().await.unwrap();
    // SQLite takes no number below what the file has: it is full now.
    meter.pragma("PRAGMA max_page_count = 1").await;
    let late = meter.settle(settled(2, 100_000)).unwrap();
    let full = meter.flush().await;
    assert!(matches!(&full, Err(StoreError::NotWritten { reason }) if reason.contains("full")), "{full:?}");
    let refused = meter.begin(opened(4), || 0);
    assert!(matches!(&refused, Err(StoreError::NotWritten { reason }) if reason.contains("full")), "{refused:?}");
    let unknown = meter.receipt("w", &[2; 16]).await;
    assert!(matches!(unknown, Err(StoreError::Unknown { .. })), "{unknown:?}");

    // What came before was kept meanwhile.
    meter.pragma("PRAGMA max_page_count = 1000000").await;
    late.await.unwrap();
    meter.begin(opened(3), || 7).unwrap();
    let totals = meter.totals(&UsageFilter::default(), By::Key).await.unwrap();
    assert_eq!(totals.iter().map(|(_, totals)| totals.requests).collect::<Vec<_>>(), [2]);
    drop(meter);
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    assert_eq!(meter.unsettled().iter().map(|it| it.request_id).collect::<Vec<_>>(), [[3; 16]]);
    assert_eq!(meter.covered(), Some(7));
}

#[tokio::test]
async fn salts_can_be_made_again_until_something_is_erased() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    let given = meter.begin(opened(1), || 0).unwrap();
    assert_ne!(given.input, given.output);
    assert_ne!(given, meter.begin(opened(2), || 0).unwrap());
    meter.settle_once(settled(1, 1), Entered::When(Box::new(|| Ok(5)))).unwrap();
    let row = meter.receipt("w", &[1; 16]).await.unwrap();
    assert_eq!((row.opened.input_salt, row.settled.entry), (Some(given.input), 5));
    drop(meter);
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    assert_eq!(meter.salts(&[1; 16]), given, "the key is kept");
    assert_eq!(meter.erase_workspace("w").await.unwrap().len(), 2);
    assert_ne!(meter.salts(&[1; 16]), given);
    let new = meter.salts(&[1; 16]);
    drop(meter);
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    assert_eq!(meter.salts(&[1; 16]), new, "the new one too");
}

#[tokio::test]
async fn what_was_not_let_in_is_as_if_it_had_not_come() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    // One goes in the batch that it came with, the other in a later one.
    meter.begin(opened(1), || 0).unwrap();
    meter.flush().await.unwrap();
    meter.begin(opened(2), || 0).unwrap();
    meter.withdraw([1; 16]).unwrap();
    meter.withdraw([2; 16]).unwrap();
    assert!(meter.totals(&UsageFilter::default(), By::Key).await.unwrap().is_empty());
    drop(meter);
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    assert!(meter.unsettled().is_empty());
}

#[tokio::test]
async fn a_receipt_that_the_ledger_lost_leaves_its_request_open() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    meter.begin(opened(1), || 0).unwrap();
    meter.settle_once(settled(1, 1), Entered::When(Box::new(|| Err("the disk is gone".to_owned())))).unwrap();
    meter.flush().await.unwrap();
    drop(meter);
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    assert_eq!(meter.unsettled().len(), 1);
}

#[tokio::test]
async fn a_request_that_opens_and_settles_in_one_batch_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    // Nothing is awaited in between: all of it lies in the queue together, mostly.
    for number in 1..=200 {
        drop(meter.open(Opened { input_salt: Some([number; 32]), ..opened(number) }).unwrap());
        drop(meter.settle(settled(number, 5)).unwrap());
        let again = meter.open(opened(number));
        drop(again.unwrap());
    }
    drop(meter);
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    assert_eq!(meter.unsettled().len(), 200);
    assert_eq!(meter.receipts("w", None, 1000).await.unwrap().len(), 200);
    assert_eq!(meter.receipt("w", &[9; 16]).await.unwrap().opened.input_salt, Some([9; 32]));
}
