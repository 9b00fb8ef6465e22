use super::*;

const SMALL: &str = r#"
[[nodes]]
name = "n"
count = 3

[[steps]]
start = {}
"#;

fn error(text: &str) -> String {
    format!("{:#}", Scenario::parse(text).unwrap_err())
}

#[test]
fn the_scenarios_that_come_with_it_are_read_with_more_and_fewer_nodes() {
    for (name, text) in crate::run::BUILT_IN {
        let scenario = Scenario::parse(text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(!scenario.title.is_empty(), "{name} says what it shows");
        let counted = scenario.nodes.iter().any(|group| group.count.is_some());
        if counted {
            let more = scenario.named().len() + 6;
            assert_eq!(scenario.with_nodes(more).unwrap().named().len(), more, "{name}");
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let with = |more: &str| format!("{SMALL}{more}");
    for (text, wanted) in [
        (with("[[steps]]\nstrat = {}\n"), "unknown variant `strat`"),
        (with("[[steps]]\nmeet = { within = \"soon\" }\n"), "\"soon\" is no length of time"),
        (with("[[steps]]\nmeet = { within = \"soon\" }\n"), "line 9, column 19"),
        (with("[[steps]]\nkill = { nodes = \"m1\" }\n"), "m1 is no node: there are n1, n2, n3"),
        (with("[[steps]]\nkill = { node = \"n1\" }\n"), "unknown field `node`"),
        (with("[[links]]\na = \"n1\"\nb = \"n2\"\nis = { delay = \"5ms\" }\n"), "links need a network of the kind"),
        (with("[[nodes]]\nname = \"n2\"\n"), "two nodes have the same name"),
        (with("[[nodes]]\nname = \"m\"\nsite = \"home\"\n"), "network.sites has none of that name"),
        (with("[[nodes]]\nname = \"M\"\n"), "\"M\" is no name"),
        (with("[[nodes]]\nname = \"m\"\ncount = 1000\n"), "from 1 to 200"),
    ] {
        let error = error(&text);
        assert!(error.contains(wanted), "{wanted:?} is not in {error:?}");
    }
}

#[test]
fn counted_groups_share_a_number_of_nodes() {
    let text = r#"
nodes = [{ name = "a", count = 3 }, { name = "b", count = 6 }, { name = "c" }]
steps = []
"#;
    let scenario = Scenario::parse(text).unwrap();
    let counts = |nodes| {
        let scenario = scenario.clone().with_nodes(nodes).unwrap();
        scenario.nodes.iter().map(|group| group.count).collect::<Vec<_>>()
    };
    assert_eq!(counts(10), [Some(3), Some(6), None]);
    assert_eq!(counts(22), [Some(7), Some(14), None]);
    assert_eq!(counts(4), [Some(1), Some(2), None]);
    assert!(scenario.clone().with_nodes(2).is_err());
}

#[test]
fn nodes_are_selected_by_name_start_and_list() {
    let select = |text: &str| Select::one(text);
    assert!(Select::all().fits("n1"));
    assert!(select("n*").fits("n17") && !select("n*").fits("m1"));
    assert!(select("n1, m*").fits("m1") && !select("n1, m*").fits("n11"));
}
