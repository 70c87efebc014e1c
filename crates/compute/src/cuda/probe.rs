//! Whether a device can be used, before anything is done with it. Every reason why not is one line.
//!
//! cudarc panics where a library or a function of it is missing. So what it will use is looked up here first.

use std::ffi::{CStr, c_char, c_int, c_uint};

use super::libraries::{self, Files, OLDEST_CUDA};
use super::{Nvrtc, Target, needed};
use crate::Error;

/// A device that can be used, and what is used with it.
pub struct Probed {
    /// Its number among the devices.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability, times ten.
    pub capability: u32,
    /// The version of CUDA that the driver runs: 13 and 0.
    pub driver: (u32, u32),
    /// The compiler.
    pub nvrtc: Nvrtc,
    /// Where cuBLASLt is.
    pub cublas_lt: libraries::Found,
    /// What kernels are compiled for.
    pub target: Target,
}

/// Can a device be used?
///
/// # Errors
/// Why not, in one line.
pub fn probe(ordinal: usize) -> Result<(), Error> {
    open(ordinal).map(drop)
}

/// Checks driver, device and libraries, in this order, and opens the libraries. No context is made and no memory taken.
///
/// # Errors
/// As [`probe`].
pub fn open(ordinal: usize) -> Result<Probed, Error> {
    look(ordinal).map_err(|why| Error::Device { device: format!("cuda:{ordinal}"), why })
}

fn look(ordinal: usize) -> Result<Probed, String> {
    let driver = Driver::open()?;
    let version = driver.version()?;
    let device = driver.device(ordinal)?;
    let (name, capability) = (driver.name(device), driver.capability(device)?);
    let of_it = |why: String| format!("{name}: {why}");
    // Of an old device the libraries are no remedy.
    Target::of(capability, &[capability]).map_err(of_it)?;
    if let Some(missing) = needed::missing(&driver.library, needed::DRIVER) {
        return Err(format!("the driver's library has no {missing}"));
    }
    let files = Files::here();
    let nvrtc = Nvrtc::open(&files, Some(version.0))?;
    let cublas_lt = libraries::cublas_lt(&files, Some(version.0))?;
    let target = Target::of(capability, nvrtc.architectures()).map_err(of_it)?;
    Ok(Probed { ordinal, name, capability, driver: version, nvrtc, cublas_lt, target })
}

/// The driver's library, initialised.
struct Driver {
    library: std::mem::ManuallyDrop<libloading::Library>,
}

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;

impl Driver {
    fn open() -> Result<Driver, String> {
        let found = || libraries::by_name("cuda").or_else(|| libraries::by_name("nvcuda")).map(|(_, library)| library);
        let library = found().or_else(|| {
            // A driver that the loader was not told about, as in Linux inside Windows: opened, it has its name.
            libraries::open(&libraries::DRIVER, &Files::here(), None).ok()?;
            found()
        });
        let driver = Driver { library: library.ok_or("no NVIDIA driver (libcuda.so.1 could not be loaded)")? };
        // SAFETY: the type is that of the function in cuda.h.
        let init = unsafe { driver.function::<unsafe extern "C" fn(c_uint) -> c_int>("cuInit") }?;
        // SAFETY: it may be called at any time, by any thread, any number of times; the only flags there are, are none.
        driver.check(unsafe { init(0) }, "cuInit")?;
        Ok(driver)
    }

    /// Looks up a function.
    ///
    /// # Safety
    /// `F` must be the type of the function of this name. The library stays open, so the function may outlive `self`.
    unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, String> {
        // SAFETY: as the caller promises.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        symbol.map(|symbol| *symbol).map_err(|_| format!("the driver's library has no {name}"))
    }

    fn version(&self) -> Result<(u32, u32), String> {
        let version = self.number("cuDriverGetVersion")?;
        let (major, minor) = (version / 1000, version / 10 % 100);
        if major < OLDEST_CUDA {
            return Err(format!("driver {major}.{minor} is older than {OLDEST_CUDA}.0, which this program needs"));
        }
        Ok((major, minor))
    }

    /// The handle of a device.
    fn device(&self, ordinal: usize) -> Result<c_int, String> {
        let count = self.number("cuDeviceGetCount")? as usize;
        if count == 0 {
            return Err(self.no_device());
        }
        if ordinal >= count {
            let there = if count == 1 { "there is 1 device".into() } else { format!("there are {count} devices") };
            return Err(format!("{there}; cuda:{ordinal} is not one of them"));
        }
        // SAFETY: the type is that of the function in cuda.h.
        let get = unsafe { self.function::<unsafe extern "C" fn(*mut c_int, c_int) -> c_int>("cuDeviceGet") }?;
        let mut device = 0;
        // SAFETY: points to an int for the length of the call.
        self.check(unsafe { get(&mut device, ordinal as c_int) }, "cuDeviceGet")?;
        Ok(device)
    }

    fn capability(&self, device: c_int) -> Result<u32, String> {
        // SAFETY: the type is that of the function in cuda.h; the attribute is an enum there, whose values are ints.
        let get = unsafe { self.function::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>("cuDeviceGetAttribute") }?;
        let attribute = |attribute: c_int| -> Result<u32, String> {
            let mut value = 0;
            // SAFETY: points to an int for the length of the call.
            self.check(unsafe { get(&mut value, attribute, device) }, "cuDeviceGetAttribute")?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
        Ok(attribute(75)? * 10 + attribute(76)?)
    }

    /// A device's name, as far as it can be had.
    fn name(&self, device: c_int) -> String {
        let unnamed = String::from("a device without a name");
        let mut name = [0u8; 256];
        // SAFETY: the type is that of the function in cuda.h.
        let get = unsafe { self.function::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>("cuDeviceGetName") };
        let Ok(get) = get else { return unnamed };
        // SAFETY: it writes at most as many bytes as it is told.
        let code = unsafe { get(name.as_mut_ptr().cast(), name.len() as c_int, device) };
        let name = CStr::from_bytes_until_nul(&name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if code == 0 && !name.is_empty() { name } else { unnamed }
    }

    /// What a function gives that writes one number.
    fn number(&self, function: &str) -> Result<u32, String> {
        // SAFETY: both functions this is called for have this type in cuda.h.
        let get = unsafe { self.function::<unsafe extern "C" fn(*mut c_int) -> c_int>(function) }?;
        let mut number = 0;
        // SAFETY: points to an int for the length of the call.
        self.check(unsafe { get(&mut number) }, function)?;
        Ok(u32::try_from(number).unwrap_or(0))
    }

    fn check(&self, code: c_int, function: &str) -> Result<(), String> {
        match code {
            0 => Ok(()),
            NO_DEVICE => Err(self.no_device()),
            code => Err(format!("{function} failed: {}", self.error_name(code))),
        }
    }

    fn no_device(&self) -> String {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").map_or(String::new(), |v| format!(" (CUDA_VISIBLE_DEVICES is `{v}`)"));
        format!("the driver reports no device{visible}")
    }

    fn error_name(&self, code: c_int) -> String {
        let mut name = std::ptr::null();
        // SAFETY: the type is that of the function in cuda.h; results are an enum there, whose values are ints.
        let get = unsafe { self.function::<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>("cuGetErrorName") };
        // SAFETY: points to a pointer for the length of the call.
        let known = get.is_ok_and(|get| unsafe { get(code, &mut name) } == 0) && !name.is_null();
        if known {
            // SAFETY: where the function succeeds it gives a string of the library, which ends with a zero and lives as long as it.
            format!("{} ({code})", unsafe { CStr::from_ptr(name) }.to_string_lossy())
        } else {
            format!("error {code}")
        }
    }
}
