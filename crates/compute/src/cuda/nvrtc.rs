//! NVRTC, NVIDIA's compiler of CUDA C++ as a library: sources in memory to code for a device.
//!
//! The dozen functions are looked up here, and not taken from cudarc, for three reasons: the library can be chosen (cudarc opens the
//! first of a list of names, which may be newer than the driver), a missing function is an error and no panic, and a result code that a
//! newer version adds is a number and no undefined value of an enum.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr;

use super::libraries::{self, Files, Found};

type Program = *mut c_void;

/// NVRTC, opened.
pub struct Nvrtc {
    api: Api,
    version: (u32, u32),
    architectures: Vec<u32>,
    found: Found,
    identity: String,
}

/// What a compilation gives.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the driver loads: a CUBIN for a real architecture, else PTX with a final zero.
    pub image: Vec<u8>,
    /// The code before it was assembled for an architecture.
    pub ptx: String,
    /// The compiler's and the assembler's remarks.
    pub log: String,
}

macro_rules! api {
    ($($field:ident: $name:literal ($($arg:ty),*);)*) => {
        struct Api {
            $($field: unsafe extern "C" fn($($arg),*) -> c_int,)*
            /// Whose code the functions are; never closed.
            _library: ManuallyDrop<libloading::Library>,
        }

        impl Api {
            fn of(library: ManuallyDrop<libloading::Library>) -> Result<Api, String> {
                $(
                    // SAFETY: the type is that of the function of this name in nvrtc.h, which versions 12 and 13 share.
                    let $field = unsafe { library.get::<unsafe extern "C" fn($($arg),*) -> c_int>(concat!($name, "\0").as_bytes()) };
                    let $field = *$field.map_err(|_| concat!("has no ", $name))?;
                )*
                Ok(Api { $($field,)* _library: library })
            }
        }
    };
}

api! {
    version: "nvrtcVersion" (*mut c_int, *mut c_int);
    count_architectures: "nvrtcGetNumSupportedArchs" (*mut c_int);
    architectures: "nvrtcGetSupportedArchs" (*mut c_int);
    create: "nvrtcCreateProgram" (*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    destroy: "nvrtcDestroyProgram" (*mut Program);
    compile: "nvrtcCompileProgram" (Program, c_int, *const *const c_char);
    log_size: "nvrtcGetProgramLogSize" (Program, *mut usize);
    log: "nvrtcGetProgramLog" (Program, *mut c_char);
    cubin_size: "nvrtcGetCUBINSize" (Program, *mut usize);
    cubin: "nvrtcGetCUBIN" (Program, *mut c_char);
    ptx_size: "nvrtcGetPTXSize" (Program, *mut usize);
    ptx: "nvrtcGetPTX" (Program, *mut c_char);
}

/// A program of a library, destroyed at the end.
struct Compilation<'a> {
    api: &'a Api,
    program: Program,
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        // SAFETY: the program was created by the same library and is destroyed once. There is nobody to tell of a failure.
        unsafe { (self.api.destroy)(&mut self.program) };
    }
}

