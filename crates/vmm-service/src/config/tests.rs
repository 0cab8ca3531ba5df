//! The configuration from each of its sources, right and wrong.

use super::*;

fn read(text: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Config, Vec<String>> {
    let variable = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    parse(Path::new("/etc/x.conf"), text, flags, &variable)
        .map_err(|mistakes| mistakes.0.iter().map(ToString::to_string).collect())
}

#[test]
fn the_example_is_the_default_written_out() {
    let example = include_str!("../../../../config/default.conf");
    let none = Flags::default();
    let bare = read("", &[], &none).unwrap();
    assert_eq!(read(example, &[], &none).unwrap(), bare);
    // Each line that is commented out is right, too.
    let uncommented: String = example
        .lines()
        .map(|line| line.strip_prefix("#!").unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    assert_ne!(uncommented, example);
    read(&uncommented, &[], &none).unwrap();
}

#[test]
fn flags_override_the_environment_and_that_the_file() {
    let file = "[log]\nlevel = \"warn\"\n[api]\nport = 1";
    let none = Flags::default();
    let flags = Flags { log_level: Some("trace".to_owned()), ..Flags::default() };
    let variables = [("VMM_LOG_LEVEL", "debug"), ("VMM_API_PORT", "2"), ("VMM_STATE_URL", "")];
    assert_eq!(read(file, &[], &none).unwrap().log.level, "warn");
    let config = read(file, &variables, &none).unwrap();
    assert_eq!((config.log.level.as_str(), config.api.port), ("debug", 2));
    let config = read(file, &variables, &flags).unwrap();
    assert_eq!((config.log.level.as_str(), config.api.port), ("trace", 2));
    assert_eq!(config.state, StateUrl::Sqlite(DEFAULT_STATE_URL[9..].into()));
}

#[test]
fn every_mistake_is_told_at_once_with_its_key_and_value() {
    let file = "
        [api]
        port = \"many\"
        socket = \"relative\"
        colour = \"red\"
        [log]
        level = 3
        format = \"xml\"
        [vm]
        kernel = \"vmlinuz\"
        [wait_for]
        peers = [\"nowhere\"]
        limit_s = 0
        [sate]
        url = \"\"
        [qemu]
        accel = \"warp\"
        uids = \"many\"
        acel = \"tcg\"
        vm_dir = \"run\"
    ";
    let variables = [("VMM_STATE_URL", "http://form-state:3004"), ("VMM_IMAGES_DIR", "images")];
    let found = read(file, &variables, &Flags::default()).unwrap_err();
    for expected in [
        "api.port = \"many\" in /etc/x.conf: write an integer from 0 to 65535",
        "api.socket = \"relative\" in /etc/x.conf: write an absolute path",
        "log.level = 3 in /etc/x.conf: write a string",
        "log.format = \"xml\" in /etc/x.conf: write text or json",
        "vm.kernel = \"vmlinuz\" in",
        "wait_for.peers = [\"nowhere\"] in /etc/x.conf: \"nowhere\" is not of the form host:port",
        "wait_for.limit_s = 0",
        "VMM_STATE_URL=\"http://form-state:3004\": there is no state service any more",
        "Write sqlite:///var/lib/infinibay/state.db",
        "VMM_IMAGES_DIR=\"images\": write an absolute path",
        "api.colour in /etc/x.conf: there is no such setting",
        "sate.url in /etc/x.conf: there is no such setting",
        "qemu.accel = \"warp\" in /etc/x.conf: unknown variant `warp`",
        "qemu.uids = \"many\" in /etc/x.conf: invalid type",
        "qemu.acel = \"tcg\" in /etc/x.conf: unknown field `acel`",
        "qemu.vm_dir = \"run\" in /etc/x.conf: run is not absolute",
    ] {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected} in {found:#?}");
    }
    assert_eq!(found.len(), 15, "{found:#?}");
}

#[test]
fn state_urls() {
    let of = |url| read("", &[("VMM_STATE_URL", url)], &Flags::default());
    assert_eq!(of("sqlite:///x/y.db").unwrap().state, StateUrl::Sqlite("/x/y.db".into()));
    assert_eq!(of("memory://").unwrap().state, StateUrl::Memory);
    for (url, says) in [
        ("etcd://a:1", "etcd is not supported yet"),
        ("sqlite://x.db", "must be absolute"),
        ("sqlite:///x/", "must be absolute"),
        ("state.db", "no such URL"),
    ] {
        assert!(of(url).unwrap_err()[0].contains(says), "{url}");
    }
}

#[test]
fn a_word_that_is_no_level_is_no_filter() {
    let of = |level| read("", &[("VMM_LOG_LEVEL", level)], &Flags::default());
    for level in ["debug", "OFF", "info,vmm_service::guest=debug", "warn,[request{id=1}]=trace"] {
        assert_eq!(of(level).unwrap().log.level, level);
    }
    for level in ["loud", "info,vmm_service", "vmm_service=loud", "in fo"] {
        let found = of(level).unwrap_err();
        assert!(
            found[0].starts_with(&format!("VMM_LOG_LEVEL={level:?}: write error")),
            "{found:?}"
        );
    }
}

#[test]
fn lists_come_from_a_variable_too() {
    let config = read("", &[("WAIT_FOR", "a:1, [::1]:2")], &Flags::default()).unwrap();
    assert_eq!(config.wait_for.peers, ["a:1", "[::1]:2"]);
}

#[test]
fn a_named_file_has_to_be_there_and_to_be_toml() {
    let flags = Flags { config: Some("/nowhere/vmm.conf".into()), ..Flags::default() };
    let error = load(&flags, &|_| None).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/vmm.conf: it could not be read"), "{error}");
    let error = load(&flags, &|name| Some(name.to_owned())).unwrap_err();
    assert!(error.0.len() > 5, "what the environment gets wrong is told, too: {error}");
    let found = read("api = [", &[], &Flags::default()).unwrap_err();
    assert!(found[0].starts_with("/etc/x.conf: it is not TOML"), "{found:?}");
    let long = format!("/{}", "x".repeat(100));
    let found = read("", &[("VMM_SOCKET", &long)], &Flags::default()).unwrap_err();
    assert!(found[0].contains("at most 100 bytes"), "{found:?}");
}
