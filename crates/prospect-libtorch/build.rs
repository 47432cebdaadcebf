//! Compiles the C++ shim against the libtorch that torch-sys found, and the CUDA half as a
//! shared object of its own when that libtorch has CUDA and CUDA's headers are installed.
//!
//! Dependents find libtorch's folder in `DEP_PROSPECT_LIBTORCH_LIB`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const SOURCES: [&str; 14] = [
    "store.cpp",
    "gloo.cpp",
    "group.cpp",
    "optim.cpp",
    "attention.cpp",
    "storage.cpp",
    "transfer.cpp",
    "cuda.cpp",
    "library.cpp",
    "event.cpp",
    "fused/driver.cpp",
    "fused/functions.cpp",
    "fused/launch.cpp",
    "fused/ops.cpp",
];

/// A header folder of the CUDA half, below the folder that holds the torch package, with one
/// header that must be in it and the Python package that brings it.
const CUDA_HEADERS: [(&str, &str, &str); 4] = [
    ("nvidia/cu13/include", "cuda_runtime_api.h", "nvidia-cuda-runtime"),
    ("nvidia/cu13/include", "crt/host_defines.h", "nvidia-cuda-crt"),
    ("nvidia/cu13/include/cccl", "cuda/std", "nvidia-cuda-cccl"),
    ("nvidia/nccl/include", "nccl.h", "nvidia-nccl-cu13"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-changed=build.rs");
    let lib = env::var("DEP_TCH_LIBTORCH_LIB")
        .map_err(|_| "torch-sys did not say where libtorch is; set LIBTORCH to its folder")?;
    let lib = fs::canonicalize(&lib).map_err(|error| format!("libtorch at {lib}: {error}"))?;
    let torch = lib.parent().ok_or("libtorch's lib folder has no parent")?.to_path_buf();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    write_kernels_source(&out)?;
    build_rows()?;
    build_emulator()?;
    // Only the tests link the emulator.
    println!("cargo:rustc-link-search=native={}", out.display());
    let mut shim = build(&torch);
    // ATen's loops run on libtorch's own threads, which are OpenMP's.
    shim.include(&out)
        .flag("-fopenmp")
        .files(SOURCES.iter().map(|source| Path::new("shim").join(source)))
        .define("USE_C10D_GLOO", None)
        .try_compile("prospect_shim")?;
    // After the archive that needs them.
    println!("cargo:rustc-link-lib=static=prospect_rows");
    println!("cargo:rustc-link-lib=dylib=gomp");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:lib={}", lib.display());

    let image = match cuda_includes(&torch, &lib) {
        Ok(includes) => {
            let image = build_cuda_half(&torch, &lib, &includes, &out)?;
            format!("Ok(include_bytes!({:?}))", image.display().to_string())
        }
        Err(reason) => format!("Err({reason:?})"),
    };
    fs::write(out.join("cuda_half.rs"), image)?;
    Ok(())
}

/// What every compilation against this libtorch has in common.
fn build(torch: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .pic(true)
        .debug(false)
        .opt_level(2)
        .warnings(false)
        .include("shim/gloo_decl")
        .include(torch.join("include"))
        .include(torch.join("include/torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1");
    build
}

/// The loops over rows on a CPU: plain C++, optimised for vector units. Threading jumps past
/// comparisons would turn their selections into branches.
fn build_rows() -> Result<(), cc::Error> {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .debug(false)
        .opt_level(3)
        .warnings(false)
        .flags(["-fno-math-errno", "-fno-trapping-math"])
        .flag_if_supported("-fno-thread-jumps")
        .cargo_metadata(false)
        .file("shim/fused/rows.cpp")
        .try_compile("prospect_rows")
}

/// The CUDA kernels on a CPU, an archive that only this crate's tests link.
fn build_emulator() -> Result<(), cc::Error> {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .debug(false)
        .opt_level(1)
        .warnings(false)
        // Packs are read through pointers to their elements, as CUDA allows it.
        .flag("-fno-strict-aliasing")
        // Shared memory has no initialisers.
        .flag_if_supported("-fno-extern-tls-init")
        .cargo_metadata(false)
        .file("shim/fused/emulator.cpp")
        .try_compile("prospect_emulator")
}

/// The CUDA kernels as a text for the compiler at run time.
fn write_kernels_source(out: &Path) -> Result<(), Box<dyn Error>> {
    let source = fs::read_to_string("shim/fused/kernels.cu")?;
    let header = format!("constexpr const char* kKernelsSource = R\"kernels({source})kernels\";\n");
    fs::write(out.join("kernels_source.hpp"), header)?;
    Ok(())
}

/// The include folders of the CUDA half, or why it cannot be built.
fn cuda_includes(torch: &Path, lib: &Path) -> Result<Vec<PathBuf>, String> {
    for library in ["libtorch_cuda.so", "libc10_cuda.so"] {
        if !lib.join(library).exists() {
            return Err(format!("this build's libtorch has no {library}"));
        }
    }
    let packages =
        torch.parent().ok_or("libtorch's folder has no parent to search for CUDA's headers")?;
    let mut includes = Vec::new();
    for (folder, header, package) in CUDA_HEADERS {
        let folder = packages.join(folder);
        println!("cargo:rerun-if-changed={}", folder.join(header).display());
        if !folder.join(header).exists() {
            return Err(format!(
                "built without CUDA's headers; install the Python package {package} beside torch and build again"
            ));
        }
        if !includes.contains(&folder) {
            includes.push(folder);
        }
    }
    Ok(includes)
}

/// Links the CUDA half against libtorch_cuda, which is in the process before it is loaded.
fn build_cuda_half(
    torch: &Path,
    lib: &Path,
    includes: &[PathBuf],
    out: &Path,
) -> Result<PathBuf, Box<dyn Error>> {
    let mut half = build(torch);
    half.file("shim/cuda/nccl.cpp")
        .includes(includes)
        .define("USE_C10D_NCCL", None)
        .flag("-fvisibility=hidden");
    let objects = half.try_compile_intermediates()?;
    let image = out.join("libprospect_cuda.so");
    let mut link = half.try_get_compiler()?.to_command();
    link.arg("-shared")
        .args(&objects)
        .arg("-L")
        .arg(lib)
        .args(["-Wl,--as-needed", "-Wl,--strip-all"])
        .args(["-ltorch_cuda", "-lc10_cuda", "-ltorch_cpu", "-lc10", "-o"])
        .arg(&image);
    let status = link.status()?;
    if !status.success() {
        return Err(format!("the CUDA half could not be linked: {status}").into());
    }
    Ok(image)
}
