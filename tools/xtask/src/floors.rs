//! The floor table: which rooms there are and which doors open onto which.
//!
//! Changing this table is how a change of architecture is proposed. `tidy` compares it with what `cargo metadata`
//! says the manifests hold, and prints it into `ARCHITECTURE.md`.

use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

/// One crate of the workspace.
pub struct Room {
    pub name: &'static str,
    pub floor: Floor,
    pub imports: Imports,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floor {
    Words,
    Rules,
    Hands,
    Workflows,
    Doors,
    /// Beside the house: never a dependency of anything that is shipped.
    Tools,
}

impl Floor {
    /// The folder its rooms are in.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Words => "crates/words",
            Self::Rules => "crates/rules",
            Self::Hands => "crates/hands",
            Self::Workflows => "crates/workflows",
            Self::Doors => "crates/doors",
            Self::Tools => "tools",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Words => "0 words",
            Self::Rules => "1 rules",
            Self::Hands => "2 hands",
            Self::Workflows => "3 workflows",
            Self::Doors => "4 doors",
            Self::Tools => "beside",
        }
    }
}

/// What a room may import of the house.
#[derive(Clone, Copy)]
pub enum Imports {
    /// These, and `settings`.
    Rooms(&'static [&'static str]),
    /// Every room up to this floor.
    UpTo(Floor),
    /// None, not even `settings`.
    Nothing,
}

use Floor::{Doors, Hands, Rules, Tools, Words, Workflows};
use Imports::{Nothing, Rooms, UpTo};

const fn room(name: &'static str, floor: Floor, imports: Imports) -> Room {
    Room { name, floor, imports }
}

/// The house, from the ground up.
pub const HOUSE: &[Room] = &[
    room("mail", Words, Nothing),
    room("settings", Words, Nothing),
    room("smtp", Rules, Rooms(&["mail"])),
    room("message", Rules, Rooms(&["mail"])),
    room("routing", Rules, Rooms(&["mail"])),
    room("compose", Rules, Rooms(&["mail", "message"])),
    room("mailauth", Rules, Rooms(&["mail", "message"])),
    // How replies are searched by patterns, for the two rooms that judge them.
    room("replies", Rules, Rooms(&["mail"])),
    room("bounce", Rules, Rooms(&["mail", "message", "replies"])),
    room("policy", Rules, Rooms(&["mail", "message"])),
    room("shaping", Rules, Rooms(&["mail", "replies"])),
    room("queue", Rules, Rooms(&["mail"])),
    // The one room of rules that knows others: it asks queue and shaping together, for delivery and simulator.
    room("dispatch", Rules, Rooms(&["mail", "queue", "shaping"])),
    room("spool", Hands, Rooms(&["mail"])),
    room("net", Hands, Rooms(&["mail"])),
    room("resolve", Hands, Rooms(&["mail"])),
    room("accounting", Hands, Rooms(&["mail"])),
    room("notify", Hands, Rooms(&["mail"])),
    room("tenants", Hands, Rooms(&["mail"])),
    room("vault", Hands, Rooms(&[])),
    room("acme", Hands, Rooms(&["mail"])),
    room("js", Hands, Rooms(&["mail", "policy"])),
    room("lua", Hands, Rooms(&["mail", "message", "policy"])),
    room("milter", Hands, Rooms(&["mail", "policy"])),
    room("suppression", Hands, Rooms(&["mail"])),
    room(
        "reception",
        Workflows,
        Rooms(&[
            "mail",
            "smtp",
            "message",
            "mailauth",
            "policy",
            "routing",
            "resolve",
            "spool",
            "net",
            "accounting",
            "suppression",
        ]),
    ),
    room(
        "delivery",
        Workflows,
        Rooms(&[
            "mail",
            "smtp",
            "message",
            "compose",
            "mailauth",
            "bounce",
            "routing",
            "policy",
            "queue",
            "shaping",
            "dispatch",
            "spool",
            "net",
            "resolve",
            "accounting",
            "notify",
            "vault",
            "suppression",
        ]),
    ),
    room("outcomes", Workflows, Rooms(&["mail", "message", "bounce", "accounting", "notify", "suppression"])),
    room("simulator", Workflows, Rooms(&["mail", "queue", "shaping", "dispatch"])),
    // It shares nothing with what it measures, so that each checks the other.
    room("bench", Workflows, Nothing),
    room("tuma", Doors, UpTo(Workflows)),
    room("xtask", Tools, Nothing),
];

