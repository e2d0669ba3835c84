//! `nodeset keygen`.

use std::error::Error;

use nodeset_dispatcher::bridge::transport::keys::KeyPair;

use crate::args::KeygenArgs;

pub(crate) fn run(args: &KeygenArgs) -> Result<(), Box<dyn Error>> {
    let pair = KeyPair::generate()?;
    let public_path = pair.save(&args.path)?;
    println!("private key  {}  (stays on this host: --key)", args.path.display());
    println!("public key   {}  (goes to each peer: --peer-key NAME=FILE)", public_path.display());
    println!("which is     {}", pair.public());
    Ok(())
}
