//! Compiles the kernel side, `ebpf/healer.bpf.c`, for `src/monitor/ebpf` to embed.
//!
//! Needs clang 14 or newer and nothing else: neither libbpf nor kernel headers.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCE: &str = "ebpf/healer.bpf.c";

#[expect(clippy::disallowed_methods, reason = "no reaper runs in a build script")]
fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("cargo::rerun-if-changed=ebpf");
    println!("cargo::rerun-if-env-changed=BPF_CLANG");
    // The kernel's byte order, which is the target's.
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    let clang = env::var_os("BPF_CLANG").unwrap_or_else(|| "clang".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("healer.bpf.o");
    let built = Command::new(&clang)
        .args(["-target", target, "-O2", "-g", "-nostdinc", "-Wall", "-Wextra", "-Werror"])
        // The same object wherever it is built.
        .arg(format!("-fdebug-prefix-map={}=.", env!("CARGO_MANIFEST_DIR")))
        .args(["-c", SOURCE, "-o"])
        .arg(&out)
        .status();
    let clang = clang.to_string_lossy();
    let fault = match built {
        Ok(status) if status.success() => return ExitCode::SUCCESS,
        Ok(_) => format!("{clang} cannot compile {SOURCE}: it needs clang 14 or newer"),
        Err(error) => format!("cannot run {clang} to compile {SOURCE}: {error}"),
    };
    println!(
        "cargo::error={fault}. Install clang (Debian, Ubuntu: `apt-get install clang`; Fedora, \
         Alpine, Nix: package `clang`), name one in BPF_CLANG, or build without causes of death: \
         `cargo build --no-default-features`"
    );
    ExitCode::FAILURE
}
