//! Programs that tests start, for servers and tokens of their own or as people would: Debian's packages, installed where we may.

use std::path::Path;
use std::process::Command;

struct Package {
    name: &'static str,
    /// What needs it, as the closing table calls it.
    step: &'static str,
    /// Where Debian puts it; the tests look there, too.
    there: fn() -> bool,
}

const PACKAGES: [Package; 4] = [
    Package { name: "postgresql-15", step: "postgres", there: postgres },
    Package { name: "softhsm2", step: "softhsm", there: softhsm },
    Package { name: "libfaketime", step: "faketime", there: faketime },
    Package { name: "curl", step: "tutorial", there: curl },
];

/// What is not tested here, and why; nothing where all is there.
pub fn missing() -> Vec<(&'static str, String)> {
    PACKAGES.iter().filter_map(|package| Some((package.step, package.missing()?))).collect()
}

impl Package {
    fn missing(&self) -> Option<String> {
        let Self { name, there, .. } = self;
        if there() {
            return None;
        }
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0");
        if !root {
            return Some(format!("it is not here; install the package `{name}`"));
        }
        for arguments in [&["update", "-q"][..], &["install", "-qy", "--no-install-recommends", name]] {
            let done = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
            if !done.is_ok_and(|status| status.success()) {
                return Some(format!("`apt-get {}` failed", arguments.join(" ")));
            }
        }
        (!there()).then(|| format!("`{name}` did not bring what its tests look for"))
    }
}

fn postgres() -> bool {
    let Ok(versions) = Path::new("/usr/lib/postgresql").read_dir() else { return false };
    versions.flatten().any(|version| version.path().join("bin/initdb").is_file())
}

fn faketime() -> bool {
    Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1").is_file()
}

fn softhsm() -> bool {
    ["/usr/bin/softhsm2-util", "/usr/lib/softhsm/libsofthsm2.so"].iter().all(|path| Path::new(path).is_file())
}

fn curl() -> bool {
    Path::new("/usr/bin/curl").is_file()
}
