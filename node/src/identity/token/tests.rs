//! Tokens as holders, forgers and gluttons make them.

use biscuit_auth::builder::BlockBuilder;

use super::*;

const NOW: u64 = 1_700_000_000_000;

struct Setting {
    node: SecretKey,
    user_key: SecretKey,
    user: ObjectId,
    verifier: Verifier,
}

impl Setting {
    fn new() -> Self {
        let node = SecretKey::from_bytes([1; 32]);
        let user_key = SecretKey::from_bytes([2; 32]);
        let user = ObjectId::from_parts(NOW, 0, user_key.public().tag());
        let verifier = Verifier::new(node.public().into());
        Self { node, user_key, user, verifier }
    }

    fn session(&self, narrowing: Narrowing) -> String {
        let session = Session { user: self.user, node: self.node.public().into(), operator: true };
        mint_session(&self.node, &session, narrowing).expect("a token")
    }

    fn verify_at(&self, token: &str, now_ms: u64) -> Result<Token, Problem> {
        let known = |user| if user == self.user { vec![self.user_key.public()] } else { vec![] };
        self.verifier.verify(token, now_ms, known)
    }

    fn verify(&self, token: &str) -> Result<Token, Problem> {
        self.verify_at(token, NOW)
    }

    /// The session certificate with a block of the holder's own making.
    fn with_block(&self, code: &str) -> String {
        let token = UnverifiedBiscuit::from_base64(self.session(Narrowing::default())).expect("a token");
        token.append(BlockBuilder::new().code(code).expect("datalog")).expect("appended").to_base64().expect("text")
    }
}

fn refusal(result: Result<Token, Problem>) -> String {
    let problem = result.expect_err("the token must not count");
    assert_eq!(problem.kind, Kind::Unauthenticated);
    problem.detail
}

#[test]
fn a_session_certificate_counts_at_its_node() {
    let here = Setting::new();
    let token = here.session(Narrowing::default());
    assert!(token.len() < 400, "{} characters", token.len());
    let expected = Token { user: here.user, operator: true, rights: Rights::ALL, counts_elsewhere: false };
    assert_eq!(here.verify(&token), Ok(expected));
    assert_eq!(here.verify(&format!(" {token}\n")), Ok(expected), "as read from a file");
    let elsewhere = Verifier::new(SecretKey::from_bytes([9; 32]).public().into());
    assert!(elsewhere.verify(&token, NOW, |_| vec![]).is_err());
    // Signed by this node, but made out to another.
    let session = Session { user: here.user, node: NodeId([7; 32]), operator: true };
    let foreign = mint_session(&here.node, &session, Narrowing::default()).expect("a token");
    assert!(refusal(here.verify(&foreign)).contains("another node"));
}

#[test]
fn a_user_rooted_token_counts_as_long_as_the_user_has_the_key() {
    let here = Setting::new();
    let token = mint_for_user(&here.user_key, here.user, Narrowing::default()).expect("a token");
    assert_eq!(
        here.verify(&token),
        Ok(Token { user: here.user, operator: false, rights: Rights::ALL, counts_elsewhere: true })
    );
    // The key is taken from the user: also what is remembered counts no more.
    assert!(here.verifier.verify(&token, NOW, |_| vec![]).is_err());
    // Another key in the user's name.
    let forged = mint_for_user(&SecretKey::from_bytes([3; 32]), here.user, Narrowing::default()).expect("a token");
    assert!(refusal(here.verify(&forged)).contains("neither by this node"));
}

#[test]
fn a_user_cannot_make_an_operator_or_speak_for_another() {
    let here = Setting::new();
    let session = Session { user: here.user, node: here.node.public().into(), operator: true };
    let token = mint_session(&here.user_key, &session, Narrowing::default()).expect("a token");
    assert_eq!(here.verify(&token).map(|token| token.operator), Ok(false));
    let other = ObjectId::from_parts(1, 1, [0; 8]);
    let code = format!("user(\"{}\"); user(\"{other}\");", here.user);
    let keys = key_pair(&here.user_key).expect("keys");
    let two = Biscuit::builder().code(code).expect("datalog").build(&keys).expect("a token").to_base64().expect("text");
    assert!(refusal(here.verify(&two)).contains("exactly one user"));
    // Facts of a later block are not the authority's.
    let widened = here.with_block(&format!("user(\"{other}\"); operator(true);"));
    assert_eq!(here.verify(&widened).map(|token| token.user), Ok(here.user));
}

