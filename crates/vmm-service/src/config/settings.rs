//! Single settings, from wherever they were set, and what is wrong with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Settings that flags override.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The configuration file [default: /etc/formation/vmm/default.conf, which
    /// may be absent]; VMM_CONFIG_PATH does the same
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or directives by module
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The port of the TCP door on the loopback; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<String>,
    /// The unix socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// Where the state is kept, as sqlite:///PATH
    #[arg(long, value_name = "URL")]
    pub state_url: Option<String>,
}

impl Flags {
    fn settings(&self) -> [(&'static str, &'static str, Option<&String>); 4] {
        [
            ("--log-level", "log.level", self.log_level.as_ref()),
            ("--api-port", "api.port", self.api_port.as_ref()),
            ("--socket", "api.socket", self.socket.as_ref()),
            ("--state-url", "state.url", self.state_url.as_ref()),
        ]
    }
}

/// Something wrong in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {detail}")]
pub struct Mistake {
    /// Where: the key and the file, the variable or the flag; and the value.
    pub place: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// Every setting by its key, such as `api.port`. Each is read once; what was
/// not read is unknown.
pub struct Settings {
    file: PathBuf,
    values: BTreeMap<String, Setting>,
    read: BTreeMap<String, Setting>,
    mistakes: Vec<Mistake>,
}

#[derive(Clone)]
struct Setting {
    value: Value,
    /// The variable or the flag; `None` for the file.
    name: Option<&'static str>,
}

impl Settings {
    /// Gathers the file's settings, what the environment overrides of them, and
    /// what the flags override of both.
    pub fn gather(
        path: &Path,
        text: &str,
        flags: &Flags,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let mut settings = Self {
            file: path.to_owned(),
            values: BTreeMap::new(),
            read: BTreeMap::new(),
            mistakes: Vec::new(),
        };
        match text.parse::<Table>() {
            Ok(table) => settings.add_table("", table),
            Err(error) => settings.mistakes.push(Mistake {
                place: path.display().to_string(),
                detail: format!("it is not TOML: {error}").trim_end().to_owned(),
            }),
        }
        for (name, key) in super::variables() {
            // An empty variable is how a shell or a unit file says "not set".
            if let Some(text) = variable(name).filter(|text| !text.is_empty()) {
                settings.set(key, name, text);
            }
        }
        for (name, key, text) in flags.settings() {
            if let Some(text) = text {
                settings.set(key, name, text.clone());
            }
        }
        settings
    }

    /// Notes what is wrong with a setting that was read.
    pub fn wrong(&mut self, key: &str, detail: &str) {
        let place = match self.read.get(key) {
            Some(Setting { value, name: Some(name) }) => format!("{name}={value}"),
            Some(Setting { value, name: None }) => {
                format!("{key} = {value} in {}", self.file.display())
            }
            None => key.to_owned(),
        };
        self.mistakes.push(Mistake { place, detail: detail.to_owned() });
    }

    /// A string.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)?.value {
            Value::String(text) => Some(text),
            _ => {
                self.wrong(key, "write a string, in quotes");
                None
            }
        }
    }

    /// An absolute path.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        let path = PathBuf::from(&text);
        if !path.is_absolute() || text.contains(char::is_control) {
            self.wrong(key, "write an absolute path, one that begins with /");
        }
        Some(path)
    }

    /// An integer within a range. Variables and flags are strings that hold
    /// one.
    pub fn integer(&mut self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let setting = self.take(key)?;
        let number = match &setting.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) if setting.name.is_some() => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = range.into_inner();
            self.wrong(key, &format!("write an integer from {least} to {most}"));
        }
        number
    }

    /// A list of strings. A variable or a flag separates them by commas.
    pub fn list(&mut self, key: &str) -> Option<Vec<String>> {
        let setting = self.take(key)?;
        let items = match setting.value {
            Value::String(text) if setting.name.is_some() => {
                Some(text.split(',').map(|item| item.trim().to_owned()).collect())
            }
            Value::Array(items) => {
                items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        if items.is_none() {
            self.wrong(key, "write a list of strings, as in [\"host:2379\"]");
        }
        items
    }

    /// A whole section, which its owner reads.
    pub fn section(&mut self, name: &str) -> Table {
        let prefix = format!("{name}.");
        let keys: Vec<String> =
            self.values.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        let mut table = Table::new();
        for key in keys {
            if let Some(setting) = self.take(&key) {
                table.insert(key[prefix.len()..].to_owned(), setting.value);
            }
        }
        table
    }

    /// Everything that is wrong, with what nobody read.
    pub fn finish(mut self) -> Vec<Mistake> {
        for key in std::mem::take(&mut self.values).into_keys() {
            let place = format!("{key} in {}", self.file.display());
            self.mistakes.push(Mistake { place, detail: "there is no such setting".to_owned() });
        }
        self.mistakes
    }

    fn take(&mut self, key: &str) -> Option<Setting> {
        let setting = self.values.remove(key)?;
        self.read.insert(key.to_owned(), setting.clone());
        Some(setting)
    }

    fn set(&mut self, key: &str, name: &'static str, text: String) {
        let setting = Setting { value: Value::String(text), name: Some(name) };
        self.values.insert(key.to_owned(), setting);
    }

    /// Sections may nest only one deep, so a table within one is unknown as a
    /// whole and reported as such.
    fn add_table(&mut self, section: &str, table: Table) {
        for (key, value) in table {
            match value {
                Value::Table(table) if section.is_empty() => self.add_table(&key, table),
                value => {
                    let key = if section.is_empty() { key } else { format!("{section}.{key}") };
                    self.values.insert(key, Setting { value, name: None });
                }
            }
        }
    }
}
