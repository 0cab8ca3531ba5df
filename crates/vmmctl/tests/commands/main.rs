//! The built program against a daemon that is none: what it asks, what it
//! prints, how it exits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]
#![allow(unreachable_pub, reason = "a test's modules are seen by nobody else")]

mod fake;
mod terminal;

use std::io::Write as _;
use std::process::Stdio;

use fake::{Fake, Ran, command, ok, operation, page, problem, vm};
use serde_json::{Value, json};

#[test]
fn a_daemon_that_is_not_there_is_3() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nobody.sock");
    let ran = Ran::from(command(&socket).arg("list").output().unwrap());
    assert_eq!(ran.code, 3);
    let expected = format!(
        "vmmctl: vmm-service is not reachable at {}: No such file or directory (os error 2)\n  \
         → start the daemon (`systemctl start vmm-service`), or name its socket with --socket or \
         VMM_SOCKET\n",
        socket.display()
    );
    assert_eq!(ran.err, expected);
}

#[test]
fn a_wrong_command_line_is_2_and_help_tells_the_codes() {
    let fake = Fake::new(|_| ok(json!({})));
    assert_eq!(fake.vmmctl(&["start"]).code, 2);
    assert_eq!(fake.vmmctl(&["list", "--state", "asleep"]).code, 2);
    assert_eq!(fake.vmmctl(&["events", "--since", "nonsense"]).code, 2);
    let help = fake.vmmctl(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("3  vmm-service is not reachable"), "{}", help.out);
    assert!(fake.lines().is_empty());
}

#[test]
fn no_such_vm_is_4() {
    let fake = Fake::new(|_| problem(404, "There is no VM \"web\".", json!([])));
    for words in [&["info", "web"][..], &["guest", "web"], &["start", "web"], &["log", "web"]] {
        let ran = fake.vmmctl(words);
        assert_eq!(ran.code, 4, "{words:?}");
        let expected =
            "vmmctl: there is no VM \"web\"\n  → `vmmctl list` shows those that there are\n";
        assert_eq!(ran.err, expected);
    }
}

