use super::*;
use factory_engine::Term;

/// The ends of what a number may be, and what it is now; seconds as seconds.
fn number(entry: &Entry, settings: &mut Settings) -> Option<(i64, i64, i64)> {
    match entry.kind {
        Kind::Number(least, most, setting) => Some((least, most, setting(settings).get())),
        Kind::Seconds(least, setting) => Some((least, MAX_SECONDS, (*setting(settings) / 1000).get())),
        Kind::Text(..) | Kind::List(_) | Kind::Flag(_) => None,
    }
}

fn named(name: &str) -> &'static Entry {
    OPTIONS.iter().find(|entry| entry.name == name).unwrap()
}

fn set(name: &str, value: Value) -> Result<Settings, BadOption> {
    let mut settings = Settings::default();
    named(name).set(&mut settings, Some(value)).map(|()| settings)
}

/// Each option that has a number: both ends are taken, and what is beyond is answered with both.
#[test]
fn an_error_about_a_range_names_both_ends_and_what_came() {
    let numbers = OPTIONS.iter().filter(|entry| number(entry, &mut Settings::default()).is_some());
    assert_eq!(numbers.clone().count(), 36);
    for entry in numbers {
        let (name, mut settings) = (entry.name, Settings::default());
        let (least, most, default) = number(entry, &mut settings).unwrap();
        assert!(least < most, "{name}");
        for value in [least, most, default] {
            assert_eq!(entry.set(&mut settings, Some(Value::Integer(value))), Ok(()), "{name}");
            assert_eq!(number(entry, &mut settings).unwrap().2, value, "{name}");
        }
        let above = most.checked_add(1).filter(|_| matches!(entry.kind, Kind::Number(..)));
        for beyond in [least.checked_sub(1), above, Some(i64::MIN)].into_iter().flatten() {
            let error = entry.set(&mut settings, Some(Value::Integer(beyond))).unwrap_err().to_string();
            let ends = format!("{name}: {beyond} is out of range, it may be {least} to {most}");
            assert_eq!(error, ends);
            assert_eq!(number(entry, &mut settings).unwrap().2, default, "{name}");
        }
    }
    let error = set("factory-confirm-blocks", Value::Integer(70_000)).unwrap_err().to_string();
    assert_eq!(error, "factory-confirm-blocks: 70000 is out of range, it may be 1 to 65535");
}

#[test]
fn each_option_sets_one_setting_and_no_two_the_same() {
    let all = |settings: &mut Settings| -> Vec<_> {
        OPTIONS.iter().map(|entry| number(entry, settings).map(|(_, _, now)| now)).collect()
    };
    let defaults = all(&mut Settings::default());
    for (at, entry) in OPTIONS.iter().enumerate() {
        assert_eq!(OPTIONS.iter().filter(|other| other.name == entry.name).count(), 1, "{}", entry.name);
        let mut settings = Settings::default();
        let Some((least, most, default)) = number(entry, &mut settings) else { continue };
        let another = if default == least { most } else { least };
        entry.set(&mut settings, Some(Value::Integer(another))).unwrap();
        let mut expected = defaults.clone();
        expected[at] = Some(another);
        assert_eq!(all(&mut settings), expected, "{}", entry.name);
    }
    for entry in &OPTIONS {
        let Kind::Flag(set) = entry.kind else { continue };
        let (mut with, mut without) = (Settings::default(), Settings::default());
        set(&mut with, true);
        set(&mut without, false);
        assert_ne!(format!("{with:?}"), format!("{without:?}"), "{}", entry.name);
        assert_eq!(format!("{without:?}"), format!("{:?}", Settings::default()), "{}", entry.name);
    }
}

#[test]
fn bad_values_are_named() {
    let text = |text: &str| Value::String(text.to_owned());
    let error = set("factory-policy", text("Auto")).unwrap_err().0;
    assert_eq!(error, "factory-policy: expected never, ask or auto, got 'Auto'");
    let error = set("factory-allow-lsp", Value::StringArray(vec!["02ab".to_owned()])).unwrap_err().0;
    assert!(error.starts_with("factory-allow-lsp: ") && error.ends_with(", got '02ab'"), "{error}");
    for relative in ["wake.sh", "sh -c 'rm -r /'"] {
        let error = set("factory-wake-command", text(relative)).unwrap_err().0;
        assert!(error.contains("absolute path") && error.ends_with(&format!("got '{relative}'")), "{error}");
    }
    let error = set("factory-jit", text("yes")).unwrap_err().0;
    assert!(error.starts_with("factory-jit: ") && error.contains("yes"), "{error}");
}

