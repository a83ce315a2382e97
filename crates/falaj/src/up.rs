//! `falaj up`: key, models, listener, and the words that make the first request a paste. The HTTP itself is `server`'s.

use crate::builtin;
use crate::context::Context;
use crate::cosign::Cosigning;
use crate::data_dir::{self, DataLock};
use crate::energy;
use crate::engine;
use crate::failure::{Failure, OrFail, Outcome};
use crate::key::AdminKey;
use crate::output;
use crate::serving::{self, CatalogLoader, Place};
use crate::site_key;
use crate::state;
use crate::words::Word;
use falaj_server::{
    App, Book, Governance, GovernanceError, JobSettings, Key, Registry, Settings, SignInSettings, Site, SiteFacts,
};
use serde_json::json;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub fn up(context: &Context) -> Outcome {
    serve(context).map_err(|failure| failure.or_else_next(|| data_dir::full(&context.config.data)))
}

fn serve(context: &Context) -> Outcome {
    let config = &context.config;
    data_dir::create(&config.data)?;
    let _lock = DataLock::acquire(&config.data)?;
    // The port first: a taken one should show before a model has been loaded for a minute.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(listen(config.server.listen))?;
    let address = listener.local_addr()?;
    let key = AdminKey::open(&config.server.key_file)?;

    let registry = registry(context, &runtime)?;
    let settings = Settings {
        keys: vec![Key::from_secret("admin", key.key.expose())],
        body_limit_bytes: config.server.body_limit_bytes,
        request_timeout_ms: config.server.request_timeout_ms,
        max_connections: config.server.max_connections,
        ..Settings::default()
    };
    let store = runtime.block_on(state::open(config))?;
    if let Err(error) = runtime.block_on(store.blobs().probe()) {
        output::note(&Word::UpNoBlobs.with(&[&error.to_string()]));
    }
    let prices = runtime.block_on(store.directory())?.prices;
    let site = Site::new(store, jobs(context)?, config.server.file_limit_bytes)?;
    let (power, carbon) = (falaj_energy::Site::start(energy::settings(config))?, energy::carbon(config));
    let facts = SiteFacts {
        energy_grade: power.findings().method.grade().letter(),
        grams_per_kwh: carbon.grams_per_kwh.round() as u32,
        ..config.site.facts.clone()
    };
    let site_key = site_key::open(&config.site.key)?;
    let book = runtime.block_on(Book::with(&config.data, site_key, &facts.id));
    let book = book.map_err(|error| {
        let damage = matches!(&error, GovernanceError::Ledger(error) if error.is_damage());
        let failure = Failure::from(error).while_doing(Word::UpLedger.text());
        if damage {
            failure.next(Word::UpLedgerDamaged.with(&[&config.data.join("ledger").display().to_string()]))
        } else {
            failure
        }
    })?;
    let cosigning = Cosigning::start(&book, &config.site)?;
    let governance = Governance::new(facts, settings.keys.clone(), Some(book));
    let mut governance = governance.or_fail(|| Word::UpGovernance.text().to_owned())?;
    runtime.block_on(governance.count_on(&prices))?;
    let app = App::governed(settings, registry, governance).with_site(site).with_energy(power, carbon);
    let app = match sign_in(context, address)? {
        Some(settings) => app.with_sign_in(settings).or_fail(|| "`oidc.issuer`, `server.url`".to_owned())?,
        None => app,
    };
    let engines = engine::attached(&config.data)?;
    app.attach(engines.clone());
    runtime.block_on(app.reload())?;
    let models: Vec<String> = app.registry().list().into_iter().map(|listed| listed.facts.id).collect();
    runtime.block_on(async {
        // Registered before the address is printed: whoever reads it may already send one.
        let stop = stop_signal(context.json)?;
        announce(context, address, &key, &models);
        tokio::spawn(engine::watch(app.clone(), config.data.clone(), engines));
        falaj_server::serve(listener, app, stop).await.map_err(Failure::from)
    })?;
    drop(cosigning);
    if !context.json {
        output::note(Word::UpStopped.text());
    }
    Ok(())
}

/// Who tells this site who people are, and where they come back to.
fn sign_in(context: &Context, address: SocketAddr) -> Outcome<Option<SignInSettings>> {
    let Some(oidc) = &context.config.oidc else { return Ok(None) };
    let read = |path: &Path| std::fs::read(path).or_fail(|| format!("`{}`", path.display()));
    let secret = oidc.client_secret_file.as_deref().map(read).transpose()?;
    Ok(Some(SignInSettings {
        issuer: oidc.issuer.clone(),
        client_id: oidc.client_id.clone(),
        client_secret: secret.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()),
        ca_pem: oidc.ca_file.as_deref().map(read).transpose()?,
        url: context.config.server.url.clone().unwrap_or_else(|| format!("http://{address}")),
        organisation: oidc.organisation.clone(),
        newcomers: oidc.newcomers.clone(),
        session_s: oidc.session.as_secs(),
    }))
}

/// Each job is `falaj job run FOLDER`: this very program, with the same data folder.
fn jobs(context: &Context) -> Outcome<JobSettings> {
    let config = &context.config;
    let data = std::path::absolute(&config.data)?;
    let program = std::env::current_exe()?;
    let threads = config.jobs.threads.to_string();
    let words = [program.as_path(), Path::new("--data"), &data, Path::new("--threads"), Path::new(&threads)];
    let words = words.into_iter().chain([Path::new("job"), Path::new("run")]);
    let command = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let jobs = &config.jobs;
    Ok(JobSettings {
        command,
        dir: data.join("jobs"),
        at_once: jobs.at_once,
        grace: JOB_GRACE,
        memory_bytes: jobs.memory_bytes,
        keep: jobs.keep,
    })
}

