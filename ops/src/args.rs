//! The command line.

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    account, audit, chain, dev, generation, hsm, probe, red_button, reset, revocation, roll, services,
    status, tls, verifiers,
};

const EXAMPLES: &str = "\
Examples:
  opsctl dev --endpoints dev.json       run everything here, for development
  opsctl status --endpoints dev.json    what is up, and how the chain stands
  opsctl identity export                the string that verifiers pin
  opsctl rotate                         go on to the next generation";
const CODES: &str = "\
Exit codes:
  0 done   1 the answer is no   2 done in part   64 wrong usage   65 wrong data   69 something needed is not there
  70 a fault in opsctl   74 input or output failed   75 try again   77 not allowed
  78 this machine is not set up for it";
const IDENTITY: &str = "Example: opsctl identity export --endpoints dev.json";
const CHAIN: &str = "\
Examples:
  opsctl chain show
  opsctl chain show --json > chain.json
  opsctl chain verify chain.json --identity E…
  opsctl chain verify --from https://keys.example";
const ROTATE: &str = "\
Examples:
  opsctl rotate
  opsctl rotate --from E…     safe to repeat";
const TAINT: &str = "\
Examples:
  opsctl taint --reason 'stolen disk image'
  opsctl taint --reason 'stolen disk image' --generation E… --yes     safe to repeat";
const HSM: &str = "\
Examples:
  opsctl chain show --json --from https://keys.example > chain.json
  opsctl hsm recover --chain chain.json     the ledger lacks events
  opsctl hsm recover                        the ledger was restored and lacks denials or revocations
  opsctl hsm clock                          what is hsmd's clock held against, and is it trusted?
  opsctl hsm clock accept --reason TEXT     it is right: the machine was off for weeks
  opsctl hsm lease show                     which hsmd writes the ledger?
  opsctl hsm lease take --reason TEXT       on a standby: it signs from now on, the other one nothing
  opsctl hsm verify                         is the live key on one token and the next on another?
  opsctl hsm backup --connector http://127.0.0.1:12345 --auth-key 3 --password-file FILE --wrap-key 100 --out keelson.backup
  opsctl hsm verify --backup keelson.backup --chain chain.json";
const HANDED_ON: &str = "\
Done by the program `hsm-backup`, which comes with hsmd: `opsctl hsm VERB -- --help` prints what it takes. Backups are for
a YubiHSM 2. Two tokens that are paired ([second_hsm] in hsmd.toml) stand for a backup, and `opsctl hsm verify` says
whether they do. See hsmd/RECOVERY.md, \"Two tokens\".";
const REVOKE_KEY: &str = "\
Examples:
  opsctl revoke-key 1AAI… --reason 'stolen disk image'
  opsctl revoke-key 1AAI… 1AAI… --reason 'stolen disk image' --yes     safe to repeat";
const SERVICE: &str = "\
Examples:
  opsctl revoke-service edge:shop --reason 'an intruder on its host'
  opsctl open-service edge:shop --reason 'rebuilt from its image'     safe to repeat";
const RED_BUTTON: &str = "\
Examples:
  opsctl red-button --reason 'an intruder on the HSM host' --dry-run
  opsctl red-button --reason 'an intruder on the HSM host'     after an interruption: once more";
const RESET: &str = "\
Examples:
  opsctl reset redis --dry-run
  opsctl reset database --reason 'moved to another tenant' --dry-run
  opsctl reset everything --reason 'end of the trial' --dry-run";
const ROLL: &str = "\
Examples:
  opsctl roll edge:shop
  opsctl roll
  opsctl roll --revoke --reason 'keys in a core dump'     every token and answer of before is refused";
const BAN: &str = "\
Examples:
  opsctl ban E… --reason 'spam' --for 7d
  opsctl ban E… --reason 'stolen'     until it is lifted
  opsctl unban E… --reason 'appeal 4711'";
const ACCOUNT: &str = "\
Examples:
  opsctl account show E…
  opsctl account export E… > account.json
  opsctl account delete E… --reason 'asked for by letter'
  opsctl account restore E… --reason 'deleted by mistake'";
