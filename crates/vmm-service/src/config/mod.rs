//! The configuration: a TOML file, overridden by the environment, overridden by
//! flags. Every mistake is told at once, with its key and its value.

mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::hypervisor::qemu::config::QemuConfig;
use settings::Settings;
pub use settings::{Flags, Mistake};

/// Where the file lies when nobody names another. It may be absent there.
pub const DEFAULT_PATH: &str = "/etc/formation/vmm/default.conf";

/// The TCP door's default port.
const DEFAULT_PORT: u16 = 3003;

/// Where `vmmctl` looks, too.
const DEFAULT_SOCKET: &str = "/run/infinibay/vmm.sock";

/// Outlives a boot of the host.
const DEFAULT_STATE_URL: &str = "sqlite:///var/lib/infinibay/state.db";

/// How long WAIT_FOR waits in all: a host's other services are up by then, and
/// an init system gives up on a start after 90 s.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The longest path of the unix socket: `sun_path` is 108 bytes with its NUL,
/// and the socket is made under a name beside it that is a little longer.
const LONGEST_SOCKET_PATH: usize = 100;

/// What the daemon is told about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is logged and how.
    pub log: Log,
    /// The doors.
    pub api: Api,
    /// Where the state is kept.
    pub state: StateUrl,
    /// The kernel of VMs that name nothing to boot from.
    pub kernel: Option<PathBuf>,
    /// The folder of published images.
    pub images_dir: Option<PathBuf>,
    /// What has to answer on TCP before the daemon starts.
    pub wait_for: WaitFor,
    /// How machines are run.
    pub qemu: QemuConfig,
    /// The folder of machines that are only claimed to run, in QEMU's place.
    #[cfg(feature = "simulated")]
    pub simulated: Option<PathBuf>,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives by module, as in `info,vmm_service::guest=debug`.
    pub level: String,
    /// Text for people or JSON for collectors.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The doors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The TCP door on the host's loopback; 0 takes any free port.
    pub port: u16,
    /// The unix socket.
    pub socket: PathBuf,
}

/// Where the state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateUrl {
    /// In this file.
    Sqlite(PathBuf),
    /// Nowhere: it is forgotten with the process.
    Memory,
}

/// What has to answer before the daemon starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitFor {
    /// As `host:port`.
    pub peers: Vec<String>,
    /// For how long, in all.
    pub limit: Duration,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Mistakes(pub Vec<Mistake>);

/// Reads the configuration from where flags, environment and defaults say.
/// `variable` looks a variable of the environment up.
///
/// # Errors
///
/// [`Mistakes`]: all of them.
pub fn load(flags: &Flags, variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, Mistakes> {
    let by_variable = || variable("VMM_CONFIG_PATH").filter(|path| !path.is_empty());
    let named = flags.config.clone().or_else(|| by_variable().map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| DEFAULT_PATH.into());
    let error = match std::fs::read_to_string(&path) {
        Ok(text) => return parse(&path, &text, flags, variable),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            return parse(&path, "", flags, variable);
        }
        Err(error) => error,
    };
    let detail = format!("it could not be read: {error}");
    let mut mistakes = vec![Mistake { place: path.display().to_string(), detail }];
    // What the environment and the flags say is wrong or right without it.
    if let Err(Mistakes(others)) = parse(&path, "", flags, variable) {
        mistakes.extend(others);
    }
    Err(Mistakes(mistakes))
}

/// Reads the configuration from the file's text, the environment and flags.
///
/// # Errors
///
/// [`Mistakes`]: all of them.
pub fn parse(
    path: &Path,
    text: &str,
    flags: &Flags,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Mistakes> {
    let mut settings = Settings::gather(path, text, flags, variable);
    let config = Config {
        log: log(&mut settings),
        api: api(&mut settings),
        state: state(&mut settings),
        kernel: settings.path("vm.kernel"),
        images_dir: settings.path("images.dir"),
        wait_for: wait_for(&mut settings),
        qemu: qemu(&mut settings),
        #[cfg(feature = "simulated")]
        simulated: settings.path("simulated.dir"),
    };
    let mistakes = settings.finish();
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
}

fn log(settings: &mut Settings) -> Log {
    let level = settings.text("log.level").unwrap_or_else(|| "info".to_owned());
    if let Some(why) = wrong_filter(&level) {
        let right = "write error, warn, info, debug or trace, or directives by module, as in \
                     info,vmm_service::guest=debug";
        settings.wrong("log.level", &format!("{right}: {why}"));
    }
    let format = match settings.text("log.format").as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(_) => {
            settings.wrong("log.format", "write text or json");
            LogFormat::Text
        }
    };
    Log { level, format }
}

