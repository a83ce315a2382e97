//! The usage of a site: openings and settlements, what is asked of them, what a restart and an erasure leave.

use std::sync::Arc;

use falaj_store::{
    Amounts, By, Meter, MeterSettings, MeteredEnergy, Opened, Per, Scope, Settled, StoreError, Totals, UsageFilter,
};
use tempfile::TempDir;

/// 23 November 2026, 12:00:00.
const NOON_MS: u64 = 1_795_435_200_000;

fn opened(number: u8, workspace: &str, key: &str, time_ms: u64) -> Opened {
    Opened {
        request_id: [number; 16],
        organisation: format!("of-{workspace}").into(),
        workspace: workspace.into(),
        key: key.into(),
        time_ms,
        model: "small".into(),
        decision: [9; 32],
        input_salt: Some([number; 32]),
        output_salt: Some([number + 100; 32]),
    }
}

fn settled(number: u8, tokens: u64) -> Settled {
    Settled {
        request_id: [number; 16],
        prompt_tokens: tokens,
        completion_tokens: 2 * tokens,
        cached_tokens: 1,
        money: 5,
        energy: number
            .is_multiple_of(2)
            .then_some(MeteredEnergy { uj: 700, grade: if number == 2 { 'C' } else { 'B' } }),
        receipt: vec![255 - number; 40],
        entry: u64::from(number),
    }
}

async fn meter(dir: &TempDir) -> Meter {
    Meter::start(dir.path(), MeterSettings::default()).await.unwrap()
}

async fn used(meter: &Meter, opening: Opened, settlement: Settled) {
    meter.open(opening).unwrap().await.unwrap();
    meter.settle(settlement).unwrap().await.unwrap();
}

#[tokio::test]
async fn sums_are_told_apart_by_whom_and_when() {
    let dir = tempfile::tempdir().unwrap();
    let meter = meter(&dir).await;
    used(&meter, opened(1, "a", "k1", NOON_MS), settled(1, 10)).await;
    used(&meter, opened(2, "a", "k2", NOON_MS + 1), settled(2, 20)).await;
    used(&meter, opened(3, "a", "k1", NOON_MS + 60_000), settled(3, 40)).await;
    used(&meter, opened(4, "b", "k3", NOON_MS - 86_400_000), settled(4, 80)).await;
    let all = meter.totals(&UsageFilter::default(), By::Workspace).await.unwrap();
    let sums = |requests, tokens, money, energy_uj, unmetered, energy_grade| Totals {
        requests,
        prompt_tokens: tokens,
        completion_tokens: 2 * tokens,
        cached_tokens: requests,
        money,
        energy_uj,
        unmetered,
        energy_grade,
    };
    assert_eq!(
        all,
        [("a".to_owned(), sums(3, 70, 15, 700, 2, Some('C'))), ("b".to_owned(), sums(1, 80, 5, 700, 0, Some('B')))]
    );
    let minute = UsageFilter {
        organisation: Some("of-a".to_owned()),
        from_ms: Some(NOON_MS),
        until_ms: Some(NOON_MS + 60_000),
        ..UsageFilter::default()
    };
    let by_key = meter.totals(&minute, By::Key).await.unwrap();
    assert_eq!(
        by_key,
        [("k1".to_owned(), sums(1, 10, 5, 0, 1, None)), ("k2".to_owned(), sums(1, 20, 5, 700, 0, Some('C')))]
    );
    let by_model = meter.totals(&UsageFilter { key: Some("k1".to_owned()), ..UsageFilter::default() }, By::Model).await;
    assert_eq!(by_model.unwrap(), [("small".to_owned(), sums(2, 50, 10, 0, 2, None))]);

    let now = meter.used(NOON_MS + 60_500).await.unwrap();
    let of = |per, scope_id: &str, scope| {
        let found = now.iter().find(|used| used.per == per && &*used.scope_id == scope_id && used.scope == scope);
        found.map(|used| used.amounts)
    };
    let amounts = |requests, tokens, money, joules| Some(Amounts { requests, tokens, money, joules });
    assert_eq!(of(Per::Minute, "k1", Scope::Key), amounts(1, 120, 5, 0));
    assert_eq!(of(Per::Day, "of-a", Scope::Organisation), amounts(3, 210, 15, 700));
    assert_eq!(of(Per::Day, "b", Scope::Workspace), None);
    assert_eq!(of(Per::Month, "b", Scope::Workspace), amounts(1, 240, 5, 700));
}

