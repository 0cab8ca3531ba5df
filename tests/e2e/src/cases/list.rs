//! A list goes through pages, filters and orders, as an operator asks for it.

use anyhow::{Result, ensure};
use vmm_api::client::ListQuery;
use vmm_api::list::{Filter, Sort, SortKey};

use crate::scene::{Scene, succeeded};

/// Pages of a list give each VM once while others come and go; vmmctl shows
/// what was asked for and says when it shows less.
pub async fn goes_through_pages_filters_and_orders(scene: Scene) -> Result<()> {
    let client = scene.start_daemon().await?;
    for number in 0..7_u64 {
        let mut spec = scene.spec(&format!("web-{number}"));
        spec.memory_mib += 7 - number;
        let tier = if number % 2 == 0 { "even" } else { "odd" };
        spec.labels.insert("tier".to_owned(), tier.to_owned());
        client.create(&spec).await?;
    }
    let query = ListQuery {
        sort: Sort { key: SortKey::StateChangedAt, descending: true },
        limit: Some(2),
        ..ListQuery::default()
    };
    let mut pages = client.pages(query);
    let mut names = Vec::new();
    while let Some(page) = pages.next().await? {
        names.extend(page.vms.into_iter().map(|vm| vm.spec.name));
        if names.len() == 2 {
            client.create(&scene.spec("aaa")).await?;
            succeeded(&client, client.delete("web-0").await?).await?;
        }
    }
    ensure!(names == ["web-6", "web-5", "web-4", "web-3", "web-2", "web-1"], "{names:?}");
    let filter = Filter { name: Some("*-?".to_owned()), ..Filter::default() };
    let listed = client.list(&ListQuery { filter, ..ListQuery::default() }).await?;
    ensure!((listed.total, listed.matched) == (7, 6), "{} {}", listed.total, listed.matched);

    let odd = ["list", "--label", "tier=odd", "--sort", "memory_mib", "-o", "name"];
    let run = scene.vmmctl(&odd).await?;
    let (out, err) = (String::from_utf8(run.stdout)?, String::from_utf8(run.stderr)?);
    ensure!(run.status.success() && out == "web-5\nweb-3\nweb-1\n" && err.is_empty(), "{out}{err}");
    let cut = scene.vmmctl(&["list", "--state", "created,failed", "--limit", "2"]).await?;
    let (out, err) = (String::from_utf8(cut.stdout)?, String::from_utf8(cut.stderr)?);
    ensure!(cut.status.success() && out.lines().count() == 3, "{out}");
    ensure!(err.starts_with("showing 2 of 7 VMs: "), "{err}");
    let wrong = scene.vmmctl(&["list", "--sort", "size"]).await?;
    ensure!(wrong.status.code() == Some(2), "{wrong:?}");
    Ok(())
}