impl Nvrtc {
    /// Opens the first NVRTC that is found among the files (see [`libraries`]) and is no newer than the version of CUDA that the
    /// driver runs, if that is known. The error is the whole reason in one line.
    pub fn open(files: &Files, newest_cuda: Option<u32>) -> Result<Nvrtc, String> {
        let opened = libraries::nvrtc(files, newest_cuda)?;
        let found = opened.found;
        let of_it = |what: String| format!("NVRTC: {} {what}", found.path.display());
        let api = Api::of(opened.library).map_err(of_it)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to an int for the length of the call.
        check(unsafe { (api.version)(&mut major, &mut minor) }, "nvrtcVersion").map_err(of_it)?;
        let version = (u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0));
        if let Some(why) = libraries::NVRTC.unfit(version.0, newest_cuda) {
            return Err(of_it(format!("is {why}")));
        }
        let mut count = 0;
        // SAFETY: points to an int for the length of the call.
        check(unsafe { (api.count_architectures)(&mut count) }, "nvrtcGetNumSupportedArchs").map_err(of_it)?;
        let mut architectures = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the function writes as many ints as the one before has counted.
        check(unsafe { (api.architectures)(architectures.as_mut_ptr()) }, "nvrtcGetSupportedArchs").map_err(of_it)?;
        let architectures = architectures.into_iter().filter_map(|a| u32::try_from(a).ok()).collect();
        let bytes = std::fs::metadata(files.at(&found.path)).map_or(0, |data| data.len());
        let identity = format!("NVRTC {major}.{minor}, {bytes} bytes");
        Ok(Nvrtc { api, version, architectures, found, identity })
    }

    /// Its version: 13 and 0.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The compute capabilities it compiles for, times ten: 90 is 9.0.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// What tells it from others that may compile the same otherwise: version and size of the file (patches have no version of their own).
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Where it is.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Compiles a text that may include `headers` (names and texts). `cubin` says whether the options name a real architecture. May be
    /// called from several threads. The error is the compiler's log, or why there is none.
    pub fn compile(&self, name: &str, text: &str, headers: &[(&str, &str)], options: &[String], cubin: bool) -> Result<Built, String> {
        let owned = |text: &str| CString::new(text).map_err(|_| format!("{name}: a zero byte in what is to be compiled"));
        let (name, text) = (owned(name)?, owned(text)?);
        let (names, texts) =
            headers.iter().map(|(name, text)| Ok((owned(name)?, owned(text)?))).collect::<Result<(Vec<_>, Vec<_>), String>>()?;
        let options = options.iter().map(|o| owned(o)).collect::<Result<Vec<_>, String>>()?;
        let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).collect::<Vec<_>>();
        let (name_pointers, text_pointers, option_pointers) = (pointers(&names), pointers(&texts), pointers(&options));
        let mut program = ptr::null_mut();
        // SAFETY: all strings end with a zero and live to the end of this function; both lists have as many as is said.
        let code = unsafe {
            (self.api.create)(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                headers.len() as c_int,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        check(code, "nvrtcCreateProgram")?;
        let program = Compilation { api: &self.api, program };
        // SAFETY: a program of this library, and as many strings as is said, alive.
        let compiled = unsafe { (self.api.compile)(program.program, options.len() as c_int, option_pointers.as_ptr()) };
        let log = program.text(self.api.log_size, self.api.log)?;
        check(compiled, "nvrtcCompileProgram").map_err(|why| if log.trim().is_empty() { why } else { log.clone() })?;
        let ptx = program.text(self.api.ptx_size, self.api.ptx)?;
        let image = if cubin { program.bytes(self.api.cubin_size, self.api.cubin)? } else { [ptx.as_bytes(), &[0]].concat() };
        Ok(Built { image, ptx, log })
    }
}

impl Compilation<'_> {
    fn bytes(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        fill: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: a program of this library, and a number to write to.
        check(unsafe { size(self.program, &mut bytes) }, "the size of what was compiled")?;
        let mut data = vec![0u8; bytes];
        // SAFETY: the function writes as many bytes as the one before has counted.
        check(unsafe { fill(self.program, data.as_mut_ptr().cast()) }, "what was compiled")?;
        Ok(data)
    }

    fn text(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        fill: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<String, String> {
        let bytes = self.bytes(size, fill)?;
        Ok(CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::from_utf8_lossy(&bytes).into(), |text| text.to_string_lossy().into()))
    }
}

/// The numbers of nvrtcResult that have something to say by themselves.
fn check(code: c_int, what: &str) -> Result<(), String> {
    match code {
        0 => Ok(()),
        1 => Err(format!("{what}: out of memory")),
        5 => Err(format!("{what}: an option that this version does not know")),
        7 => Err(format!("{what}: libnvrtc-builtins is missing beside it")),
        code => Err(format!("{what}: error {code}")),
    }
}
