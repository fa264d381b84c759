//! Library functions that could run long without an instruction, in forms that end; and those that a script may not have.

use crate::meter::Meter;
use crate::pattern::{self, Capture, Match};
use mlua::{Error, Function, Lua, LuaString, MultiValue, Result, Table, Value};
use std::sync::Arc;

/// Octets of what `string.rep` and `string.gsub` may make.
const STRING_MAX_OCTETS: usize = 16 << 20;
/// Elements of a table that one library function may go over.
const ELEMENTS_MAX: i64 = 200_000;
/// Elements of a table that may be sorted.
const SORTED_MAX: i64 = 50_000;

/// What a script gets no hold of: files, code from texts, the collector, and coroutines, since a hook is one and every
/// step aside would look like a yield of its own.
const FORBIDDEN: [&str; 7] =
    ["dofile", "loadfile", "load", "loadstring", "collectgarbage", "coroutine", "package"];

/// Takes away what a script may not have. Comes last: the machine's own set-up needs some of it.
pub(crate) fn forbid(lua: &Lua) -> Result<()> {
    FORBIDDEN.into_iter().try_for_each(|name| lua.globals().raw_remove(name))
}

/// Puts the bounded forms in the place of Lua's own.
pub(crate) fn install(lua: &Lua, meter: &Arc<Meter>) -> Result<()> {
    let globals = lua.globals();
    let string: Table = globals.get("string")?;
    string.raw_remove("dump")?;
    patterns(lua, &string, meter)?;
    let charge = meter.clone();
    let rep =
        lua.create_function(move |lua, (text, n, separator): (LuaString, i64, Option<LuaString>)| {
            let n = usize::try_from(n).unwrap_or(0);
            let text = text.as_bytes();
            let separator = separator.as_ref().map(LuaString::as_bytes);
            let separator = separator.as_deref().unwrap_or_default();
            let each = text.len().saturating_add(separator.len());
            if n == 0 || each == 0 {
                return lua.create_string("");
            }
            let len = each.checked_mul(n).filter(|len| *len <= STRING_MAX_OCTETS);
            let len = len.ok_or_else(|| Error::runtime("string.rep: the result is too long"))?;
            charge.charge(len as u64 / 64)?;
            let mut out = Vec::with_capacity(len);
            for k in 0..n {
                if k > 0 {
                    out.extend_from_slice(separator);
                }
                out.extend_from_slice(&text);
            }
            lua.create_string(out)
        })?;
    string.raw_set("rep", rep)?;
    let check = {
        let meter = meter.clone();
        lua.create_function(move |_, ()| meter.check())?
    };
    let charge = {
        let meter = meter.clone();
        lua.create_function(move |_, (n, most): (i64, i64)| {
            if n > most {
                return Err(Error::runtime("the table is too large for this function"));
            }
            meter.charge(n.max(0) as u64)
        })?
    };
    // The wrappers are Lua themselves, so that what they call can still step aside.
    lua.load(WRAPPERS).set_name("=limits").call((check, charge, ELEMENTS_MAX, SORTED_MAX))
}

const WRAPPERS: &str = include_str!("limits.lua");

/// One match, charged for.
fn find(meter: &Meter, text: &[u8], pattern: &[u8], from: usize) -> Result<Option<Match>> {
    charged(meter, pattern::find(text, pattern, from))
}

fn charged(
    meter: &Meter,
    (found, steps): (std::result::Result<Option<Match>, pattern::PatternError>, u64),
) -> Result<Option<Match>> {
    meter.charge(steps)?;
    found.map_err(Error::runtime)
}

fn capture(lua: &Lua, text: &[u8], capture: Capture) -> Result<Value> {
    match capture {
        Capture::Span(from, to) => Ok(Value::String(lua.create_string(&text[from..to])?)),
        Capture::Position(at) => Ok(Value::Integer(at as i64)),
        Capture::Unfinished => Err(Error::runtime("unfinished capture")),
    }
}

fn captures(lua: &Lua, text: &[u8], found: &Match) -> Result<Vec<Value>> {
    found.captures.iter().map(|one| capture(lua, text, *one)).collect()
}

/// The place that `init` names, from 0; `None` behind the end.
fn start(init: Option<i64>, len: usize) -> Option<usize> {
    let init = init.unwrap_or(1);
    let at = match init {
        1.. => init as usize - 1,
        0 => 0,
        back => len.saturating_sub(back.unsigned_abs() as usize),
    };
    (at <= len).then_some(at)
}

