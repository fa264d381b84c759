//! Just enough JSON to print a report for a program to read.

/// Builds one object, member by member.
pub struct Object(String);

impl Default for Object {
    fn default() -> Self {
        Self(String::from("{"))
    }
}

impl Object {
    /// A member whose value is already JSON: a number, `true`, an object.
    pub fn raw(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        use std::fmt::Write;
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&string(name));
        self.0.push(':');
        write!(self.0, "{value}").expect("a String takes everything");
        self
    }

    /// A text member.
    pub fn text(self, name: &str, value: &str) -> Self {
        let value = string(value);
        self.raw(name, value)
    }

    /// A duration, in microseconds.
    pub fn us(self, name: &str, value: std::time::Duration) -> Self {
        self.raw(name, value.as_micros())
    }

    /// Percentiles, in microseconds.
    pub fn percentiles(self, name: &str, value: &crate::Percentiles) -> Self {
        let inner =
            Object::default().us("mean_us", value.mean).us("p50_us", value.p50).us("p95_us", value.p95);
        self.raw(name, inner.us("p99_us", value.p99).us("max_us", value.max).end())
    }

    /// The finished object.
    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// An array of values that are already JSON.
pub fn array<T: std::fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("[{}]", values.join(","))
}

/// A quoted string.
pub fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            control if u32::from(control) < 0x20 => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(control)))
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[test]
fn escapes() {
    let inner = array([1, 2]);
    let json = Object::default().text("a\"b", "c\\\r\n\u{1}ü").raw("n", inner).end();
    assert_eq!(json, r#"{"a\"b":"c\\\r\n\u0001ü","n":[1,2]}"#);
}
