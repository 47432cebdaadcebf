//! Lets the binary and the tests find libtorch by themselves: the folder of the
//! libtorch that was linked becomes their run-time search path.

use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(lib) = env::var_os("LIBTORCH").map(|torch| std::path::Path::new(&torch).join("lib"))
    else {
        return;
    };
    if let Ok(lib) = fs::canonicalize(lib) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
