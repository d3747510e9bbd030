//! The real binary, from outside: what is printed, the exit codes, the sockets.

#[path = "icbd/lab.rs"]
mod lab;

#[path = "icbd/bad_input.rs"]
mod bad_input;
#[path = "icbd/editing.rs"]
mod editing;
#[path = "icbd/keys.rs"]
mod keys;
#[path = "icbd/moves.rs"]
mod moves;
#[path = "icbd/publish.rs"]
mod publish;
#[path = "icbd/serve.rs"]
mod serve;