#[tokio::test]
async fn a_receipt_is_found_in_its_workspace_only() {
    let dir = tempfile::tempdir().unwrap();
    let meter = meter(&dir).await;
    for number in 1..=5 {
        used(&meter, opened(number, "a", "k", NOON_MS), settled(number, 1)).await;
    }
    used(&meter, opened(6, "b", "k", NOON_MS), settled(6, 1)).await;
    let receipt = meter.receipt("a", &[3; 16]).await.unwrap();
    assert_eq!(receipt.opened, opened(3, "a", "k", NOON_MS));
    assert_eq!(receipt.settled, settled(3, 1));
    for (workspace, id) in [("b", [3; 16]), ("a", [6; 16]), ("a", [7; 16])] {
        let found = meter.receipt(workspace, &id).await;
        assert!(matches!(found, Err(StoreError::Unknown { what: "receipt", .. })), "{found:?}");
    }
    let ids = |rows: Vec<falaj_store::ReceiptRow>| rows.iter().map(|row| row.settled.entry).collect::<Vec<_>>();
    assert_eq!(ids(meter.receipts("a", None, 2).await.unwrap()), [5, 4]);
    assert_eq!(ids(meter.receipts("a", Some([4; 16]), 9).await.unwrap()), [3, 2, 1]);
}

#[tokio::test]
async fn what_was_open_is_unsettled_after_a_restart_and_charged_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = meter(&dir).await;
    used(&first, opened(1, "a", "k", NOON_MS), settled(1, 10)).await;
    let open = first.open(opened(2, "a", "k", NOON_MS)).unwrap();
    open.await.unwrap();
    let twice = first.open(opened(2, "a", "k", NOON_MS)).unwrap().await;
    assert!(matches!(twice, Err(StoreError::AlreadyOpen { .. })), "{twice:?}");
    drop(first);

    let second = meter(&dir).await;
    assert_eq!(second.unsettled(), [opened(2, "a", "k", NOON_MS)]);
    second.settle(settled(2, 20)).unwrap().await.unwrap();
    let again = second.settle(settled(2, 20)).unwrap().await;
    assert!(matches!(again, Err(StoreError::Unknown { what: "open request", .. })), "{again:?}");
    drop(second);

    let third = meter(&dir).await;
    assert!(third.unsettled().is_empty());
    let [(_, totals)] = &third.totals(&UsageFilter::default(), By::Key).await.unwrap()[..] else { panic!("one key") };
    assert_eq!((totals.requests, totals.prompt_tokens), (2, 30));
}