const DEVICE: &str = "\
Examples:
  opsctl device list ACCOUNT
  opsctl device revoke ACCOUNT DEVICE --reason 'lost'
  opsctl device revoke ACCOUNT --all-but DEVICE --reason 'stolen bag' --yes";
const FEED: &str = "\
Examples:
  opsctl feed show
  opsctl feed lift --account E… --reason 'the backup is right: the ban was a mistake'
  opsctl feed reopen --reason 'the directory is empty, and the database was restored'";
const ROLE: &str = "\
Examples:
  opsctl role list ACCOUNT
  opsctl role grant ACCOUNT moderator --reason 'joined the team'
  opsctl role revoke ACCOUNT moderator --reason 'left the team'";
const AUDIT: &str = "\
Examples:
  opsctl audit verify
  opsctl audit export --file audit.jsonl
  opsctl audit verify --file audit.jsonl --chain chain.json --head head.json     without hsmd
  opsctl audit show --kind intent --kind outcome --last 20
  opsctl audit archive --up-to 100000 --file audit-1.jsonl";
const TLS: &str = "\
Examples:
  opsctl tls init --dir ca
  opsctl tls issue server --dir ca --san DNS:hsm.example --out remote
  opsctl tls issue client --dir ca --san URI:keelson:edge:far --out far
  opsctl tls issue server --dir ca --san DNS:hsm.example --out remote --key remote.key     renew";
const STATUS: &str = "Example: opsctl status --json --endpoints dev.json";
const WATCH: &str = "Example: opsctl watch --endpoints dev.json";
const PROBE: &str = "\
Examples:
  opsctl probe --endpoints dev.json
  opsctl probe --auth https://auth.example --keys https://keys.example --identity E… --app shop=https://shop.example";
const DEV: &str = "Example: opsctl dev --dir dev --endpoints dev.json";
const COMPLETIONS: &str = "Example: opsctl completions bash > /etc/bash_completion.d/opsctl";

