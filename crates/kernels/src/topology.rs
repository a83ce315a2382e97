//! What the machine says of itself under /proc and /sys: how many cores this process may use, and which NUMA nodes have
//! memory. Elsewhere than on Linux, and where the files are missing, it knows nothing and says so with `None`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Distinct cores among the CPUs that this process may use. Siblings on one core (SMT) count once: they share its
/// vector units and its path to memory, so that a second numeric thread there gains nothing and makes stragglers.
/// `root` is `/`, or a copy of these files for tests.
pub(crate) fn usable_cores(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).and_then(list)?;
    let cores: Option<BTreeSet<usize>> = allowed
        .iter()
        .map(|cpu| {
            let siblings = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            // A core is known by its first sibling.
            list(&fs::read_to_string(root.join(siblings)).ok()?)?.into_iter().next()
        })
        .collect();
    Some(cores?.len()).filter(|&cores| cores > 0)
}

/// The NUMA nodes that have memory, in ascending order.
pub(crate) fn memory_nodes(root: &Path) -> Option<BTreeSet<usize>> {
    list(&fs::read_to_string(root.join("sys/devices/system/node/has_memory")).ok()?)
}

/// The kernel's form of a set of numbers: `0-3,8,10-11`. `None` for anything else, and for numbers that no machine has.
fn list(text: &str) -> Option<BTreeSet<usize>> {
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last > MAX_NUMBER {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// More than any kernel is built for: guards against a list that would fill memory.
const MAX_NUMBER: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("falaj-topology-{name}-{}", std::process::id())))
        }

        fn file(self, path: &str, text: &str) -> Self {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn siblings(self, cpu: usize, text: &str) -> Self {
            self.file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), text)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn siblings_count_once_and_only_allowed_ones_count() {
        let tree = Tree::new("smt").file("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3,5\nThreads:\t1\n");
        assert_eq!(usable_cores(&tree.0), None, "the topology is missing");
        let tree = tree.siblings(0, "0,4\n").siblings(1, "1,5\n").siblings(2, "2,6\n").siblings(3, "3,7\n");
        let tree = tree.siblings(5, "1,5\n");
        assert_eq!(usable_cores(&tree.0), Some(4), "1 and 5 are one core");
        let tree = tree.file("proc/self/status", "Cpus_allowed_list:\t1,5\n");
        assert_eq!(usable_cores(&tree.0), Some(1));
        let tree = tree.file("proc/self/status", "Cpus_allowed_list:\t\n");
        assert_eq!(usable_cores(&tree.0), None);
    }

    #[test]
    fn nodes_with_memory_are_read() {
        let tree = Tree::new("numa");
        assert_eq!(memory_nodes(&tree.0), None);
        let tree = tree.file("sys/devices/system/node/has_memory", "0-1,4\n");
        assert_eq!(memory_nodes(&tree.0), Some(BTreeSet::from([0, 1, 4])));
    }

    #[test]
    fn nonsense_is_no_list() {
        for text in ["", "a", "1-", "-1", "1,,2", "0-99999999999", "5 6"] {
            assert_eq!(list(text), None, "`{text}`");
        }
    }
}