/// What is wrong with a filter for the log. The filter's own reader takes every
/// word that is no level for the name of a module, of which it then logs all and
/// nothing else: a slip of the pen would silence the log.
fn wrong_filter(filter: &str) -> Option<String> {
    let words = filter.split(',').filter(|word| !word.contains(['=', '[']));
    for word in words {
        if word.trim().parse::<LevelFilter>().is_err() {
            return Some(format!("{word:?} is no level"));
        }
    }
    EnvFilter::builder().parse(filter).err().map(|error| error.to_string())
}

fn api(settings: &mut Settings) -> Api {
    let port = settings.integer("api.port", 0..=u16::MAX.into()).map_or(DEFAULT_PORT, |port| {
        u16::try_from(port).expect("it was checked against the largest port")
    });
    let socket = settings.path("api.socket").unwrap_or_else(|| DEFAULT_SOCKET.into());
    if socket.as_os_str().len() > LONGEST_SOCKET_PATH {
        settings.wrong(
            "api.socket",
            &format!("a unix socket's path has at most {LONGEST_SOCKET_PATH} bytes"),
        );
    }
    Api { port, socket }
}

fn state(settings: &mut Settings) -> StateUrl {
    let url = settings.text("state.url").unwrap_or_else(|| DEFAULT_STATE_URL.to_owned());
    let path = match url.split_once("://") {
        Some(("memory", "")) => return StateUrl::Memory,
        Some(("sqlite", path)) if path.starts_with('/') && !path.ends_with('/') => path,
        Some(("sqlite", _)) => {
            settings.wrong(
                "state.url",
                "the path must be absolute and name a file: write sqlite:///var/lib/infinibay/state.db",
            );
            ""
        }
        Some(("etcd", _)) => {
            settings.wrong("state.url", "etcd is not supported yet: write sqlite:///PATH");
            ""
        }
        Some(("http" | "https", _)) => {
            settings.wrong(
                "state.url",
                "there is no state service any more: the daemon keeps its state in a file. Write \
                 sqlite:///var/lib/infinibay/state.db, or leave the setting out",
            );
            ""
        }
        _ => {
            settings.wrong("state.url", "it is no such URL: write sqlite:///PATH");
            ""
        }
    };
    StateUrl::Sqlite(path.into())
}

fn wait_for(settings: &mut Settings) -> WaitFor {
    let peers = settings.list("wait_for.peers").unwrap_or_default();
    for peer in &peers {
        let port = peer.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
            settings.wrong("wait_for.peers", &format!("{peer:?} is not of the form host:port"));
        }
    }
    let limit = settings.integer("wait_for.limit_s", 1..=3600).map(Duration::from_secs);
    WaitFor { peers, limit: limit.unwrap_or(DEFAULT_WAIT) }
}

/// The section's owner reads it, and says what is wrong with it.
fn qemu(settings: &mut Settings) -> QemuConfig {
    let mut section = settings.section("qemu");
    // Each key by itself, for a table's reader stops at the first mistake.
    section.retain(|key, value| {
        let alone = toml::Table::from_iter([(key.to_owned(), value.clone())]);
        let read = alone.try_into::<QemuConfig>();
        if let Err(error) = &read {
            settings.wrong(&format!("qemu.{key}"), error.message());
        }
        read.is_ok()
    });
    let config: QemuConfig = section.try_into().expect("each of its keys was read by itself");
    for mistake in config.mistakes() {
        settings.wrong(&format!("qemu.{}", mistake.key), &mistake.detail);
    }
    config
}

/// The variables of the environment and the settings that each one overrides.
fn variables() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("VMM_LOG_LEVEL", "log.level"),
        ("VMM_API_PORT", "api.port"),
        ("VMM_SOCKET", "api.socket"),
        ("VMM_STATE_URL", "state.url"),
        ("VMM_KERNEL_PATH", "vm.kernel"),
        ("VMM_VM_DIR", "qemu.vm_dir"),
        ("VMM_IMAGES_DIR", "images.dir"),
        ("WAIT_FOR", "wait_for.peers"),
        #[cfg(feature = "simulated")]
        ("VMM_SIMULATED", "simulated.dir"),
    ])
}
