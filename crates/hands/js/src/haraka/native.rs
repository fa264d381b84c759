//! What the scripts beside this file can call, beyond what an operator's script has.

use super::{crypto, files, sockets};
use crate::host::{Host, throw, wrapped};
use rquickjs::function::IntoJsFunc;
use rquickjs::{Ctx, Function, IntoJs, Object, Result, TypedArray};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Octets of chance that a plugin is given at once.
const RANDOM_MAX: usize = 1 << 20;

/// Puts a function into the table.
fn put<'js, P>(
    ctx: &Ctx<'js>,
    table: &Object<'js>,
    name: &str,
    function: impl IntoJsFunc<'js, P> + 'js,
) -> Result<()> {
    table.set(name, Function::new(ctx.clone(), function)?)
}

/// An outcome as the script has it: a value, or an exception with what went wrong.
fn given<T>(ctx: &Ctx<'_>, outcome: std::result::Result<T, impl AsRef<str>>) -> Result<T> {
    outcome.map_err(|why| throw(ctx, why.as_ref()))
}

fn array<'js>(ctx: &Ctx<'js>, octets: Vec<u8>) -> Result<TypedArray<'js, u8>> {
    TypedArray::new(ctx.clone(), octets)
}

fn octets(ctx: &Ctx<'_>, text: &str) -> Result<Vec<u8>> {
    given(ctx, sockets::octets(text))
}

/// Adds to `__host` what Haraka's plugins need.
pub(crate) fn install<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> Result<()> {
    let place = host.place.clone();
    put(ctx, table, "place", move || place.clone())?;
    let strict = |ctx: Ctx<'js>, source: String, name: String| wrapped(&ctx, &source, &name, "'use strict';");
    put(ctx, table, "compile_strict", strict)?;
    let sloppy = |ctx: Ctx<'js>, source: String, name: String| wrapped(&ctx, &source, &name, "");
    put(ctx, table, "compile_sloppy", sloppy)?;
    let own = host.clone();
    put(ctx, table, "exists", move |path: String| files::stat(&own, &path).is_ok())?;
    let own = host.clone();
    put(ctx, table, "socket_close", move |id: u64| own.sockets.close(id))?;
    put(ctx, table, "octets", |ctx: Ctx<'js>, text: String| array(&ctx, text.into_bytes()))?;
    put(ctx, table, "utf8", |ctx: Ctx<'js>, text: String| {
        // Most is ASCII, which is UTF-8 as it stands.
        if text.is_ascii() {
            return Ok(text);
        }
        octets(&ctx, &text).map(|octets| String::from_utf8_lossy(&octets).into_owned())
    })?;
    let began = Instant::now();
    put(ctx, table, "clock", move || began.elapsed().as_secs_f64() * 1_000.0)?;
    put(ctx, table, "to_ascii", |name: String| idna::domain_to_ascii(&name).ok())?;
    put(ctx, table, "to_unicode", |name: String| idna::domain_to_unicode(&name).0)?;
    put(ctx, table, "is_ipv6", |text: String| matches!(text.parse(), Ok(IpAddr::V6(_))))?;
    put(ctx, table, "in_subnet", |text: String, address: String, prefix: u8| {
        let (Ok(ip), Ok(address)) = (text.parse::<IpAddr>(), address.parse::<IpAddr>()) else { return false };
        ipnet::IpNet::new(address, prefix).is_ok_and(|net| net.contains(&ip))
    })?;
    machine(ctx, table)?;
    digests(ctx, table)?;
    reading(ctx, host, table)?;
    writing(ctx, host, table)
}

/// What `os` and `process` tell of the machine.
fn machine<'js>(ctx: &Ctx<'js>, table: &Object<'js>) -> Result<()> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    put(ctx, table, "machine", move |ctx: Ctx<'js>| {
        let about = Object::new(ctx)?;
        about.set("hostname", read("/proc/sys/kernel/hostname").trim().to_owned())?;
        about.set("arch", if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" })?;
        about.set("cpus", std::thread::available_parallelism().map_or(1, std::num::NonZero::get))?;
        about.set("pid", std::process::id())?;
        about.set("version", env!("CARGO_PKG_VERSION"))?;
        Ok::<_, rquickjs::Error>(about)
    })?;
    put(ctx, table, "load", move || {
        let text = read("/proc/loadavg");
        let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0.0));
        [(); 3].map(|()| words.next().unwrap_or(0.0)).to_vec()
    })?;
    put(ctx, table, "interfaces", |ctx: Ctx<'js>| Object::new(ctx))
}

