//! The same tests on PostgreSQL: a server of their own on a socket, one database per folder. Where the machine has no
//! PostgreSQL they say so loudly and check nothing.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use falaj_store::{JobFilter, NewJob, Page, Places, Store, StoreError};

use crate::{Folder, control, files, jobs};

thread_local! {
    /// The socket's folder, while tests of this thread run on PostgreSQL.
    static SOCKET: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Where the rows of `folder` are kept; `None` for SQLite.
pub(crate) fn database_of(folder: &Path) -> Option<String> {
    let socket = SOCKET.with_borrow(Clone::clone)?;
    let name: String = folder.file_name()?.to_str()?.chars().map(|c| if c == '-' { '_' } else { c }).collect();
    // Fails where the folder was opened before: then the database is there.
    let _ = Command::new(programs()?.join("createdb"))
        .args(["-h", socket.to_str()?, "-U", "postgres", &name])
        .stderr(Stdio::null())
        .status();
    Some(format!("postgres://postgres@localhost/{name}?host={}", socket.display()))
}

async fn open(folder: &Folder, url: &str) -> Result<Store, StoreError> {
    Store::open_at(&folder.0, &Places { database: Some(url.to_owned().into()), blobs: None }).await
}

fn programs() -> Option<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.retain(|bin| bin.join("initdb").is_file());
    found.sort();
    found.pop()
}

/// A running server; gone with its data when dropped.
struct Server {
    programs: PathBuf,
    dir: PathBuf,
}

