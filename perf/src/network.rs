//! A master's network and a site's, and the slow line between them.
//!
//! Both are network namespaces without a name, held by a descriptor of this process: nothing has to be removed, also
//! after a kill. The line is a pair of virtual Ethernet devices, or, where it has a round trip, two tunnel devices
//! that a [`Delay`] joins. Both ends are shaped by `tbf`, whose counter says what was sent: unlike the device's it
//! counts what really passed.

mod delay;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use delay::Delay;

pub(crate) const MASTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const SITE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A line between a site and its master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: &'static str,
    pub(crate) megabits: u32,
    /// Round trip that is added, in milliseconds.
    pub(crate) round_trip_ms: u32,
}

pub(crate) const LINKS: [Link; 3] = [
    Link { name: "100M", megabits: 100, round_trip_ms: 0 },
    Link { name: "100M+10ms", megabits: 100, round_trip_ms: 10 },
    Link { name: "1G", megabits: 1000, round_trip_ms: 0 },
];

impl Link {
    /// Bytes a second, headers included.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.megabits) * 1e6 / 8.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Master,
    Site,
}

/// The two namespaces, joined.
#[derive(Debug)]
pub(crate) struct Network {
    master: File,
    site: File,
    /// Joins the tunnel devices; they end with it.
    _delay: Option<Delay>,
}

impl Network {
    pub(crate) fn new(link: Link) -> Result<Network> {
        let (master, site) = (namespace()?, namespace()?);
        let mut network = Network { master, site, _delay: None };
        if link.round_trip_ms == 0 {
            let peer = format!("/proc/{}/fd/{}", std::process::id(), network.site.as_raw_fd());
            network.ip(Side::Master, &format!("link add line type veth peer name line netns {peer}"))?;
        } else {
            let one_way = Duration::from_millis(u64::from(link.round_trip_ms)) / 2;
            let ends = [Side::Master, Side::Site].map(|side| network.inside(side, || Delay::tunnel("line")));
            let [master, site] = ends;
            network._delay = Some(Delay::join(master?, site?, one_way));
        }
        // Less would make the shaper wait for the clock, more would let a burst pass as if there were no line.
        let burst = if link.megabits > 500 { "512kb" } else { "64kb" };
        for (side, address) in [(Side::Master, MASTER), (Side::Site, SITE)] {
            network.ip(side, "link set lo up")?;
            network.ip(side, &format!("address add {address}/24 dev line"))?;
            network.ip(side, "link set line up txqueuelen 5000")?;
            let shape = format!("qdisc add dev line root tbf rate {}mbit burst {burst} latency 50ms", link.megabits);
            network.run(side, "tc", &shape)?;
        }
        Ok(network)
    }

    /// Does `what` on a thread inside one of the namespaces; what it starts stays there.
    pub(crate) fn inside<T: Send>(&self, side: Side, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = self.namespace(side);
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                what()
            });
            inside.join().expect("what runs inside does not panic")
        })
    }

    /// `program`, to be started inside one of the namespaces by a thread that lasts: it is killed when that ends, so
    /// that nothing outlives a run that was killed itself.
    pub(crate) fn command(&self, side: Side, program: &str) -> Command {
        let namespace = self.namespace(side).as_raw_fd();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/proc/{}/fd/{namespace}", std::process::id()))
            .arg(program);
        command
    }

    fn namespace(&self, side: Side) -> &File {
        match side {
            Side::Master => &self.master,
            Side::Site => &self.site,
        }
    }

    /// What has passed from the master to the site so far, in bytes, headers included.
    pub(crate) fn sent(&self) -> Result<u64> {
        let text = self.run(Side::Master, "tc", "-s -j qdisc show dev line")?;
        let shown: serde_json::Value = serde_json::from_str(&text)?;
        shown[0]["bytes"].as_u64().with_context(|| format!("no counter in {text}"))
    }

    fn ip(&self, side: Side, args: &str) -> Result<String> {
        self.run(side, "ip", args)
    }

    fn run(&self, side: Side, program: &str, args: &str) -> Result<String> {
        self.inside(side, || {
            let output = Command::new(program).args(args.split(' ')).output().with_context(|| program.to_owned())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{program} {args}: {said}");
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }
}

/// A new, empty network namespace.
fn namespace() -> Result<File> {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (this needs root)")?;
        File::open("/proc/thread-self/ns/net").context("opening a network namespace")
    });
    thread.join().expect("nothing there panics")
}
