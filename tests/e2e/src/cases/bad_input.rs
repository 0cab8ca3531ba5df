//! What is wrong with a specification is said at once, all of it, and nothing
//! of it stays.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vmm_api::client::{Client, Error, ListQuery};
use vmm_api::problem::Problem;

use crate::scene::{BLINK, Scene};
use crate::small_file_system::SmallFileSystem;

/// Each wrong field is refused by its name.
pub async fn names_the_wrong_field(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let good = serde_json::to_value(scene.spec("web"))?;
    let host_mib = host_memory_mib()?;
    let wrong = [
        ("name", json!("../../etc/passwd")),
        ("name", json!("a..b/c")),
        ("name", json!("web,server=on")),
        ("name", json!("web\nroot")),
        ("name", json!("2f1c9a2e-8c1d-4b3a-9f00-0123456789ab")),
        ("name", json!("")),
        ("name", json!("x".repeat(64))),
        ("kernel", json!("/nonexistent/vmlinuz")),
        ("kernel", json!("relative/vmlinuz")),
        ("memory_mib", json!(host_mib * 2)),
        ("memory_mib", json!(0)),
        ("memory_mib", json!("much")),
        ("vcpus", json!(0)),
        ("vcpus", json!(100_000)),
        ("vcpsu", json!(2)),
    ];
    for (field, value) in wrong {
        let mut spec = good.clone();
        spec[field] = value.clone();
        let problem = refusal(&client, &spec).await?;
        ensure!(
            problem.errors.iter().any(|error| error.field == field),
            "{field} = {value}: {problem:?}"
        );
    }
    ensure!(client.list(&ListQuery::default()).await?.vms.is_empty(), "something was created");
    Ok(())
}

/// Every wrong field is in one answer, and in vmmctl's.
pub async fn names_all_wrong_fields_at_once(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let spec = json!({
        "name": "Web,Server", "vcpus": 0, "memory_mib": "much", "kernel": "/nonexistent/vmlinuz",
        "disks": [{"path": "relative.img", "format": "vmdk"}], "nics": [{"network": "bridge"}],
        "colour": "red",
    });
    let wanted =
        ["name", "vcpus", "memory_mib", "kernel", "disks[0].path", "disks[0].format", "colour"];
    let problem = refusal(&client, &spec).await?;
    let named: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    for field in wanted {
        ensure!(named.contains(&field), "{field} is not among {named:?}");
    }

    let file = scene.folder().join("spec.toml");
    std::fs::write(&file, "name = \"Web,Server\"\nvcpus = 0\nmemory_mib = 64\ncolour = \"red\"\n")?;
    let output = scene.vmmctl(&["create", "-f", file.to_str().context("a plain path")?]).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(5), "{}: {said}", output.status);
    for field in ["name", "vcpus", "colour"] {
        ensure!(said.contains(field), "{field} is not in: {said}");
    }
    Ok(())
}

/// Two VMs of one name cannot be, and the first is unharmed.
pub async fn refuses_the_same_name_twice(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let first = client.create(&scene.spec("web")).await?;
    let error = client.create(&scene.spec("web")).await.err().context("a second web was made")?;
    ensure!(error.status() == Some(409), "{error}");
    ensure!(client.vm("web").await?.id == first.id, "the first was replaced");
    Ok(())
}

/// A start that cannot boot anything says what is missing.
pub async fn refuses_to_start_what_cannot_boot(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    let mut spec = scene.spec("empty");
    (spec.kernel, spec.initrd, spec.cmdline) = (None, None, None);
    client.create(&spec).await?;
    let said = match client.start("empty").await {
        Err(error) => error.to_string(),
        Ok(operation) => {
            let ended = client.wait(operation, BLINK).await?;
            ended.error.context("a VM without anything to boot was started")?
        }
    };
    ensure!(said.contains("kernel") && said.contains("disk"), "it does not say what: {said}");
    Ok(())
}

/// A full disk: the change is refused, not half-done, and the daemon goes on
/// when there is room again.
pub async fn survives_a_full_disk(scene: Scene) -> Result<()> {
    let small = SmallFileSystem::mount(scene.folder().join("full"), 512)?;
    let url = format!("sqlite://{}", small.path().join("state.db").display());
    let mut settings = scene.settings();
    settings.environment.push(("VMM_STATE_URL".into(), url.into()));
    let client = scene.start_daemon_with(settings.clone()).await?;
    client.create(&scene.spec("before")).await?;
    let ballast = small.fill()?;

    let mut refused = None;
    for n in 0..200 {
        if let Err(error) = client.create(&scene.spec(&format!("vm{n}"))).await {
            refused = Some((n, error));
            break;
        }
    }
    let (made, error) = refused.context("200 VMs fit on a full disk")?;
    ensure!(error.status().is_some_and(|status| status >= 500), "{error}");
    let listed = client.list_all(&ListQuery::default()).await?.len();
    ensure!(listed == made + 1, "{made} + 1 VMs were acknowledged, {listed} are there");

    std::fs::remove_file(ballast)?;
    client.create(&scene.spec("after")).await.context("there is room again")?;
    scene.kill_daemon()?;
    let client = scene.start_daemon_with(settings).await?;
    let listed = client.list_all(&ListQuery::default()).await?.len();
    ensure!(listed == made + 2, "{listed} VMs came back, not {}", made + 2);
    Ok(())
}

async fn refusal(client: &Client, spec: &Value) -> Result<Problem> {
    match client.create(spec).await {
        Err(Error::Problem(problem)) if problem.status == 422 => Ok(*problem),
        Err(error) => Err(error).with_context(|| format!("{spec} was not refused as it should be")),
        Ok(vm) => anyhow::bail!("{spec} became {}", vm.id),
    }
}

fn host_memory_mib() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 =
        line.and_then(|line| line.split_whitespace().next()).context("MemTotal")?.parse()?;
    Ok(kib / 1024)
}
