//! What the fuzz targets do, one plain function per kind of foreign bytes. A function must return for any bytes whatever;
//! a panic, an abort or an allocation out of proportion is the bug that is looked for. The same files are included by the
//! tests of the crates, which run every seed.

pub mod gguf;
pub mod safetensors;
