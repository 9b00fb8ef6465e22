//! What is read, from where, and what is refused.

use super::*;

fn file(text: &str) -> Result<Config, String> {
    with(text, &Overrides::default())
}

fn with(text: &str, overrides: &Overrides) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(FILE_NAME), text).expect("written");
    Config::load(Some(folder.path().into()), overrides).map_err(|error| error.to_string())
}

#[test]
fn nothing_said_is_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config::load(Some(folder.path().into()), &Overrides::default()).expect("a configuration");
    assert_eq!(config.gateway, Listen { address: ([127, 0, 0, 1], GATEWAY_PORT).into(), any_port: true });
    assert!(config.worker && config.slots > 0 && config.memory_mb >= WORKER_MEMORY_MB_MIN);
    assert!(name::check("name", &config.name).is_ok());
    assert_eq!(config.blob_grace_ms, 3_600_000);
    assert_eq!(config.keep, Default::default());
}

#[test]
fn flags_go_before_the_file_and_the_file_before_the_defaults() {
    let text = "name = 'a'\nslots = 3\nhttp = '127.0.0.1:0'\nblob_grace = '90s'\nkeep = '2d'\nkeep_dead_jobs = 5\nshare_half_life = '2h'\nuser_rate = 60\nlog = 'json'\n[labels]\nzone = 'x'\nrack = '1'";
    let config = file(text).expect("a configuration");
    assert_eq!((config.name.as_str(), config.slots, config.blob_grace_ms), ("a", 3, 90_000));
    assert_eq!((config.keep.settled.age_ms, config.keep.settled.jobs), (2 * 86_400_000, 1_000_000));
    assert_eq!((config.keep.dead.age_ms, config.keep.dead.jobs), (30 * 86_400_000, 5));
    assert_eq!(config.http, Listen { address: ([127, 0, 0, 1], 0).into(), any_port: false });
    assert_eq!(
        (config.share_half_life_ms, config.user_quota.rate, config.user_quota.queued),
        (7_200_000, Some(60), None)
    );
    assert_eq!(config.log, LogFormat::Json);
    let overrides = Overrides {
        name: Some("b".into()),
        labels: vec![("zone".into(), "y".into())],
        no_worker: true,
        ..Overrides::default()
    };
    let config = with(text, &overrides).expect("a configuration");
    assert_eq!((config.name.as_str(), config.slots, config.worker), ("b", 3, false));
    assert_eq!(config.labels, Labels::from([("zone".into(), "y".into()), ("rack".into(), "1".into())]));
}

#[test]
fn the_direct_path_is_beside_the_mesh_unless_said_otherwise() {
    let direct = |text| file(text).expect("a configuration").mesh.direct;
    let beside = |ip: [u8; 4], port| Some(Listen { address: (ip, port).into(), any_port: true });
    assert_eq!(direct(""), beside(ANYWHERE, DIRECT_PORT));
    assert_eq!(direct("mesh = '10.0.0.1:9'"), beside([10, 0, 0, 1], 10));
    assert_eq!(direct("mesh = '127.0.0.1:0'"), beside(LOCAL, 0));
    assert_eq!(direct("mesh = '127.0.0.1:65535'"), beside(LOCAL, 0));
    assert_eq!(direct("direct = 'off'"), None);
    let said = direct("direct = '10.0.0.1:9'").expect("a direct path");
    assert_eq!(said, Listen { address: ([10, 0, 0, 1], 9).into(), any_port: false });
}

#[test]
fn an_unknown_key_is_refused_with_the_known_ones() {
    let error = file("slot = 3").expect_err("refused");
    for part in ["config.toml", "slot", "slots", "memory_mb", "gateway"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
}

#[test]
fn bad_values_are_named() {
    let bad = [
        ("slots = 0", "slots: 0 is out of range"),
        ("memory_mb = 1", "memory_mb: 1 is out of range"),
        ("name = 'A b'", "name: "),
        ("gateway = 'localhost'", "gateway: \"localhost\" is no address"),
        ("blob_grace = '10 minutes'", "no length of time"),
        ("log = 'xml'", "xml"),
        ("labels = { A = 'x' }", "labels: "),
        ("slots = ", "config.toml"),
        ("view = 0", "view: 0 is out of range"),
        ("dht_k = 21", "dht_k: 21 is out of range"),
        ("join = ['nowhere']", "join: \"nowhere\""),
        ("join = ['shoalm1abc']", "cut off or was changed"),
        ("mesh = '10.0.0.1'", "mesh: \"10.0.0.1\" is no address"),
        ("direct = 'no'", "direct: \"no\" is no address"),
    ];
    for (text, part) in bad {
        let error = file(text).expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
    let missing = Overrides { config: Some("no/such/file.toml".into()), ..Overrides::default() };
    assert!(with("", &missing).expect_err("no file").contains("no/such/file.toml"));
}

#[test]
fn one_joins_by_an_invitation_as_by_its_addresses() {
    let mesh = shoal_protocol::key::SecretKey::from_bytes([7; 32]).public();
    let addresses = vec!["10.0.0.7:7452".to_owned(), "[fd00::7]:7452".to_owned()];
    let text = Invitation { mesh, addresses }.text();
    let joined = with(&format!("join = ['{text}', '10.0.0.8:1']"), &Overrides::default()).expect("a configuration");
    assert_eq!((joined.mesh.join.len(), joined.mesh.invited_to), (3, vec![mesh]));
}

#[test]
fn the_data_folder_is_the_named_one_or_in_the_home() {
    let choose = |named: Option<&str>, xdg: Option<&str>, home: Option<&str>| {
        choose_data_folder(named.map(Into::into), xdg.map(Into::into), home.map(Into::into)).ok()
    };
    assert_eq!(choose(Some("here"), Some("/x"), Some("/h")), Some("here".into()));
    assert_eq!(choose(None, Some("/x"), Some("/h")), Some("/x/shoal".into()));
    assert_eq!(choose(None, Some("relative"), Some("/h")), Some("/h/.local/share/shoal".into()));
    assert_eq!(choose(None, None, None), None);
}

#[test]
fn lengths_read_back() {
    for text in ["1500ms", "90s", "10m", "5h", "7d", "0ms"] {
        assert_eq!(text.parse::<Length>().expect("a length").to_string(), text);
    }
    for bad in ["", "10", "m", "10x", "-1s", "1.5h", "99999999999999999999d", "18446744073709551615d"] {
        assert!(bad.parse::<Length>().is_err(), "{bad}");
    }
}
