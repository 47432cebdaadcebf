//! What can happen to the files of a checkpoint.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::run_dir::checkpoints::MANIFEST;
use crate::run_dir::checkpoints::testing::{FILES, place, write};
use crate::run_dir::publish::remove;

/// What is done to a checkpoint, and what the reason of its rejection has to name.
pub(super) type Damage = (String, Box<dyn Fn(&Path)>, String);

fn damage(what: impl Into<String>, named: &str, damage: impl Fn(&Path) + 'static) -> Damage {
    (what.into(), Box::new(damage), named.to_owned())
}

/// Changes the bytes of one file.
fn edit(what: String, name: &'static str, change: impl Fn(&mut Vec<u8>) + 'static) -> Damage {
    // What is wrong after a change of the manifest can be any file that it names.
    let named = if name == MANIFEST { "" } else { name };
    damage(format!("{name}: {what}"), named, move |dir| {
        let path = dir.join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    })
}

/// Changes the manifest's values.
fn edit_manifest(what: &str, change: impl Fn(&mut Value) + 'static) -> Damage {
    damage(format!("manifest: {what}"), "", move |dir| {
        let path = dir.join(MANIFEST);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    })
}

/// Every file cut at 24 places, with a bit flipped at 72, and otherwise harmed.
pub(super) fn damages_of_files() -> Vec<Damage> {
    let mut damages = Vec::new();
    for name in FILES.into_iter().chain([MANIFEST]) {
        for part in 0..24 {
            let cut = move |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() * part / 24);
            damages.push(edit(format!("cut to {part}/24"), name, cut));
        }
        for part in 0..72 {
            let flip = move |bytes: &mut Vec<u8>| {
                let place = (bytes.len() - 1) * part / 71;
                bytes[place] ^= 1 << (part % 8);
            };
            damages.push(edit(format!("bit flipped at {part}/71"), name, flip));
        }
        damages.push(edit("longer".into(), name, |bytes| bytes.push(b'x')));
        let missing = move |dir: &Path| fs::remove_file(dir.join(name)).unwrap();
        damages.push(damage(format!("{name} is missing"), name, missing));
        damages.push(damage(format!("{name} is a directory"), name, move |dir| {
            missing(dir);
            fs::create_dir(dir.join(name)).unwrap();
        }));
        damages.push(damage(format!("{name} is a link"), name, move |dir| {
            let other = dir.with_file_name("kept");
            fs::copy(dir.join(name), &other).unwrap();
            missing(dir);
            symlink(&other, dir.join(name)).unwrap();
        }));
        damages.push(damage(format!("{name} is a pipe"), name, move |dir| {
            missing(dir);
            let made = Command::new("mkfifo").arg(dir.join(name)).status().unwrap();
            assert!(made.success());
        }));
        damages.push(damage(format!("{name} of another step"), name, move |dir| {
            fs::copy(place(dir.parent().unwrap(), 2).join(name), dir.join(name)).unwrap();
        }));
    }
    damages
}

/// Manifests that are cut, lie or name what they should not, and files that they do not name.
pub(super) fn damages_of_manifests() -> Vec<Damage> {
    let mut damages: Vec<Damage> = (0..10)
        .map(|part| {
            edit(format!("cut to {} bytes", part * 50), MANIFEST, move |bytes| {
                bytes.truncate(part * 50);
            })
        })
        .collect();
    for name in FILES {
        damages.push(edit_manifest("one byte more", move |value| {
            let bytes = value["files"][name]["bytes"].as_u64().unwrap();
            value["files"][name]["bytes"] = json!(bytes + 1);
        }));
        damages.push(edit_manifest("upper-case digest", move |value| {
            let digest = value["files"][name]["sha256"].as_str().unwrap().to_uppercase();
            value["files"][name]["sha256"] = json!(digest);
        }));
        damages.push(edit_manifest("a file less", move |value| {
            value["files"].as_object_mut().unwrap().remove(name);
        }));
    }
    for (key, wrong) in [
        ("format", json!(2)),
        ("step", json!(5)),
        ("step", json!(-4)),
        ("step", json!("4")),
        ("step", json!(4.5)),
        ("world_size", json!(3)),
        ("files", json!({})),
        ("files", json!([])),
        ("files", Value::Null),
        ("else", json!(1)),
    ] {
        damages.push(edit_manifest(&format!("{key} is {wrong}"), move |value| {
            value[key] = wrong.clone();
        }));
    }
    for outside in ["../step-000002/state.json", "/etc/hostname", "model/../state.json", "", "."] {
        damages.push(edit_manifest(&format!("names {outside:?}"), move |value| {
            value["files"][outside] = value["files"]["state.json"].clone();
        }));
    }
    for extra in ["model/model.safetensors.index.json", "model-2.bin", "optimizer/part.bin"] {
        damages.push(damage(format!("{extra} is too much"), extra, move |dir| {
            let path = dir.join(extra);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }));
    }
    damages.push(damage("a name that is not UTF-8", "not UTF-8", |dir| {
        fs::write(dir.join(OsStr::from_bytes(b"model/w\xff")), "x").unwrap();
    }));
    damages.push(damage("a manifest of a terabyte", MANIFEST, |dir| {
        File::create(dir.join(MANIFEST)).unwrap().set_len(1 << 40).unwrap();
    }));
    damages.push(damage("a manifest without an end", MANIFEST, |dir| {
        fs::write(dir.join(MANIFEST), "[".repeat(100_000)).unwrap();
    }));
    damages.push(damage("a model directory that is a link", "model", |dir| {
        let other = dir.with_file_name("kept-model");
        remove(&other).unwrap();
        fs::rename(dir.join("model"), &other).unwrap();
        symlink(&other, dir.join("model")).unwrap();
    }));
    damages.push(damage("a model directory that is a file", "model", |dir| {
        fs::remove_dir_all(dir.join("model")).unwrap();
        fs::write(dir.join("model"), "").unwrap();
    }));
    damages.push(damage("a checkpoint that is a link", "not a directory", |dir| {
        let other = dir.with_file_name("kept-checkpoint");
        remove(&other).unwrap();
        fs::rename(dir, &other).unwrap();
        symlink(&other, dir).unwrap();
    }));
    damages.push(damage("a checkpoint that is a file", "not a directory", |dir| {
        fs::remove_dir_all(dir).unwrap();
        fs::write(dir, "").unwrap();
    }));
    damages.push(damage("an empty checkpoint", MANIFEST, |dir| {
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();
    }));
    damages.push(damage("a checkpoint of another step", "it is of step 2", |dir| {
        write(dir, 2, "seed 4");
    }));
    damages
}
