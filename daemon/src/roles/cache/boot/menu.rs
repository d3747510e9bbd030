//! The menu of a workstation: what it may boot now, and what is there and cannot be booted yet.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use icbd_export::Claims;
use icbd_image::{ClientName, ImageName};

use super::{Known, reached, scripts, ways, who};
use crate::clients::Stage;
use crate::failure::Failure;
use crate::readiness;
use crate::roles::cache::state::CacheServer;
use crate::serve::Asking;

/// One that is not told apart yet says who it is, and gets its menu. What has colons in it iPXE takes for whole URLs.
fn introduce(http: &str) -> String {
    format!("#!ipxe\nchain --replace {http}/boot?mac=${{netX/mac}}&uuid=${{uuid}} || shell\n")
}

/// What may be chosen.
struct Item {
    image: ImageName,
    /// `lab@3, boot set`, or why it cannot be booted.
    text: String,
    can_boot: bool,
}

/// The iPXE script with which a workstation begins.
pub(super) async fn menu(server: Arc<CacheServer>, asking: Asking, from: IpAddr) -> Result<String, Failure> {
    let claims = who::claims(&asking)?;
    let http = scripts::http(&server, from)?;
    if claims.is_empty() {
        return Ok(introduce(&http));
    }
    let settings = server.netboot.settings();
    let client = who::named(&server, &claims);
    let mut items = Vec::new();
    for image in server.images() {
        items.extend(item(&server, image.name, from, client.as_ref(), &claims).await);
    }
    let wish = client.as_ref().and_then(|client| super::wish(&server, client)).map(|wish| wish.image);
    let title = client.as_ref().map_or_else(|| from.to_string(), ToString::to_string);
    reached(&server, from, Stage::Menu, Known { mac: claims.mac, client, version: None });
    let can_boot = |default: &ImageName| items.iter().any(|item| item.can_boot && item.image == *default);
    let default = wish.into_iter().chain(settings.default).find(can_boot);
    let default = default.map_or("local".to_owned(), |image| image.to_string());
    Ok(text(
        &items,
        &title,
        &default,
        settings.menu_timeout.as_millis(),
        &format!("{http}/boot/${{image}}?{}&menu=1", question(&claims)),
    ))
}

/// An image that is deployed and exported to whoever asks.
async fn item(
    server: &CacheServer,
    image: ImageName,
    from: IpAddr,
    client: Option<&ClientName>,
    claims: &Claims,
) -> Option<Item> {
    if !ways::is_for_somebody(server, &image, from) {
        return None;
    }
    let choice = ways::choose(server, &image, from, client).await.and_then(|choice| {
        // Who gets no clone is told before it asks.
        if choice.declaration.clone { who::client(server, &image, claims, from).map(|_| choice) } else { Ok(choice) }
    });
    let (text, can_boot) = match choice {
        Ok(choice) => {
            let readiness = server.readiness().get(&choice.record.serial()).copied();
            let version = choice.record.statement.statement().version();
            let here = readiness.map_or("nothing of it is here yet", |ready| readiness::shown(Some(ready)));
            (format!("{version}, {here}"), true)
        }
        Err(failure) => (format!("{image} cannot be booted: {}", failure.message), false),
    };
    Some(Item { image, text, can_boot })
}

/// What a workstation says of itself once more when it asks for its script.
fn question(claims: &Claims) -> String {
    let Claims { name, mac, uuid } = claims;
    let name = name.as_ref().map(|name| format!("client={name}"));
    let mac = mac.map(|mac| format!("mac={mac}"));
    let uuid = uuid.map(|uuid| format!("uuid={uuid}"));
    name.into_iter().chain(mac).chain(uuid).collect::<Vec<_>>().join("&")
}

fn text(items: &[Item], title: &str, default: &str, timeout_ms: u128, script: &str) -> String {
    let mut text = format!("#!ipxe\n:menu\nmenu Machine images for {title}\n");
    let mut line = |line: std::fmt::Arguments<'_>| {
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    for item in items {
        match item.can_boot {
            true => line(format_args!("item {} {}", item.image, shown(&item.text))),
            false => line(format_args!("item --gap {}", shown(&item.text))),
        }
    }
    if items.is_empty() {
        line(format_args!("item --gap No image is exported to this workstation"));
    }
    line(format_args!("item --gap"));
    line(format_args!("item local Boot from the local disk"));
    line(format_args!("item shell iPXE command line"));
    let timeout = if timeout_ms > 0 { format!("--timeout {timeout_ms} ") } else { String::new() };
    line(format_args!("choose {timeout}--default {default} image || goto local"));
    line(format_args!("iseq ${{image}} local && goto local ||"));
    line(format_args!("iseq ${{image}} shell && goto shell ||"));
    // Whatever fails comes back here, and nothing of it is left to be loaded as an initrd.
    line(format_args!("chain --autofree {script} || goto failed"));
    line(format_args!(":failed"));
    line(format_args!("imgfree ||"));
    line(format_args!("echo `icbd client boots` and `icbd client explain` on the cache server say more"));
    line(format_args!("prompt --timeout 30000 Press any key for the menu ||"));
    line(format_args!("goto menu"));
    line(format_args!(":local"));
    // Firmware that does not go on by itself has no disk to go on with.
    line(format_args!("sanboot --no-describe --drive 0x80 || exit 1"));
    line(format_args!(":shell"));
    line(format_args!("shell\ngoto menu"));
    text
}

/// A line of a menu is no longer than a screen is wide.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    scripts::plain_words(text).chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(image: &str, text: &str, can_boot: bool) -> Item {
        Item { image: image.parse().unwrap(), text: text.to_owned(), can_boot }
    }

    #[test]
    fn what_cannot_be_booted_cannot_be_chosen() {
        let items = [item("lab", "lab@3, boot set", true), item("win", "win cannot be booted: ${no}\nkernel", false)];
        let text = text(&items, "pc-1", "lab", 5000, "http://10.1.2.1/boot/${image}?mac=52:54:00:00:00:01");
        for line in [
            "menu Machine images for pc-1",
            "item lab lab@3, boot set",
            "item --gap win cannot be booted: {no} kernel",
            "choose --timeout 5000 --default lab image || goto local",
            "chain --autofree http://10.1.2.1/boot/${image}?mac=52:54:00:00:00:01 || goto failed",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
        }
    }
}
