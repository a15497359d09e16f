//! `[hsm]` and `[second_hsm]`: which token, and how it is opened.

use std::path::PathBuf;

use cryptoki::types::AuthPin;
use serde::Deserialize;
use systemd::{credential, exit::Failure};
use yubihsm::{Credentials, Domain, device::SerialNumber};

use crate::{
    token::backend::{
        KeyIds, RefusedPin, Settings,
        officer::OfficerSettings,
        pkcs11,
        yubihsm::{self as device, Link},
    },
    token::{KnownToken, Slot},
};

/// Longest PIN: PKCS#11 tokens take up to 255 bytes.
const PIN_MAX: usize = 255;

/// Shortest password of a YubiHSM's authentication key.
const PASSWORD_MIN: usize = 8;

/// Hexadecimal digits of the authentication key's id, before the password in a PIN.
const AUTH_KEY_DIGITS: usize = 4;

/// One token's table. The keys of the other backend are refused, like unknown ones.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hsm {
    #[serde(default)]
    backend: Kind,
    module: Option<PathBuf>,
    token_label: Option<String>,
    token_serial: Option<String>,
    connector: Option<String>,
    serial: Option<String>,
    auth_key: Option<u16>,
    domain: Option<u8>,
    exportable: Option<bool>,
    device_log: Option<PathBuf>,
    pin: Option<String>,
    refused_pin: Option<PathBuf>,
    pub(super) key_ids: Option<KeyIds>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Pkcs11,
    YubiHsm,
}

/// A key of the table, and what is wrong with it.
pub(super) type Wrong = (&'static str, &'static str);