#[test]
fn a_token_ends() {
    let here = Setting::new();
    let token = here.session(Narrowing { expires_ms: Some(NOW + 10_000), ..Narrowing::default() });
    assert!(here.verify_at(&token, NOW).is_ok());
    assert!(here.verify_at(&token, NOW + 9_000).is_ok());
    assert!(refusal(here.verify_at(&token, NOW + 10_000)).contains("time("));
    assert!(refusal(here.verify_at(&token, NOW + 1_000_000)).contains("time("));
    // Remembered as counting, and then past its end.
    assert!(here.verify_at(&token, NOW + 9_500).is_ok());
    assert!(here.verify_at(&token, NOW + 9_500 + TIMED_MS_MAX).is_err());
}

#[test]
fn a_holder_can_narrow_a_token_and_nobody_can_widen_it() {
    let here = Setting::new();
    let token = here.session(Narrowing::default());
    let reader = attenuate(&token, Narrowing { read_only: true, ..Narrowing::default() }).expect("narrowed");
    let rights = here.verify(&reader).expect("counts").rights;
    for class in Class::ALL {
        assert!(rights.allow(Operation::Read, class) && !rights.allow(Operation::Write, class));
    }
    let jobs = attenuate(&token, Narrowing { class: Some(Class::Job), ..Narrowing::default() }).expect("narrowed");
    let rights = here.verify(&jobs).expect("counts").rights;
    assert!(rights.allow(Operation::Write, Class::Job) && !rights.allow(Operation::Read, Class::Blob));
    // A narrowing cannot be taken back by another one: what it says is its own.
    let both = attenuate(&reader, Narrowing { class: Some(Class::Kv), ..Narrowing::default() }).expect("narrowed");
    let rights = here.verify(&both).expect("counts").rights;
    assert!(rights.allow(Operation::Read, Class::Kv));
    assert!(!rights.allow(Operation::Write, Class::Kv) && !rights.allow(Operation::Read, Class::Job));
    let elsewhere = Narrowing { node: Some(NodeId([7; 32])), ..Narrowing::default() };
    assert!(here.verify(&attenuate(&token, elsewhere).expect("narrowed")).is_err());
    let here_only = Narrowing { node: Some(here.node.public().into()), ..Narrowing::default() };
    assert!(here.verify(&attenuate(&token, here_only).expect("narrowed")).is_ok());
}

#[test]
fn a_check_that_the_node_does_not_understand_is_not_met() {
    let here = Setting::new();
    assert!(here.verify(&here.with_block("check if moon_phase(\"full\");")).is_err());
    let rights =
        here.verify(&here.with_block("operation(\"write\"); check if operation(\"read\");")).expect("counts").rights;
    assert!(rights.allow(Operation::Read, Class::Job) && !rights.allow(Operation::Write, Class::Job));
}

#[test]
fn a_changed_or_truncated_token_is_refused() {
    let here = Setting::new();
    let token = attenuate(&here.session(Narrowing::default()), Narrowing { read_only: true, ..Narrowing::default() });
    let token = token.expect("narrowed");
    for cut in 0..token.len() - 1 {
        if token[cut..].bytes().any(|b| b != b'=') {
            assert!(here.verify(&token[..cut]).is_err(), "cut at {cut}");
        }
    }
    for place in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("text");
        assert!(here.verify(&changed).is_err(), "changed at {place}");
    }
    for text in ["", "x", "Bearer", "====", &"A".repeat(TOKEN_LEN_MAX + 1), "eyJhbGciOiJIUzI1NiJ9.e30.abc"] {
        assert!(here.verify(text).is_err(), "{text:.20}");
    }
}

#[test]
fn datalog_that_costs_more_than_narrowing_needs_is_refused_by_name() {
    let here = Setting::new();
    let join = "check if time($a), time($b), time($c), time($d);";
    let many: String = (0..40).map(|n| format!("n({n});")).collect();
    for (code, why) in [
        ("n(0); n($x) <- n($y), user($x);", "rules"),
        (join, "joins too many"),
        (many.as_str(), "too many facts"),
        ("check if user($u), $u.matches(\"(a+)+$\");", "regular expression"),
        ("check if [1, 2].all($p -> $p > 0);", "closure"),
        ("check if user($u), $u.extern::f();", "external function"),
    ] {
        let detail = refusal(here.verify(&here.with_block(code)));
        assert!(detail.contains(why), "{code}: {detail}");
    }
    let mut token = here.session(Narrowing::default());
    let mut narrowings = 0;
    while let Ok(longer) = attenuate(&token, Narrowing { read_only: true, ..Narrowing::default() }) {
        (token, narrowings) = (longer, narrowings + 1);
    }
    assert!(narrowings >= 12, "only {narrowings} narrowings fit");
    let _ = here.verify(&token);
}

#[test]
fn what_is_remembered_is_bounded() {
    let here = Setting::new();
    for n in 0..600u64 {
        let token = here.session(Narrowing { expires_ms: Some(NOW + 60_000 + n * 1_000), ..Narrowing::default() });
        assert!(here.verify(&token).is_ok());
    }
    assert_eq!(here.verifier.cache().len(), 256);
}
