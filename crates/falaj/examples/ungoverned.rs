//! A server that only passes requests on to one engine, without a ledger: what `cargo xtask bench gateway` compares with to say what
//! receipts cost. `ungoverned ADDRESS ENGINE-URL MODEL`; its key is `sk-ungoverned`.

use std::error::Error;

use falaj_server::{App, AttachedEngine, Key, Registry, Settings, serve};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, url, model] = args.as_slice() else { return Err("ADDRESS ENGINE-URL MODEL".into()) };
    let settings = Settings { keys: vec![Key::from_secret("admin", "sk-ungoverned")], ..Settings::default() };
    let app = App::new(settings, Registry::new())?;
    app.attach(vec![AttachedEngine::new("engine", url, None, vec![model.clone()], None)?]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        println!("{}", listener.local_addr()?);
        Ok(serve(listener, app, std::future::pending()).await?)
    })
}