impl Hsm {
    /// Refuses what parses but cannot be meant.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        match self.backend {
            Kind::Pkcs11 => self.pkcs11().map(drop),
            Kind::YubiHsm => self.yubihsm().map(drop),
        }
    }

    /// The same for the second token, beside this one.
    pub(super) fn check_second(&self, second: &Self) -> Result<(), Wrong> {
        second.check()?;
        if second.key_ids.is_some() {
            return Err(("key_ids", "is one setting for both tokens: write it into `[hsm]` alone"));
        }
        if self.backend != second.backend {
            return Err(("backend", "is not that of `[hsm]`: keys are carried between tokens of one kind"));
        }
        if let Some(key) = self.same_token(second) {
            return Err((key, "is that of `[hsm]`: the second token must be another one"));
        }
        if second.refused_pin.is_some() && second.refused_pin == self.refused_pin {
            return Err(("refused_pin", "is that of `[hsm]`: each token refuses PINs of its own"));
        }
        if second.device_log.is_some() && second.device_log == self.device_log {
            return Err(("device_log", "is that of `[hsm]`: each device has a log of its own"));
        }
        Ok(())
    }

    /// The key by which two tables name one token for certain. Those that do so otherwise are found out once both
    /// are open.
    fn same_token(&self, second: &Self) -> Option<&'static str> {
        match self.backend {
            Kind::Pkcs11 => {
                let named = |hsm: &Self| (hsm.token_label.clone(), hsm.token_serial.clone());
                let serial = self.token_serial.is_some() && self.token_serial == second.token_serial;
                let same = self.module == second.module && (serial || named(self) == named(second));
                same.then_some(if serial { "token_serial" } else { "token_label" })
            }
            Kind::YubiHsm => {
                let serial = self.serial.is_some() && self.serial == second.serial;
                let door = self.connector == second.connector && self.connector.as_deref() != Some("usb");
                if serial { Some("serial") } else { door.then_some("connector") }
            }
        }
    }

    /// Where the token is; reads its PIN.
    pub(super) fn settings(&self, slot: Slot, key_ids: KeyIds, mirrored: bool) -> Result<Settings, Failure> {
        let wrong = |(key, because): Wrong| Failure::config(format!("`{key}` {because}"));
        let name = self.pin.as_deref().unwrap_or_else(|| default_pin(slot));
        let secret = credential::read(name, PIN_MAX)?;
        let pin = std::str::from_utf8(&secret)
            .map_err(|_| Failure::config(format!("the credential `{name}` is not text")))?;
        match self.backend {
            Kind::Pkcs11 => {
                let (module, token_label, token_serial) = self.pkcs11().map_err(wrong)?;
                // A bare name is searched for by the loader.
                if module.components().count() > 1 && !module.is_file() {
                    let (table, path) = (slot.table(), module.display());
                    return Err(Failure::config(format!(
                        "there is no file `{path}`; check `{table}.module`"
                    )));
                }
                let pin = pin.to_owned().into();
                let refused_pin = Some(self.refused_pin(slot));
                let settings = pkcs11::Settings {
                    module,
                    token_label,
                    token_serial,
                    pin,
                    key_ids,
                    mirrored,
                    refused_pin,
                };
                Ok(Settings::Pkcs11(settings))
            }
            Kind::YubiHsm => {
                let mut settings = self.yubihsm().map_err(wrong)?;
                settings.credentials = self.credentials(name, pin)?;
                settings.key_ids = key_ids;
                settings.mirrored = mirrored;
                settings.refused_pin = Some(self.refused_pin(slot));
                if self.device_log.is_none() {
                    settings.device_log = default_device_log(slot).into();
                }
                Ok(Settings::YubiHsm(settings))
            }
        }
    }

    /// Where a refused PIN is remembered.
    pub(super) fn refused_pin(&self, slot: Slot) -> RefusedPin {
        let path = self.refused_pin.clone();
        RefusedPin::at(path.unwrap_or_else(|| default_refused_pin(slot).into()))
    }

    /// Where it is noted which token was first seen in the slot: beside the note of a refused PIN.
    pub(super) fn known_token(&self, slot: Slot) -> KnownToken {
        let name = match slot {
            Slot::First => "known-token",
            Slot::Second => "second-known-token",
        };
        KnownToken::at(slot, self.refused_pin(slot).path().with_file_name(name))
    }

    /// Where the token's officer logs in; reads the officer's PIN.
    pub(super) fn officer(&self, pin: &str) -> Result<OfficerSettings, Failure> {
        let wrong = |(key, because): Wrong| Failure::config(format!("`{key}` {because}"));
        let secret = credential::read(pin, PIN_MAX)?;
        let pin = std::str::from_utf8(&secret)
            .map_err(|_| Failure::config(format!("the credential `{pin}` is not text")))?;
        match self.backend {
            Kind::Pkcs11 => {
                let (module, token_label, token_serial) = self.pkcs11().map_err(wrong)?;
                let pin = AuthPin::new(pin.into());
                Ok(OfficerSettings::Pkcs11(pkcs11::OfficerSettings {
                    module,
                    token_label,
                    token_serial,
                    pin,
                }))
            }
            Kind::YubiHsm => {
                let mut settings = self.yubihsm().map_err(wrong)?;
                // The officer's authentication key is another one than hsmd's: the credential names it.
                let (id, password) = split(pin).ok_or_else(|| {
                    Failure::config(
                        "the officer's credential begins with no authentication key's id of four hexadecimal digits",
                    )
                })?;
                settings.credentials = Credentials::from_password(id, password.as_bytes());
                Ok(OfficerSettings::YubiHsm(Box::new(settings)))
            }
        }
    }

    fn pkcs11(&self) -> Result<(PathBuf, Option<String>, Option<String>), Wrong> {
        const OTHERS: &str = "is for backend \"yubihsm\"; remove it, or set backend = \"yubihsm\"";
        for (is_set, key) in [
            (self.connector.is_some(), "connector"),
            (self.serial.is_some(), "serial"),
            (self.auth_key.is_some(), "auth_key"),
            (self.domain.is_some(), "domain"),
            (self.exportable.is_some(), "exportable"),
            (self.device_log.is_some(), "device_log"),
        ] {
            if is_set {
                return Err((key, OTHERS));
            }
        }
        if self.token_label.is_none() && self.token_serial.is_none() {
            return Err(("token_label", "is needed, or `token_serial`: a slot's number is not used"));
        }
        let module =
            self.module.clone().ok_or(("module", "is needed: the PKCS#11 module of the HSM's maker"))?;
        Ok((module, self.token_label.clone(), self.token_serial.clone()))
    }

    /// Everything but the credentials and what both tokens share.
    fn yubihsm(&self) -> Result<device::Settings, Wrong> {
        const OTHERS: &str = "is for backend \"pkcs11\"; remove it, or set backend = \"pkcs11\"";
        for (is_set, key) in [
            (self.module.is_some(), "module"),
            (self.token_label.is_some(), "token_label"),
            (self.token_serial.is_some(), "token_serial"),
        ] {
            if is_set {
                return Err((key, OTHERS));
            }
        }
        let link = link(self.connector.as_deref())?;
        let serial = self.serial.as_deref().map(str::parse::<SerialNumber>).transpose();
        let serial =
            serial.map_err(|_| ("serial", "is not the ten digits that are printed on the device"))?;
        if link == Link::Usb && serial.is_none() {
            return Err(("serial", "is needed with connector = \"usb\": which of the devices is hsmd's"));
        }
        if self.auth_key == Some(0) {
            return Err(("auth_key", "must be between 1 and 65535"));
        }
        let domain = Domain::at(usize::from(self.domain.unwrap_or(1)))
            .map_err(|_| ("domain", "must be between 1 and 16"))?;
        Ok(device::Settings {
            link,
            serial,
            credentials: Credentials::new(0, [0; 32].into()),
            domain,
            exportable: self.exportable.unwrap_or(false),
            mirrored: false,
            refused_pin: None,
            key_ids: KeyIds::default(),
            device_log: self.device_log.clone().unwrap_or_else(|| default_device_log(Slot::First).into()),
        })
    }

    /// What the PIN stands for: the password of `auth_key`, or, without that, the PIN that Yubico's PKCS#11
    /// module takes: four hexadecimal digits of the authentication key's id, and its password.
    fn credentials(&self, name: &str, pin: &str) -> Result<Credentials, Failure> {
        let wrong = |because: &str| Failure::config(format!("the credential `{name}` {because}"));
        let (id, password) = match self.auth_key {
            Some(id) => (id, pin),
            None => split(pin).ok_or_else(|| {
                wrong("begins with no authentication key's id of four hexadecimal digits: set `auth_key`")
            })?,
        };
        if password.len() < PASSWORD_MIN {
            return Err(wrong("holds less than eight bytes of secret, which no YubiHSM takes"));
        }
        Ok(Credentials::from_password(id, password.as_bytes()))
    }
}

