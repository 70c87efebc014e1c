//! The functions of NVIDIA's libraries that a run calls through cudarc, which panics where one is missing: all are looked up before a
//! device is opened. A test holds these lists to the code.

/// Of the driver: as cudarc calls it, and as the library does. Drivers of CUDA 12.0 have them all.
pub(crate) const DRIVER: &[(&str, &str)] = &[
    ("ctx::set_current", "cuCtxSetCurrent"),
    ("device::get", "cuDeviceGet"),
    ("device::get_attribute", "cuDeviceGetAttribute"),
    ("error_name", "cuGetErrorName"),
    ("error_string", "cuGetErrorString"),
    ("event::create", "cuEventCreate"),
    ("event::destroy", "cuEventDestroy_v2"),
    ("event::record", "cuEventRecord"),
    ("event::synchronize", "cuEventSynchronize"),
    ("free_host", "cuMemFreeHost"),
    ("free_sync", "cuMemFree_v2"),
    ("function::set_function_attribute", "cuFuncSetAttribute"),
    ("graph::destroy", "cuGraphDestroy"),
    ("graph::exec_destroy", "cuGraphExecDestroy"),
    ("graph::launch", "cuGraphLaunch"),
    ("launch_kernel", "cuLaunchKernel"),
    ("malloc_host", "cuMemHostAlloc"),
    ("malloc_sync", "cuMemAlloc_v2"),
    ("mem_get_info", "cuMemGetInfo_v2"),
    ("memcpy_dtod_async", "cuMemcpyDtoDAsync_v2"),
    ("memcpy_dtoh_async", "cuMemcpyDtoHAsync_v2"),
    ("memcpy_htod_async", "cuMemcpyHtoDAsync_v2"),
    ("memset_d8_async", "cuMemsetD8Async"),
    ("module::get_function", "cuModuleGetFunction"),
    ("module::load_data", "cuModuleLoadData"),
    ("primary_ctx::retain", "cuDevicePrimaryCtxRetain"),
    ("stream::begin_capture", "cuStreamBeginCapture_v2"),
    ("stream::create", "cuStreamCreate"),
    ("stream::end_capture", "cuStreamEndCapture"),
    ("stream::synchronize", "cuStreamSynchronize"),
    ("stream::wait_event", "cuStreamWaitEvent"),
    ("sys", "cuEventElapsedTime"),
    ("sys", "cuGraphInstantiateWithFlags"),
];

/// Of cuBLASLt.
pub(crate) const CUBLAS_LT: &[(&str, &str)] = &[
    ("create_handle", "cublasLtCreate"),
    ("create_matmul_desc", "cublasLtMatmulDescCreate"),
    ("create_matmul_pref", "cublasLtMatmulPreferenceCreate"),
    ("create_matrix_layout", "cublasLtMatrixLayoutCreate"),
    ("destroy_matmul_pref", "cublasLtMatmulPreferenceDestroy"),
    ("get_matmul_algo_heuristic", "cublasLtMatmulAlgoGetHeuristic"),
    ("matmul", "cublasLtMatmul"),
    ("set_matmul_desc_attribute", "cublasLtMatmulDescSetAttribute"),
    ("set_matmul_pref_attribute", "cublasLtMatmulPreferenceSetAttribute"),
];

/// The names in the libraries, of the driver and of cuBLASLt.
#[doc(hidden)]
pub fn needed() -> [Vec<&'static str>; 2] {
    [DRIVER, CUBLAS_LT].map(|list| list.iter().map(|(_, name)| *name).collect())
}

/// The first of a list that a library does not have.
pub(crate) fn missing(library: &libloading::Library, list: &[(&str, &'static str)]) -> Option<&'static str> {
    // SAFETY: the address is not used as anything.
    list.iter().map(|(_, name)| *name).find(|name| unsafe { library.get::<*const u8>(name.as_bytes()) }.is_err())
}

#[cfg(test)]
mod tests {
    use super::{CUBLAS_LT, DRIVER};
    use crate::cuda::libraries::Files;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The texts of the crate's files that name cudarc.
    fn sources(files: &Files, folder: &Path) -> Vec<String> {
        let (folders, entries): (Vec<_>, Vec<_>) = files.entries(folder).unwrap().into_iter().partition(|path| path.is_dir());
        let own = entries.iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).filter_map(|path| files.text(path));
        own.filter(|text| text.contains("use cudarc")).chain(folders.iter().flat_map(|folder| sources(files, folder))).collect()
    }

    /// What follows some words in a text, as far as it is a name or a path of names.
    fn after<'a>(text: &'a str, words: &str) -> Vec<&'a str> {
        let name = |rest: &'a str| rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).next().unwrap_or("");
        text.split(words).skip(1).map(name).collect()
    }

    #[test]
    fn every_function_that_is_called_is_listed() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut called = BTreeSet::new();
        let texts = sources(&Files::here(), &src);
        for text in &texts {
            // Types begin with a capital.
            let functions =
                after(text, "result::").into_iter().filter(|path| path.split("::").all(|n| n.starts_with(|c: char| c.is_lowercase())));
            called.extend(functions.filter(|path| !path.is_empty()));
        }
        let listed: BTreeSet<&str> = [DRIVER, CUBLAS_LT].concat().iter().map(|(path, _)| *path).collect();
        let elsewhere = BTreeSet::from(["sys", "error_name", "error_string"]);
        let expected: BTreeSet<&str> = listed.difference(&elsewhere).copied().collect();
        assert_eq!(called, expected, "cuda/needed.rs lists what is called through cudarc's `result`");
        let names: BTreeSet<&str> = DRIVER.iter().map(|(_, name)| *name).collect();
        for name in texts.iter().flat_map(|text| after(text, "sys::cu")) {
            // Types are named after them with other letters: CUevent, cublasLtHandle_t.
            let function = format!("cu{name}");
            let is_type = function.ends_with("_t") || !name.starts_with(|c: char| c.is_uppercase()) || name.starts_with("daDataType");
            assert!(is_type || names.contains(function.as_str()), "{function}: not in cuda/needed.rs");
        }
    }
}
