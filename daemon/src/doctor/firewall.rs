//! Whether this machine's firewall keeps others from ports that they have to reach.
//!
//! What nftables is told is read, also by `iptables` of our days. Only rules that anybody writes are understood: who may reach a
//! port from where is not judged, but that nobody may is.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::Finding;
use super::ports::{Port, Transport};

pub(super) fn look(ports: &[Port]) -> Vec<Finding> {
    if ports.is_empty() {
        return Vec::new();
    }
    let output = Command::new("nft").args(["--json", "list", "ruleset"]).stdin(Stdio::null()).output();
    let rules = match output {
        Ok(output) if output.status.success() => serde_json::from_slice::<Value>(&output.stdout),
        Ok(_) => return vec![Finding::note("firewall", "the rules of nftables cannot be read; run it as root")],
        Err(_) => return vec![Finding::note("firewall", "there is no program nft, so no firewall was looked at")],
    };
    let Ok(rules) = rules else {
        return vec![Finding::note("firewall", "nft says something that icbd does not understand")];
    };
    let closed: Vec<&Port> = ports.iter().filter(|port| !is_open(&rules, port.transport, port.number)).collect();
    if closed.is_empty() {
        return vec![Finding::ok("firewall", "no rule of nftables closes what others have to reach")];
    }
    let mut findings = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        let of = closed.iter().filter(|port| port.transport == transport);
        let mut numbers: Vec<u16> = of.clone().map(|port| port.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            continue;
        }
        let what: Vec<String> = of.map(|port| format!("{} ({})", port.number, port.what)).collect();
        let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
        let name = transport.name();
        findings.push(Finding::wrong(
            "firewall",
            format!("nftables lets nobody reach {name} {}", what.join(", ")),
            format!("add to its chain of input: {name} dport {{ {} }} accept", numbers.join(", ")),
        ));
    }
    findings
}

/// Whether no chain of input drops a port, or some rule lets it through.
fn is_open(ruleset: &Value, transport: Transport, port: u16) -> bool {
    let items = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chains = || items.iter().filter_map(|item| item.get("chain"));
    let rules = || items.iter().filter_map(|item| item.get("rule"));
    let of_chain = |chain: &Value, rule: &Value| {
        ["family", "table"].iter().all(|key| rule[key] == chain[key]) && rule["chain"] == chain["name"]
    };
    let closing = chains().filter(|chain| chain["hook"] == "input").filter(|chain| {
        let is_end = |rule: &Value| {
            let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_closed = |part: &Value| part.get("drop").is_some() || part.get("reject").is_some();
            parts.iter().any(is_closed) && !parts.iter().any(|part| part.get("match").is_some())
        };
        chain["policy"] == "drop" || rules().any(|rule| of_chain(chain, rule) && is_end(rule))
    });
    let of_table = |chain: &Value, rule: &Value| ["family", "table"].iter().all(|key| rule[key] == chain[key]);
    closing.into_iter().all(|chain| {
        // Also in chains that it leads to.
        let mut of_table = rules().filter(|rule| of_table(chain, rule));
        of_table.any(|rule| is_beyond(rule) || lets_through(rule, items, transport, port))
    })
}

/// Whether a rule says more than is understood here: then nothing is claimed.
fn is_beyond(rule: &Value) -> bool {
    let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    parts.iter().any(|part| part.get("vmap").is_some() || part.get("xt").is_some())
}

fn lets_through(rule: &Value, items: &[Value], transport: Transport, port: u16) -> bool {
    let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parts.iter().any(|part| part.get("accept").is_some()) {
        return false;
    }
    let matches = parts.iter().filter_map(|part| part.get("match"));
    let mut names_port = false;
    for condition in matches {
        let left = &condition["left"];
        if left["payload"]["field"] == "dport" {
            let protocol = &left["payload"]["protocol"];
            let is_own = *protocol == transport.name() || *protocol == "th";
            if !is_own || !holds(&condition["right"], items, rule, port) {
                return false;
            }
            names_port = true;
        } else if left["meta"]["key"] == "iifname" || left["meta"]["key"] == "iif" {
            if condition["right"] == "lo" && condition["op"] != "!=" {
                return false;
            }
            names_port = true;
        } else if left.get("ct").is_some() && !is_for_new(&condition["right"])
            || left["meta"]["key"] == "l4proto" && condition["right"] != transport.name()
        {
            return false;
        } else if left["payload"]["field"] == "saddr" {
            names_port = true;
        } else if left["payload"]["protocol"].as_str().is_some_and(|protocol| protocol.starts_with("icmp")) {
            return false;
        }
    }
    // Without a condition it lets everything through.
    names_port || !parts.iter().any(|part| part.get("match").is_some())
}

