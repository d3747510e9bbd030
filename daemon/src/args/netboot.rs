//! `icbd netboot` as it is typed.

use clap::{Subcommand, ValueEnum};
use icbd_export::Dialect;

#[derive(Debug, Subcommand)]
pub(crate) enum NetbootCommand {
    /// Have workstations of the networks that the configuration names boot by the network
    ///
    /// Each [[network]] of the configuration is served as it says: with dhcp = "full" icbd gives addresses, with "proxy" it
    /// only says what to boot, beside the server that gives them, with "off" another server says that. It is done by a
    /// dnsmasq of icbd's own; no other is touched.
    Enable {
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
        message: String,
    },
    /// End that; what was written for it is removed
    Disable {
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
        message: String,
    },
    /// Show how network boot is
    Show,
    /// Print what another DHCP server's configuration needs, so that workstations boot from this cache server
    Snippet {
        /// Whose configuration it is
        #[arg(long = "for", value_enum)]
        dialect: DialectArg,
        /// Of which network [default: all]
        #[arg(long, value_name = "INTERFACE")]
        network: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DialectArg {
    Kea,
    Isc,
    Windows,
    Dnsmasq,
    /// A menu of a PXELINUX that is there already
    Pxelinux,
}

impl From<DialectArg> for Dialect {
    fn from(arg: DialectArg) -> Dialect {
        match arg {
            DialectArg::Kea => Dialect::Kea,
            DialectArg::Isc => Dialect::Isc,
            DialectArg::Windows => Dialect::Windows,
            DialectArg::Dnsmasq => Dialect::Dnsmasq,
            DialectArg::Pxelinux => Dialect::Pxelinux,
        }
    }
}
