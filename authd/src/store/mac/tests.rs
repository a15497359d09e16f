use sea_orm::sea_query::Value;

use super::*;

fn keys(lines: &[u8]) -> MacKeys {
    let lines: Vec<String> = lines.iter().map(|byte| MacKeys::line(&[*byte; 32]).to_string()).collect();
    MacKeys::parse(lines.join("\n").as_bytes()).unwrap()
}

fn denial() -> outbox::Model {
    outbox::Model {
        id: 7,
        subject: "ab".to_owned(),
        account: "c".to_owned(),
        cause: "ban".to_owned(),
        lifted: false,
        expires_at: None,
        sent_at: None,
        fed_at: None,
        held_at: None,
        issued_up_to: None,
        mac: None,
    }
}

#[test]
fn a_change_of_any_column_is_found() {
    type Change = fn(&mut outbox::Model);
    let changes: [(&str, Change); 13] = [
        ("id", |row| row.id = 8),
        ("subject", |row| row.subject.push('c')),
        ("a letter from one column to the next", |row| {
            (row.subject, row.account) = ("a".to_owned(), "bc".to_owned());
        }),
        ("two columns exchanged", |row| std::mem::swap(&mut row.subject, &mut row.account)),
        ("cause", |row| row.cause.clear()),
        ("lifted", |row| row.lifted = true),
        ("expires_at", |row| row.expires_at = Some(0)),
        ("sent_at", |row| row.sent_at = Some(1)),
        ("fed_at", |row| row.fed_at = Some(1)),
        ("held_at", |row| row.held_at = Some(0)),
        ("issued_up_to", |row| row.issued_up_to = Some(0)),
        ("held_at to another column", |row| row.expires_at = Some(1)),
        ("the MAC itself", |row| row.mac.as_mut().unwrap().make_ascii_uppercase()),
    ];
    let keys = keys(&[1]);
    let row = keys.with_mac(denial());
    assert_eq!(keys.judge(&row), Ok(()));
    for (what, change) in changes {
        let mut row = row.clone();
        change(&mut row);
        assert!(keys.judge(&row).is_err(), "a change of {what} went unseen");
    }
}

#[test]
fn a_row_that_was_passed_over_is_not_damaged() {
    let keys = keys(&[1]);
    let row = keys.with_mac(denial());
    let passed = outbox::Model { sent_at: Some(PASSED_OVER), fed_at: Some(PASSED_OVER), ..row };
    assert_eq!(keys.judge(&passed), Ok(()));
    let told = keys.with_mac(outbox::Model { fed_at: Some(9), ..denial() });
    let hidden = outbox::Model { fed_at: Some(PASSED_OVER), ..told };
    assert_eq!(keys.judge(&hidden), Err(Flaw::Wrong));
}

#[test]
fn a_row_belongs_to_its_table() {
    let keys = keys(&[1]);
    let (name, value) = ("n".to_owned(), "v".to_owned());
    let secret = keys.with_mac(secret::Model { name: name.clone(), value: value.clone(), mac: None });
    let mark = mark::Model { name, value, mac: secret.mac.clone() };
    assert_eq!((keys.judge(&secret), keys.judge(&mark)), (Ok(()), Err(Flaw::Wrong)));
}

#[test]
fn a_mac_is_by_a_key_that_is_known() {
    let (old, new, both) = (keys(&[1]), keys(&[2]), keys(&[2, 1]));
    let row = old.with_mac(denial());
    assert_eq!((both.judge(&row), both.is_current(&row)), (Ok(()), false));
    assert_eq!((new.judge(&row), new.is_current(&row)), (Err(Flaw::UnknownKey), false));
    assert_eq!(old.judge(&denial()), Err(Flaw::Absent));
    let renewed = both.with_mac(row.clone());
    assert_eq!((new.judge(&renewed), new.is_current(&renewed)), (Ok(()), true));
    // The id of one key before the MAC of another.
    let (id, _) = renewed.mac.as_deref().unwrap().split_once('.').unwrap();
    let (_, mac) = row.mac.as_deref().unwrap().split_once('.').unwrap();
    let mixed = outbox::Model { mac: Some(format!("{id}.{mac}")), ..row };
    assert_eq!(both.judge(&mixed), Err(Flaw::Wrong));
    let fault = both.verify(&mixed).unwrap_err().to_string();
    assert!(fault.contains("`7` of `outbox`") && fault.contains("MAC"), "{fault}");
}

/// A column of another kind would be encoded as it is printed.
#[test]
fn every_column_is_of_a_kind_that_has_an_encoding() {
    fn look<R: Row>(row: &R) {
        for column in <R::Entity as EntityTrait>::Column::iter() {
            let value = row.get(column);
            let is_known =
                matches!(value, Value::String(_) | Value::BigInt(_) | Value::Int(_) | Value::Bool(_));
            assert!(is_known, "{}.{}: {value:?}", table_of::<R>(), column.as_str());
        }
    }
    look(&denial());
    look(&feed::Model {
        name: String::new(),
        epoch: 0,
        position: 0,
        fence: 0,
        holder: String::new(),
        held_until: 0,
        mac: None,
    });
    look(&ban::Model {
        id: String::new(),
        prefix: String::new(),
        previous: None,
        sequence_number: 0,
        created_at: 0,
        identity: String::new(),
        banned: false,
        until: None,
        format: 1,
        action: String::new(),
        operator: String::new(),
        reason: String::new(),
        signer: String::new(),
        signature: String::new(),
        mac: None,
    });
}
