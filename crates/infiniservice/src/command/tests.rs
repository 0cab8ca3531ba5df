//! The table and what each command answers.

use serde_json::json;

use super::policy::Profile;
use super::*;

fn commands(profile: Profile) -> Commands {
    Commands::new(Policy::new(profile, vec![], vec![]).unwrap())
}

fn run(execute: &str, arguments: Value) -> Result<Answer, ErrorBody> {
    let request = Request { execute: execute.into(), arguments: Some(arguments), id: None };
    commands(Profile::Managed).run(request)
}

#[test]
fn the_table_is_sorted_and_each_name_stands_once() {
    assert!(TABLE.is_sorted_by(|one, next| one.name < next.name));
}

#[test]
fn sync_echoes_its_number() {
    assert_eq!(run("guest-sync", json!({"id": 7})), Ok(Answer::Return(json!(7))));
    assert_eq!(run("guest-sync-delimited", json!({"id": -1})), Ok(Answer::Delimited(json!(-1))));
}

#[test]
fn bad_arguments_are_named() {
    for (execute, arguments, named) in [
        ("guest-sync", json!({}), "\"id\""),
        ("guest-sync", json!({"id": "x"}), "\"id\""),
        ("guest-ping", json!({"x\u{1b}": 1}), "\"x\\u{1b}\""),
        ("guest-ping", json!([]), "guest-ping"),
        ("guest-shutdown", json!({"mode": "explode"}), "powerdown, reboot, halt"),
        ("guest-shutdown", json!({"mode": 1}), "\"mode\""),
        ("agent-hello", json!({"session": "s"}), "protocols"),
    ] {
        let error = run(execute, arguments).unwrap_err();
        assert_eq!(error.class, ErrorClass::GenericError);
        assert!(error.desc.contains(named), "{}", error.desc);
    }
}

#[test]
fn a_refusal_names_the_policy_and_where_it_is_changed() {
    let request =
        Request { execute: "guest-shutdown".into(), arguments: Some(json!({})), id: None };
    let error = commands(Profile::Baseline1).run(request).unwrap_err();
    assert_eq!(error.class, ErrorClass::CommandNotFound);
    assert!(error.desc.contains("baseline-1") && error.desc.contains("[policy]"));
    let shutdown = run("guest-shutdown", json!({"mode": "reboot"}));
    assert_eq!(shutdown, Ok(Answer::Do(Action::TurnOff(PowerMode::Reboot))));
}

#[test]
fn an_unknown_command_is_shown_escaped_and_cut() {
    let error = run(&"\u{1b}[2J".repeat(100), json!({})).unwrap_err();
    assert_eq!(error.class, ErrorClass::CommandNotFound);
    assert!(error.desc.len() < 700 && !error.desc.contains('\u{1b}'));
}

#[test]
fn info_tells_what_is_enabled() {
    let request = Request { execute: "guest-info".into(), arguments: None, id: None };
    let Ok(Answer::Return(info)) = commands(Profile::Baseline1).run(request) else {
        panic!("guest-info returns");
    };
    let all = info["supported_commands"].as_array().unwrap();
    let shutdown = all.iter().find(|it| it["name"] == "guest-shutdown").unwrap();
    assert_eq!(shutdown["enabled"], false);
    assert_eq!(shutdown["success-response"], false);
    assert_eq!(all.iter().filter(|it| it["enabled"] == true).count(), 7);
}