/// Of a model that the operator asked for.
const LONGEST_LOAD: Duration = Duration::from_secs(3600);
/// To end a step and to write a checkpoint.
const JOB_GRACE: Duration = Duration::from_secs(30);

/// The models, those loaded that were asked for as long as there is room.
fn registry(context: &Context, runtime: &tokio::runtime::Runtime) -> Outcome<Registry> {
    let config = &context.config;
    let names = std::iter::once(builtin::NAME).chain(config.server.models.iter().map(String::as_str));
    let places = names.map(|name| Place::find(config, name)).collect::<Outcome<Vec<_>>>()?;
    let mut loader = CatalogLoader::new(config.clone());
    places.iter().try_for_each(|place| loader.add_path(place))?;
    let registry = Registry::with_loader(Arc::new(loader), config.server.memory.clone());
    for place in places {
        let id = place.id();
        let listed = registry.list().into_iter().find(|listed| listed.facts.id == id);
        let (need_bytes, is_adapter) = listed.map_or((0, false), |l| (l.memory_bytes, l.facts.base.is_some()));
        let (bound_bytes, taken_bytes) = registry.memory_bytes();
        let left_bytes = bound_bytes.saturating_sub(taken_bytes);
        if need_bytes > left_bytes {
            let [need, left, bound] = [need_bytes, left_bytes, bound_bytes].map(output::bytes);
            output::note(&Word::ModelNoRoomNow.with(&[&id, &need, &left, &bound]));
            continue;
        }
        if !context.json {
            output::note(&Word::ModelLoading.with(&[&id]));
        }
        match is_adapter {
            // Over the base that others use, too.
            true => drop(runtime.block_on(registry.find(&id, tokio::time::Instant::now() + LONGEST_LOAD))?),
            false => registry.insert(serving::load(config, &place)?),
        }
    }
    Ok(registry)
}

pub async fn listen(address: SocketAddr) -> Outcome<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        if error.kind() == ErrorKind::AddrInUse {
            let other = SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(8080));
            Failure::new(Word::UpAddressTaken.with(&[&address.to_string()]))
                .next(Word::UpAddressTakenNext.with(&[&other.to_string()]))
        } else {
            Failure::new(Word::UpAddressOther.with(&[&address.to_string(), &error.to_string()]))
                .next(Word::UpAddressOtherNext.text())
        }
    })
}

/// Resolves at the first SIGINT or SIGTERM; the second ends the process at once.
pub fn stop_signal(quiet: bool) -> Outcome<impl Future<Output = ()> + use<>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if !quiet {
            output::note(Word::UpStopping.text());
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // As a shell reports a program that SIGINT ended.
            std::process::exit(130);
        });
    })
}

fn announce(context: &Context, address: SocketAddr, key: &AdminKey, models: &[String]) {
    let server = &context.config.server;
    let url = format!("http://{address}");
    if context.json {
        output::json(&json!({
            "address": url,
            "key_file": server.key_file,
            // Once, as for people: afterwards the file has it.
            "key": key.is_new.then(|| key.key.expose()),
            "models": models,
            "pid": std::process::id(),
        }));
        return;
    }
    let key_file = server.key_file.display().to_string();
    output::line(&Word::UpReady.with(&[&url]));
    output::line("");
    output::line(&format!("  {}: {}", Word::UpModels.text(), models.join(", ")));
    output::line(&format!("  {}: {key_file}", Word::UpKey.text()));
    if key.is_new {
        output::line(&format!("  {} ({})", key.key.expose(), Word::UpNewKey.text()));
    }
    output::line("");
    output::line(Word::UpTry.text());
    output::line("");
    for command in examples(address, &key_file, Word::UpHello.text()) {
        output::line(&format!("  {command}"));
        output::line("");
    }
    output::line(&Word::UpOfficial.with(&[&format!("{url}/openai/v1"), &url]));
    if !address.ip().is_loopback() {
        output::note(&Word::UpOpenToNetwork.with(&[&address.to_string()]));
    }
    output::line(Word::UpStopHint.text());
}

/// Lines to paste into a shell. They read the key from its file, so that it stays out of the shell's history.
fn examples(address: SocketAddr, key_file: &str, hello: &str) -> [String; 2] {
    // Whoever listens on all addresses is asked on the local one.
    let host =
        if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() };
    let url = format!("http://{host}/v1/chat/completions");
    let body = json!({ "model": builtin::NAME, "messages": [{ "role": "user", "content": hello }] }).to_string();
    let (file, body) = (quoted(key_file), quoted(&body));
    [
        format!(
            "curl {url} -H \"Authorization: Bearer $(cat {file})\" -H \"Content-Type: application/json\" -d {body}"
        ),
        format!(
            "python3 -c 'import json,sys,urllib.request as u; key=open(sys.argv[1]).read().strip(); \
             r=u.Request(\"{url}\",sys.argv[2].encode(),{{\"Authorization\":\"Bearer \"+key,\"Content-Type\":\"application/json\"}}); \
             print(json.load(u.urlopen(r))[\"choices\"][0][\"message\"][\"content\"])' {file} {body}"
        ),
    ]
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_survive_a_shell() {
        assert_eq!(quoted("/home/amal/admin.key"), "/home/amal/admin.key");
        assert_eq!(quoted("/home/l'été/a b"), "'/home/l'\\''été/a b'");
        let [curl, python] = examples("0.0.0.0:8080".parse().unwrap(), "/a b/k", "مرحبًا! من أنت؟");
        assert!(curl.contains("http://127.0.0.1:8080/v1/chat/completions"));
        assert!(curl.contains("$(cat '/a b/k')"));
        assert!(!python.contains('\n'));
    }
}
