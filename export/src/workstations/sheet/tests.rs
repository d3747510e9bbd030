//! Lists as people and their programs write them.

use super::*;
use proptest::prelude::*;

const UUID: &str = "4c4c4544-0051-3510-8052-b4c04f4d3132";

/// Of each: name, MACs, UUID and lab.
fn rows(text: &str) -> Vec<String> {
    let row = |workstation: &Workstation| {
        let macs: Vec<String> = workstation.macs.iter().map(Mac::to_string).collect();
        let uuid = workstation.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let lab = workstation.lab.as_ref().map(|lab| lab.to_string()).unwrap_or_default();
        format!("{}|{}|{uuid}|{lab}", workstation.name, macs.join(" "))
    };
    read_sheet(text).unwrap().iter().map(row).collect()
}

fn faults(text: &str) -> Vec<String> {
    read_sheet(text).unwrap_err().shown.iter().map(Fault::to_string).collect()
}

#[test]
fn a_list_is_one_however_a_program_saves_it() {
    let plain = format!("name,mac,uuid,lab\npc-1,52:54:00:00:00:01,{UUID},R2\npc-2,52:54:00:00:00:02,,\n");
    let expected = [format!("pc-1|52:54:00:00:00:01|{UUID}|R2"), "pc-2|52:54:00:00:00:02||".to_owned()];
    for text in [
        plain.clone(),
        plain.replace('\n', "\r\n"),
        plain.replace('\n', "\r"),
        plain.replace(',', ";"),
        plain.replace(',', "\t"),
        plain.replace(',', " , "),
        plain.replace(UUID, &UUID.to_uppercase()),
        plain.replace("name,mac", "Name,MAC"),
        plain.replace("pc-1", "\"pc-1\""),
        format!("\u{feff}{plain}"),
        format!("\n\n{plain}\n,,,\n"),
        plain.trim_end().to_owned(),
        // A field that stands between quotes may have the separator in it.
        format!("{}\"52:54:00:00:00:02\",\"\",\"\"", plain.trim_end_matches("52:54:00:00:00:02,,\n")),
    ] {
        assert_eq!(rows(&text), expected, "{text:?}");
    }
}

#[test]
fn columns_are_in_any_order_and_some_may_be_missing() {
    assert_eq!(rows("mac,name\n5254.0000.0001,pc-1\n"), ["pc-1|52:54:00:00:00:01||"]);
    assert_eq!(rows(&format!("uuid,lab,name\n{{{UUID}}},R2,pc-1\n")), [format!("pc-1||{UUID}|R2")]);
    // Two network cards.
    assert_eq!(
        rows("name,mac\npc-1,52-54-00-00-00-02  52-54-00-00-00-01\n"),
        ["pc-1|52:54:00:00:00:01 52:54:00:00:00:02||"]
    );
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, says) in [
        ("", "line 1: it is empty"),
        ("\n \n", "line 1: it is empty"),
        ("name,mac\n", "line 1: there is no workstation on it"),
        ("name,mak\npc-1,52:54:00:00:00:01\n", "line 1, column 2 (mak): there is no column \"mak\""),
        ("pc-1,52:54:00:00:00:01\n", "line 1, column 1 (pc-1): there is no column \"pc-1\": the first line names"),
        ("name,mac,name\n", "line 1, column 3 (name): the column is there twice"),
        ("mac,lab\n", "line 1: no column is called name"),
        ("name,lab\n", "line 1: there is neither a column mac nor a column uuid"),
        ("name,mac\npc-1\n", "line 2: 1 fields, where the first line has 2"),
        ("name,mac\r\n\r\npc-1,x,y\r\n", "line 3: 3 fields, where the first line has 2"),
        ("name,mac\n,52:54:00:00:00:01\n", "line 2, column 1 (name): no name"),
        ("mac,name\n52:54:00:00:00:01,PC_17\n", "line 2, column 2 (name): \"PC_17\" is no name of a workstation"),
        ("mac,name\n52:54:00:00:00:01,PC_17\n", "; write pc-17"),
        (
            "name,mac\npc-1,52:54\n",
            "line 2, column 2 (mac): \"52:54\" is no MAC address; write it as 52:54:00:12:34:56",
        ),
        ("name,mac\npc-1,ff:ff:ff:ff:ff:ff\n", "no network card's own"),
        ("name,uuid\npc-1,4c4c\n", "line 2, column 2 (uuid): \"4c4c\" is no UUID"),
        ("name,uuid\npc-1,00000000-0000-0000-0000-000000000000\n", "boards without a UUID of their own"),
        ("name,mac,lab\npc-1,52:54:00:00:00:01,R 2\n", "line 2, column 3 (lab): \"R 2\" is no name of a lab"),
        ("name,mac,uuid\npc-1,,\n", "line 2: neither a MAC address nor a UUID"),
        (
            "name,mac\npc-1,52:54:00:00:00:01\npc-1,52:54:00:00:00:02\n",
            "line 3, column 1 (name): pc-1 is on line 2, too",
        ),
        (
            "name,mac\npc-1,52:54:00:00:00:01\n\npc-2,52-54-00-00-00-01\n",
            "line 4, column 2 (mac): 52:54:00:00:00:01 is on line 2, too",
        ),
        ("name,mac\npc-1,52:54:00:00:00:01 52:54:00:00:00:01\n", "52:54:00:00:00:01 is on line 2, too"),
        (
            "name,mac\npc-1,\"52:54:00:00:00:01\npc-2,52:54:00:00:00:02\n",
            "line 2, character 6: this '\"' is never closed",
        ),
        ("name,mac\n\"pc\"-1,52:54:00:00:00:01\n", "line 2, character 4: a '\"' within a field"),
        ("name,mac\nü,p\"c\n", "line 2, character 4: a '\"' within a field"),
        ("name,mac\r\r\npc-1,5\"2\n", "line 3, character 7: a '\"' within a field"),
    ] {
        let told = faults(text);
        assert!(told[0].contains(says), "{text:?}: {told:?}");
    }
    let uuids = format!("name,uuid\npc-1,{UUID}\npc-2,{{{}}}\n", UUID.to_uppercase());
    assert!(faults(&uuids)[0].starts_with(&format!("line 3, column 2 (uuid): {UUID} is on line 2, too")));
}

