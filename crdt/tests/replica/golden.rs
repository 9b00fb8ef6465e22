//! Bytes that other nodes and other versions have on disk.

use shoal_crdt::wanted;
use shoal_protocol::change::DocumentClass;

use crate::world::{Person, all_changes, apply, function, replica};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The founding change of a user and a function, their hashes, and what is derived from them. If this test goes red,
/// nodes of the version before derive other documents: that needs a new version of the change format.
#[test]
fn one_change_and_what_is_derived_from_it() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let document = ada.function(&mut replica, "f");
    ada.change(&mut replica, DocumentClass::Function, document, vec![wanted::name("g")]);
    let derived = |heads: Vec<[u8; 32]>| heads.iter().map(|head| hex(head)).collect::<Vec<_>>().join(" ");
    let found = [
        ("bytes", hex(&ada.founding.bytes)),
        ("signature", hex(&ada.founding.signature.0)),
        ("hash", ada.founding.hash().0.to_string()),
        ("derived user", derived(replica.derived_heads(ada.user))),
        ("derived function", derived(replica.derived_heads(document))),
        ("digest", hex(&replica.digest())),
    ];
    assert_eq!(found.map(|(what, text)| format!("{what}: {text}")), GOLDEN);
    assert_eq!(function(&replica, document).name, "g");
    assert_eq!(all_changes(&replica).len(), 3);
}

const GOLDEN: [&str; 6] = [
    concat!(
        "bytes: a96776657273696f6e01646d6573685820d3cab3247816947c40409230ac0890e64d243eaf1e9e8284bc432ae0704",
        "4cf3868646f63756d656e7450000000000002000083561adb398fd87f65636c6173736475736572647573657250000000000",
        "002000083561adb398fd87f66617574686f7258208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40",
        "f6f5c6873657175656e6365016464657073806a6f7065726174696f6e7382a163707574a2647061746881646e616d6565766",
        "16c7565a1647465787463616461a163707574a2647061746882646b657973784038613838653364643734303966313935666",
        "4353264623264336362613564373263613637303962663164393431323162663337343838303162343066366635636576616",
        "c7565a16474657874666c6170746f70",
    ),
    concat!(
        "signature: cc4176210e1fff50d7d774248ad1b2c5ab3c80a1a12167bb6eaef6ecb303c7611fb05b29da6c326c98cb3c5af",
        "82c665caf1134971a1c70d83deea18c220b0401",
    ),
    "hash: 9efe4b477b2101de9d4964b5abdde8e6c349543bcf45d4c4107e614288656436",
    "derived user: ac85985fd9c75ff613cd0e27c861926c21da5bc36e7bbde250516ed677d99782",
    "derived function: fc2d6e71177979157269897fe15f059e33e0cc839e08a2ec114cd9c36dbbea23",
    "digest: 43b371ef90499980ac6ccab7741456fb82fb113640e16a01131f5b20842c524e",
];
