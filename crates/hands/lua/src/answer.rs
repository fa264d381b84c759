//! Answers as a script makes them: `return tuma.reject(550, "5.1.1", "no such user")`.

use crate::call::{Failure, Returned};
use crate::meter::Meter;
use mail::Reply;
use mlua::{Error, Lua, Result, Table, UserData, Value, Variadic};
use policy::Answer;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// An answer in the hands of a script.
struct Made(Answer);

impl UserData for Made {}

/// Octets of the reason of a discard that are kept.
const REASON_MAX_OCTETS: usize = 200;

/// Adds `accept`, `reject`, `defer`, `disconnect` and `discard` to `tuma`.
pub(crate) fn install(lua: &Lua, tuma: &Table, meter: &Arc<Meter>) -> Result<()> {
    let put = |name: &str, make: fn(&[Value]) -> Result<Answer>| {
        let meter = meter.clone();
        let function = lua.create_function(move |_, arguments: Variadic<Value>| {
            let answer = make(&arguments)?;
            meter.answers_made.fetch_add(1, Relaxed);
            Ok(Made(answer))
        })?;
        tuma.set(name, function)
    };
    put("accept", |_| Ok(Answer::Accept))?;
    put("reject", |arguments| Ok(Answer::Refuse(reply(arguments, 550, "refused by a local rule")?)))?;
    put("defer", |arguments| Ok(Answer::Refuse(reply(arguments, 451, "try again later")?)))?;
    put("disconnect", |arguments| Ok(Answer::Disconnect(reply(arguments, 421, "goodbye")?)))?;
    put("discard", |arguments| {
        let why = text(arguments.first())?.unwrap_or_else(|| "by a script".into());
        let why = policy::text(&why).replace('\n', " ");
        Ok(Answer::Discard(why[..why.floor_char_boundary(REASON_MAX_OCTETS)].into()))
    })
}

fn text(value: Option<&Value>) -> Result<Option<String>> {
    match value {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.to_string_lossy())),
        Some(Value::Integer(_) | Value::Number(_)) => value.map(Value::to_string).transpose(),
        Some(other) => {
            Err(Error::runtime(format!("a reply's text is a string, not a {}", other.type_name())))
        }
    }
}

/// `(text)`, `(code, text)` or `(code, status, text)`.
fn reply(arguments: &[Value], usual: u16, usual_text: &str) -> Result<Reply> {
    let (code, rest) = match arguments.first() {
        Some(Value::Integer(code)) => {
            let code = u16::try_from(*code).map_err(|_| Error::runtime("a reply's code has three digits"))?;
            (code, &arguments[1..])
        }
        _ => (usual, arguments),
    };
    if code / 100 != usual / 100 && usual != 421 {
        let (what, digit) = if usual == 451 { ("defer", 4) } else { ("reject", 5) };
        return Err(Error::runtime(format!("tuma.{what}: the code of its reply begins with {digit}")));
    }
    let given = match rest {
        [] => (None, None),
        [one] => (None, text(Some(one))?),
        [status, said] => (text(Some(status))?, text(Some(said))?),
        _ => return Err(Error::runtime("a reply is given as (text), (code, text) or (code, status, text)")),
    };
    let said = given.1.as_deref().unwrap_or(usual_text);
    policy::reply(code, given.0.as_deref(), said).map_err(Error::runtime)
}

/// The answer of a hook: what it returned, or no objection if that is nothing.
pub(crate) fn of(returned: Returned) -> std::result::Result<Answer, Failure> {
    match returned.value {
        Value::Nil if returned.answers_made > 0 => Err(Failure::Answer(
            "an answer was made and not returned: write `return tuma.reject(...)`".into(),
        )),
        Value::Nil => Ok(Answer::Continue),
        Value::UserData(made) => match made.borrow::<Made>() {
            Ok(made) => Ok(made.0.clone()),
            Err(_) => Err(Failure::Answer("what was returned is no answer".into())),
        },
        other => Err(Failure::Answer(format!(
            "a {} was returned; an answer is made by tuma.accept, reject, defer, disconnect or discard",
            other.type_name()
        ))),
    }
}
