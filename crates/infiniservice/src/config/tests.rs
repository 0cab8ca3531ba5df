//! File and flags together, and the example that is shipped.

use super::*;

fn file(text: &str) -> File {
    toml::from_str(text).unwrap()
}

fn join(flags: Flags, text: &str) -> Result<Config, Vec<Mistake>> {
    Config::join(flags, file(text), None)
}

#[test]
fn nothing_given_is_a_working_agent() {
    let config = join(Flags::default(), "").unwrap();
    assert_eq!(config.settings.interval, Duration::from_secs(30));
    assert_eq!(config.settings.transport, Transport::VirtioSerial("org.infinibay.agent".into()));
    assert_eq!(config.policy, Policy::default());
    assert_eq!(config.log, LevelFilter::INFO);
}

#[test]
fn flags_win_over_the_file() {
    let flags = Flags {
        interval: Some("2".into()),
        listen: Some("/run/x.sock".into()),
        profile: Some("managed".into()),
        ..Flags::default()
    };
    let text =
        "[agent]\ninterval_s = 9\ndevice = '/dev/vport0p1'\n[policy]\nprofile = 'baseline-1'";
    let config = join(flags, text).unwrap();
    assert_eq!(config.settings.interval, Duration::from_secs(2));
    assert_eq!(config.settings.transport, Transport::Listen("/run/x.sock".into()));
    assert_eq!(config.policy, Policy::new(Profile::Managed, vec![], vec![]).unwrap());
}

#[test]
fn all_mistakes_are_told_at_once() {
    let flags = Flags { interval: Some("soon".into()), ..Flags::default() };
    let text = "[agent]\nlog = 'loud'\nlisten = '/a'\ndevice = '/b'\n\
        [policy]\nprofile = 'root'\nallow = ['guest-exec']\ndeny = ['agent-hello']";
    let mistakes = join(flags, text).unwrap_err();
    assert_eq!(mistakes.len(), 6, "{mistakes:?}");
}

#[test]
fn a_channels_name_cannot_lead_elsewhere() {
    for name in ["", "..", "../../etc", "a/b", "a b", &"x".repeat(65)] {
        let flags = Flags { channel: Some(name.into()), ..Flags::default() };
        assert!(join(flags, "").is_err(), "{name}");
    }
}

#[test]
fn an_unknown_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "[agent]\ninterval = 3\n").unwrap();
    let flags = Flags { config: Some(path), ..Flags::default() };
    let mistakes = Config::load(flags).unwrap_err();
    assert!(mistakes[0].what.contains("interval"), "{mistakes:?}");
    let flags = Flags { config: Some("/nowhere/x.toml".into()), ..Flags::default() };
    assert!(Config::load(flags).is_err());
}

#[test]
fn rust_log_wins_over_the_file_and_debug_over_both() {
    let log = |debug, rust_log, text| {
        let flags = Flags { debug, ..Flags::default() };
        Config::join(flags, file(text), rust_log).map(|config| config.log)
    };
    assert_eq!(log(false, Some("warn"), "[agent]\nlog = 'trace'"), Ok(LevelFilter::WARN));
    assert_eq!(log(true, Some("warn"), ""), Ok(LevelFilter::DEBUG));
    assert!(log(false, Some("infiniservice=debug,info"), "").is_ok());
    assert!(log(false, Some("infiniservice=loud"), "").is_err());
}

#[test]
fn the_shipped_example_shows_the_defaults_and_every_key() {
    let example = include_str!("../../../../config/infiniservice.toml");
    let defaults = join(Flags::default(), "").unwrap();
    assert_eq!(join(Flags::default(), example), Ok(defaults));
    // The keys that stand in comments must work, too, except that the three
    // transports exclude each other.
    let all: String = example
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .filter(|line| !line.starts_with("device") && !line.starts_with("listen"))
        .fold(String::new(), |text, line| text + line + "\n");
    let config = join(Flags::default(), &all).unwrap();
    assert!(config.settings.boot_complete_file.is_some());
    for key in ["channel", "device", "listen", "interval_s", "boot_complete_file", "log"] {
        assert!(example.contains(&format!("{key} = ")), "{key}");
    }
}