#[test]
fn operators_that_may_invite() {
    let node = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let list = |texts: &[&str]| Value::StringArray(texts.iter().map(|text| (*text).to_owned()).collect());
    let one = set("factory-allow-lsp", list(&[node])).unwrap().config;
    assert_eq!((one.allowed_lsps, one.anybody_invites), (Some(vec![node.parse().unwrap()]), false));
    let anybody = set("factory-allow-lsp", list(&[node, "any"])).unwrap().config;
    assert_eq!((anybody.allowed_lsps, anybody.anybody_invites), (None, true));
    let mut settings = Settings::default();
    named("factory-allow-lsp").set(&mut settings, None).unwrap();
    assert_eq!((settings.config.allowed_lsps, settings.config.anybody_invites), (None, false));
}

// S32
#[test]
fn every_bound_of_terms_has_its_option() {
    let options: Vec<&str> = OPTIONS.iter().map(|entry| entry.name).collect();
    let settings = Term::ALL.into_iter().flat_map(|term| [term.least_setting(), term.most_setting()]);
    for setting in settings.flatten().chain(["min-feerate-percent"]) {
        assert!(options.contains(&format!("factory-{setting}").as_str()), "{setting}");
    }
}

#[test]
fn timeouts_are_milliseconds() {
    let seconds = |name, value| set(name, Value::Integer(value)).map(|settings| settings.config);
    assert_eq!(seconds("factory-invite-timeout", 60).unwrap().invite_timeout, 60_000);
    assert!(seconds("factory-invite-timeout", 0).is_err());
    assert_eq!(seconds("factory-hold-time", 0).unwrap().hold.time, 0);
    assert_eq!(seconds("factory-hold-time", i64::MAX).unwrap().hold.time, 366 * 24 * 3600 * 1000);
}

#[test]
fn a_program_is_a_path_or_none() {
    let path = |text: &str| set("factory-wake-command", Value::String(text.to_owned())).unwrap().wake_command;
    assert_eq!(
        (path("/usr/bin/wake"), path("none"), path("")),
        ("/usr/bin/wake".to_owned(), String::new(), String::new())
    );
    let Kind::Text(written, _) = named("factory-wake-command").kind else { panic!("no text") };
    assert_eq!(written(&Settings::default()), "none");
}

#[test]
fn an_address_is_this_machines_unless_it_is_said() {
    an_address("factory-metrics-bind", "127.0.0.1:9750", |settings| settings.metrics_bind);
    an_address("factory-web-bind", "127.0.0.1:9751", |settings| settings.web_bind);
}

fn an_address(option: &str, example: &str, setting: fn(Settings) -> Option<std::net::SocketAddr>) {
    let bind = |text: &str| set(option, Value::String(text.to_owned())).map(setting);
    for none in ["none", ""] {
        assert_eq!(bind(none), Ok(None));
    }
    for here in ["127.0.0.1:9750", "127.8.8.8:1", "[::1]:9750", "[::ffff:127.0.0.1]:9750"] {
        assert_eq!(bind(here), Ok(Some(here.parse().unwrap())), "{here}");
    }
    for open in
        ["0.0.0.0:9750", "[::]:9750", "192.0.2.7:9750", "[2001:db8::1]:9750", "[::ffff:192.0.2.7]:9750"]
    {
        let error = bind(open).unwrap_err().0;
        assert!(error.starts_with(&format!("{option}: ")) && error.contains("127.0.0.1:9750"), "{error}");
        assert!(error.ends_with(&format!("public:{open}")), "{error}");
        assert_eq!(bind(&format!("public:{open}")), Ok(Some(open.parse().unwrap())), "{open}");
    }
    for bad in
        ["9750", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "localhost:9750", "public:", "Public:[::]:1"]
    {
        let error = bind(bad).unwrap_err().0;
        assert!(error.contains(example) && error.ends_with(&format!("got '{bad}'")), "{error}");
    }
    let Kind::Text(written, _) = named(option).kind else { panic!("no text") };
    assert_eq!(written(&Settings::default()), "none");
}
