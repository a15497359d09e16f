//! The edge and keysd from outside: real processes, a real redis-server, an HSM service, authd and app made by the test.

#[cfg(test)]
mod acknowledgements;
#[cfg(test)]
mod border;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod denials;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod keysd;
#[cfg(test)]
mod lifts;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod respelling;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod state;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod support;
#[cfg(test)]
mod verifier;
#[cfg(test)]
mod warm;
