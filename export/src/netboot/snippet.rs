//! What an administrator adds to the configuration of another DHCP server, so that workstations boot from this cache server.

use super::{BootNetwork, Loader};

/// Whose configuration it is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Kea,
    Isc,
    Windows,
    Dnsmasq,
    /// Not of a DHCP server: for those who have a PXELINUX already.
    Pxelinux,
}

/// The part for a network.
pub fn snippet(dialect: Dialect, network: &BootNetwork) -> String {
    let (server, address) = (network.server(), network.address);
    let subnet = network.subnet;
    let script = format!("http://{server}/boot");
    let (bios, efi) = (Loader::Bios.file(), Loader::Efi64.file());
    let by_http = format!("http://{server}/netboot/{}", Loader::Http64.file());
    match dialect {
        Dialect::Kea => format!(
            r#"// Kea, for {subnet}. Into "Dhcp4"; the first class that fits is the one that counts.
"client-classes": [
  {{ "name": "icbd-ipxe", "test": "option[77].text == 'iPXE' or option[175].exists",
    "boot-file-name": "{script}" }},
  {{ "name": "icbd-http64", "test": "not member('icbd-ipxe') and option[93].hex == 0x0010",
    "boot-file-name": "{by_http}",
    "option-data": [ {{ "name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true }} ] }},
  {{ "name": "icbd-efi64", "test": "not member('icbd-ipxe') and (option[93].hex == 0x0007 or option[93].hex == 0x0009)",
    "next-server": "{address}", "boot-file-name": "{efi}" }},
  {{ "name": "icbd-bios", "test": "not member('icbd-ipxe') and option[93].hex == 0x0000",
    "next-server": "{address}", "boot-file-name": "{bios}" }}
]
"#
        ),
        Dialect::Isc => format!(
            r#"# ISC dhcpd. Into dhcpd.conf, before the subnet:
option icbd-architecture code 93 = unsigned integer 16;
option icbd-ipxe code 175 = string;
# … and into subnet {} netmask {} {{ … }}:
if exists icbd-ipxe or option user-class = "iPXE" {{
  filename "{script}";
}} elsif option icbd-architecture = 16 {{
  option vendor-class-identifier "HTTPClient";
  filename "{by_http}";
}} elsif option icbd-architecture = 7 or option icbd-architecture = 9 {{
  next-server {address};
  filename "{efi}";
}} else {{
  next-server {address};
  filename "{bios}";
}}
"#,
            subnet.network(),
            subnet.netmask()
        ),
        Dialect::Windows => format!(
            r#"# Windows DHCP Server, in a PowerShell of an administrator, for the scope {scope}.
Add-DhcpServerv4Class -Name "icbd iPXE"   -Type User   -Data "iPXE"
Add-DhcpServerv4Class -Name "icbd BIOS"   -Type Vendor -Data "PXEClient:Arch:00000"
Add-DhcpServerv4Class -Name "icbd UEFI 7" -Type Vendor -Data "PXEClient:Arch:00007"
Add-DhcpServerv4Class -Name "icbd UEFI 9" -Type Vendor -Data "PXEClient:Arch:00009"
Add-DhcpServerv4Policy -ScopeId {scope} -Name "icbd iPXE" -Condition AND -UserClass EQ,"icbd iPXE*"
Set-DhcpServerv4OptionValue -ScopeId {scope} -PolicyName "icbd iPXE" -OptionId 67 -Value "{script}"
Add-DhcpServerv4Policy -ScopeId {scope} -Name "icbd BIOS" -Condition AND -VendorClass EQ,"icbd BIOS*" -UserClass NE,"icbd iPXE*"
Set-DhcpServerv4OptionValue -ScopeId {scope} -PolicyName "icbd BIOS" -OptionId 66 -Value "{address}"
Set-DhcpServerv4OptionValue -ScopeId {scope} -PolicyName "icbd BIOS" -OptionId 67 -Value "{bios}"
Add-DhcpServerv4Policy -ScopeId {scope} -Name "icbd UEFI" -Condition OR -VendorClass EQ,"icbd UEFI 7*",EQ,"icbd UEFI 9*"
Set-DhcpServerv4OptionValue -ScopeId {scope} -PolicyName "icbd UEFI" -OptionId 66 -Value "{address}"
Set-DhcpServerv4OptionValue -ScopeId {scope} -PolicyName "icbd UEFI" -OptionId 67 -Value "{efi}"
# Policies are tried from the top: "icbd iPXE" has to stay above the others.
"#,
            scope = subnet.network()
        ),
        Dialect::Dnsmasq => format!(
            r#"# dnsmasq that serves {subnet}.
dhcp-match=set:icbd-ipxe,175
dhcp-userclass=set:icbd-ipxe,iPXE
dhcp-match=set:icbd-bios,option:client-arch,0
dhcp-match=set:icbd-efi64,option:client-arch,7
dhcp-match=set:icbd-efi64,option:client-arch,9
dhcp-match=set:icbd-http64,option:client-arch,16
dhcp-boot=tag:icbd-ipxe,{script}
# iPXE waits for no other server's word on what to boot: three seconds less.
dhcp-option=tag:icbd-ipxe,encap:175,176,1b
dhcp-boot=tag:!icbd-ipxe,tag:icbd-bios,{bios},,{address}
dhcp-boot=tag:!icbd-ipxe,tag:icbd-efi64,{efi},,{address}
dhcp-boot=tag:!icbd-ipxe,tag:icbd-http64,{by_http}
dhcp-option-force=tag:icbd-http64,tag:!icbd-ipxe,60,HTTPClient
"#
        ),
        Dialect::Pxelinux => format!(
            r#"# PXELINUX. Into pxelinux.cfg/default, with ipxe.lkrn of the package ipxe beside pxelinux.0.
LABEL icbd
  MENU LABEL Machine images of {address}
  KERNEL ipxe.lkrn
  APPEND dhcp && chain {script}
"#
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netboot::Dhcp;

    #[test]
    fn each_says_where_the_script_and_the_loaders_are() {
        let network = BootNetwork {
            interface: "lan".to_owned(),
            address: [10, 1, 2, 1].into(),
            port: 7071,
            subnet: "10.1.2.0/24".parse().unwrap(),
            is_relayed: false,
            dhcp: Dhcp::Off,
            pool: None,
            gateway: None,
            dns: Vec::new(),
        };
        for dialect in [Dialect::Kea, Dialect::Isc, Dialect::Windows, Dialect::Dnsmasq] {
            let text = snippet(dialect, &network);
            for says in ["http://10.1.2.1:7071/boot", "undionly.kpxe", "snponly.efi", "10.1.2.1"] {
                assert!(text.contains(says), "{dialect:?} lacks {says}: {text}");
            }
        }
        let pxelinux = snippet(Dialect::Pxelinux, &network);
        assert!(pxelinux.contains("APPEND dhcp && chain http://10.1.2.1:7071/boot"), "{pxelinux}");
    }
}
