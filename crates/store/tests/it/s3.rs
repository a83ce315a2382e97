//! A server that speaks S3, in this process, over a folder (`s3s-fs`). It can be stopped, started again at the same address, and told
//! to fail; tests of the executable use it too.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const KEY_ID: &str = "falaj-test";
pub(crate) const SECRET: &str = "hunter2-hunter2";
pub(crate) const BUCKET: &str = "site";

pub(crate) struct S3 {
    dir: PathBuf,
    address: SocketAddr,
    runtime: Option<Runtime>,
    /// What is written from then on is refused as an overloaded server would.
    pub(crate) writes_left: Arc<AtomicUsize>,
}

impl S3 {
    /// Over a folder that goes away with it.
    pub(crate) fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("falaj-s3-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join(BUCKET)).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { dir, address, runtime: None, writes_left: Arc::new(AtomicUsize::new(usize::MAX)) };
        server.up();
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Files of the bucket below `prefix`, without the server's own.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.dir.join(BUCKET).join(prefix), &mut found);
        found.retain(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'));
        found
    }

    /// Everything that the server keeps, parts of unfinished uploads too.
    pub(crate) fn kept(&self) -> usize {
        let mut found = Vec::new();
        walk(&self.dir, &mut found);
        found.len()
    }

    pub(crate) fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn up(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = {
            let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&self.dir).unwrap());
            builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
            builder.build()
        };
        // What was just stopped may hold the port for a moment.
        let listener = std::iter::repeat_with(|| std::net::TcpListener::bind(self.address));
        let listener = listener.take(100_000).find_map(Result::ok).expect("the port is free again");
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let writes_left = Arc::clone(&self.writes_left);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (service, writes_left) = (service.clone(), Arc::clone(&writes_left));
                let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&writes_left), request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.down();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn answer(
    service: S3Service,
    writes_left: Arc<AtomicUsize>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, s3s::HttpError> {
    let take = |left: usize| left.checked_sub(1);
    if request.method() == Method::PUT && writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(refusal);
    }
    service.call(request.map(Body::from)).await
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}