impl Server {
    fn start(name: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!(
                "\n!!! NOT RUN: no PostgreSQL here, so nothing of it was tested; install Debian's `postgresql-15`\n"
            );
            return None;
        };
        // Not under the build's folder: the path of a socket has at most 107 bytes, and PostgreSQL's user must reach it.
        let dir = std::env::temp_dir().join(format!("falaj-pg-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        if is_root() {
            let status = Command::new("chown").arg("postgres").arg(&dir).status().unwrap();
            assert!(status.success(), "cannot give the folder to the user `postgres`");
        }
        let server = Self { programs, dir };
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        server.up();
        Some(server)
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    fn up(&self) {
        let options = format!("-k {} -c listen_addresses= -c fsync=off", self.dir.display());
        let log = self.dir.join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    fn down(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let program = self.programs.join(program);
        // PostgreSQL refuses to be root.
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let status = command.args(arguments).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "{command:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        SOCKET.take();
        if self.dir.join("data/postmaster.pid").exists() && !std::thread::panicking() {
            self.down();
        } else if std::thread::panicking() {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.down()));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

#[test]
fn postgres_holds_what_sqlite_holds() {
    let Some(server) = Server::start("all") else { return };
    SOCKET.set(Some(server.dir.clone()));
    files::equal_bytes_are_kept_once_and_go_with_the_last_file();
    files::another_workspace_finds_nothing();
    files::pages_and_filters();
    files::too_many_bytes_and_dropped_uploads_leave_nothing();
    files::expired_files_are_gone();
    jobs::a_job_lives_and_is_remembered();
    jobs::only_one_of_two_moves_a_job();
    jobs::jobs_are_listed_by_filter();
    jobs::models_of_jobs();
    control::what_one_process_changes_another_sees();
    control::names_owners_and_words_are_checked();
    control::what_belongs_to_something_goes_with_it();
    control::a_rotated_key_overlaps_and_a_revoked_one_opens_nothing();
    control::who_is_removed_leaves_nothing_that_opens();
}

#[tokio::test]
async fn a_lost_server_is_named_and_found_again() {
    let Some(server) = Server::start("lost") else { return };
    let folder = Folder::new();
    SOCKET.set(Some(server.dir.clone()));
    let url = database_of(&folder.0).unwrap();
    let store = folder.open().await;
    let new = NewJob { model: "m".into(), suffix: None, auto_start: true, spec: serde_json::json!({}) };
    let job = store.add_job("a", &new).await.unwrap();
    server.down();
    let error = store.add_job("a", &new).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
    let error = open(&folder, &url.replace("postgres@", "postgres:hunter2@")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    server.up();
    assert_eq!(store.job("a", &job.id).await.unwrap(), job);
    store.add_job("a", &new).await.unwrap();
    assert_eq!(store.jobs("a", &JobFilter::default(), &Page::default()).await.unwrap().total, 2);
}

/// Broken off in every table and gone on with, a move is whole; nothing moves twice, and nothing over another's data.
#[tokio::test]
async fn a_move_is_whole_however_often_it_breaks_off() {
    let Some(server) = Server::start("move") else { return };
    SOCKET.set(Some(server.dir.clone()));
    let (here, there) = (Folder::new(), Folder::new());
    let url = database_of(&there.0).unwrap();
    let store = Store::open(&here.0).await.unwrap();
    let new = |n: u32| NewJob {
        model: format!("m{n}"),
        suffix: None,
        auto_start: n.is_multiple_of(2),
        spec: serde_json::json!({ "n": n }),
    };
    let mut jobs = Vec::new();
    for n in 0..600 {
        jobs.push(store.add_job("a", &new(n)).await.unwrap());
    }
    store.add_event(&jobs[3].id, "status", "it’s \u{645}\u{631}\u{62d}\u{628}\u{627}", None).await.unwrap();
    let organisation = falaj_store::Organisation {
        id: "o".into(),
        name: "health".into(),
        country: "MA".into(),
        created_s: 7,
        disabled_s: None,
    };
    store.put(&organisation).await.unwrap();
    let before = store.directory().await.unwrap();

    let mut breaks = 0;
    let moved = loop {
        // Each attempt gets one batch further.
        let mut batches = 0;
        let mut progress = |_: &'static str, _| {
            batches += 1;
            if batches > breaks { Err(StoreError::Stopped) } else { Ok(()) }
        };
        match store.move_to_postgres(&url, &mut progress).await {
            Ok(moved) => break moved,
            Err(StoreError::Stopped) => breaks += 1,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(breaks >= 5, "{breaks}");
    let rows = |table: &str| moved.iter().find(|moved| moved.table == table).unwrap().rows;
    assert_eq!((rows("jobs"), rows("job_events"), rows("control"), rows("files")), (600, 601, 1, 0));
    assert!(moved.iter().find(|moved| moved.table == "jobs").unwrap().copied < 600, "it went on, not again");

    // The pepper stays with the folder.
    std::fs::copy(here.0.join("key.pepper"), there.0.join("key.pepper")).unwrap();
    let target = open(&there, &url).await.unwrap();
    assert_eq!(target.directory().await.unwrap(), before);
    let all = Page { take: 2000, newest_first: false, ..Page::default() };
    let (a, b) =
        (store.jobs("a", &JobFilter::default(), &all).await, target.jobs("a", &JobFilter::default(), &all).await);
    assert_eq!(a.unwrap(), b.unwrap());
    let later = target.add_job("a", &new(9)).await.unwrap();
    assert_eq!(target.jobs("a", &JobFilter::default(), &Page::default()).await.unwrap().rows[0], later);

    let mut quiet = |_: &'static str, _| Ok(());
    let again = store.move_to_postgres(&url, &mut quiet).await.unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");
    let other = Folder::new();
    let stranger = Store::open(&other.0).await.unwrap();
    let refused = stranger.move_to_postgres(&url, &mut quiet).await.unwrap_err();
    assert!(refused.to_string().contains("another site"), "{refused}");
    let used = Folder::new();
    let used_url = database_of(&used.0).unwrap();
    open(&used, &used_url).await.unwrap().put(&organisation).await.unwrap();
    let refused = store.move_to_postgres(&used_url, &mut quiet).await.unwrap_err();
    assert!(refused.to_string().contains("did not come from this site"), "{refused}");
    let back = target.move_to_postgres(&used_url, &mut quiet).await.unwrap_err();
    assert!(back.to_string().contains("SQLite"), "{back}");
}
