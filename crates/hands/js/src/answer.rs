//! Answers as a script makes them: `return tuma.reject(550, "5.1.1", "no such user")`.

use crate::context::Failure;
use policy::Answer;
use rquickjs::{Array, Value};

/// Octets of the reason of a discard that are kept.
const REASON_MAX_OCTETS: usize = 200;

/// An answer as the prelude hands it over: nothing, or its word, code, status and text.
pub(crate) fn of(value: &Value<'_>) -> Result<Answer, Failure> {
    if value.is_undefined() {
        return Ok(Answer::Continue);
    }
    let parts = || -> rquickjs::Result<(String, u16, Option<String>, String)> {
        let parts: Array = value.get()?;
        Ok((parts.get(0)?, parts.get(1)?, parts.get(2)?, parts.get(3)?))
    };
    let wrong = |what: &dyn std::fmt::Display| Failure::Script(format!("this is no answer: {what}"));
    let (word, code, status, text) = parts().map_err(|error| wrong(&error))?;
    let reply = || policy::reply(code, status.as_deref(), &text).map_err(|error| wrong(&error));
    match word.as_str() {
        "accept" => Ok(Answer::Accept),
        "reject" if code / 100 != 5 => Err(wrong(&"the code of a rejection begins with 5")),
        "defer" if code / 100 != 4 => Err(wrong(&"the code of a deferral begins with 4")),
        "reject" | "defer" => Ok(Answer::Refuse(reply()?)),
        "disconnect" => Ok(Answer::Disconnect(reply()?)),
        "discard" => {
            let why = policy::text(&text).replace('\n', " ");
            Ok(Answer::Discard(why[..why.floor_char_boundary(REASON_MAX_OCTETS)].into()))
        }
        word => Err(wrong(&word)),
    }
}
