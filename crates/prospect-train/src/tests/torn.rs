//! Torn checkpoints: whatever happens to the files, they load bit for bit or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::checkpoints::{MANIFEST, MODEL, OPTIMIZER, STATE, saved};
use super::support::{alone, config};

/// What is done to a checkpoint, and the file that the error has to name.
struct Damage {
    what: String,
    named: String,
    harm: Box<dyn Fn(&Path) + Send + Sync>,
}

/// Files by name.
type Content = BTreeMap<PathBuf, Vec<u8>>;

fn damage(
    what: impl Into<String>,
    named: &str,
    harm: impl Fn(&Path) + Send + Sync + 'static,
) -> Damage {
    Damage { what: what.into(), named: named.to_owned(), harm: Box::new(harm) }
}

/// Changes the bytes of one file. After a change of the manifest any file can be the wrong one.
fn edit(what: String, name: &str, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Damage {
    let (path, named) = (PathBuf::from(name), if name == MANIFEST { "" } else { name });
    damage(format!("{name}: {what}"), named, move |dir| {
        let path = dir.join(&path);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    })
}

/// Every file cut at 24 places, with a bit flipped at 72, and otherwise harmed. `older` is a
/// checkpoint of another step.
fn damages_of_files(content: &Content, older: &Path) -> Vec<Damage> {
    let mut damages = Vec::new();
    for path in content.keys() {
        let name = path.to_str().unwrap();
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
        let file = path.clone();
        damages.push(damage(format!("{name} is missing"), name, move |dir| {
            fs::remove_file(dir.join(&file)).unwrap();
        }));
        let file = path.clone();
        damages.push(damage(format!("{name} is a directory"), name, move |dir| {
            fs::remove_file(dir.join(&file)).unwrap();
            fs::create_dir(dir.join(&file)).unwrap();
        }));
        let (file, other) = (path.clone(), older.join(path));
        if fs::read(&other).unwrap() != content[path] {
            let named = if name == MANIFEST { "" } else { name };
            damages.push(damage(format!("{name} of another step"), named, move |dir| {
                fs::copy(&other, dir.join(&file)).unwrap();
            }));
        }
        let (file, other) = (path.clone(), older.join(path));
        damages.push(damage(format!("{name} is a link"), name, move |dir| {
            fs::remove_file(dir.join(&file)).unwrap();
            symlink(&other, dir.join(&file)).unwrap();
        }));
    }
    damages
}

/// Manifests that are cut, lie or name what they should not, and files that they do not name.
fn damages_of_manifests(content: &Content) -> Vec<Damage> {
    let whole: Value = serde_json::from_slice(&content[Path::new(MANIFEST)]).unwrap();
    let with = |what: String, change: &dyn Fn(&mut Value)| {
        let mut value = whole.clone();
        change(&mut value);
        let text = value.to_string();
        damage(what, "", move |dir| fs::write(dir.join(MANIFEST), &text).unwrap())
    };
    let mut damages: Vec<Damage> = (0..content[Path::new(MANIFEST)].len() - 1)
        .step_by(50)
        .map(|bytes| {
            edit(format!("cut to {bytes} bytes"), MANIFEST, move |text| text.truncate(bytes))
        })
        .collect();
    for name in whole["files"].as_object().unwrap().keys() {
        let bytes = whole["files"][name]["bytes"].as_u64().unwrap();
        for wrong in [0, bytes - 1, bytes + 1, u64::MAX] {
            damages.push(with(format!("{name} has {wrong} bytes"), &|value| {
                value["files"][name]["bytes"] = json!(wrong);
            }));
        }
        damages.push(with(format!("{name} is not named"), &|value| {
            value["files"].as_object_mut().unwrap().remove(name);
        }));
        damages.push(with(format!("{name} has another digest"), &|value| {
            value["files"][name]["sha256"] = json!("0".repeat(64));
        }));
    }
    for (key, wrong) in [
        ("format", json!(2)),
        ("step", json!(1)),
        ("step", json!(-2)),
        ("world_size", json!(2)),
        ("files", json!({})),
        ("files", json!([])),
        ("else", json!(1)),
    ] {
        damages.push(with(format!("{key} is {wrong}"), &|value| value[key] = wrong.clone()));
    }
    for outside in ["../step-000001/state.json", "/etc/hostname", "model/../state.json", "", "."] {
        damages.push(with(format!("{outside:?} is named"), &|value| {
            value["files"][outside] = value["files"][STATE].clone();
        }));
    }
    for extra in ["model/model.safetensors.index.json", "optimizer-2.safetensors", "more/file"] {
        damages.push(damage(format!("{extra} is too much"), extra, move |dir| {
            fs::create_dir_all(dir.join(extra).parent().unwrap()).unwrap();
            fs::write(dir.join(extra), "{}").unwrap();
        }));
    }
    damages.push(damage("a manifest of a terabyte", MANIFEST, |dir| {
        File::create(dir.join(MANIFEST)).unwrap().set_len(1 << 40).unwrap();
    }));
    damages.push(damage("a model that is a file", "model", |dir| {
        fs::remove_dir_all(dir.join("model")).unwrap();
        fs::write(dir.join("model"), "").unwrap();
    }));
    damages.push(damage("an empty directory", MANIFEST, |dir| {
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();
    }));
    damages.push(damage("a file", "", |dir| {
        fs::remove_dir_all(dir).unwrap();
        fs::write(dir, "").unwrap();
    }));
    damages.push(damage("nothing", "", |dir| fs::remove_dir_all(dir).unwrap()));
    damages
}

fn read(dir: &Path) -> Content {
    ["model/config.json", "model/generation_config.json", MODEL, OPTIMIZER, STATE, MANIFEST]
        .into_iter()
        .map(|name| (PathBuf::from(name), fs::read(dir.join(name)).unwrap()))
        .collect()
}

fn write(dir: &Path, content: &Content) {
    if dir.is_dir() {
        fs::remove_dir_all(dir).unwrap();
    } else if dir.exists() {
        fs::remove_file(dir).unwrap();
    }
    fs::create_dir_all(dir.join("model")).unwrap();
    for (name, bytes) in content {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn whatever_happens_to_the_files_they_load_bit_for_bit_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let config = config("smollm2", "llama2");
    let [older, dir] = ["step-000001", "step-000002"].map(|name| root.path().join(name));
    saved(&config, 1, &older);
    let digest = saved(&config, 2, &dir);
    let content = read(&dir);
    let mut damages = damages_of_files(&content, &older);
    damages.extend(damages_of_manifests(&content));
    assert!(damages.len() >= 500, "{}", damages.len());
    alone(&config, |trainer, _| {
        for Damage { what, named, harm } in &damages {
            harm(&dir);
            match trainer.load_checkpoint(&dir) {
                Ok(step) => panic!("{what}: loaded as step {step}"),
                Err(error) => {
                    let (text, dir) = (error.to_string(), dir.display().to_string());
                    assert!(text.contains(&dir) && text.contains(named), "{what}: {text}");
                }
            }
            write(&dir, &content);
        }
        trainer.load_checkpoint(&dir).unwrap();
        assert_eq!(trainer.digest().unwrap(), digest);
    });
    println!("{} damaged checkpoints, all of them refused", damages.len());
}