fn digests<'js>(ctx: &Ctx<'js>, table: &Object<'js>) -> Result<()> {
    const UNKNOWN: &str = "Digest method not supported";
    put(ctx, table, "digest", |ctx: Ctx<'js>, algorithm: String, text: String| {
        let digest = crypto::digested(&algorithm, &octets(&ctx, &text)?).ok_or(UNKNOWN);
        array(&ctx, given(&ctx, digest)?)
    })?;
    put(ctx, table, "hmac", |ctx: Ctx<'js>, algorithm: String, key: String, text: String| {
        let keyed = crypto::keyed(&algorithm, &octets(&ctx, &key)?, &octets(&ctx, &text)?).ok_or(UNKNOWN);
        array(&ctx, given(&ctx, keyed)?)
    })?;
    put(ctx, table, "random", |ctx: Ctx<'js>, count: usize| {
        let mut octets = vec![0; count.min(RANDOM_MAX)];
        let filled = aws_lc_rs::rand::fill(&mut octets).map_err(|_| "there is no chance to be had");
        given(&ctx, filled)?;
        array(&ctx, octets)
    })?;
    put(ctx, table, "key_kind", |ctx: Ctx<'js>, key: String| {
        Ok::<_, rquickjs::Error>(crypto::kind(&octets(&ctx, &key)?))
    })?;
    put(ctx, table, "sign", |ctx: Ctx<'js>, algorithm: String, key: String, text: String| {
        let signed = crypto::sign(&algorithm, &octets(&ctx, &key)?, &octets(&ctx, &text)?);
        array(&ctx, given(&ctx, signed)?)
    })?;
    put(
        ctx,
        table,
        "verify",
        |ctx: Ctx<'js>, algorithm: String, key: String, signature: String, text: String| {
            let (key, signature, text) =
                (octets(&ctx, &key)?, octets(&ctx, &signature)?, octets(&ctx, &text)?);
            given(&ctx, crypto::verify(&algorithm, &key, &signature, &text))
        },
    )
}

/// A function of one path that gives a value or says why not.
fn path_function<'js, T: IntoJs<'js> + 'js>(
    ctx: &Ctx<'js>,
    host: &Arc<Host>,
    table: &Object<'js>,
    name: &str,
    work: fn(&Host, &str) -> std::result::Result<T, String>,
) -> Result<()> {
    let own = host.clone();
    put(ctx, table, name, move |ctx: Ctx<'js>, path: String| given(&ctx, work(&own, &path)))
}

fn reading<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> Result<()> {
    let own = host.clone();
    put(ctx, table, "fs_read", move |ctx: Ctx<'js>, path: String| {
        let octets = given(&ctx, files::read(&own, &path))?;
        array(&ctx, octets)
    })?;
    path_function(ctx, host, table, "fs_stat", |host, path| files::stat(host, path).map(Stat))?;
    path_function(ctx, host, table, "fs_list", files::list)?;
    path_function(ctx, host, table, "fs_real", files::real)
}

/// What `fs.stat` is made of.
struct Stat((&'static str, f64, f64, f64));

impl<'js> IntoJs<'js> for Stat {
    fn into_js(self, ctx: &Ctx<'js>) -> Result<rquickjs::Value<'js>> {
        let list = rquickjs::Array::new(ctx.clone())?;
        list.set(0, self.0.0)?;
        list.set(1, self.0.1)?;
        list.set(2, self.0.2)?;
        list.set(3, self.0.3)?;
        Ok(list.into_value())
    }
}

fn writing<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> Result<()> {
    let own = host.clone();
    put(ctx, table, "fs_write", move |ctx: Ctx<'js>, path: String, text: String, flags: String| {
        let octets = octets(&ctx, &text)?;
        given(&ctx, files::write(&own, &path, &octets, &flags))
    })?;
    let own = host.clone();
    put(ctx, table, "fs_mkdir", move |ctx: Ctx<'js>, path: String, with_parents: bool| {
        given(&ctx, files::make_folder(&own, &path, with_parents))
    })?;
    let own = host.clone();
    put(ctx, table, "fs_rename", move |ctx: Ctx<'js>, from: String, to: String| {
        given(&ctx, files::rename(&own, &from, &to))
    })?;
    let own = host.clone();
    put(ctx, table, "fs_link", move |ctx: Ctx<'js>, from: String, to: String| {
        given(&ctx, files::link(&own, &from, &to))
    })?;
    path_function(ctx, host, table, "fs_may_write", files::may_write)?;
    path_function(ctx, host, table, "fs_unlink", files::remove)?;
    path_function(ctx, host, table, "fs_rmdir", files::remove_folder)
}
