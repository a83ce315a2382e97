//! `cargo xtask golden`: how the committed golden files are made again. It only prints, since making them needs
//! reference implementations that no test depends on, and since a golden file changes by decision, not by command.

use anyhow::Result;

pub fn run(_args: &[String]) -> Result<()> {
    println!("{GUIDE}");
    Ok(())
}

const GUIDE: &str = "\
Golden files hold what an independent implementation computed. Change one only when the reference was wrong or a case is
added; when a test disagrees with one, the code is suspect first.

Logits of tiny models (PyTorch, transformers)     crates/model/tests/golden/README.md
    python3 -m venv target/venv-golden-model
    target/venv-golden-model/bin/pip install -r crates/model/tests/golden/requirements.txt
    target/venv-golden-model/bin/python crates/model/tests/golden/make_golden.py

Tokens and chat formats (mistral-common, sentencepiece, tokenizers, jinja2)   crates/text/tests/golden/README.md
    python3 -m venv target/venv-golden
    target/venv-golden/bin/pip install -r crates/text/tests/golden/requirements.txt
    target/venv-golden/bin/python crates/text/tests/golden/make_golden.py

Training steps, mixtures of experts, adapters (PyTorch, transformers, peft)
    python3 -m venv target/venv-golden-train
    target/venv-golden-train/bin/pip install -r crates/train/tests/golden/requirements.txt
    cd crates/train/tests/golden; then python make_golden.py, make_mixture.py or make_adapter.py of that environment
    the same environment runs `readers.py`: transformers, peft and llama.cpp on what we export

Quantised blocks (gguf)                           crates/kernels/tests/golden/make_golden.py says how";
