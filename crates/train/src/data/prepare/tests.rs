//! From files to batches, by the built-in model's vocabulary.

use super::*;
use crate::data::encode::tests::SEED;
use crate::run::Steps;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("falaj-train-{}-prepare-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn make(&self, more: &str) -> Result<Prepared, TrainError> {
        self.make_with(more, 2)
    }

    fn make_with(&self, more: &str, threads: usize) -> Result<Prepared, TrainError> {
        Prepared::make(&self.recipe(more), &Encoder::new(&SEED), &self.0.join("job"), threads, &mut |_| {})
    }

    fn recipe(&self, more: &str) -> Recipe {
        let method = if more.contains("method") { "" } else { "method = \"full\"\n" };
        let text = format!("name = \"x\"\nbase = \"falaj-seed\"\n{method}{more}");
        Recipe::parse(&text).unwrap().relative_to(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn chat(question: &str, answer: &str) -> String {
    let row = serde_json::json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
    format!("{row}\n")
}

const PLAIN: &str = "[data]\ntrain = \"a.jsonl\"\nhold_out = 0\n";

#[test]
fn the_same_bytes_whatever_the_threads_and_after_a_restart() {
    let folder = Folder::new("same");
    folder.write(
        "a.jsonl",
        &(0..700).map(|k| chat(&format!("What is {k}?"), &format!("It is {}", k * 7))).collect::<String>(),
    );
    let recipe = "[data]\ntrain = \"a.jsonl\"\n";
    let one = folder.make_with(recipe, 1).unwrap().facts;
    let three = folder.make_with(recipe, 3).unwrap();
    assert_eq!(one, three.facts);
    assert_eq!(one.train.examples + one.validation.examples, 700);
    assert!((15..60).contains(&one.validation.examples), "{}", one.validation.examples);
    let recipe = folder.recipe(recipe);
    let mut drawn = three.batches(&recipe, 2).unwrap();
    fs::remove_file(folder.0.join("a.jsonl")).unwrap();
    assert!(Prepared::is_in(&folder.0.join("job")));
    let again = Prepared::open(&folder.0.join("job")).unwrap();
    assert_eq!(again.facts, one);
    let mut again = again.batches(&recipe, 2).unwrap();
    assert_eq!(drawn.step(3).unwrap(), again.step(3).unwrap());
    assert_eq!(drawn.train.order_digest(50), again.train.order_digest(50));
    let evaluation = drawn.evaluation().unwrap();
    assert!(!evaluation.is_empty());
    assert_eq!(evaluation, again.evaluation().unwrap());
    assert_eq!(drawn.train.steps(3.0), recipe.steps(&drawn.train));
}

#[test]
fn equal_rows_are_on_one_side() {
    let folder = Folder::new("equal");
    folder.write("a.jsonl", &(0..300).map(|k| chat(&format!("What is {}?", k % 100), "It")).collect::<String>());
    let facts = folder.make("[data]\ntrain = \"a.jsonl\"\nhold_out = 0.3\n").unwrap().facts;
    assert!(facts.validation.examples > 0 && facts.validation.examples.is_multiple_of(3));
    folder.write("c.jsonl", &chat("one", "two").repeat(3));
    for seed in 0..5 {
        let facts =
            folder.make(&format!("seed = {seed}\n[data]\ntrain = \"c.jsonl\"\nhold_out = 0.9\n")).unwrap().facts;
        assert_eq!(facts.train.examples, 3);
    }
    // A file of its own takes the place of the share.
    folder.write("b.jsonl", &chat("one", "two"));
    let facts = folder.make("[data]\ntrain = \"a.jsonl\"\nvalidation = \"b.jsonl\"\n").unwrap().facts;
    assert_eq!((facts.train.examples, facts.validation.examples), (300, 1));
}

#[test]
fn long_rows_are_dropped_cut_or_refused() {
    let folder = Folder::new("long");
    folder.write(
        "a.jsonl",
        &(chat("short", "yes") + &chat("long", &"word ".repeat(200)) + &chat(&"word ".repeat(200), "end")),
    );
    let with = |word: &str| folder.make(&format!("{PLAIN}too_long = \"{word}\"\n[batch]\nlength = 64\n"));
    let dropped = with("drop").unwrap().facts;
    assert_eq!((dropped.train.examples, dropped.files[0].rows, dropped.files[0].long_rows), (1, 3, 2));
    // The third has nothing left to learn once it is cut.
    let cut = with("cut").unwrap();
    assert_eq!((cut.facts.train.examples, cut.facts.files[0].long_rows), (2, 2));
    assert_eq!(cut.train.records()[1].tokens, 65);
    let refused = with("refuse").unwrap_err();
    assert!(matches!(&refused, TrainError::LongRow { line: 2, length: 64, .. }), "{refused}");
}

#[test]
fn bad_data_is_refused_by_file_and_line() {
    let folder = Folder::new("bad");
    folder.write("a.jsonl", &(chat("a", "b") + "\n{\"text\": \"x\"}\nno\n"));
    let bad = folder.make(PLAIN).unwrap_err();
    assert!(matches!(&bad, TrainError::BadData { line: 3, others: 1, .. }), "{bad}");
    assert!(bad.to_string().contains("falaj data check"), "{bad}");
    let facts = folder.make(&format!("{PLAIN}bad_lines = 0.7\n")).unwrap().facts;
    assert_eq!((facts.files[0].rows, facts.files[0].bad_rows), (1, 2));
    folder.write("a.jsonl", "");
    assert!(matches!(folder.make(PLAIN), Err(TrainError::NoData)));
    let named = format!("[data]\nhold_out = 0\n[[data.train]]\npath = \"a.jsonl\"\nsha256 = \"{}\"\n", "0".repeat(64));
    assert!(matches!(folder.make(&named), Err(TrainError::DataChanged { .. })));
    fs::remove_file(folder.0.join("a.jsonl")).unwrap();
    assert!(folder.make(PLAIN).unwrap_err().to_string().contains("a.jsonl"));
}

#[test]
fn pairs_belong_to_dpo() {
    let folder = Folder::new("pairs");
    folder.write("a.jsonl", "{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" c\"}\n");
    assert!(matches!(folder.make(PLAIN), Err(TrainError::WrongData { .. })));
    let dpo = format!("method = \"dpo\"\n{PLAIN}");
    assert_eq!(folder.make(&dpo).unwrap().facts.train.examples, 2);
    folder.write("a.jsonl", &chat("a", "b"));
    assert!(matches!(folder.make(&dpo), Err(TrainError::WrongData { .. })));
}

#[test]
fn a_store_that_was_cut_short_is_not_used() {
    let folder = Folder::new("cut");
    folder.write("a.jsonl", &chat("a", "b"));
    let dir = folder.0.join("job");
    folder.make(PLAIN).unwrap();
    for (name, change) in [("train.tokens", 1), ("train.weights", 1), ("train.index", 1), ("data.json", 3)] {
        let path = dir.join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - change]).unwrap();
        assert!(matches!(Prepared::open(&dir), Err(TrainError::DataDamaged { .. })), "{name}");
        fs::write(&path, whole).unwrap();
        Prepared::open(&dir).unwrap();
    }
    fs::remove_file(dir.join("data.json")).unwrap();
    assert!(!Prepared::is_in(&dir));
}