/// Outside crates that do IO or read clocks; floors 0 and 1 may not even test with them.
const HANDS_ONLY: &[&str] = &[
    "arc-swap",
    "axum",
    "hickory-resolver",
    "hickory-server",
    "hyper",
    "hyper-util",
    "mio",
    "nix",
    "rustls",
    "socket2",
    "tokio",
    "tokio-rustls",
    "tracing",
];

impl Room {
    /// True if the house lets this room import `other` outside of tests.
    fn may_import(&self, other: &Room) -> bool {
        if other.floor == Tools {
            return false;
        }
        match self.imports {
            Nothing => false,
            Rooms(names) => other.name == "settings" || names.contains(&other.name),
            UpTo(floor) => other.floor <= floor,
        }
    }

    fn imports_text(&self) -> String {
        match self.imports {
            Nothing => "nothing".into(),
            Rooms(names) => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            UpTo(floor) => format!("floors 0 to {}", &floor.title()[..1]),
        }
    }
}

/// What `cargo metadata` says of the workspace.
pub fn metadata(root: &Path) -> Result<Json, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

/// One complaint for each arrow the table lacks, each room it does not know and each it lists in vain.
pub fn compare(house: &[Room], metadata: &Json, root: &Path) -> Vec<String> {
    let empty = Vec::new();
    let list = |json: &Json| json.as_array().unwrap_or(&empty).clone();
    let find = |name: &str| house.iter().find(|room| room.name == name);
    let mut complaints = Vec::new();
    let packages = list(&metadata["packages"]);
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let manifest = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
        let Some(room) = find(name) else {
            complaints
                .push(format!("{manifest}: `{name}` is not in the floor table (tools/xtask/src/floors.rs)"));
            continue;
        };
        let place = format!("{}/{name}/Cargo.toml", room.floor.folder());
        if manifest != place {
            complaints.push(format!("{manifest}: the floor table puts `{name}` at {place}"));
        }
        for dependency in list(&package["dependencies"]) {
            let other = dependency["name"].as_str().unwrap_or_default();
            let kind = dependency["kind"].as_str();
            complaints
                .extend(arrow(room, find(other), other, kind).map(|reason| format!("{manifest}: {reason}")));
        }
    }
    for room in house {
        if !packages.iter().any(|package| package["name"] == room.name) {
            complaints.push(format!("floor table: there is no room `{}`", room.name));
        }
    }
    complaints
}

/// Why a dependency may not be, if it may not.
fn arrow(room: &Room, other: Option<&Room>, name: &str, kind: Option<&str>) -> Option<String> {
    let arrow = format!("{} -> {name}", room.name);
    let Some(other) = other else {
        let outside = room.floor <= Rules && HANDS_ONLY.contains(&name);
        return outside.then(|| format!("{arrow}: floors 0 and 1 do no IO, so `{name}` belongs above them"));
    };
    let section = match kind {
        Some("dev") => "dev-dependency",
        Some(_) => "build-dependency",
        None => "dependency",
    };
    // A crate may name itself to test with its own features, and test a workflow against `bench`'s sink, which
    // shares nothing with it.
    let for_tests = name == room.name || (name == "bench" && room.floor >= other.floor);
    if room.may_import(other) || (kind == Some("dev") && for_tests) {
        return None;
    }
    let may = room.imports_text();
    Some(format!("{arrow}: {section} refused by the floor table, `{}` may import {may}", room.name))
}