/// Rotate, taint, verify, probe and run the fleet
#[derive(Debug, Parser)]
#[command(name = "opsctl", version, before_help = EXAMPLES, after_help = CODES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say nothing but errors on standard error
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The HSM identity: what every verifier pins
    #[command(before_help = IDENTITY)]
    Identity {
        #[command(subcommand)]
        verb: IdentityVerb,
    },
    /// The chain of key generations
    #[command(before_help = CHAIN)]
    Chain {
        #[command(subcommand)]
        verb: ChainVerb,
    },
    /// Go on to the next generation; the old one stays live for its window
    #[command(before_help = ROTATE)]
    Rotate(generation::Rotate),
    /// Go on to the next generation and refuse the current one everywhere, at once
    #[command(before_help = TAINT)]
    Taint(generation::Taint),
    /// What keeps the signer alive beyond its disks and tokens
    #[command(before_help = HSM)]
    Hsm {
        #[command(subcommand)]
        verb: HsmVerb,
    },
    /// Have compromised keys of services refused everywhere
    #[command(before_help = REVOKE_KEY)]
    RevokeKey(revocation::RevokeKey),
    /// Have every key of a compromised service refused everywhere, and none endorsed until it is opened again
    #[command(before_help = SERVICE)]
    RevokeService(services::RevokeService),
    /// The newest generation is compromised: taint it, have everything re-keyed, and say who has acknowledged it
    #[command(before_help = RED_BUTTON)]
    RedButton(red_button::RedButton),
    /// Empty what a deployment keeps
    #[command(before_help = RESET)]
    Reset {
        #[command(subcommand)]
        verb: ResetVerb,
    },
    /// New keys for services, without a restart
    #[command(before_help = ROLL)]
    Roll(roll::Roll),
    /// Let a revoked service have keys endorsed again
    #[command(before_help = SERVICE)]
    OpenService(services::OpenService),
    /// Have authd refuse an identity everything, and edges its devices' tokens
    #[command(before_help = BAN)]
    Ban(account::Ban),
    /// Lift a ban
    #[command(before_help = BAN)]
    Unban(account::Plain),
    /// Accounts at authd
    #[command(before_help = ACCOUNT)]
    Account {
        #[command(subcommand)]
        verb: AccountVerb,
    },
    /// Devices of an account
    #[command(before_help = DEVICE)]
    Device {
        #[command(subcommand)]
        verb: DeviceVerb,
    },
    /// authd's denial feed, and denials that its database lacks
    #[command(before_help = FEED)]
    Feed {
        #[command(subcommand)]
        verb: account::FeedVerb,
    },
    /// Roles of an account besides those that every account has
    #[command(before_help = ROLE)]
    Role {
        #[command(subcommand)]
        verb: RoleVerb,
    },
    /// hsmd's audit trail: what it was asked to do, and what it did
    #[command(before_help = AUDIT)]
    Audit {
        #[command(subcommand)]
        verb: AuditVerb,
    },
    /// Certificates for services of other hosts, from a private authority
    #[command(before_help = TLS)]
    Tls {
        #[command(subcommand)]
        verb: TlsVerb,
    },
    /// What is up, and how the chain stands
    #[command(before_help = STATUS)]
    Status(status::Options),
    /// Which verifiers have acknowledged the newest head, whenever that changes, until interrupted
    #[command(before_help = WATCH)]
    Watch(verifiers::Watch),
    /// Walk every operation against a deployment with a device of its own, and clean up after it
    #[command(before_help = PROBE)]
    Probe(probe::Options),
    /// Run the entire system here, in the foreground, for development
    #[command(before_help = DEV)]
    Dev(dev::Options),
    /// Print a completion script for a shell
    #[command(before_help = COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Initialise a SoftHSM token with the PIN given on standard input
    #[command(hide = true)]
    InitialiseToken(dev::Initialise),
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityVerb {
    /// Print the identity, from a chain that verifies
    Export {
        #[command(flatten)]
        source: chain::Source,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum HsmVerb {
    /// Show what hsmd's clock is held against, or accept it; exit code 1 while hsmd does not trust it
    Clock(hsm::Clock),
    /// Show which hsmd writes a ledger that several share, or have another one take it over
    Lease {
        #[command(subcommand)]
        verb: hsm::LeaseVerb,
    },
    /// Bring the published chain to a ledger that is older than its token, or empty
    Recover(hsm::Recover),
    /// Say whether either of two tokens may be lost, or whether a backup will do; exit code 1 when not
    Verify(hsm::Verify),
    /// Export the live key and the next of a YubiHSM 2, encrypted, into a file
    #[command(after_help = HANDED_ON)]
    Backup(hsm::HandedOn),
    /// Import a backup into a spare YubiHSM 2
    #[command(after_help = HANDED_ON)]
    Restore(hsm::HandedOn),
    /// Pair two tokens, so that they mirror each other from the next two rotations on: both officers' PINs are needed
    #[command(after_help = HANDED_ON)]
    Pair(hsm::HandedOn),
    /// Pair two tokens anew after one was replaced, and carry the chain's keys to the replacement
    #[command(after_help = HANDED_ON)]
    Replace(hsm::HandedOn),
    /// A PIN that a token has refused
    Pin {
        #[command(subcommand)]
        verb: PinVerb,
    },
    /// Which token is in a slot
    Token {
        #[command(subcommand)]
        verb: TokenVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ResetVerb {
    /// Every database of the key directory: what is Keelson's own comes back by itself
    Redis(reset::Redis),
    /// Every account at authd, and every token; the chain and the directory stay
    Database(reset::Accounts),
    /// Every account, the key directory and every key of services; the identity stays
    Everything(reset::Accounts),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PinVerb {
    /// Present it once more: it is right now
    #[command(after_help = HANDED_ON)]
    Retry(hsm::HandedOn),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Take over whatever token is in each slot: it was exchanged on purpose
    #[command(after_help = HANDED_ON)]
    Accept(hsm::HandedOn),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountVerb {
    /// Print state, ban, roles and devices, and who caused each; exit code 1 if authd knows nothing of the identity
    Show(account::Show),
    /// Delete an account: its devices are refused until it is restored
    Delete(account::Delete),
    /// Print everything that authd keeps of an identity, as JSON; exit code 1 if it keeps nothing
    Export(account::Export),
    /// Let a deleted account stand again
    Restore(account::Plain),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceVerb {
    /// Print the devices that an account ever had
    List(account::List),
    /// Revoke one device, all, or all but one; there is no way back
    Revoke(account::Revoke),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleVerb {
    /// Print the roles that were granted
    List(account::List),
    /// Grant a role
    Grant(account::Granting),
    /// Withdraw a role that was granted
    Revoke(account::Granting),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Print lines of the trail
    Show(audit::Show),
    /// Say whether the trail holds, and up to which line a head covers it; exit code 1 when it does not
    Verify(audit::Verify),
    /// Write the lines as JSON, one a line, for whatever ships or keeps them
    Export(audit::Export),
    /// Write old lines into a file, verify it, and have hsmd cut them from its ledger
    Archive(audit::Archive),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TlsVerb {
    /// Make an authority: a folder with its certificate and its key
    #[command(before_help = TLS)]
    Init(tls::Init),
    /// Issue a certificate for hsmd (server) or for a service of another host (client)
    #[command(before_help = TLS)]
    Issue(tls::Issue),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChainVerb {
    /// Print the generations of a chain that verifies
    Show {
        #[command(flatten)]
        source: chain::Source,
        /// As JSON: the published events, verbatim
        #[arg(long)]
        json: bool,
    },
    /// Say whether the chain verifies; exit code 1 when it does not
    Verify {
        #[command(flatten)]
        source: chain::Source,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn command_lines() {
        let table = [
            ("identity export", true),
            ("chain show --json", true),
            ("chain show -", true),
            ("chain verify chain.json --identity EJ5tD2EZ8IRj4t4pmMtVkCsMvlbXH7Ghr4kE6oo1xK5r", true),
            ("chain verify chain.json --from http://127.0.0.1:1", false),
            ("chain verify --identity nonsense", false),
            ("rotate --dry-run", true),
            ("taint", false),
            ("taint --reason drill --yes", true),
            ("taint --reason  --yes", false),
            ("taint --reason drill --yes --wait 1m", true),
            ("taint --reason drill --yes --wait 0s", false),
            ("taint --reason drill --yes --wait 2h", false),
            ("taint --reason drill --yes --no-wait", true),
            ("taint --reason drill --yes --no-wait --wait 1s", false),
            ("hsm recover", true),
            ("red-button", false),
            ("red-button --reason drill --yes --again --wait 1m", true),
            ("reset", false),
            ("reset redis --yes --wait 30s", true),
            ("reset database --yes", false),
            ("reset database --reason drill --yes --authd /run/authd/admin.sock", true),
            ("reset everything --reason drill --dry-run --no-wait", true),
            ("roll", true),
            ("roll edge:shop --socket edge:shop=/run/edge/shop.sock", true),
            ("roll --revoke", false),
            ("roll --revoke --reason drill --yes", true),
            ("roll --socket edge:shop", false),
            ("hsm recover --take all --yes", true),
            ("hsm recover --take some", false),
            ("hsm recover --copy-stopped --yes", true),
            ("hsm recover --chain - --copy-stopped", false),
            ("revoke-service edge:shop", false),
            ("revoke-service edge:shop --reason drill --yes", true),
            ("open-service edge:shop --reason drill", true),
            ("open-service --reason drill", false),
            ("hsm recover --chain -", true),
            ("hsm recover --chain chain.json --discard-unfinished --dry-run --json", true),
            ("hsm verify --json", true),
            ("hsm verify --backup b --chain c", true),
            ("hsm verify --backup b", false),
            ("hsm backup --connector usb --auth-key 3", true),
            ("hsm restore --backup b", true),
            // `hsm-backup` itself says what is missing.
            ("hsm restore", true),
            (
                "audit verify --file audit.jsonl --chain - --identity EJ5tD2EZ8IRj4t4pmMtVkCsMvlbXH7Ghr4kE6oo1xK5r",
                true,
            ),
            ("audit verify --file a --chain chain.json --endpoints f", false),
            ("audit verify --chain chain.json", false),
            ("audit export --from 7 --file f", true),
            ("audit archive --up-to 7 --file f", true),
            ("audit archive --up-to 7", false),
            ("audit show --kind intent --kind outcome --since 2026-01-02T03:04:05Z --last 5 --json", true),
            ("audit show --kind gossip", false),
            ("audit show --since yesterday", false),
            ("audit show --last 0", false),
            ("revoke-key --reason drill", false),
            ("revoke-key 1AAIA023RdBTcZ2gE3Z3K61I67LvEjDqhTJNxzIwjSaSxF9n --yes", false),
            ("revoke-key 1AAIA023RdBTcZ2gE3Z3K61I67LvEjDqhTJNxzIwjSaSxF9n --reason drill", true),
            ("revoke-key 1AAJA023RdBTcZ2gE3Z3K61I67LvEjDqhTJNxzIwjSaSxF9n --reason drill", false),
            ("tls", false),
            ("tls init", false),
            ("tls init --dir ca --name authority --days 365 --dry-run --json", true),
            ("tls init --dir ca --days 0", false),
            ("tls init --dir ca --days 7301", false),
            ("tls issue --dir ca --san DNS:hsm --out x", false),
            ("tls issue server --dir ca --out x", false),
            ("tls issue server --dir ca --san DNS:hsm", false),
            ("tls issue server --san DNS:hsm --out x", false),
            (
                "tls issue server --dir ca --san DNS:hsm --san IP:::1 --out x --days 825 --dry-run --json",
                true,
            ),
            ("tls issue server --dir ca --san DNS:hsm --out x --days 826", false),
            ("tls issue client --dir ca --san URI:keelson:edge:far --out x --key x.key", true),
            ("tls issue client --dir ca --san keelson:edge:far --out x", false),
            ("tls issue authority --dir ca --san DNS:hsm --out x", false),
            ("status --json --endpoints f", true),
            ("dev --dir d --endpoints f --database sqlite://x --apps a", true),
            ("probe", false),
            ("probe --endpoints f --with-admin --json", true),
            (
                "probe --auth http://a --keys http://k --identity EJ5tD2EZ8IRj4t4pmMtVkCsMvlbXH7Ghr4kE6oo1xK5r --app x=http://x",
                true,
            ),
            ("probe --endpoints f --app http://x", false),
            ("completions bash", true),
            ("completions csh", false),
            ("--quiet rotate", true),
            ("rotate --quiet", true),
            ("", false),
        ];
        check(&table);
    }

    #[test]
    fn command_lines_about_authd_and_the_directory() {
        check(&[
            ("feed show --json", true),
            ("account export EJ5tD2EZ8IRj4t4pmMtVkCsMvlbXH7Ghr4kE6oo1xK5r", true),
            ("account export", false),
            ("feed lift --reason drill --yes --wait 1m", true),
            (
                "feed lift --account EJ5tD2EZ8IRj4t4pmMtVkCsMvlbXH7Ghr4kE6oo1xK5r --reason drill --dry-run",
                true,
            ),
            ("feed lift", false),
            ("feed reopen --reason drill", true),
            ("feed reopen", false),
            ("status --directory redis://:secret@127.0.0.1:6379", false),
            ("status --directory redis://127.0.0.1:6379", true),
            ("status --directory-file f --directory redis://127.0.0.1:6379", false),
            ("hsm recover --chain redis://:secret@127.0.0.1:6379", false),
            ("ban EJ5tD2EZ8IRj4t4pmMtVkCsMvlbXH7Ghr4kE6oo1xK5r --reason drill --wait 1s", true),
            ("role grant EJ5tD2EZ8IRj4t4pmMtVkCsMvlbXH7Ghr4kE6oo1xK5r a --reason drill --wait 1s", false),
        ]);
    }

    fn check(table: &[(&str, bool)]) {
        for (line, good) in table {
            let parsed = Arguments::try_parse_from(
                std::iter::once("opsctl").chain(line.split(' ').filter(|_| !line.is_empty())),
            );
            assert_eq!(parsed.is_ok(), *good, "{line}: {:?}", parsed.err());
        }
    }
}