#[test]
fn a_conflict_is_5_and_an_error_of_the_daemon_1() {
    let fake = Fake::new(|_| problem(409, "It runs; stop it first.", json!([])));
    let ran = fake.vmmctl(&["delete", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (5, ""));
    assert!(
        ran.err.starts_with("vmmctl: web: It runs; stop it first.\n  → `vmmctl info web`"),
        "{}",
        ran.err
    );
    let fake = Fake::new(|_| problem(500, "The state could not be written.", json!([])));
    let ran = fake.vmmctl(&["list"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.ends_with("the daemon's log has more under request req-1\n"), "{}", ran.err);
}

#[test]
fn something_else_that_listens_is_1() {
    let fake = Fake::new(|_| (200, "text/html", "<html>".to_owned()));
    let ran = fake.vmmctl(&["list"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("answered unexpectedly"), "{}", ran.err);
    let fake = Fake::new(|_| (502, "text/html", "<html>".to_owned()));
    assert!(fake.vmmctl(&["list"]).err.contains("502 Bad Gateway"));
}

#[test]
fn a_list_goes_through_all_pages() {
    let fake = Fake::new(|asked| {
        if asked.line.contains("cursor=") {
            ok(json!({"vms": [vm("web")], "total": 9, "matched": 2}))
        } else {
            ok(json!({"vms": [vm("db")], "total": 9, "matched": 2, "next_cursor": "p/2"}))
        }
    });
    let words = ["list", "--label", "tier=a b", "--state", "running,paused", "--sort", "agent_age"];
    let ran = fake.vmmctl(&[&words[..], &["--reverse", "-o", "json"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let list: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(list, json!({"vms": [vm("db"), vm("web")], "total": 9, "matched": 2}));
    let line = |more: &str| {
        format!("GET /vms?state=running%2Cpaused&sort=-agent_age&{more}&label=tier%3Aa%20b")
    };
    assert_eq!(fake.lines(), [line("limit=100"), line("limit=1000&cursor=p%2F2")]);
    assert_eq!(fake.vmmctl(&["list", "-o", "name"]).out, "db\nweb\n");
    let table = fake.vmmctl(&["list"]).out;
    assert_eq!(table.lines().count(), 3, "one header: {table}");
    let wide = fake.vmmctl(&["list", "-o", "wide"]).out;
    assert!(wide.lines().next().unwrap().contains("  ID"), "{wide}");
}

#[test]
fn a_list_that_is_cut_says_so() {
    let fake = Fake::new(|_| {
        let vms: Vec<Value> = ["db", "web"].map(vm).to_vec();
        ok(json!({"vms": vms, "total": 10_000, "matched": 9812, "next_cursor": "x"}))
    });
    for format in ["table", "wide", "json", "name"] {
        let ran = fake.vmmctl(&["list", "--limit", "2", "-o", format]);
        assert_eq!(ran.code, 0);
        assert!(ran.err.starts_with("showing 2 of 9,812 VMs: raise --limit"), "{}", ran.err);
    }
    assert!(fake.lines().iter().all(|line| line == "GET /vms?limit=2"));
}

#[test]
fn a_list_without_end_is_noticed() {
    let page = json!({"vms": [vm("web")], "total": 1, "matched": 1, "next_cursor": "x"});
    let fake = Fake::new(move |_| ok(page.clone()));
    let ran = fake.vmmctl(&["list"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("has no end"), "{}", ran.err);
}

#[test]
fn names_are_printed_where_there_are_any() {
    let fake = Fake::new(|asked| match asked.line.as_str() {
        "GET /vms/web" => ok(vm("web")),
        _ => (202, "application/json", operation("start", "succeeded").to_string()),
    });
    assert_eq!(fake.vmmctl(&["info", "web", "-o", "name"]).out, "web\n");
    assert_eq!(fake.vmmctl(&["start", "web", "-o", "name"]).out, "web\n");
    for words in [&["guest", "web"][..], &["log", "web"], &["events"], &["watch"]] {
        let ran = fake.vmmctl(&[words, &["-o", "name"]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{words:?}");
    }
}

#[test]
fn create_sends_the_toml_and_prints_the_id() {
    let fake = Fake::new(|_| (201, "application/json", vm("web").to_string()));
    let mut child = command(&fake.socket())
        .args(["create", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let spec = "name = 'web'\nvcpus = 2\nwhat = true\n[[disks]]\npath = '/d'\n";
    child.stdin.take().unwrap().write_all(spec.as_bytes()).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.out, "0193f1c2-0000-7000-8000-000000000001\n", "{}", ran.err);
    let sent: Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    let expected = json!({"name": "web", "vcpus": 2, "what": true, "disks": [{"path": "/d"}]});
    assert_eq!(sent, expected);
}

#[test]
fn create_names_every_wrong_field_and_the_place_of_bad_toml() {
    let errors = json!([
        {"field": "name", "detail": "must not hold '..'"},
        {"field": "disks[0].path", "detail": "is not absolute: \u{1b}[2J"},
    ]);
    let fake =
        Fake::new(move |_| problem(422, "The specification has 2 mistakes.", errors.clone()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spec.toml");
    std::fs::write(&path, "name = 'a..b'\n").unwrap();
    let ran = fake.vmmctl(&["create", "-f", path.to_str().unwrap()]);
    assert_eq!(ran.code, 5);
    assert_eq!(
        ran.err,
        "vmmctl: The specification has 2 mistakes.\n  name: must not hold '..'\n  \
         disks[0].path: is not absolute: \\x1b[2J\n  → correct these and try again; nothing was \
         changed\n"
    );
    std::fs::write(&path, "name = 'a'\nvcpus = = 2\n").unwrap();
    let ran = fake.vmmctl(&["create", "-f", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("spec.toml:2:9: "), "{}", ran.err);
    assert_eq!(fake.lines().len(), 1);
}

#[test]
fn start_waits_until_the_operation_has_ended() {
    let fake = Fake::new(|asked| {
        let state = if asked.line.starts_with("POST") { "running" } else { "succeeded" };
        (if state == "running" { 202 } else { 200 }, "application/json", {
            operation("start", state).to_string()
        })
    });
    let ran = fake.vmmctl(&["start", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "web started in 2.0 s\n"), "{}", ran.err);
    assert_eq!(
        fake.lines(),
        ["POST /vms/web/start", "GET /operations/0193f1c2-0000-7000-8000-0000000000aa?wait_s=20"]
    );
    let ran = fake.vmmctl(&["start", "--no-wait", "web", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["state"], "running");
    assert_eq!(fake.lines().len(), 3);
}

#[test]
fn an_operation_that_fails_is_1_and_the_others_are_done() {
    let fake = Fake::new(|asked| {
        if asked.line.contains("/vms/gone/") {
            return problem(404, "There is no VM \"gone\".", json!([]));
        }
        let state = if asked.line.contains("/vms/bad/") { "failed" } else { "succeeded" };
        (202, "application/json", operation("start", state).to_string())
    });
    let ran = fake.vmmctl(&["start", "good", "bad"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "good started in 2.0 s\n"));
    assert!(ran.err.starts_with("vmmctl: bad was not started: the kernel is not there\n"));
    let ran = fake.vmmctl(&["start", "gone", "good"]);
    assert_eq!((ran.code, ran.out.as_str()), (4, "good started in 2.0 s\n"));
}

#[test]
fn stop_all_stops_what_runs_and_minds_nothing_that_went_by_itself() {
    let fake = Fake::new(|asked| {
        let in_state = |name: &str, state: &str| {
            let mut vm = vm(name);
            vm["state"] = state.into();
            if state == "stopped" {
                vm["pid"] = Value::Null;
            }
            vm
        };
        match asked.line.as_str() {
            "GET /vms" => ok(page(&[
                in_state("down", "stopped"),
                in_state("gone", "running"),
                in_state("web", "paused"),
            ])),
            "POST /vms/gone/stop" => problem(409, "It does not run.", json!([])),
            "GET /vms/gone" => ok(in_state("gone", "stopped")),
            _ => (202, "application/json", operation("stop", "succeeded").to_string()),
        }
    });
    let ran = fake.vmmctl(&["stop", "--all", "--force-after", "5"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "web stopped in 2.0 s\n"), "{}", ran.err);
    assert_eq!(ran.err, "Stopping 2 VMs: gone, web\n");
    assert_eq!(fake.vmmctl(&["stop", "--all", "web"]).code, 2);
    assert_eq!(fake.vmmctl(&["stop"]).code, 2);
}

#[test]
fn set_sends_what_changes() {
    let fake = Fake::new(|asked| {
        if asked.line == "PATCH /vms/nope" {
            return problem(404, "There is no VM \"nope\".", json!([]));
        }
        let mut vm = vm("web");
        vm["spec"]["autostart"] = true.into();
        ok(vm)
    });
    let ran = fake.vmmctl(&["set", "web", "--autostart", "on"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "web autostart on\n"), "{}", ran.err);
    assert_eq!(fake.asked()[0].line, "PATCH /vms/web");
    assert_eq!(fake.asked()[0].body, r#"{"autostart":true}"#);
    assert_eq!(fake.vmmctl(&["set", "nope", "web", "--autostart", "off"]).code, 4);
    assert_eq!(fake.lines().len(), 3);
    assert_eq!(fake.vmmctl(&["set", "web"]).code, 2);
}

#[test]
fn stop_and_restart_send_what_was_asked() {
    let fake = Fake::new(|_| (202, "application/json", operation("stop", "succeeded").to_string()));
    assert_eq!(fake.vmmctl(&["stop", "web", "--force-after", "5"]).code, 0);
    assert_eq!(fake.vmmctl(&["restart", "web", "--cold"]).code, 0);
    let asked = fake.asked();
    assert_eq!(asked[0].line, "POST /vms/web/stop");
    assert_eq!(asked[0].body, r#"{"force_after_s":5}"#);
    assert_eq!(asked[1].body, r#"{"cold":true}"#);
}

#[test]
fn a_deleted_vm_takes_its_operation_with_it() {
    let fake = Fake::new(|asked| {
        if asked.line.starts_with("DELETE") {
            return (202, "application/json", operation("delete", "running").to_string());
        }
        problem(404, "It is not there.", json!([]))
    });
    let ran = fake.vmmctl(&["delete", "web", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("web deleted"), "{}", ran.out);
}

#[test]
fn a_name_can_be_no_other_path() {
    let fake = Fake::new(|_| problem(404, "It is not there.", json!([])));
    fake.vmmctl(&["info", "../health?x=1#"]);
    assert_eq!(fake.lines(), ["GET /vms/..%2Fhealth%3Fx%3D1%23"]);
}

#[test]
fn what_a_guest_says_cannot_act_on_the_terminal() {
    let fake = Fake::new(|asked| {
        if asked.line.ends_with("/guest") {
            return ok(json!({
                "agent": "connected", "age_s": 0.1, "agent_version": "x\u{7}",
                "facts": {"os": {"hostname": "h\u{1b}]0;owned\u{7}\u{202e}", "pretty_name": "\u{9b}31m"}},
                "boot": [], "dropped": {},
            }));
        }
        ok(vm("web"))
    });
    let ran = fake.vmmctl(&["guest", "web"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("h\\x1b]0;owned\\x07\\u{202e}"), "{}", ran.out);
    assert!(!ran.out.chars().any(|c| c.is_control() && c != '\n'), "{:?}", ran.out);
    let ran = fake.vmmctl(&["guest", "web", "-o", "json"]);
    assert!(!ran.out.chars().any(|c| c.is_control() && c != '\n'), "{:?}", ran.out);
    let guest: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(guest["facts"]["os"]["pretty_name"], "\u{9b}31m");
}

#[test]
fn the_channel_of_a_guest_is_a_page_and_a_document() {
    let fake = Fake::new(|asked| {
        if asked.line.ends_with("/guest") {
            return ok(json!({
                "agent": "connected", "age_s": 0.1, "facts": {"os": {"hostname": "h"}}, "boot": [],
                "dropped": {"too_wide": 7},
                "channel": {"received_messages": 12, "pauses": {"hellos": 3}, "paused_s": 2.5},
            }));
        }
        ok(vm("web"))
    });
    let ran = fake.vmmctl(&["guest", "web", "--channel"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("0 B in 12 messages"), "{}", ran.out);
    assert!(ran.out.contains("2.5 s in all, 3 times"), "{}", ran.out);
    let ran = fake.vmmctl(&["guest", "web", "--channel", "-o", "json"]);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&told["dropped"]["too_wide"], &told["channel"]["pauses"]["hellos"]),
        (&json!(7), &json!(3))
    );
    assert_eq!(told.as_object().unwrap().len(), 2, "{told}");
}

#[test]
fn a_piped_log_is_raw_and_has_as_many_lines_as_asked() {
    let fake = Fake::new(|asked| {
        let whole = format!("{}\u{1b}[32mlast\u{1b}[0m\r\n", "a line of it\n".repeat(50));
        let tail = asked.line.split_once("tail_bytes=").map(|(_, bytes)| bytes.parse().unwrap());
        let start = whole.len().saturating_sub(tail.unwrap_or(whole.len()));
        (200, "application/octet-stream", whole[start..].to_owned())
    });
    let ran = fake.vmmctl(&["log", "web", "-n", "2"]);
    assert_eq!(ran.out, "a line of it\n\u{1b}[32mlast\u{1b}[0m\r\n", "{}", ran.err);
    assert_eq!(fake.vmmctl(&["log", "web"]).out.lines().count(), 51);
}

#[test]
fn events_come_back_after_a_lost_connection() {
    let fake = Fake::new(|asked| {
        if asked.line.starts_with("GET /vms?") || asked.line == "GET /vms" {
            return ok(page(&[vm("web")]));
        }
        match asked.last_event_id.as_deref() {
            None => {
                let event = json!({
                    "vm": "0193f1c2-0000-7000-8000-000000000001", "at": "2026-01-01T00:00:07Z",
                    "kind": "state", "from": "starting", "to": "running",
                });
                let missed = json!({"at": "2026-01-01T00:00:08Z", "kind": "missed", "count": 3});
                let stream = format!(
                    ": hello\n\nid: e-1\nevent: state\ndata: {event}\n\n\
                     id: e-5\nevent: missed\ndata: {missed}\n\nid: e-6\ndata: {{\"half"
                );
                (200, "text/event-stream", stream)
            }
            Some(_) => problem(403, "No longer.", json!([])),
        }
    });
    let ran = fake.vmmctl(&["events"]);
    assert_eq!(ran.code, 5);
    assert_eq!(
        ran.out,
        "2026-01-01 00:00:07  web               state      starting → running\n\
         2026-01-01 00:00:08  –                 missed     3 events lie before the next one\n"
    );
    assert!(ran.err.contains("trying again"), "{}", ran.err);
    assert_eq!(fake.asked().last().unwrap().last_event_id.as_deref(), Some("e-5"));
    let ran = fake.vmmctl(&["events", "-o", "json"]);
    let first: Value = serde_json::from_str(ran.out.lines().next().unwrap()).unwrap();
    assert_eq!((&first["id"], &first["kind"]), (&json!("e-1"), &json!("state")));
}

#[test]
fn watch_without_a_terminal_prints_one_table() {
    let fake = Fake::new(|asked| match asked.line.as_str() {
        "GET /vms?limit=1000" => ok(page(&[vm("web")])),
        "GET /vms/web" => ok(vm("web")),
        _ => ok(
            json!({"agent": "connected", "age_s": 2.0, "facts": {"cpu": {"usage_percent": 12.5}},
            "boot": [], "dropped": {}}),
        ),
    });
    let ran = fake.vmmctl(&["watch", "web"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    assert!(ran.out.contains("12.5"), "{}", ran.out);
    let ran = fake.vmmctl(&["watch", "--count", "2", "--interval", "1"]);
    assert_eq!(ran.out.lines().count(), 5, "{}", ran.out);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let fake = Fake::new(|_| ok(page(&vec![vm("web"); 4000])));
    let mut child = command(&fake.socket())
        .args(["list", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn completions_and_manual_are_made_of_the_command_line() {
    let fake = Fake::new(|_| ok(json!({})));
    assert!(fake.vmmctl(&["completions", "bash"]).out.contains("--force-after"));
    assert!(fake.vmmctl(&["man"]).out.contains(".TH vmmctl"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(fake.vmmctl(&["man", folder.path().to_str().unwrap()]).code, 0);
    assert!(folder.path().join("vmmctl-watch.1").is_file());
}