#[tokio::test]
async fn thousands_at_once_are_all_written() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Arc::new(meter(&dir).await);
    let tasks = (0..16u8).map(|task| {
        let meter = Arc::clone(&meter);
        tokio::spawn(async move {
            for number in 0..200u8 {
                let mut id = [number; 16];
                id[0] = task;
                let opening = Opened { request_id: id, ..opened(1, "a", &format!("k{task}"), NOON_MS) };
                meter.open(opening).unwrap().await.unwrap();
                drop(meter.settle(Settled { request_id: id, ..settled(1, 1) }).unwrap());
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    drop(Arc::into_inner(meter).expect("the tasks have ended"));
    let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
    assert!(meter.unsettled().is_empty(), "a dropped ticket is written all the same");
    let by_key = meter.totals(&UsageFilter::default(), By::Key).await.unwrap();
    assert_eq!(by_key.len(), 16);
    assert!(by_key.iter().all(|(_, totals)| totals.requests == 200), "{by_key:?}");
}

#[tokio::test]
async fn a_full_queue_answers_busy_and_a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = MeterSettings { queue: 0, ..MeterSettings::default() };
    let meter = Meter::start(dir.path(), settings).await.unwrap();
    assert!(matches!(meter.open(opened(1, "a", "k", NOON_MS)), Err(StoreError::Busy)));
    let second = Meter::start(dir.path(), MeterSettings::default()).await;
    assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
}

#[tokio::test]
async fn erasure_leaves_rows_without_salts_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let meter = meter(&dir).await;
    for number in 1..=3 {
        used(&meter, opened(number, "a", if number == 3 { "theirs" } else { "k" }, NOON_MS), settled(number, 1)).await;
    }
    used(&meter, opened(4, "b", "theirs", NOON_MS), settled(4, 1)).await;
    meter.open(opened(5, "a", "k", NOON_MS)).unwrap().await.unwrap();

    let mut erased = meter.erase_key_holder(&["theirs".to_owned()]).await.unwrap();
    erased.sort_unstable();
    assert_eq!(erased, [[3; 16], [4; 16]]);
    let mut erased = meter.erase_workspace("a").await.unwrap();
    erased.sort_unstable();
    assert_eq!(erased, [[1; 16], [2; 16], [5; 16]]);
    assert!(meter.erase_workspace("a").await.unwrap().is_empty());

    meter.settle(settled(5, 1)).unwrap().await.unwrap();
    for number in [1, 2, 3, 5] {
        let receipt = meter.receipt("a", &[number; 16]).await.unwrap();
        assert_eq!((receipt.opened.input_salt, receipt.opened.output_salt), (None, None));
        assert_eq!(receipt.settled, settled(number, 1));
    }
    for number in 1..=5 {
        for salt in [[number; 32], [number + 100; 32]] {
            for file in ["usage.db", "usage.db-wal"] {
                let bytes = std::fs::read(dir.path().join(file)).unwrap();
                assert!(!bytes.windows(32).any(|window| *window == salt), "salt {number} in {file}");
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    for damage in ["truncated", "overwritten", "newer"] {
        let dir = tempfile::tempdir().unwrap();
        let first = meter(&dir).await;
        for number in 1..=100 {
            used(&first, opened(number, "a", "k", NOON_MS), settled(number, 1)).await;
        }
        drop(first);
        let path = dir.path().join("usage.db");
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "truncated" => bytes.truncate(bytes.len() / 2),
            "overwritten" => bytes[..64].fill(0x55),
            // The schema's number stands at byte 60 of the header.
            _ => bytes[60..64].copy_from_slice(&99u32.to_be_bytes()),
        }
        std::fs::write(&path, bytes).unwrap();
        let error = Meter::start(dir.path(), MeterSettings::default()).await.unwrap_err();
        let expected = if damage == "newer" { "was written by a newer Falaj (schema 99" } else { "is damaged (" };
        assert!(error.to_string().contains(expected), "{damage}: {error}");
    }
}

#[tokio::test]
async fn a_sum_is_as_well_known_as_the_worst_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let grade = |number, grade: Option<char>| Settled {
        energy: grade.map(|grade| MeteredEnergy { uj: 5, grade }),
        ..settled(number, 1)
    };
    // In one minute, by batches of several processes: each row of sums is added to.
    for (number, letter) in [(1, Some('B')), (2, None), (3, Some('E')), (4, Some('D'))] {
        let meter = meter(&dir).await;
        used(&meter, opened(number, "a", "k", NOON_MS), grade(number, letter)).await;
        let worst = if number < 3 { 'B' } else { 'E' };
        let all = meter.totals(&UsageFilter::default(), By::Model).await.unwrap();
        assert_eq!(all.iter().map(|(_, sum)| sum.energy_grade).collect::<Vec<_>>(), [Some(worst)], "{number}");
    }
    // And over minutes and keys.
    let meter = meter(&dir).await;
    used(&meter, opened(5, "a", "other", NOON_MS + 60_000), grade(5, Some('A'))).await;
    let all = meter.totals(&UsageFilter::default(), By::Workspace).await.unwrap();
    assert_eq!(all.iter().map(|(_, sum)| (sum.energy_uj, sum.energy_grade)).collect::<Vec<_>>(), [(20, Some('E'))]);
}

#[tokio::test]
async fn sums_that_knew_no_grade_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("usage.db");
    drop(meter(&dir).await);
    // As the first version left it.
    let url = format!("sqlite:{}", path.display());
    let database = sqlx::SqlitePool::connect(&url).await.unwrap();
    for statement in [
        "ALTER TABLE minutes DROP COLUMN energy_grade",
        "INSERT INTO minutes VALUES (1, 'k', 'w', 'o', 'm', 1, 2, 3, 0, 0, 0, 1)",
        "DROP TABLE progress",
        "PRAGMA user_version = 1",
    ] {
        sqlx::query(statement).execute(&database).await.unwrap();
    }
    database.close().await;
    let meter = meter(&dir).await;
    used(&meter, opened(2, "w", "k", 60_000), settled(2, 10)).await;
    let all = meter.totals(&UsageFilter::default(), By::Workspace).await.unwrap();
    let (_, sum) = all.first().unwrap();
    assert_eq!((sum.requests, sum.unmetered, sum.energy_grade), (2, 1, Some('C')));
}
