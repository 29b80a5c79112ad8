//! An echo service behind a balancer: `cargo run --example echo_server -- 127.0.0.1:54000 7`
//!
//! (Start a balancer first: `cargo run --release -- balancer`.)

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let balancer = args.next().unwrap_or("127.0.0.1:54000".into()).parse()?;
    let id = args.next().unwrap_or("7".into()).parse()?;

    let server = lbd::Server::builder(balancer)
        .id(id)
        .workers(2)
        .start(|request, reply| reply.extend_from_slice(request))?;
    println!("echo server {id} on {}; press Enter to stop", server.local_addr());

    std::io::stdin().read_line(&mut String::new())?;
    println!("{} requests served", server.stop().served);
    Ok(())
}
