//! As much of GGUF as a bench needs: writing a model of random weights as a stream, and reading how many bytes a file's
//! tensors take. The real reader and writer are in `crates/artifact`; a bench must not wait for that crate to build.
//! Source: ggml's docs/gguf.md, version 3.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A metadata value that models here have.
pub enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [String]),
    F32s(&'a [f32]),
    I32s(&'a [i32]),
}

/// A tensor to come: (name, dimensions with the contiguous one first, ggml type).
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
}

pub const F32: u32 = 0;
pub const F16: u32 = 1;
pub const Q4_0: u32 = 2;

impl Tensor {
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bytes in the file. `None`: a type that is not known here.
    pub fn bytes(&self) -> Option<u64> {
        let &(_, block, bytes) = BLOCKS.iter().find(|(kind, ..)| *kind == self.kind)?;
        Some(self.elements() / block * bytes)
    }
}

/// (ggml type, elements of a block, its bytes)
const BLOCKS: &[(u32, u64, u64)] = &[
    (F32, 1, 4),
    (F16, 1, 2),
    (Q4_0, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (30, 1, 2),
];

/// Writes everything before the tensors' data, which must follow in the same order, each padded to [`ALIGNMENT`].
pub fn write_head(out: &mut impl Write, values: &[(&str, Value<'_>)], tensors: &[Tensor]) -> Result<()> {
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((values.len() as u64).to_le_bytes());
    for (key, value) in values {
        put_text(&mut head, key);
        put_value(&mut head, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_text(&mut head, &tensor.name);
        head.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|dim| head.extend(dim.to_le_bytes()));
        head.extend(tensor.kind.to_le_bytes());
        head.extend(offset.to_le_bytes());
        let bytes = tensor.bytes().with_context(|| format!("`{}` has an unknown type", tensor.name))?;
        offset += bytes.next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(out.write_all(&head)?)
}

pub const ALIGNMENT: u64 = 32;

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value<'_>) {
    let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::U32(number) => {
            out.extend(4u32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            out.extend(6u32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Value::Bool(truth) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*truth));
        }
        Value::Text(text) => {
            out.extend(8u32.to_le_bytes());
            put_text(out, text);
        }
        Value::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
        Value::F32s(numbers) => {
            list(out, 6, numbers.len());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Value::I32s(numbers) => {
            list(out, 5, numbers.len());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
    }
}

/// The tensors that a file says it has.
pub fn tensors(path: &Path) -> Result<Vec<Tensor>> {
    let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    let mut reader = Reader(BufReader::new(file));
    if reader.bytes::<4>()? != *b"GGUF" {
        bail!("`{}` is no GGUF file", path.display());
    }
    reader.u32()?;
    let (tensors, values) = (reader.u64()?, reader.u64()?);
    for _ in 0..values {
        reader.text()?;
        let kind = reader.u32()?;
        reader.skip_value(kind)?;
    }
    (0..tensors)
        .map(|_| {
            let name = reader.text()?;
            let dims = (0..reader.u32()?).map(|_| reader.u64()).collect::<Result<Vec<_>>>()?;
            let kind = reader.u32()?;
            reader.u64()?;
            Ok(Tensor { name, dims, kind })
        })
        .collect()
}

struct Reader<R>(R);

impl<R: Read> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let mut text = Vec::new();
        (&mut self.0).take(length).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn skip_value(&mut self, kind: u32) -> Result<()> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                self.text()?;
                0
            }
            9 => {
                let (of, count) = (self.u32()?, self.u64()?);
                for _ in 0..count {
                    self.skip_value(of)?;
                }
                0
            }
            other => bail!("a metadata value of type {other}"),
        };
        std::io::copy(&mut (&mut self.0).take(size), &mut std::io::sink())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut file = Vec::new();
        let pieces = ["a".to_owned(), "b".to_owned()];
        let values = [
            ("general.architecture", Value::Text("llama")),
            ("llama.block_count", Value::U32(1)),
            ("tokenizer.ggml.tokens", Value::Texts(&pieces)),
            ("tokenizer.ggml.scores", Value::F32s(&[0.0, 1.0])),
            ("tokenizer.ggml.token_type", Value::I32s(&[1, 1])),
            ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
        ];
        let tensors_in = [
            Tensor { name: "token_embd.weight".into(), dims: vec![64, 2], kind: F16 },
            Tensor { name: "output_norm.weight".into(), dims: vec![64], kind: F32 },
        ];
        write_head(&mut file, &values, &tensors_in).expect("written");
        assert_eq!(file.len() % ALIGNMENT as usize, 0);
        let path = std::env::temp_dir().join(format!("falaj-head-{}.gguf", std::process::id()));
        std::fs::write(&path, &file).expect("a temporary file");
        let read = tensors(&path).expect("a good head");
        std::fs::remove_file(&path).expect("it was ours");
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].name.as_str(), read[0].bytes()), ("token_embd.weight", Some(256)));
        assert_eq!(read[1].bytes(), Some(256));
    }
}
