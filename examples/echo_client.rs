//! A client of it: `cargo run --example echo_client -- 127.0.0.1:54001 hello`

use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let balancer = args.next().unwrap_or("127.0.0.1:54001".into());
    let text = args.next().unwrap_or("hello".into());
    let mut client = lbd::Client::connect(balancer)?;

    // One at a time ...
    let reply = client.call(text.as_bytes())?;
    println!("{}", String::from_utf8_lossy(&reply));

    // ... or many in flight.
    for i in 0..100 {
        client.submit(format!("{text} {i}").as_bytes(), lbd::client::Mode::Idempotent)?;
    }
    let mut answered = 0;
    while let Some(outcome) = client.poll(Duration::from_secs(3))? {
        answered += i32::from(outcome.ending == lbd::client::Ending::Answered);
        if client.in_flight() == 0 {
            break;
        }
    }
    println!("{answered} of 100 answered");
    Ok(())
}