/// The authentication key's id and its password, as Yubico's PKCS#11 module takes them in one PIN.
fn split(pin: &str) -> Option<(u16, &str)> {
    let (digits, password) = pin.split_at_checked(AUTH_KEY_DIGITS)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let id = u16::from_str_radix(digits, 16).ok().filter(|id| is_hex && *id != 0)?;
    Some((id, password))
}

fn link(connector: Option<&str>) -> Result<Link, Wrong> {
    const KEY: &str = "connector";
    let connector =
        connector.ok_or((KEY, "is needed: \"usb\", or \"http://127.0.0.1:12345\" for yubihsm-connector"))?;
    Link::parse(connector).map_err(|because| (KEY, because))
}

const fn default_pin(slot: Slot) -> &'static str {
    match slot {
        Slot::First => "pin",
        Slot::Second => "second-pin",
    }
}

const fn default_refused_pin(slot: Slot) -> &'static str {
    match slot {
        Slot::First => "/var/lib/hsmd/refused-pin",
        Slot::Second => "/var/lib/hsmd/second-refused-pin",
    }
}

const fn default_device_log(slot: Slot) -> &'static str {
    match slot {
        Slot::First => "/var/lib/hsmd/device-log.jsonl",
        Slot::Second => "/var/lib/hsmd/second-device-log.jsonl",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::daemon::config::Config;

    const PKCS11: &str = "module = \"/m.so\"\ntoken_label = \"keelson\"\n";
    const YUBIHSM: &str = "backend = \"yubihsm\"\nconnector = \"http://127.0.0.1:12345\"\nauth_key = 2\n";

    fn load(folder: &Path, table: &str) -> Result<Config, String> {
        let path = folder.join("hsmd.toml");
        std::fs::write(&path, format!("policy = \"/etc/hsmd/policy.toml\"\n[hsm]\n{table}")).unwrap();
        Config::load(&path).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error} {}", source.unwrap_or_default())
        })
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_file_key_and_cure() {
        let folder = tempfile::tempdir().unwrap();
        let usb = YUBIHSM.replace("http://127.0.0.1:12345", "usb");
        for good in [PKCS11, YUBIHSM, &format!("{usb}serial = \"0012345678\"")] {
            load(folder.path(), good).unwrap();
        }
        let http = |url: &str| YUBIHSM.replace("http://127.0.0.1:12345", url);
        for (table, key, cure) in [
            (format!("{PKCS11}serial = \"0012345678\""), "hsm.serial", "backend"),
            (format!("{PKCS11}exportable = true"), "hsm.exportable", "remove it"),
            (PKCS11.replace("token_label", "#"), "hsm.token_label", "token_serial"),
            (PKCS11.replace("module", "#"), "hsm.module", "is needed"),
            (format!("{YUBIHSM}module = \"/m.so\""), "hsm.module", "remove it"),
            (format!("{YUBIHSM}token_label = \"x\""), "hsm.token_label", "remove it"),
            (YUBIHSM.replace("connector", "#"), "hsm.connector", "yubihsm-connector"),
            (usb, "hsm.serial", "is needed"),
            (format!("{YUBIHSM}serial = \"12345678\""), "hsm.serial", "ten digits"),
            (format!("{YUBIHSM}domain = 0"), "hsm.domain", "between 1 and 16"),
            (format!("{YUBIHSM}domain = 17"), "hsm.domain", "between 1 and 16"),
            (YUBIHSM.replace("= 2", "= 0"), "hsm.auth_key", "between 1 and"),
            (http("https://127.0.0.1:12345"), "hsm.connector", "http://127.0.0.1:12345"),
            (http("http://192.0.2.1:12345"), "hsm.connector", "on this host"),
            (http("http://localhost"), "hsm.connector", "http://127.0.0.1:12345"),
            (format!("{YUBIHSM}wrap_key = 1"), "wrap_key", "unknown"),
            (PKCS11.replace("module", "backend = \"yubihms\"\nmodule"), "yubihms", "yubihsm"),
        ] {
            let shown = load(folder.path(), &table).err().unwrap_or_else(|| panic!("accepted:\n{table}"));
            for part in ["hsmd.toml", key, cure] {
                assert!(shown.contains(part), "`{part}` is not in: {shown}");
            }
        }
    }

    #[test]
    fn a_second_token_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let second = |first: &str, second: &str| format!("{first}[second_hsm]\n{second}");
        let other = PKCS11.replace("keelson", "other");
        let device = "backend = \"yubihsm\"\nconnector = \"usb\"\nserial = \"0012345678\"\nauth_key = 2\n";
        for good in [
            second(PKCS11, &other),
            second(PKCS11, &PKCS11.replace("/m.so", "/other.so")),
            second(PKCS11, &format!("{PKCS11}token_serial = \"1\"")),
            second(YUBIHSM, device),
        ] {
            let config = load(folder.path(), &good).unwrap();
            assert!(config.tokens().1.is_some());
        }
        assert!(load(folder.path(), PKCS11).unwrap().tokens().1.is_none());
        for (table, key, cure) in [
            (second(PKCS11, PKCS11), "second_hsm.token_label", "must be another"),
            (second(PKCS11, YUBIHSM), "second_hsm.backend", "of one kind"),
            (second(YUBIHSM, YUBIHSM), "second_hsm.connector", "must be another"),
            (second(device, device), "second_hsm.serial", "must be another"),
            (second(PKCS11, &other.replace("module", "#")), "second_hsm.module", "is needed"),
            (second(PKCS11, &format!("{other}key_ids = [1, 100]")), "second_hsm.key_ids", "`[hsm]` alone"),
            (
                second(&format!("{YUBIHSM}device_log = \"/l\"\n"), &format!("{device}device_log = \"/l\"")),
                "second_hsm.device_log",
                "a log of its own",
            ),
        ] {
            let shown = load(folder.path(), &table).err().unwrap_or_else(|| panic!("accepted:\n{table}"));
            for part in ["hsmd.toml", key, cure] {
                assert!(shown.contains(part), "`{part}` is not in: {shown}");
            }
        }
    }

    #[test]
    fn a_pin_names_its_authentication_key_unless_the_configuration_does() {
        let folder = tempfile::tempdir().unwrap();
        let pin = folder.path().join("pin");
        for (auth_key, secret, shown) in [
            ("auth_key = 2", "password", Ok(2)),
            ("", "0002password", Ok(2)),
            ("", "fFffpassword", Ok(0xffff)),
            ("auth_key = 2", "passwor", Err("eight bytes")),
            ("", "0002passwor", Err("eight bytes")),
            ("", "0000password", Err("auth_key")),
            ("", "+002password", Err("auth_key")),
            ("", "password", Err("auth_key")),
        ] {
            std::fs::write(&pin, secret).unwrap();
            std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let table = YUBIHSM.replace("auth_key = 2", auth_key);
            let config = load(folder.path(), &format!("{table}pin = \"{}\"", pin.display())).unwrap();
            match (config.tokens().0(), shown) {
                (Ok(crate::token::backend::Settings::YubiHsm(settings)), Ok(id)) => {
                    assert_eq!(settings.credentials.authentication_key_id, id);
                }
                (Err(failure), Err(because)) => {
                    assert!(failure.to_string().contains(because), "{secret}: {failure}");
                    assert!(!failure.to_string().contains("passwor"), "a secret in: {failure}");
                    assert_eq!(failure.code(), systemd::exit::CONFIG);
                }
                (outcome, shown) => panic!("{secret}: {:?} {shown:?}", outcome.is_ok()),
            }
        }
    }
}