#[test]
fn other_data_is_told_apart_from_what_was_read() {
    let folder = Folder::new("differs");
    folder.write("a.jsonl", &(0..9).map(|k| chat("How many?", &k.to_string())).collect::<String>());
    folder.write("b.jsonl", &chat("Who?", "me"));
    let made = folder.make(PLAIN).unwrap();
    let told = |recipe: &str, may_go| made.differs(&folder.recipe(recipe), may_go).unwrap();
    assert_eq!(told(PLAIN, false), None);
    assert_eq!(told(&format!("{PLAIN}[batch]\nrows = 3\n"), false), None, "rows of a batch are not prepared");
    for (other, word) in [
        ("[data]\ntrain = \"b.jsonl\"\nhold_out = 0\n", "b.jsonl"),
        ("[data]\ntrain = [\"a.jsonl\", \"b.jsonl\"]\nhold_out = 0\n", "1 files and has 2"),
        ("[data]\ntrain = \"a.jsonl\"\nvalidation = \"b.jsonl\"\n", "data.validation"),
        ("[data]\ntrain = \"a.jsonl\"\nhold_out = 0.5\n", "data.hold_out"),
        ("[data]\ntrain = \"gone.jsonl\"\nhold_out = 0\n", "gone.jsonl"),
        (&format!("{PLAIN}too_long = \"refuse\"\n"), "data.too_long"),
        (&format!("{PLAIN}[batch]\nlength = 64\n"), "batch.length"),
        (&format!("seed = 5\n{PLAIN}"), "seed"),
    ] {
        let told = told(other, true).unwrap_or_default();
        assert!(told.contains(word), "{other}: {told}");
    }
    // Of the same length, so that only its digest tells.
    folder.write("a.jsonl", &(0..9).map(|k| chat("How many!", &k.to_string())).collect::<String>());
    assert!(told(PLAIN, true).unwrap().contains("a.jsonl"));
    fs::remove_file(folder.0.join("a.jsonl")).unwrap();
    assert_eq!(told(PLAIN, true), None, "a job that resumes does not need its files");
    assert!(told(PLAIN, false).unwrap().contains("a.jsonl"));
}
