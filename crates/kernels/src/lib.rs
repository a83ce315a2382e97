//! kernels: see ARCHITECTURE.md.
