//! Energy counters of NVIDIA GPUs (Volta and later), by NVIDIA's library, which is loaded now if it is there at all. Nothing of ours
//! computes on them yet: what they count is shown, and charged to nobody.

use nvml_wrapper::Nvml;

use crate::source::Absent;

pub(crate) struct Gpus {
    nvml: Nvml,
    /// Those that count.
    indexes: Vec<u32>,
}

impl Gpus {
    pub(crate) fn open() -> Result<Self, Absent> {
        let failed = |error: nvml_wrapper::error::NvmlError| Absent::NoGpus { reason: error.to_string() };
        let nvml = Nvml::init().map_err(failed)?;
        let count = nvml.device_count().map_err(failed)?;
        let indexes: Vec<u32> = (0..count).filter(|index| counted(&nvml, *index).is_some()).collect();
        if indexes.is_empty() {
            return Err(Absent::NoGpus { reason: format!("{count} GPUs, none of which has a counter") });
        }
        Ok(Self { nvml, indexes })
    }

    pub(crate) fn not_asked() -> Absent {
        Absent::NoGpus { reason: "not asked".to_owned() }
    }

    pub(crate) fn count(&self) -> usize {
        self.indexes.len()
    }

    /// Microjoules of all since the driver was loaded; `None` where one of them does not answer.
    pub(crate) fn read(&self) -> Option<u64> {
        let millijoules = self.indexes.iter().map(|index| counted(&self.nvml, *index));
        millijoules.sum::<Option<u64>>().map(|mj| mj.saturating_mul(1000))
    }
}

fn counted(nvml: &Nvml, index: u32) -> Option<u64> {
    nvml.device_by_index(index).ok()?.total_energy_consumption().ok()
}