fn patterns(lua: &Lua, string: &Table, meter: &Arc<Meter>) -> Result<()> {
    type Arguments = (LuaString, LuaString, Option<i64>, Option<bool>);
    let own = meter.clone();
    let find_ = move |lua: &Lua, (text, pattern, init, plain): Arguments| -> Result<MultiValue> {
        let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
        let Some(from) = start(init, text.len()) else { return nothing() };
        if plain == Some(true) || !pattern.iter().any(|octet| b"^$*+?.([%-".contains(octet)) {
            own.charge(text.len() as u64 / 16)?;
            return match position(&text[from..], &pattern) {
                Some(at) => {
                    let first = (from + at + 1) as i64;
                    let last = first + pattern.len() as i64 - 1;
                    Ok(MultiValue::from_vec(vec![Value::Integer(first), Value::Integer(last)]))
                }
                None => nothing(),
            };
        }
        let Some(found) = find(&own, &text, &pattern, from)? else { return nothing() };
        let mut values = vec![Value::Integer(found.start as i64 + 1), Value::Integer(found.end as i64)];
        if found.explicit {
            values.extend(captures(lua, &text, &found)?);
        }
        Ok(MultiValue::from_vec(values))
    };
    string.raw_set("find", lua.create_function(find_)?)?;
    let own = meter.clone();
    let match_ = move |lua: &Lua, (text, pattern, init): (LuaString, LuaString, Option<i64>)| {
        let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
        let Some(from) = start(init, text.len()) else { return nothing() };
        match find(&own, &text, &pattern, from)? {
            Some(found) => Ok(MultiValue::from_vec(captures(lua, &text, &found)?)),
            None => nothing(),
        }
    };
    string.raw_set("match", lua.create_function(match_)?)?;
    let own = meter.clone();
    let gmatch = move |lua: &Lua, (text, pattern): (LuaString, LuaString)| {
        let own = own.clone();
        let (mut at, mut last) = (0usize, None);
        lua.create_function_mut(move |lua, ()| {
            let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
            while at <= text.len() {
                let Some(found) = charged(&own, pattern::find_unanchored(&text, &pattern, at))? else {
                    break;
                };
                // An empty match where the last one ended is no new one.
                if Some(found.end) == last && found.start == found.end {
                    at = found.end + 1;
                    continue;
                }
                (at, last) = (found.end, Some(found.end));
                return Ok(MultiValue::from_vec(captures(lua, &text, &found)?));
            }
            at = usize::MAX;
            nothing()
        })
    };
    string.raw_set("gmatch", lua.create_function(gmatch)?)?;
    let own = meter.clone();
    let gsub = move |lua: &Lua, arguments: (LuaString, LuaString, Value, Option<i64>)| {
        substitute(lua, &own, arguments)
    };
    string.raw_set("gsub", lua.create_function(gsub)?)
}

fn nothing() -> Result<MultiValue> {
    Ok(MultiValue::from_vec(vec![Value::Nil]))
}

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    // Naive, and bounded by the charge: texts here are addresses and header fields, and `tuma.regex` is there for more.
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn substitute(
    lua: &Lua,
    meter: &Meter,
    (text, pattern, with, most): (LuaString, LuaString, Value, Option<i64>),
) -> Result<(LuaString, i64)> {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let most = most.unwrap_or(i64::MAX);
    let anchored = pattern.first() == Some(&b'^');
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut count, mut last) = (0, 0, None);
    while count < most && at <= text.len() {
        let Some(found) = find(meter, &text, &pattern, at)? else { break };
        out.extend_from_slice(&text[at..found.start]);
        if Some(found.end) == last && found.start == found.end {
            match text.get(found.end) {
                Some(octet) => out.push(*octet),
                None => {
                    at = found.end;
                    break;
                }
            }
            at = found.end + 1;
            continue;
        }
        count += 1;
        replacement(lua, &text, &found, &with, &mut out)?;
        if out.len() > STRING_MAX_OCTETS {
            return Err(Error::runtime("string.gsub: the result is too long"));
        }
        (at, last) = (found.end, Some(found.end));
        if anchored {
            break;
        }
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
    Ok((lua.create_string(out)?, count))
}

/// Writes what takes the place of one match.
fn replacement(lua: &Lua, text: &[u8], found: &Match, with: &Value, out: &mut Vec<u8>) -> Result<()> {
    let whole = &text[found.start..found.end];
    let value = match with {
        Value::String(with) => return expand(text, found, &with.as_bytes(), out),
        Value::Integer(_) | Value::Number(_) => {
            let with = with.to_string()?;
            return expand(text, found, with.as_bytes(), out);
        }
        Value::Table(table) => table.get::<Value>(capture(lua, text, found.captures[0])?)?,
        Value::Function(function) => {
            let function: &Function = function;
            function.call::<Value>(MultiValue::from_vec(captures(lua, text, found)?))?
        }
        _ => return Err(Error::runtime("bad argument #3 to 'gsub' (string/function/table expected)")),
    };
    match value {
        Value::Nil | Value::Boolean(false) => out.extend_from_slice(whole),
        Value::String(value) => out.extend_from_slice(&value.as_bytes()),
        Value::Integer(_) | Value::Number(_) => out.extend_from_slice(value.to_string()?.as_bytes()),
        other => {
            return Err(Error::runtime(format!("invalid replacement value (a {})", other.type_name())));
        }
    }
    Ok(())
}

/// Writes a replacement text with its `%0` to `%9`.
fn expand(text: &[u8], found: &Match, with: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut octets = with.iter().copied();
    while let Some(octet) = octets.next() {
        if octet != b'%' {
            out.push(octet);
            continue;
        }
        match octets.next() {
            Some(b'%') => out.push(b'%'),
            Some(b'0') => out.extend_from_slice(&text[found.start..found.end]),
            Some(digit @ b'1'..=b'9') => match found.captures.get(usize::from(digit - b'1')) {
                Some(Capture::Span(from, to)) => out.extend_from_slice(&text[*from..*to]),
                Some(Capture::Position(at)) => out.extend_from_slice(at.to_string().as_bytes()),
                Some(Capture::Unfinished) => return Err(Error::runtime("unfinished capture")),
                None => return Err(Error::runtime("invalid capture index in replacement string")),
            },
            _ => return Err(Error::runtime("invalid use of '%' in replacement string")),
        }
    }
    Ok(())
}
