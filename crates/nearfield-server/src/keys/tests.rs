use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn only_hashes_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::open(folder.path()).unwrap();
    let key = store.add("laptop").unwrap();
    let path = folder.path().join(KEYS_FILE);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&key.plaintext));
    assert!(!text.contains(key.plaintext.trim_start_matches(KEY_PREFIX)));
    assert!(text.contains(&hex(&hash(&key.plaintext))));
    assert_eq!(mode(&path), 0o600);
    assert!(!format!("{key:?}").contains(&key.plaintext));
}

#[test]
fn the_hash_is_sha256_of_the_whole_key() {
    assert_eq!(hex(&hash("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn a_key_passes_until_it_is_revoked_by_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let server = Authenticator::new(KeyStore::open(folder.path()).unwrap(), None).unwrap();
    let command_line = KeyStore::open(folder.path()).unwrap();
    let key = command_line.add("laptop").unwrap();
    let known = KnownKey { id: key.record.id.clone(), name: Some("laptop".to_owned()) };
    assert_eq!(server.check(&key.plaintext).unwrap(), Some(known));
    assert_eq!(server.check(&format!("{}x", key.plaintext)).unwrap(), None);
    assert_eq!(server.check("").unwrap(), None);
    command_line.revoke("laptop").unwrap();
    assert_eq!(server.check(&key.plaintext).unwrap(), None);
    assert!(matches!(command_line.revoke("laptop"), Err(KeyError::NotFound { .. })));
    let again = command_line.add("laptop").unwrap();
    command_line.revoke(&again.record.id).unwrap();
    assert_eq!(server.check(&again.plaintext).unwrap(), None);
}

#[test]
fn the_hash_itself_is_not_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let server = Authenticator::new(KeyStore::open(folder.path()).unwrap(), None).unwrap();
    let key = server.store.add("laptop").unwrap();
    assert_eq!(server.check(&hex(&hash(&key.plaintext))).unwrap(), None);
}

#[test]
fn names_are_unique_and_plain() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::open(folder.path()).unwrap();
    store.add("a").unwrap();
    assert!(matches!(store.add("a"), Err(KeyError::NameTaken { .. })));
    for name in ["", "a b", "a\n", "ü", &"x".repeat(MAX_NAME_LENGTH + 1)] {
        assert!(matches!(store.add(name), Err(KeyError::BadName { .. })), "{name:?}");
    }
}

#[test]
fn the_generated_key_is_kept_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Authenticator::new(KeyStore::open(folder.path()).unwrap(), None).unwrap();
    let first = open();
    let path = first.server_key_path().unwrap().to_owned();
    assert_eq!(mode(&path), 0o600);
    let key = fs::read_to_string(&path).unwrap().trim().to_owned();
    assert!(first.check(&key).unwrap().is_some());
    let second = open();
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), key);
    assert_eq!(second.store.list().unwrap().iter().filter(|record| record.generated).count(), 1);

    let id = second.check(&key).unwrap().unwrap().id;
    second.store.revoke(&id).unwrap();
    assert_eq!(second.check(&key).unwrap(), None);
    let third = open();
    let new_key = fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_ne!(new_key, key);
    assert!(third.check(&new_key).unwrap().is_some());
    assert_eq!(third.check(&key).unwrap(), None);
}

#[test]
fn a_given_key_replaces_the_generated_one() {
    let folder = tempfile::tempdir().unwrap();
    let generated = Authenticator::new(KeyStore::open(folder.path()).unwrap(), None).unwrap();
    let generated = fs::read_to_string(generated.server_key_path().unwrap()).unwrap();
    let server = Authenticator::new(KeyStore::open(folder.path()).unwrap(), Some("from-outside")).unwrap();
    let given = KnownKey { id: GIVEN_KEY_ID.to_owned(), name: None };
    assert_eq!(server.check("from-outside").unwrap(), Some(given));
    assert_eq!(server.check(generated.trim()).unwrap(), None);
    assert!(server.server_key_path().is_none());
    for bad in ["", "a b", "a\n", "ü"] {
        let store = KeyStore::open(folder.path()).unwrap();
        assert!(matches!(Authenticator::new(store, Some(bad)), Err(KeyError::BadGivenKey)), "{bad:?}");
    }
}

#[test]
fn a_readable_server_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Authenticator::new(KeyStore::open(folder.path()).unwrap(), None).unwrap();
    let path = server.server_key_path().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let again = Authenticator::new(KeyStore::open(folder.path()).unwrap(), None);
    assert!(matches!(again, Err(KeyError::Exposed { mode: 0o644, .. })));
}

#[test]
fn a_damaged_file_closes_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let server = Authenticator::new(KeyStore::open(folder.path()).unwrap(), None).unwrap();
    let key = server.store.add("laptop").unwrap();
    let path = folder.path().join(KEYS_FILE);
    for text in ["", "{", r#"{"version":2,"keys":[]}"#, r#"{"version":1,"keys":[],"more":0}"#] {
        fs::write(&path, text).unwrap();
        assert!(matches!(server.check(&key.plaintext), Err(KeyError::Damaged { .. })), "{text:?}");
        assert!(KeyStore::open(folder.path()).is_err());
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(server.check(&key.plaintext).unwrap(), None);
}

#[test]
fn several_processes_may_add_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let folder = folder.path();
            scope.spawn(move || {
                let store = KeyStore::open(folder).unwrap();
                for index in 0..8 {
                    store.add(&format!("key-{thread}-{index}")).unwrap();
                }
            });
        }
    });
    assert_eq!(KeyStore::open(folder.path()).unwrap().list().unwrap().len(), 32);
}

#[test]
fn every_change_of_keys_leaves_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::open(folder.path()).unwrap();
    let key = store.add("laptop").unwrap();
    store.revoke("laptop").unwrap();
    assert!(store.revoke("laptop").is_err());
    // By hand.
    let path = folder.path().join(KEYS_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("laptop", "desktop")).unwrap();
    KeyStore::open(folder.path()).unwrap();
    KeyStore::open(folder.path()).unwrap();
    let record = fs::read_to_string(folder.path().join(changes::CHANGES_FILE)).unwrap();
    let lines: Vec<Change> = record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by: Vec<&str> = lines.iter().map(|line| line.by.as_str()).collect();
    let id = &key.record.id;
    assert_eq!(by, [format!("added {id}"), format!("revoked {id}"), "found changed".to_owned()]);
    for pair in lines.windows(2) {
        assert_eq!(pair[1].old.as_ref(), Some(&pair[0].new));
    }
    assert!(!record.contains(&key.plaintext));
}