/// Whether connections that begin are among what a rule is for.
fn is_for_new(states: &Value) -> bool {
    let all = states["set"].as_array().or(states.as_array());
    states == "new" || all.is_some_and(|states| states.iter().any(|state| state == "new"))
}

/// Whether a port is what a rule compares with: a number, a range, a set, or the name of one.
fn holds(right: &Value, items: &[Value], rule: &Value, port: u16) -> bool {
    let port = u64::from(port);
    if let Some(number) = right.as_u64() {
        return number == port;
    }
    if let Some(name) = right.as_str().and_then(|text| text.strip_prefix('@')) {
        let sets = items.iter().filter_map(|item| item.get("set"));
        let mut own = sets.filter(|set| set["name"] == name && set["table"] == rule["table"]);
        return own.any(|set| any(&set["elem"], items, rule, port));
    }
    if let [Some(first), Some(last)] = [right["range"][0].as_u64(), right["range"][1].as_u64()] {
        return (first..=last).contains(&port);
    }
    any(&right["set"], items, rule, port)
}

fn any(set: &Value, items: &[Value], rule: &Value, port: u64) -> bool {
    let port = u16::try_from(port).unwrap_or_default();
    set.as_array().into_iter().flatten().any(|element| holds(element, items, rule, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(chain: &str, expr: Value) -> Value {
        json!({"rule": {"family": "inet", "table": "f", "chain": chain, "expr": expr}})
    }

    fn dport(protocol: &str, right: Value) -> Value {
        json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": right}})
    }

    fn ruleset(policy: &str, rules: &[Value]) -> Value {
        let chain = |name: &str, hook: Value| json!({"chain": {"family": "inet", "table": "f", "name": name, "hook": hook, "policy": policy}});
        let set =
            json!({"set": {"family": "inet", "table": "f", "name": "ports", "elem": [7070, {"range": [2000, 2100]}]}});
        let mut items = vec![set, chain("input", json!("input")), chain("lab", Value::Null)];
        items.extend_from_slice(rules);
        json!({"nftables": items})
    }

    fn open(rules: &Value) -> Vec<u16> {
        [69, 2049, 3260, 7070].into_iter().filter(|port| is_open(rules, Transport::Tcp, *port)).collect()
    }

    #[test]
    fn a_port_is_open_if_some_rule_lets_it_through() {
        let accept = json!({"accept": null});
        let all = vec![69, 2049, 3260, 7070];
        assert_eq!(open(&json!({"nftables": []})), all, "there is no firewall");
        assert_eq!(open(&ruleset("accept", &[])), all);
        assert!(open(&ruleset("drop", &[])).is_empty());
        let with = |chain: &str, expr: Value| open(&ruleset("drop", &[rule(chain, expr)]));
        assert_eq!(with("input", json!([dport("tcp", json!("@ports")), accept])), [2049, 7070]);
        assert_eq!(with("lab", json!([dport("tcp", json!({"set": [22, 3260]})), accept])), [3260]);
        assert_eq!(with("input", json!([dport("th", json!({"range": [67, 69]})), accept])), [69]);
        assert!(with("input", json!([dport("udp", json!(69)), accept])).is_empty());
        assert!(with("input", json!([dport("tcp", json!(69)), {"drop": null}])).is_empty());
        let from =
            |key: &str, right: &str| json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}});
        assert!(with("input", json!([from("iifname", "lo"), accept])).is_empty());
        assert_eq!(with("input", json!([from("iifname", "eth1"), accept])), all);
        let known = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established"]}});
        assert!(with("input", json!([known, accept])).is_empty());
        let new = json!({"match": {"op": "==", "left": {"ct": {"key": "state"}}, "right": "new"}});
        assert_eq!(with("input", json!([new, dport("tcp", json!(7070)), accept])), [7070]);
        assert_eq!(with("input", json!([{"vmap": {"key": 1, "data": 2}}])), all, "nothing is claimed");
        assert_eq!(with("input", json!([accept])), all);
    }

    #[test]
    fn a_chain_may_end_with_a_refusal() {
        let refused = rule("input", json!([{"reject": {"type": "icmpx"}}]));
        assert!(open(&ruleset("accept", std::slice::from_ref(&refused))).is_empty());
        let lets = rule("input", json!([dport("tcp", json!(7070)), {"accept": null}]));
        assert_eq!(open(&ruleset("accept", &[lets, refused])), [7070]);
    }
}
