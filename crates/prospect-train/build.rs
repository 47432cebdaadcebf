//! Tells the linker where libtorch's libraries lie, so that the tests run without
//! environment variables.

use std::error::Error;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let torch =
        env::var("LIBTORCH").map_err(|_| "LIBTORCH is not set; run cargo inside the workspace")?;
    let lib = fs::canonicalize(&torch).map_err(|error| format!("libtorch at {torch}: {error}"))?;
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}/lib", lib.display());
    Ok(())
}
