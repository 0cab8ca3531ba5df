//! Reads the fields of a JSON object one by one and notes everything that is
//! wrong with them. Apart from `spec.rs` because it knows no VM.

use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path};

use serde_json::{Map, Value};
use vmm_api::problem::FieldError;

/// The longest path that Linux takes, less the final NUL.
const LONGEST_PATH: usize = 4095;

/// One object's fields. Each is read once; what was not read is unknown.
pub struct Fields<'a> {
    place: String,
    object: &'a Map<String, Value>,
    read: Vec<&'static str>,
    errors: &'a mut Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// The fields of `object`, which lies at `place` in the input.
    pub fn new(
        place: &str,
        object: &'a Map<String, Value>,
        errors: &'a mut Vec<FieldError>,
    ) -> Self {
        Self { place: place.to_owned(), object, read: Vec::new(), errors }
    }

    /// Notes what is wrong with a field.
    pub fn wrong(&mut self, field: &str, detail: String) {
        let field = self.place_of(field);
        self.errors.push(FieldError { field, detail });
    }

    /// Whether the field is there.
    pub fn has(&self, field: &str) -> bool {
        self.object.contains_key(field)
    }

    /// A string, if there is one.
    pub fn text(&mut self, field: &'static str) -> Option<String> {
        match self.take(field)? {
            Value::String(text) => Some(text.clone()),
            other => {
                let found = kind(other);
                self.wrong(field, format!("it must be a string, not {found}"));
                None
            }
        }
    }

    /// A string that must be there.
    pub fn required_text(&mut self, field: &'static str) -> Option<String> {
        if !self.has(field) {
            self.read.push(field);
            self.wrong(field, "it is missing".to_owned());
            return None;
        }
        self.text(field)
    }

    /// One of a few words, which must be there.
    pub fn word(&mut self, field: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.required_text(field)?;
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            self.wrong(field, format!("it must be one of: {}", words.join(", ")));
        }
        found
    }

    /// An integer that must be there and within the range; otherwise the least
    /// of the range. `because` explains the upper end.
    pub fn integer(
        &mut self,
        field: &'static str,
        range: std::ops::RangeInclusive<u64>,
        because: impl Fn() -> String,
    ) -> u64 {
        let (least, most) = (*range.start(), *range.end());
        let Some(value) = self.take(field) else {
            self.wrong(field, format!("it is missing: an integer from {least} to {most}"));
            return least;
        };
        match value.as_u64() {
            Some(number) if range.contains(&number) => number,
            _ => {
                let found = if value.is_number() { value.to_string() } else { kind(value).into() };
                let because = because();
                let detail =
                    format!("it must be an integer from {least} to {most}, not {found}: {because}");
                self.wrong(field, detail);
                least
            }
        }
    }

    /// An integer within the range, if there is one.
    pub fn optional_integer(
        &mut self,
        field: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        if !self.has(field) {
            self.read.push(field);
            return None;
        }
        Some(self.integer(field, range, || "leave it out for the default".to_owned()))
    }

    /// A boolean; false when it is not there.
    pub fn flag(&mut self, field: &'static str) -> bool {
        match self.take(field) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                let found = kind(other);
                self.wrong(field, format!("it must be true or false, not {found}"));
                false
            }
        }
    }

    /// An object, if there is one.
    pub fn object(&mut self, field: &'static str) -> Option<Map<String, Value>> {
        match self.take(field)? {
            Value::Object(object) => Some(object.clone()),
            other => {
                let found = kind(other);
                self.wrong(field, format!("it must be an object, not {found}"));
                None
            }
        }
    }

    /// An array of at most so many objects, each read by `read`; unknown fields
    /// within are noted too.
    pub fn objects<T>(
        &mut self,
        field: &'static str,
        most: usize,
        mut read: impl FnMut(&mut Fields<'_>) -> T,
    ) -> Vec<T> {
        let items = match self.take(field) {
            None => return Vec::new(),
            Some(Value::Array(items)) if items.len() <= most => items,
            Some(Value::Array(items)) => {
                let found = items.len();
                self.wrong(field, format!("there are {found}, and at most {most} are possible"));
                return Vec::new();
            }
            Some(other) => {
                let found = kind(other);
                self.wrong(field, format!("it must be an array of objects, not {found}"));
                return Vec::new();
            }
        };
        let mut all = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let place = self.place_of(&format!("{field}[{index}]"));
            let Value::Object(object) = item else {
                let detail = format!("it must be an object, not {}", kind(item));
                self.errors.push(FieldError { field: place, detail });
                continue;
            };
            let mut fields = Fields::new(&place, object, self.errors);
            all.push(read(&mut fields));
            fields.refuse_the_rest();
        }
        all
    }

    /// Notes every field that nobody read.
    pub fn refuse_the_rest(mut self) {
        let object = self.object;
        for field in object
            .keys()
            .filter(|key| !self.read.contains(&key.as_str()))
            .cloned()
            .collect::<Vec<_>>()
        {
            let known = self.read.join(", ");
            let plain = field.len() <= 64 && !field.contains(char::is_control);
            let shown = if plain {
                field
            } else {
                format!("{:?}", field.chars().take(64).collect::<String>())
            };
            self.wrong(&shown, format!("there is no such field; the fields are: {known}"));
        }
    }

    fn take(&mut self, field: &'static str) -> Option<&'a Value> {
        self.read.push(field);
        self.object.get(field)
    }

    fn place_of(&self, field: &str) -> String {
        if self.place.is_empty() { field.to_owned() } else { format!("{}.{field}", self.place) }
    }
}

/// A file on the host, which must be there. `what` names it in the error.
pub fn path(fields: &mut Fields<'_>, field: &'static str, what: &str) -> Option<String> {
    let text = fields.text(field)?;
    if let Err(why) = check_path(&text, what) {
        fields.wrong(field, why);
    }
    Some(text)
}

fn check_path(text: &str, what: &str) -> Result<(), String> {
    if text.contains(char::is_control) {
        return Err("it holds a control character, such as a newline or NUL".to_owned());
    }
    if text.len() > LONGEST_PATH {
        return Err(format!("it is longer than {LONGEST_PATH} bytes"));
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("{text:?} is not absolute: write the path of {what} from /"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{text:?} holds '..': write the path without"));
    }
    let found = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("there is no file {text:?} on the host; put {what} there or name another")
        }
        _ => format!("{text:?} could not be looked at: {error}"),
    })?;
    if found.is_file() || found.file_type().is_block_device() {
        return Ok(());
    }
    Err(format!("{text:?} is no file"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