#[test]
fn all_that_is_wrong_is_told_up_to_a_limit() {
    let told = faults("name,mac,lab\nPC-1,x,R 2\npc-2,52:54:00:00:00:02,\npc-3,y,\n");
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].starts_with("line 2, column 1") && told[3].starts_with("line 4, column 2"), "{told:?}");
    let many: String = (0..50).map(|number| format!("pc-{number},x\n")).collect();
    let faults = read_sheet(&format!("name,mac\n{many}")).unwrap_err();
    assert_eq!((faults.shown.len(), faults.more), (FAULTS_SHOWN_MAX, 30));
}

#[test]
fn what_is_no_text_is_told_with_its_place() {
    assert!(text_of_sheet("name,mac\nü".as_bytes()).is_ok());
    // As Excel saves it in western Europe, and as its "Unicode text".
    let latin = text_of_sheet(b"name,mac,lab\npc-1,52:54:00:00:00:01,Geb\xe4ude\n").unwrap_err().to_string();
    assert!(latin.starts_with("line 2, character 27: it is no text in UTF-8; save it as"), "{latin}");
    let wide = text_of_sheet(b"\xff\xfen\0a\0m\0e\0").unwrap_err().to_string();
    assert!(wide.starts_with("line 1, character 1: it is no text"), "{wide}");
}

fn any_workstation() -> impl Strategy<Value = (String, Vec<u64>, Option<u128>, String)> {
    let macs = proptest::collection::vec(1u64..1 << 40, 1..3);
    ("[a-z][a-z0-9-]{0,8}[a-z0-9]", macs, proptest::option::of(1..u128::MAX), "([A-Za-z0-9ü][A-Za-z0-9._-]{0,8})?")
}

/// An address as one of the ways to write it.
fn written(mac: u64, way: usize) -> String {
    // The first byte stays even: it is no group's.
    let digits = format!("02{mac:010x}");
    let grouped = |each: usize, separator: &str| {
        let groups: Vec<&str> = (0..12 / each).map(|at| &digits[at * each..(at + 1) * each]).collect();
        groups.join(separator)
    };
    match way % 4 {
        0 => grouped(2, ":"),
        1 => grouped(2, "-").to_uppercase(),
        2 => grouped(4, "."),
        _ => digits,
    }
}

proptest! {
    /// Whatever is on a list comes back, however it was written.
    #[test]
    fn what_is_written_is_read(
        all in proptest::collection::vec(any_workstation(), 1..8),
        way in 0usize..4,
        separator in proptest::sample::select(vec![',', ';', '\t']),
        has_marks in any::<bool>(),
    ) {
        let mut writer = csv::WriterBuilder::new()
            .delimiter(separator as u8)
            .terminator(if has_marks { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') })
            .quote_style(if has_marks { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary })
            .from_writer(Vec::new());
        writer.write_record(["lab", "uuid", "boots", "mac", "name"]).unwrap();
        let mut expected = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (name, macs, uuid, lab) in &all {
            let uuid = uuid.map(Uuid::from_u128);
            let own = macs.iter().map(|mac| mac.to_string()).chain(uuid.map(|uuid| uuid.to_string())).chain([name.clone()]);
            if !own.collect::<Vec<_>>().into_iter().all(|what| seen.insert(what)) {
                continue;
            }
            let fields: Vec<String> = macs.iter().map(|mac| written(*mac, way)).collect();
            let shown = uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
            let boots = if macs.len() == 1 { "lab@4" } else { "" };
            writer.write_record([lab.as_str(), &shown, boots, &fields.join(" "), name]).unwrap();
            let mut macs: Vec<Mac> = macs.iter().map(|mac| written(*mac, 0).parse().unwrap()).collect();
            macs.sort_unstable();
            let (lab, boots) = (lab.parse().ok(), boots.parse().ok());
            expected.push(Workstation { name: name.parse().unwrap(), macs, uuid, lab, boots });
        }
        prop_assume!(!expected.is_empty());
        expected.sort_by(|one, other| one.name.cmp(&other.name));
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        prop_assert_eq!(read_sheet(&text).unwrap(), expected);
    }

    /// Whatever comes, it is read or refused; and what is refused is on a line that is there.
    #[test]
    fn nothing_panics(text in "(name|mac|uuid|lab|boots|pc-1|52:54:00:00:00:01|[,;\t\r\n\" \u{feff}ü]){0,40}") {
        if let Err(faults) = read_sheet(&text) {
            let lines = text.split(['\n', '\r']).count();
            prop_assert!(!faults.shown.is_empty() && faults.shown.iter().all(|fault| (1..=lines).contains(&fault.line)));
        }
        let _ = text_of_sheet(text.as_bytes());
    }
}
