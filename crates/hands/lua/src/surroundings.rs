//! What scripts may ask of the world around them: `tuma.dns` and `tuma.store`.

use mlua::{Error, Lua, LuaString, MultiValue, Result, Table, Value};
use policy::{Kind, STORE_TEXT_MAX_OCTETS, Surroundings};
use std::time::{Duration, Instant};

/// Adds `tuma.dns` and `tuma.store`.
pub(crate) fn install(lua: &Lua, tuma: &Table, surroundings: &Surroundings) -> Result<()> {
    let dns = lua.create_table()?;
    for (name, kind) in
        [("a", Kind::A), ("aaaa", Kind::Aaaa), ("mx", Kind::Mx), ("txt", Kind::Txt), ("ptr", Kind::Ptr)]
    {
        let names = surroundings.names.clone();
        let ask = lua.create_async_function(move |lua, name: String| {
            let names = names.clone();
            async move {
                let answered = match &names {
                    Some(names) => names.records(kind, &name).await,
                    None => Err("there is nobody to ask".into()),
                };
                // No answer is not the same as none: a script that takes it for a list fails.
                match answered {
                    Ok(records) => {
                        let list = Value::Table(lua.create_sequence_from(records)?);
                        Ok(MultiValue::from_vec(vec![list]))
                    }
                    Err(why) => {
                        let why = Value::String(lua.create_string(why)?);
                        Ok(MultiValue::from_vec(vec![Value::Nil, why]))
                    }
                }
            }
        })?;
        dns.set(name, ask)?;
    }
    tuma.set("dns", dns)?;
    let fit = |text: &LuaString| {
        let text = text.to_string_lossy();
        if text.len() > STORE_TEXT_MAX_OCTETS {
            Err(Error::runtime("tuma.store: the text is too long"))
        } else {
            Ok(text)
        }
    };
    let life = |seconds: f64| {
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|life| *life <= Duration::from_secs(31 * 86_400))
            .ok_or_else(|| Error::runtime("tuma.store: an entry lives for up to 31 days, in seconds"))
    };
    let table = lua.create_table()?;
    let store = surroundings.store.clone();
    let get = lua.create_function(move |_, key: LuaString| {
        Ok(store.value(&fit(&key)?, Instant::now()).map(String::from))
    })?;
    table.set("get", get)?;
    let store = surroundings.store.clone();
    let set = lua.create_function(move |_, (key, value, seconds): (LuaString, LuaString, f64)| {
        let now = Instant::now();
        Ok(store.set(&fit(&key)?, &fit(&value)?, now + life(seconds)?, now))
    })?;
    table.set("set", set)?;
    let store = surroundings.store.clone();
    let add = lua.create_function(move |_, (key, by, seconds): (LuaString, i64, f64)| {
        Ok(store.add(&fit(&key)?, by, life(seconds)?, Instant::now()))
    })?;
    table.set("add", add)?;
    tuma.set("store", table)
}