/// The table as Markdown, rooms described by their manifests.
pub fn table(house: &[Room], metadata: &Json) -> String {
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let mut out = String::from("| floor | room | what it is | may import |\n|---|---|---|---|\n");
    for room in house {
        let package = packages.iter().find(|package| package["name"] == room.name);
        let description = package.and_then(|package| package["description"].as_str()).unwrap_or_default();
        out.push_str(&format!(
            "| {} | `{}` | {} | {} |\n",
            room.floor.title(),
            room.name,
            description,
            room.imports_text()
        ));
    }
    out.push_str("\nA room that may import anything may also import `settings`, for its own table of the configuration.\n");
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SMALL: &[Room] = &[
        room("mail", Words, Nothing),
        room("settings", Words, Nothing),
        room("smtp", Rules, Rooms(&["mail"])),
        room("queue", Rules, Rooms(&["mail"])),
        room("spool", Hands, Rooms(&["mail"])),
        room("delivery", Workflows, UpTo(Hands)),
        room("xtask", Tools, Nothing),
    ];

    /// Name and kind.
    type Dependency<'a> = (&'a str, Option<&'a str>);
    /// Name, folder and dependencies.
    type Package<'a> = (&'a str, &'a str, &'a [Dependency<'a>]);

    fn house(packages: &[Package<'_>]) -> Vec<String> {
        let packages: Vec<Json> = packages
            .iter()
            .map(|(name, folder, dependencies)| {
                let dependencies: Vec<Json> =
                    dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
                json!({
                    "name": name,
                    "manifest_path": format!("/w/{folder}/Cargo.toml"),
                    "dependencies": dependencies,
                    "description": "d",
                })
            })
            .collect();
        compare(SMALL, &json!({ "packages": packages }), Path::new("/w"))
    }

    const WHOLE: &[Package<'_>] = &[
        ("mail", "crates/words/mail", &[("idna", None)]),
        ("settings", "crates/words/settings", &[]),
        ("smtp", "crates/rules/smtp", &[("mail", None), ("settings", None), ("memchr", None)]),
        ("queue", "crates/rules/queue", &[("mail", None), ("proptest", Some("dev"))]),
        ("spool", "crates/hands/spool", &[("mail", None), ("tokio", None)]),
        ("delivery", "crates/workflows/delivery", &[("spool", None), ("smtp", None), ("queue", Some("dev"))]),
        ("xtask", "tools/xtask", &[]),
    ];

    #[test]
    fn a_house_that_keeps_its_plan() {
        assert_eq!(house(WHOLE), [""; 0]);
    }

    #[test]
    fn arrows_that_the_table_lacks() {
        let cases: [(usize, Dependency<'_>, &str); 8] = [
            (
                0,
                ("settings", None),
                "crates/words/mail/Cargo.toml: mail -> settings: dependency refused by the floor table, `mail` may import nothing",
            ),
            (
                2,
                ("queue", None),
                "crates/rules/smtp/Cargo.toml: smtp -> queue: dependency refused by the floor table, `smtp` may import `mail`",
            ),
            (
                2,
                ("queue", Some("dev")),
                "crates/rules/smtp/Cargo.toml: smtp -> queue: dev-dependency refused by the floor table, `smtp` may import `mail`",
            ),
            (
                2,
                ("spool", Some("build")),
                "crates/rules/smtp/Cargo.toml: smtp -> spool: build-dependency refused by the floor table, `smtp` may import `mail`",
            ),
            (
                2,
                ("tokio", Some("dev")),
                "crates/rules/smtp/Cargo.toml: smtp -> tokio: floors 0 and 1 do no IO, so `tokio` belongs above them",
            ),
            (
                4,
                ("xtask", Some("dev")),
                "crates/hands/spool/Cargo.toml: spool -> xtask: dev-dependency refused by the floor table, `spool` may import `mail`",
            ),
            (
                4,
                ("delivery", None),
                "crates/hands/spool/Cargo.toml: spool -> delivery: dependency refused by the floor table, `spool` may import `mail`",
            ),
            (
                6,
                ("mail", None),
                "tools/xtask/Cargo.toml: xtask -> mail: dependency refused by the floor table, `xtask` may import nothing",
            ),
        ];
        for (package, dependency, complaint) in cases {
            let mut packages = WHOLE.to_vec();
            let mut dependencies = packages[package].2.to_vec();
            dependencies.push(dependency);
            packages[package].2 = &dependencies;
            assert_eq!(house(&packages), [complaint]);
        }
    }

    #[test]
    fn rooms_and_table_are_the_same() {
        let mut packages = WHOLE.to_vec();
        packages[3] = ("attic", "crates/rules/attic", &[]);
        packages[4].1 = "crates/rules/spool";
        assert_eq!(
            house(&packages),
            [
                "crates/rules/attic/Cargo.toml: `attic` is not in the floor table (tools/xtask/src/floors.rs)",
                "crates/rules/spool/Cargo.toml: the floor table puts `spool` at crates/hands/spool/Cargo.toml",
                "floor table: there is no room `queue`",
            ]
        );
    }
}
